//! The sentence of a 429.

use std::fmt;
use std::time::Duration;

use super::limit::{Exceeded, Limit, ScopeId};
use crate::error::{Refusal, RefusalKind};

/// The shortest hint that is worth giving; it also stands in for a wait that nobody knows.
const SHORTEST: Duration = Duration::from_secs(1);

/// Names the limit, its scope, its value and when to come back.
pub(super) fn refusal(scope: &ScopeId, exceeded: &Exceeded, waited: bool) -> Refusal {
    let wait = Duration::from_nanos(exceeded.wait).max(SHORTEST);
    let key = exceeded.limit.key();
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    let value = Value(exceeded.limit, exceeded.configured);
    let left = exceeded.left.map(|left| Value(exceeded.limit, left));
    let also = if waited { ", and no place became free within max_wait" } else { "" };
    Refusal::new(
        RefusalKind::Throttling,
        match (exceeded.limit, left) {
            (Limit::ConcurrentRequests, _) => format!(
                "{scope} may run {value} requests at once ({key} = {value}), and they are running{also}; try again in {seconds} s."
            ),
            (_, Some(left)) => format!(
                "{scope} has only {left} left of {key} = {value}, and this request may need more{also}; try again in {seconds} s, or ask for fewer tokens."
            ),
            (_, None) => format!("{scope} has used up {key} = {value}{also}; try again in {seconds} s."),
        },
    )
    .retry_after(wait)
}

struct Value(Limit, u64);

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Limit::UsdPerDay | Limit::UsdPerMonth => f.write_str(&usd(self.1)),
            _ => write!(f, "{}", self.1),
        }
    }
}

/// Nano-dollars as dollars, with as many decimals as they have and no fewer than two.
pub(super) fn usd(nano: u64) -> String {
    let text = format!("{}.{:09}", nano / 1_000_000_000, nano % 1_000_000_000);
    let keep = text.trim_end_matches('0').len().max(text.len() - 7);
    text[..keep].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sentence_names_limit_scope_value_and_time() {
        let exceeded =
            |limit, configured, wait| Exceeded { limit, configured, wait, may_clear_early: false, left: None };
        let text = |scope: ScopeId, exceeded: Exceeded| {
            let refusal = refusal(&scope, &exceeded, false);
            (refusal.message.into_owned(), refusal.retry_after.unwrap())
        };
        assert_eq!(
            text(ScopeId::Host, exceeded(Limit::RequestsPerMinute, 600, 11_500_000_000)),
            (
                "this host has used up requests_per_minute = 600; try again in 12 s.".into(),
                Duration::from_millis(11_500)
            )
        );
        assert_eq!(
            text(ScopeId::Caller("billing".into()), exceeded(Limit::ConcurrentRequests, 4, 0)),
            (
                "the caller \"billing\" may run 4 requests at once (concurrent_requests = 4), and they are running; try again in 1 s.".into(),
                Duration::from_secs(1)
            )
        );
        assert_eq!(
            text(ScopeId::Model("anthropic.*".into()), exceeded(Limit::UsdPerDay, 12_500_000_000, 1_000_000_000)).0,
            "the group of models \"anthropic.*\" has used up usd_per_day = 12.50; try again in 1 s."
        );
        let partly = |limit, configured, left| Exceeded { left: Some(left), ..exceeded(limit, configured, 1) };
        assert_eq!(
            text(ScopeId::Host, partly(Limit::TokensPerDay, 20, 17)).0,
            "this host has only 17 left of tokens_per_day = 20, and this request may need more; try again in 1 s, or ask for fewer tokens."
        );
        assert!(
            text(ScopeId::Host, partly(Limit::UsdPerDay, 1_000_000_000, 250_000_000))
                .0
                .starts_with("this host has only 0.25 left of usd_per_day = 1.00, and")
        );
    }

    #[test]
    fn dollars_keep_their_small_change() {
        for (nano, text) in [(0, "0.00"), (1, "0.000000001"), (12_500_000_000, "12.50"), (1_234_000_000, "1.234")] {
            assert_eq!(usd(nano), text);
        }
    }
}
