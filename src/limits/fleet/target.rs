//! How much of the limit a host should hold: pure arithmetic on what it and the fleet want.

use super::super::clock::SECOND;

/// A host that cannot have what one request needs tries its luck anew after this time.
const EPOCH: u64 = 300 * SECOND;

/// One of the two things that are shared, as a host sees it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shared<'a> {
    pub(super) limit: u64,
    /// What the others want, from the smallest.
    pub(super) others: &'a [u64],
    /// What all want together, this host's present wish included. More than the sum of those: somebody's wishes are not known
    /// one by one.
    pub(super) wanted: u64,
    pub(super) hosts: u64,
}

/// What nobody may hold more of, where not everybody can have what they want: `rest / among`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Level {
    rest: u64,
    among: u64,
}

impl Shared<'_> {
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
        let wanted = self.wanted.max(want);
        if wanted <= usable {
            let rest = usable - wanted;
            let even = if self.hosts == 1 { rest } else { rest / 5 * 4 / self.hosts.max(1) };
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

    /// None: everybody can have what they want. Wishes that are not known one by one are taken to be alike.
    fn level(&self, want: u64) -> Option<Level> {
        let known = self.others.iter().fold(want, |sum, wish| sum.saturating_add(*wish));
        let count = u64::try_from(self.others.len()).unwrap_or(u64::MAX).saturating_add(1);
        let unknown = self.hosts.saturating_sub(count);
        let each = self.wanted.saturating_sub(known).checked_div(unknown).unwrap_or(0);
        let (mut rest, mut among) = (self.usable(), count.saturating_add(unknown));
        let mut extra = [(want, 1), (each, unknown)];
        extra.sort_unstable();
        let mut extra = extra.into_iter().peekable();
        let mut others = self.others.iter().copied().peekable();
        loop {
            let (wish, hosts) = match (others.peek(), extra.peek()) {
                (Some(other), Some((wish, _))) if other <= wish => (*other, 1),
                (_, Some(next)) => *next,
                (Some(other), None) => (*other, 1),
                (None, None) => return None,
            };
            if u128::from(wish) * u128::from(among) > u128::from(rest) {
                return Some(Level { rest, among });
            }
            if extra.next_if_eq(&(wish, hosts)).is_none() {
                others.next();
            }
            rest -= wish * hosts;
            among -= hosts;
        }
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
            let mut others: Vec<_> = wants.iter().enumerate().filter(|(at, _)| *at != host).map(|(_, w)| *w).collect();
            others.sort_unstable();
            let hosts = u64::try_from(wants.len()).unwrap();
            Shared { limit, others: &others, wanted: wants.iter().sum(), hosts }.target(
                wants[host],
                unit,
                mix(host as u64),
            )
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
    fn wishes_that_are_not_known_one_by_one_are_taken_to_be_alike() {
        let view = Shared { limit: 1_000, others: &[10], wanted: 5_010 + 200, hosts: 12 };
        assert_eq!(view.target(5_000, 1, 999_999), 1_000 - 5 - 10 - 200);
        let view = Shared { limit: 1_000, others: &[], wanted: 10_000, hosts: 10 };
        assert_eq!(view.target(5_000, 1, 999_999), 99);
        assert_eq!(view.target(0, 1, 0), 0, "who wants nothing makes room");
    }

    #[test]
    fn no_numbers_of_the_table_make_anything_overflow() {
        let extremes = [0, 1, 1_000, u64::MAX / 2, u64::MAX];
        for limit in extremes {
            for others in [&[][..], &[0, 1, u64::MAX][..], &[u64::MAX; 3][..]] {
                for (wanted, hosts) in extremes.into_iter().flat_map(|wanted| extremes.map(|hosts| (wanted, hosts))) {
                    for (want, unit) in extremes.into_iter().flat_map(|want| [0, 1, u64::MAX].map(|unit| (want, unit)))
                    {
                        let target = Shared { limit, others, wanted, hosts }.target(want, unit, u64::MAX);
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
