//! Hosts with an older version of the daemon: each has a lease of its own in the pool. Those that have died are taken back here
//! while there are any.

use super::store::{Pool, StoreRequest, StoreResponse, StoredLease};
use super::watch::Watch;

/// What is known of them.
#[derive(Debug)]
pub(super) struct OldHosts {
    /// By the pool's count.
    hosts: u64,
    leases: Vec<StoredLease>,
    listed_at: u64,
    watch: Watch,
}

impl OldHosts {
    pub(super) fn new(now: u64) -> OldHosts {
        OldHosts { hosts: 0, leases: Vec::new(), listed_at: now, watch: Watch::default() }
    }

    /// The pool has been read.
    pub(super) fn told(&mut self, pool: &Pool) {
        self.hosts = pool.hosts.saturating_sub(pool.curves[0].hosts());
    }

    /// What to do about them, or when. `period` is the time between two looks at all of them.
    pub(super) fn errand(&mut self, period: u64, now: u64) -> Result<StoreRequest, u64> {
        if self.hosts == 0 {
            return Err(u64::MAX);
        }
        while let Some(lease) = self.leases.pop() {
            if self.watch.is_dead(&lease, now) {
                return Ok(StoreRequest::ReclaimOld(lease));
            }
        }
        let at = self.listed_at.saturating_add(period);
        if at <= now { Ok(StoreRequest::ListOld) } else { Err(at) }
    }

    pub(super) fn learn(&mut self, response: StoreResponse, sent_at: u64, now: u64) {
        if let StoreResponse::Leases(mut leases) = response {
            self.listed_at = sent_at;
            leases.sort_unstable_by(|one, other| one.id.cmp(&other.id));
            self.watch.observe(&leases, now);
            self.leases = leases;
        }
    }

    /// What stood still while nobody could write is not dead for that.
    pub(super) fn start_again(&mut self) {
        self.leases.clear();
        self.watch.start_again();
    }
}
