//! How large a host's lease should be now: pure arithmetic, for requests and for tokens alike.

/// One of the two amounts at the moment of a decision, all for sixty seconds.
#[derive(Debug)]
pub(super) struct Sizing {
    /// What the host is due.
    pub(super) target: u64,
    /// What its lease is.
    pub(super) held: u64,
    /// What it has used in the last sixty seconds.
    pub(super) used: u64,
    /// What it wants.
    pub(super) wanted: u64,
    /// What one request may need; less than that serves nobody.
    pub(super) unit: u64,
    /// What no lease holds; below zero for a while after the limit was lowered.
    pub(super) free: i64,
    /// Of the whole fleet.
    pub(super) limit: u64,
    /// What all hosts want together.
    pub(super) fleet_wanted: u64,
    /// Requests were refused here for want of a larger lease.
    pub(super) starved: bool,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct LeaseSize {
    /// What the lease should be.
    pub(super) held: u64,
    /// What may be used of it meanwhile.
    pub(super) cap: u64,
}

/// What a host wants next, after the demand of the last minute. Up at once; down at once when a minute has brought nothing.
/// Else down with a renewal, by halves unless most of it has gone, so that demand that comes in gusts keeps its lease.
pub(super) fn next_wanted(asked: u64, wanted: u64, unit: u64, limit: u64, renew: bool) -> u64 {
    let next = if asked >= wanted || asked == 0 || renew && asked < wanted / 2 {
        asked
    } else if renew {
        wanted - (wanted - asked).div_ceil(2)
    } else {
        wanted
    };
    if next == 0 { 0 } else { next.max(unit).min(limit) }
}

impl Sizing {
    pub(super) fn decide(&self) -> LeaseSize {
        let Sizing { target, held, used, wanted, unit, limit, .. } = *self;
        let free = u64::try_from(self.free).unwrap_or(0);
        let keep = LeaseSize { held, cap: held };
        if target > held {
            return self.grow(target - held, free).unwrap_or(keep);
        }
        let scarce = free < limit / 20 || self.free < 0;
        // Who is due nothing keeps nothing that others may need; who is due some is not made to trade single units, unless
        // more is leased than there is. One that is due much leaves half of what newcomers should find.
        let slack = if target == 0 || self.free < 0 { 0 } else { (target / 10).min(limit / 400).max(unit) };
        if held > target.saturating_add(slack) && scarce || held > target.saturating_mul(2).saturating_add(slack) {
            // Room is made as use grows old.
            return LeaseSize { held: held.min(target.max(used)), cap: target };
        }
        // What nobody else has taken is better used than left.
        if self.starved && wanted > held && free > limit / 100 {
            let part = u128::from(free) * u128::from(wanted) / u128::from(self.fleet_wanted.max(1));
            let part = u64::try_from(part).unwrap_or(free).max(unit).min(wanted - held);
            return self.grow(part, free).unwrap_or(keep);
        }
        keep
    }

    /// By as much as there is, if that is enough to serve one more request.
    fn grow(&self, more: u64, free: u64) -> Option<LeaseSize> {
        let taken = more.min(free);
        let held = self.held + taken;
        let enough = taken == more || held >= self.unit.max(self.used.saturating_add(self.unit).min(self.target));
        (taken > 0 && enough).then_some(LeaseSize { held, cap: held })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn demand_is_followed_up_at_once_and_down_by_halves() {
        assert_eq!(next_wanted(100, 10, 1, 1_000, false), 100);
        assert_eq!(next_wanted(0, 100, 1, 1_000, false), 0);
        assert_eq!(next_wanted(80, 100, 1, 1_000, false), 100, "only a renewal lowers it");
        assert_eq!(next_wanted(80, 100, 1, 1_000, true), 90);
        assert_eq!(next_wanted(40, 100, 1, 1_000, true), 40, "most of it has gone");
        assert_eq!(next_wanted(3, 0, 50, 1_000, false), 50, "one request needs as much");
        assert_eq!(next_wanted(5_000, 0, 50, 1_000, false), 1_000);
    }

    /// The table's numbers may be anybody's.
    #[test]
    fn no_numbers_of_the_table_make_anything_overflow() {
        let extremes = [0, 1, u64::MAX / 2, u64::MAX - 1, u64::MAX];
        for target in extremes {
            for held in extremes {
                for (wanted, fleet_wanted) in [(0, 0), (u64::MAX, 0), (1, u64::MAX), (u64::MAX, u64::MAX)] {
                    for free in [i64::MIN, -1, 0, i64::MAX] {
                        for (limit, unit) in [(0, 1), (u64::MAX, u64::MAX), (u64::MAX, 1)] {
                            let (used, starved) = (held, true);
                            let sizing =
                                Sizing { target, held, used, wanted, unit, free, limit, fleet_wanted, starved };
                            let LeaseSize { held: next, cap } = sizing.decide();
                            assert!(next <= held.max(target).max(wanted), "{sizing:?}: {next}");
                            assert!(cap <= next.max(target), "{sizing:?}: {cap}");
                            assert!(next_wanted(target, held, unit, limit, starved) <= limit.max(unit));
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_lease_grows_by_what_is_free_and_shrinks_to_what_was_used() {
        let sizing = Sizing {
            target: 50,
            held: 20,
            used: 20,
            wanted: 50,
            unit: 1,
            free: 100,
            limit: 1_000,
            fleet_wanted: 500,
            starved: false,
        };
        assert_eq!(sizing.decide().held, 50);
        assert_eq!(Sizing { free: 10, ..sizing }.decide().held, 30);
        assert_eq!(Sizing { free: 10, unit: 40, ..sizing }.decide().held, 20, "ten more serve no request of 40");
        let shrinking = Sizing { target: 5, held: 200, used: 30, ..sizing }.decide();
        assert_eq!((shrinking.held, shrinking.cap), (30, 5));
    }

    /// After the limit was lowered: a tenth that each keeps above its part would be a tenth above the limit.
    #[test]
    fn while_more_is_leased_than_there_is_no_lease_keeps_slack() {
        let sizing = Sizing {
            target: 50,
            held: 53,
            used: 51,
            wanted: 50,
            unit: 1,
            free: 0,
            limit: 4_000,
            fleet_wanted: 500,
            starved: true,
        };
        assert_eq!(sizing.decide().held, 53, "nobody is made to trade single units");
        let LeaseSize { held, cap } = Sizing { free: -1, ..sizing }.decide();
        assert_eq!((held, cap), (51, 50), "room is made as use grows old");
    }
}
