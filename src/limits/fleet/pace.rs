//! How often a host goes to the table. The more hosts there are, the more seldom each goes.

use super::super::clock::SECOND;
use super::window::WINDOW;

const MILLI: u64 = SECOND / 1_000;

/// The times between its calls, all in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pace {
    /// Between two looks at the shard.
    pub(super) look: u64,
    /// Between two writes that change a lease.
    pub(super) change: u64,
    /// A lease is renewed after this time, if nothing else has renewed it.
    pub(super) renew: u64,
    /// A lease is good for this time after the write that renewed it was sent.
    pub(super) hold: u64,
    /// Between two looks at another shard, or at the leases of older versions, in search of dead ones.
    pub(super) list: u64,
    /// Between two looks whether the shard has what it is due of the pool.
    pub(super) balance: u64,
}

impl Pace {
    pub(super) fn of(hosts: u64, shards: u64) -> Pace {
        let hosts = hosts.max(1);
        let renew = (hosts.saturating_mul(60 * MILLI)).clamp(5 * SECOND, WINDOW);
        Pace {
            look: (hosts.saturating_mul(10 * MILLI)).clamp(SECOND, WINDOW),
            change: (hosts.saturating_mul(4 * MILLI)).clamp(SECOND / 4, 15 * SECOND),
            renew,
            hold: 3 * renew,
            list: (hosts.saturating_mul(SECOND / 4)).clamp(10 * SECOND, 4 * WINDOW),
            balance: (shards.saturating_mul(50 * MILLI)).clamp(SECOND, 2 * WINDOW),
        }
    }

    /// The longest time between two tries of a host that cannot reach the table.
    pub(super) const RETRY: u64 = 10 * SECOND;

    /// How long a lease whose version stands still must have been watched before it is dead: its holder has stopped
    /// using it after `hold`, its use is a window old after another minute, and the 64th part on top is for clocks that
    /// run at different speeds.
    pub(super) fn dead_after(hold: u64) -> u64 {
        let time = hold.saturating_add(WINDOW);
        time.saturating_add(time / 64).saturating_add(SECOND)
    }
}
