//! Leases, watched in search of those whose holder has died.

use std::sync::Arc;

use super::super::clock::SECOND;
use super::pace::Pace;
use super::store::StoredLease;

/// By id.
#[derive(Debug, Default)]
pub(super) struct Watch(Vec<Seen>);

/// A lease, since when at this version.
#[derive(Debug)]
struct Seen {
    id: Arc<str>,
    version: u64,
    since: u64,
}

impl Watch {
    /// Takes note of all leases as they are now; they come by id.
    pub(super) fn observe(&mut self, leases: &[StoredLease], now: u64) {
        let mut before = std::mem::take(&mut self.0).into_iter().peekable();
        self.0.reserve_exact(leases.len());
        for lease in leases {
            while before.next_if(|seen| seen.id < lease.id).is_some() {}
            let since = before
                .next_if(|seen| seen.id == lease.id)
                .filter(|seen| seen.version == lease.version)
                .map_or(now, |seen| seen.since);
            self.0.push(Seen { id: lease.id.clone(), version: lease.version, since });
        }
    }

    /// What stood still while nobody could write is not dead for that.
    pub(super) fn start_again(&mut self) {
        self.0.clear();
    }

    /// The lease has stood still for so long that its holder uses none of it, and has not for a window.
    pub(super) fn is_dead(&self, lease: &StoredLease, now: u64) -> bool {
        self.stood_still(lease, now) >= Pace::dead_after(lease.hold_ms.saturating_mul(SECOND / 1_000))
    }

    /// Its holder renews it.
    pub(super) fn is_live(&self, lease: &StoredLease, now: u64) -> bool {
        lease.hold_ms > 0 && self.stood_still(lease, now) < lease.hold_ms.saturating_mul(SECOND / 1_000)
    }

    fn stood_still(&self, lease: &StoredLease, now: u64) -> u64 {
        self.0
            .binary_search_by(|seen| seen.id.cmp(&lease.id))
            .ok()
            .map(|at| &self.0[at])
            .filter(|seen| seen.version == lease.version)
            .map_or(0, |seen| now.saturating_sub(seen.since))
    }
}
