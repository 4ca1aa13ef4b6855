//! The limits in numbers, for metrics, the dashboard and `status`.

use serde::Serialize;

use super::fleet::local::FleetStatus;
use super::limit::{Limit, ScopeId};
use super::scope::Scope;

/// All limits at one moment.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// The host first, then callers and groups of models in the order in which they were first seen.
    pub scopes: Vec<ScopeStatus>,
    /// Requests that wait for a limit.
    pub waiting: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    /// This host's part of the fleet; none without `[fleet]`.
    pub fleet: Option<FleetStatus>,
    /// `limited_total`: refused requests since the start, by limit and scope, those that are not 0.
    pub limited: Vec<Limited>,
}

/// Requests that a limit refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Limited {
    /// The limit's key in the configuration.
    pub limit: &'static str,
    /// "host", "caller", "model" or "fleet".
    pub scope: &'static str,
    /// Requests since the daemon's start.
    pub count: u64,
}

/// One scope. Money is in nano-dollars; `None` is no such limit.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ScopeStatus {
    /// "host", "caller" or "model".
    pub scope: &'static str,
    /// The caller's name or the pattern on models; empty for the host.
    pub name: String,
    /// Requests whose answer has not ended.
    pub running: u64,
    /// The most that may run.
    pub concurrent_requests: Option<u64>,
    /// The limit on requests in a minute.
    pub requests_per_minute: Option<u64>,
    /// Requests that may come at once now.
    pub requests_left: Option<i64>,
    /// The limit on tokens in a minute.
    pub tokens_per_minute: Option<u64>,
    /// Tokens that may be reserved at once now; negative in debt.
    pub tokens_left: Option<i64>,
    /// Tokens used or reserved since 00:00 UTC.
    pub tokens_today: u64,
    /// The limit on them.
    pub tokens_per_day: Option<u64>,
    /// Money spent or reserved since 00:00 UTC.
    pub nano_usd_today: u64,
    /// The budget of a day.
    pub nano_usd_per_day: Option<u64>,
    /// Money spent or reserved since the first of the month, UTC.
    pub nano_usd_this_month: u64,
    /// The budget of a month.
    pub nano_usd_per_month: Option<u64>,
    /// The larger part of its budgets that is spent, reservations included; 1.0 is all of it. 0.8 has been warned of.
    pub budget_used: Option<f64>,
}

impl Status {
    pub(super) fn new(
        scopes: &mut [Scope],
        now: u64,
        waiting: usize,
        fleet: Option<FleetStatus>,
        fleet_limited: [u64; Limit::ALL.len()],
    ) -> Status {
        let mut limited = Vec::<Limited>::new();
        let mut count = |scope, counts: &[u64]| {
            for (limit, &count) in Limit::ALL.iter().zip(counts).filter(|(_, count)| **count > 0) {
                match limited.iter_mut().find(|other| other.limit == limit.key() && other.scope == scope) {
                    Some(other) => other.count += count,
                    None => limited.push(Limited { limit: limit.key(), scope, count }),
                }
            }
        };
        for scope in scopes.iter() {
            count(scope.id.label(), &scope.limited);
        }
        count(ScopeId::Fleet.label(), &fleet_limited);
        let scopes = scopes.iter_mut().map(|scope| ScopeStatus::new(scope, now)).collect();
        Status { scopes, waiting, fleet, limited }
    }
}

impl ScopeStatus {
    fn new(scope: &mut Scope, now: u64) -> ScopeStatus {
        let part = |spent: u64, budget: Option<u64>| budget.map(|budget| spent as f64 / budget as f64);
        let rates = scope.rates;
        let (today, this_month) = (scope.spent.days.used(), scope.spent.months.used());
        let (day, month) = (part(today.nano_usd, rates.usd_per_day), part(this_month.nano_usd, rates.usd_per_month));
        ScopeStatus {
            scope: scope.id.label(),
            name: match &scope.id {
                ScopeId::Caller(name) | ScopeId::Model(name) => name.to_string(),
                ScopeId::Host | ScopeId::Fleet => String::new(),
            },
            running: scope.running(),
            concurrent_requests: rates.concurrent_requests,
            requests_per_minute: rates.requests_per_minute,
            requests_left: scope.requests_left(now),
            tokens_per_minute: rates.tokens_per_minute,
            tokens_left: scope.tokens_left(now),
            tokens_today: today.tokens,
            tokens_per_day: rates.tokens_per_day,
            nano_usd_today: today.nano_usd,
            nano_usd_per_day: rates.usd_per_day,
            nano_usd_this_month: this_month.nano_usd,
            nano_usd_per_month: rates.usd_per_month,
            budget_used: match (day, month) {
                (Some(day), Some(month)) => Some(day.max(month)),
                (day, month) => day.or(month),
            },
        }
    }
}
