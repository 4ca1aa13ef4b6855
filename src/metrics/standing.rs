//! How the daemon stands, in the numbers that alarms go by.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::add;
use super::readings::Readings;
use crate::limits::ScopeStatus;

type Fraction = Gauge<f64, AtomicU64>;

#[derive(Debug)]
pub(super) struct Standing {
    ready: Gauge,
    tasks: Gauge,
    used: Family<Used, Fraction>,
}

/// `name` is a caller of the configuration or a pattern on models that stands there, so it is bounded.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Used {
    limit: &'static str,
    scope: &'static str,
    name: String,
}

impl Standing {
    pub(super) fn new(registry: &mut Registry) -> Standing {
        Standing {
            ready: add(registry, "ready", "1 if a request could be served now, as /ready says; 0 if not"),
            tasks: add(
                registry,
                "tasks",
                "Tasks that have not ended: of connections, of requests, and what runs in the background",
            ),
            used: add(
                registry,
                "limit_used_ratio",
                "What is used of a limit on concurrency, a day or a month; 1 is all of it",
            ),
        }
    }

    pub(super) fn show(&self, readings: &Readings) {
        self.ready.set(readings.ready.into());
        self.tasks.set(i64::try_from(readings.tasks).unwrap_or(i64::MAX));
        // Limits may have gone with a reload.
        self.used.clear();
        for scope in &readings.limits.scopes {
            for (limit, ratio) in ratios(scope) {
                self.used.get_or_create(&Used { limit, scope: scope.scope, name: scope.name.clone() }).set(ratio);
            }
        }
    }
}

fn ratios(scope: &ScopeStatus) -> impl Iterator<Item = (&'static str, f64)> {
    let of = |limit, used: u64, most: Option<u64>| most.map(|most| (limit, used as f64 / most as f64));
    let all = [
        of("concurrent_requests", scope.running, scope.concurrent_requests),
        of("tokens_per_day", scope.tokens_today, scope.tokens_per_day),
        of("usd_per_day", scope.nano_usd_today, scope.nano_usd_per_day),
        of("usd_per_month", scope.nano_usd_this_month, scope.nano_usd_per_month),
    ];
    all.into_iter().flatten()
}
