//! Which upstream is asked next. Those that are well come first, in the order of the file or spread by weight. Those that
//! are passed over stand behind them: who throttles what is asked for, whose breaker is open, and who has just refused the
//! key that there is.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::Case;
use crate::config::Strategy;
use crate::operation::Plane;
use crate::road::{Region, Road};
use crate::routing::Route;
use crate::upstream::breaker::{Probe, Turn};

/// The upstreams that a request has not been sent to yet.
#[derive(Debug)]
pub(super) struct Line<'a> {
    regions: &'a [Region],
    plane: Plane,
    name: &'a str,
    ready: VecDeque<usize>,
    passed_over: Vec<(Reason, usize)>,
}

/// Why an upstream is passed over; the first is asked the sooner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Reason {
    /// Until then.
    Throttles(Instant),
    BreakerOpen,
    RefusesKey,
}

/// The upstream whose turn it is.
#[derive(Debug)]
pub(super) struct Next<'a> {
    pub region: &'a Region,
    /// Held until its answer has come, if this is the call that probes it.
    pub probe: Option<Probe<'a>>,
}

impl<'a> Line<'a> {
    pub(super) fn new(road: &'a Road, case: &Case<'a>, route: &Route) -> Line<'a> {
        let regions = road.regions.as_slice();
        let home = regions.iter().position(|region| case.is_bound_to(&region.upstream.region));
        let is_spread = case.invokes_model && road.settings.upstreams_policy.strategy == Strategy::Spread;
        let number = is_spread.then(|| REQUESTS.fetch_add(1, Ordering::Relaxed));
        let weight = |at: usize| regions[at].settings.weight;
        let mut ready = order(route.first(road), weight, home, number);
        // Another partition is for who has got no answer from this one.
        ready.extend(order(route.then(), weight, home, number));
        // Where more is kept of prompts than the policy allows, nothing is sent as long as the request may go elsewhere.
        let keeps_little = |at: &usize| regions[*at].keeps_little(&road.settings.policy);
        if ready.iter().any(keeps_little) {
            ready.retain(keeps_little);
        }
        Line { regions, plane: case.plane, name: case.name, ready, passed_over: Vec::new() }
    }

    /// Takes the next upstream from the line. Those that are passed over are for who has got no answer from any other.
    pub(super) fn next(&mut self, now: Instant, has_answer: bool) -> Option<Next<'a>> {
        while let Some(at) = self.ready.pop_front() {
            let region = &self.regions[at];
            if let Some(until) = region.upstream.throttled(self.plane).until(self.name, now) {
                self.passed_over.push((Reason::Throttles(until), at));
                continue;
            }
            if region.upstream.refuses_key(self.plane, now) {
                self.passed_over.push((Reason::RefusesKey, at));
                continue;
            }
            match region.upstream.breaker(self.plane).turn(now) {
                Turn::Go => return Some(Next { region, probe: None }),
                Turn::Probe(probe) => return Some(Next { region, probe: Some(probe) }),
                Turn::PassOver => self.passed_over.push((Reason::BreakerOpen, at)),
            }
        }
        if has_answer {
            return None;
        }
        let first = (0..self.passed_over.len()).min_by_key(|index| self.passed_over[*index].0)?;
        let (_, at) = self.passed_over.remove(first);
        Some(Next { region: &self.regions[at], probe: None })
    }

    /// Somebody was passed over who has served such requests before, and only has no room now.
    pub(super) fn has_throttled(&self) -> bool {
        self.passed_over.iter().any(|(reason, _)| matches!(reason, Reason::Throttles(_)))
    }

    pub(super) fn has_passed_over(&self) -> bool {
        !self.passed_over.is_empty()
    }
}

/// Numbers the requests that are spread.
static REQUESTS: AtomicU64 = AtomicU64::new(0);

/// The upstream that a request is bound to, and then the others: in their order, or spread if the request has a number.
fn order(
    places: impl Iterator<Item = usize> + Clone,
    weight: impl Fn(usize) -> u32,
    home: Option<usize>,
    number: Option<u64>,
) -> VecDeque<usize> {
    let home = home.filter(|home| places.clone().any(|at| at == *home));
    let others = places.filter(|at| Some(*at) != home);
    let Some(number) = number else { return home.into_iter().chain(others).collect() };
    let mut left: VecDeque<usize> = others.collect();
    let mut line: VecDeque<usize> = home.into_iter().collect();
    // Multiples of the golden ratio fill a circle evenly, however many there are: each stretch of it gets its share at once.
    let mut point = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    while !left.is_empty() {
        let total: u64 = left.iter().map(|at| u64::from(weight(*at))).sum();
        let mut at = u64::try_from((u128::from(point) * u128::from(total)) >> 64).unwrap_or(0);
        let chosen = left.iter().position(|upstream| {
            let weight = u64::from(weight(*upstream));
            let is_here = at < weight;
            at = at.saturating_sub(weight);
            is_here
        });
        line.extend(left.remove(chosen.unwrap_or(0)));
        point = mixed(point);
    }
    line
}

/// Another number, as if at random (the finaliser of SplitMix64).
fn mixed(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    number ^ (number >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spread(weights: &[u32], home: Option<usize>, number: u64) -> Vec<usize> {
        order(0..weights.len(), |at| weights[at], home, Some(number)).into()
    }

    #[test]
    fn in_order_each_is_asked_once_and_the_one_it_is_bound_to_first() {
        assert_eq!(order(0..3, |_| 1, None, None), [0, 1, 2]);
        assert_eq!(order(0..3, |_| 1, Some(1), None), [1, 0, 2]);
        assert_eq!(order(0..1, |_| 1, None, Some(7)), [0]);
        assert_eq!(order([2, 3].into_iter(), |_| 1, Some(1), None), [2, 3], "never to where it may not go");
    }

    #[test]
    fn shares_follow_the_weights_and_come_evenly() {
        let weights = [6, 3, 1];
        let firsts: Vec<usize> = (0..1_000).map(|number| spread(&weights, None, number)[0]).collect();
        for (at, weight) in weights.iter().enumerate() {
            let count = |firsts: &[usize]| firsts.iter().filter(|first| **first == at).count();
            let share = *weight as usize;
            assert!(count(&firsts).abs_diff(share * 100) <= 5, "{at}: {}", count(&firsts));
            for few in firsts.chunks(20) {
                assert!(count(few).abs_diff(share * 2) <= 2, "{at}: {} of 20", count(few));
            }
        }
    }

    #[test]
    fn whoever_takes_over_is_chosen_by_weight_too() {
        let weights = [1, 3, 1];
        let lines: Vec<Vec<usize>> = (0..10_000).map(|number| spread(&weights, Some(0), number)).collect();
        let seconds = lines.iter().filter(|line| line[1] == 1).count();
        assert!(lines.iter().all(|line| line[0] == 0) && seconds.abs_diff(7_500) < 100, "{seconds}");
        for number in 0..1_000 {
            let mut line = spread(&[5, 1, 1_000, 2], None, number);
            line.sort_unstable();
            assert_eq!(line, [0, 1, 2, 3], "each once");
        }
    }

    #[test]
    fn a_throttle_that_ends_sooner_is_tried_before_a_later_one_and_before_an_open_breaker() {
        let now = Instant::now();
        let later = Reason::Throttles(now + std::time::Duration::from_secs(1));
        let mut reasons = [Reason::RefusesKey, Reason::BreakerOpen, later, Reason::Throttles(now)];
        reasons.sort();
        assert_eq!(reasons, [Reason::Throttles(now), later, Reason::BreakerOpen, Reason::RefusesKey]);
    }
}
