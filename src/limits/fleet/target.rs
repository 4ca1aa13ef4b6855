//! How much of the limit a host should hold: pure arithmetic on what it and the fleet want.

use super::super::clock::SECOND;
use super::curve::{Level, level};

/// A host that cannot have what one request needs tries its luck anew after this time.
const EPOCH: u64 = 300 * SECOND;

/// One of the two things that are shared, as a host sees it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shared<'a> {
    /// What they share.
    pub(super) limit: u64,
    /// What the others want.
    pub(super) others: &'a [u64],
    /// What all want together, this host's present wish included.
    pub(super) wanted: u64,
}

impl Shared<'_> {
    pub(super) fn new(limit: u64, others: &[u64], want: u64) -> Shared<'_> {
        Shared { limit, others, wanted: others.iter().fold(want, |sum, wish| sum.saturating_add(*wish)) }
    }

    /// All but a two-hundredth, which newcomers find free.
    fn usable(&self) -> u64 {
        self.limit - self.limit / 200
    }

    /// What the host should hold. While the fleet wants less than there is, what it wants and an even part of four fifths
    /// of the rest, ahead of need. Else its max-min share: who wants less than the level has all of it, the others have the
    /// level each. It comes in whole `unit`s: half of what a request needs serves nobody, so the host draws a lot for the odd
    /// unit, the more likely the more of it is its due.
    pub(super) fn target(&self, want: u64, unit: u64, lot: u64) -> u64 {
        let usable = self.usable();
        if self.wanted <= usable {
            let rest = usable - self.wanted;
            let hosts = u64::try_from(self.others.len()).unwrap_or(u64::MAX).saturating_add(1);
            let even = if hosts == 1 { rest } else { rest / 5 * 4 / hosts };
            return want + even;
        }
        let Some(Level { rest, among }) = self.level(want) else { return want };
        if u128::from(want) * u128::from(among) <= u128::from(rest) {
            return want;
        }
        let unit = u128::from(unit.clamp(1, usable.max(1)));
        let (whole, odd) =
            (u128::from(rest) / (u128::from(among) * unit), u128::from(rest) % (u128::from(among) * unit));
        let lucky = odd.checked_mul(1_000_000).is_some_and(|due| {
            u128::from(lot % 1_000_000).checked_mul(u128::from(among) * unit).is_some_and(|drawn| drawn < due)
        });
        let units = whole.saturating_add(u128::from(lucky)).saturating_mul(unit);
        u64::try_from(units).unwrap_or(u64::MAX).min(want.max(u64::try_from(unit).unwrap_or(u64::MAX)))
    }

    /// None: everybody can have what they want.
    fn level(&self, want: u64) -> Option<Level> {
        level(self.others.iter().map(|wish| (*wish, 1)).chain([(want, 1)]).collect(), self.usable())
    }
}

/// The host's lot at a time: the same for five minutes, then another.
pub(super) fn lot(seed: u64, now: u64) -> u64 {
    let epoch = now.wrapping_add(seed % EPOCH) / EPOCH;
    mix(seed ^ mix(epoch))
}

/// A well mixed number from another (splitmix64's finaliser).
pub(super) fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn targets(limit: u64, wants: &[u64], unit: u64) -> Vec<u64> {
        let of = |host: usize| {
            let others: Vec<_> = wants.iter().enumerate().filter(|(at, _)| *at != host).map(|(_, w)| *w).collect();
            Shared::new(limit, &others, wants[host]).target(wants[host], unit, mix(host as u64))
        };
        (0..wants.len()).map(of).collect()
    }

    fn sum(limit: u64, wants: &[u64], unit: u64) -> u64 {
        targets(limit, wants, unit).iter().sum()
    }

    #[test]
    fn an_idle_fleet_holds_most_of_the_limit_and_one_host_all_of_it() {
        assert_eq!(sum(60, &[0], 1), 60);
        assert_eq!(sum(60, &[0, 0], 1), 48);
        assert_eq!(sum(1_000, &[100, 0], 1), 100 + 2 * (895 / 5 * 4 / 2));
    }

    #[test]
    fn who_wants_little_has_all_of_it_and_the_others_have_the_same() {
        assert_eq!(targets(1_000, &[10, 20, 5_000, 0], 1), [10, 20, 965, 0]);
        let shares = targets(1_000, &[10, 400, 450, 3_000], 1);
        assert_eq!(shares[0], 10);
        assert!(shares[1..].iter().all(|share| (328..=329).contains(share)), "{shares:?}");
        assert!((994..=995).contains(&sum(1_000, &[1_000, 500], 1)));
    }

    #[test]
    fn no_numbers_of_the_table_make_anything_overflow() {
        for limit in [0, 1, 1_000, u64::MAX / 2, u64::MAX] {
            for others in [&[][..], &[0, 1, u64::MAX][..], &[u64::MAX; 3][..]] {
                for want in [0, 1, 1_000, u64::MAX / 2, u64::MAX] {
                    for unit in [0, 1, u64::MAX] {
                        let target = Shared::new(limit, others, want).target(want, unit, u64::MAX);
                        assert!(target <= limit.max(want).max(unit));
                    }
                }
            }
        }
    }

    #[test]
    fn odd_units_are_drawn_by_lot_and_add_up() {
        // A thousand hosts that want 5 of 3,000 each; a thousand that need 5,000 tokens at once of 2,000,000.
        for (limit, want, unit) in [(3_000, 5, 1), (2_000_000, 5_000, 5_000)] {
            let total = sum(limit, &[want; 1_000], unit);
            let usable = limit - limit / 200;
            assert!(total.abs_diff(usable) < usable / 10, "{total} of {usable}");
        }
    }

    #[test]
    fn lots_change_every_five_minutes() {
        let changes = (1..1_000).filter(|i| lot(7, i * 60 * SECOND) != lot(7, (i - 1) * 60 * SECOND)).count();
        assert!((190..=210).contains(&changes), "{changes}");
    }
}
