//! Other hosts' leases, watched in search of those whose holder has died.

use std::collections::HashMap;

use super::super::clock::SECOND;
use super::pace::Pace;
use super::store::StoredLease;

#[derive(Debug, Default)]
pub(super) struct Watch {
    seen: HashMap<String, Seen>,
    dead: Vec<StoredLease>,
}

/// A lease of another host, since when at this version.
#[derive(Debug, Clone, Copy)]
struct Seen {
    version: u64,
    since: u64,
}

impl Watch {
    /// Takes note of all leases as they are now. Those that have stood still for long enough are dead.
    pub(super) fn observe(&mut self, leases: Vec<StoredLease>, own: &str, now: u64) {
        let before = std::mem::take(&mut self.seen);
        for lease in leases.into_iter().filter(|lease| lease.id != own) {
            let since = match before.get(&lease.id) {
                Some(seen) if seen.version == lease.version => seen.since,
                _ => now,
            };
            self.seen.insert(lease.id.clone(), Seen { version: lease.version, since });
            if now - since >= Pace::dead_after(lease.hold_ms.saturating_mul(SECOND / 1_000)) {
                self.dead.push(lease);
            }
        }
    }

    /// What stood still while nobody could write is not dead for that.
    pub(super) fn start_again(&mut self) {
        self.seen.clear();
        self.dead.clear();
    }

    /// A dead lease that nobody here has tried to take back yet.
    pub(super) fn next_dead(&mut self) -> Option<StoredLease> {
        self.dead.pop()
    }
}
