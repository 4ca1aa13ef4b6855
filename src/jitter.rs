//! Chance, so that hosts that have begun together do not go on together.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::time::Duration;

/// Any number. The standard library seeds its hashers at random; nothing secret may depend on it.
pub(crate) fn random() -> u64 {
    RandomState::new().hash_one(0_u8)
}

/// Any number from 0 to 1.
pub(crate) fn fraction() -> f64 {
    part(random())
}

fn part(random: u64) -> f64 {
    random as f64 / u64::MAX as f64
}

/// The interval, less up to a tenth of it: the more, the greater `random` is.
pub(crate) fn earlier(interval: Duration, random: u64) -> Duration {
    interval.saturating_sub((interval / 10).mul_f64(part(random)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_most_a_tenth_is_taken_off() {
        let minutes = Duration::from_secs(300);
        assert_eq!(earlier(minutes, 0), minutes);
        assert_eq!(earlier(minutes, u64::MAX / 2), Duration::from_secs(285));
        assert_eq!(earlier(minutes, u64::MAX), Duration::from_secs(270));
        assert_eq!(earlier(Duration::ZERO, u64::MAX), Duration::ZERO);
        assert!(earlier(Duration::MAX, u64::MAX) >= Duration::MAX / 10 * 8);
    }

    #[test]
    fn no_two_draws_are_alike() {
        let drawn: std::collections::BTreeSet<u64> = (0..64).map(|_| random()).collect();
        assert_eq!(drawn.len(), 64);
        // Over the whole range, so that each part of a tenth comes up.
        assert!(drawn.first() < Some(&(u64::MAX / 4)) && drawn.last() > Some(&(u64::MAX / 4 * 3)));
    }
}
