//! One other shard that this host watches: all hosts of a shard may have died, and then nobody there gives back what it has.

use std::sync::Arc;

use super::shard::Shard;
use super::store::{StoreRequest, StoredLease};
use super::target::mix;
use super::watch::Watch;

/// The shard that is watched at the moment. It stays until one of its hosts has been seen alive, or until it is empty.
#[derive(Debug)]
pub(super) struct Neighbour {
    /// How many have been watched before, which decides the shard.
    turn: u64,
    shard: Option<Arc<Shard>>,
    read_at: Option<u64>,
    started_at: u64,
    watch: Watch,
}

/// What is to be done about it.
#[derive(Debug)]
pub(super) enum Errand {
    Call(StoreRequest),
    /// Nobody is in it any more.
    Balance(Arc<Shard>),
    /// Nothing before this time.
    Wait(u64),
}

impl Neighbour {
    pub(super) fn new(now: u64) -> Neighbour {
        Neighbour { turn: 0, shard: None, read_at: None, started_at: now, watch: Watch::default() }
    }

    /// `own` is the host's shard, of so many; `period` the time between two looks.
    pub(super) fn errand(&mut self, own: u64, shards: u64, seed: u64, period: u64, now: u64) -> Errand {
        if shards < 2 {
            return Errand::Wait(u64::MAX);
        }
        let last = self.read_at.unwrap_or(self.started_at);
        let read_at = last + period - mix(seed ^ last) % (period / 8 + 1);
        if read_at <= now {
            let number = (own + 1 + mix(seed).wrapping_add(self.turn) % (shards - 1)) % shards;
            return Errand::Call(StoreRequest::ReadShard { number, now: false });
        }
        if let Some(shard) = &self.shard {
            if let Some(lease) = shard.leases.iter().find(|lease| self.watch.is_dead(lease, now)) {
                return Errand::Call(StoreRequest::Write(shard.number, Some(lease.clone()), None));
            }
            if shard.leases.is_empty() {
                return Errand::Balance(shard.clone());
            }
        }
        Errand::Wait(read_at)
    }

    /// The shard as it is now, if it is there.
    pub(super) fn learn(&mut self, shard: Option<Arc<Shard>>, sent_at: u64, now: u64) {
        self.read_at = Some(sent_at);
        let Some(shard) = shard else { return self.go_on() };
        let before = self.shard.replace(shard.clone()).filter(|before| before.number == shard.number);
        let is_new = |lease: &StoredLease| {
            before.as_ref().is_some_and(|before| before.lease(&lease.id).is_none_or(|was| was.version != lease.version))
        };
        if shard.leases.iter().any(is_new) {
            self.go_on();
        } else {
            self.watch.observe(&shard.leases, now);
        }
    }

    /// To another shard, at the next look.
    pub(super) fn go_on(&mut self) {
        self.turn = self.turn.wrapping_add(1);
        self.start_again();
    }

    /// What is known may be wrong.
    pub(super) fn look_again(&mut self) {
        self.shard = None;
    }

    /// What stood still while nobody could write is not dead for that.
    pub(super) fn start_again(&mut self) {
        self.shard = None;
        self.watch.start_again();
    }
}
