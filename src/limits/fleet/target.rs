//! How much of the limit a host should hold: pure arithmetic on what it and the fleet want.

use super::super::clock::SECOND;
use super::store::Pool;

/// A host that cannot have what one request needs tries its luck anew after this time.
const EPOCH: u64 = 300 * SECOND;

/// One of the two things that are shared, as a host sees it.
#[derive(Debug, Clone, Copy)]
pub(super) struct PoolView {
    pub(super) limit: u64,
    /// Of all hosts, this one's present wish included.
    pub(super) wanted: u64,
    pub(super) hosts: u64,
}

impl PoolView {
    pub(super) fn requests(pool: &Pool, declared: u64, want: u64) -> PoolView {
        let wanted = pool.wanted.requests.saturating_sub(declared).saturating_add(want);
        PoolView { limit: pool.limit.requests, wanted, hosts: pool.hosts.max(1) }
    }

    pub(super) fn tokens(pool: &Pool, declared: u64, want: u64) -> PoolView {
        let wanted = pool.wanted.tokens.saturating_sub(declared).saturating_add(want);
        PoolView { limit: pool.limit.tokens, wanted, hosts: pool.hosts.max(1) }
    }

    /// All but a two-hundredth, which newcomers find free.
    fn usable(&self) -> u64 {
        self.limit - self.limit / 200
    }

    /// What the host should hold. While the fleet wants less than there is, what it wants and an even part of four fifths
    /// of the rest, ahead of need. Else its part by what it wants, in whole `unit`s: half of what a request needs serves
    /// nobody, so the host draws a lot for the odd unit, the more likely the more of it is its due.
    pub(super) fn target(&self, want: u64, unit: u64, lot: u64) -> u64 {
        let usable = self.usable();
        if self.wanted <= usable {
            let rest = usable - self.wanted;
            let even = if self.hosts == 1 { rest } else { rest / 5 * 4 / self.hosts };
            return want + even;
        }
        if want == 0 {
            return 0;
        }
        let unit = unit.clamp(1, usable.max(1));
        let due = u128::from(want) * u128::from(usable);
        let (wanted, unit_) = (u128::from(self.wanted), u128::from(unit));
        let whole = due / (wanted * unit_);
        let odd = due % (wanted * unit_);
        // Of numbers that only a table which somebody has edited holds, nobody draws the odd unit.
        let scaled = |part: u128, of: u128| part.checked_mul(of);
        let lucky = scaled(u128::from(lot % 1_000_000), wanted * unit_)
            .zip(scaled(odd, 1_000_000))
            .is_some_and(|(drawn, due)| drawn < due);
        let units = u64::try_from(whole).unwrap_or(u64::MAX).saturating_add(u64::from(lucky));
        units.saturating_mul(unit).min(want.max(unit))
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
    use super::super::amount::Amount;
    use super::*;

    fn sum(limit: u64, wants: &[u64], unit: u64) -> u64 {
        let view = PoolView { limit, wanted: wants.iter().sum(), hosts: u64::try_from(wants.len()).unwrap() };
        wants.iter().enumerate().map(|(host, want)| view.target(*want, unit, mix(host as u64))).sum()
    }

    #[test]
    fn an_idle_fleet_holds_most_of_the_limit_and_one_host_all_of_it() {
        assert_eq!(sum(60, &[0], 1), 60);
        assert_eq!(sum(60, &[0, 0], 1), 48);
        assert_eq!(sum(1_000, &[100, 0], 1), 100 + 2 * (895 / 5 * 4 / 2));
    }

    #[test]
    fn no_numbers_of_the_table_make_anything_overflow() {
        let extremes = [0, 1, 1_000, u64::MAX / 2, u64::MAX];
        for limit in extremes {
            for (in_pool, hosts) in extremes.into_iter().flat_map(|wanted| [(wanted, 0), (wanted, u64::MAX)]) {
                for (declared, want) in extremes.into_iter().flat_map(|d| extremes.map(|want| (d, want))) {
                    let amount = Amount { requests: in_pool, tokens: in_pool };
                    let limit = Amount { requests: limit, tokens: limit };
                    let pool = Pool { limit, wanted: amount, hosts, ..Pool::default() };
                    for unit in [0, 1, u64::MAX] {
                        let of_tokens = PoolView::tokens(&pool, declared, want).target(want, unit, u64::MAX);
                        let of_requests = PoolView::requests(&pool, declared, want).target(want, unit, u64::MAX);
                        assert_eq!(of_tokens, of_requests);
                        assert!(of_tokens <= limit.tokens.max(want).max(unit));
                    }
                }
            }
        }
    }

    #[test]
    fn wishes_above_the_limit_are_cut_in_proportion() {
        assert!((994..=995).contains(&sum(1_000, &[1_000, 500], 1)));
        let view = PoolView { limit: 1_000, wanted: 1_500, hosts: 2 };
        assert_eq!(view.target(1_000, 1, 999_999), 663);
        assert_eq!(view.target(0, 1, 0), 0, "who wants nothing makes room");
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
