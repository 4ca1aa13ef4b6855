//! What the agent learns from the table's answers.

use std::sync::Arc;

use super::super::super::clock::SECOND;
use super::super::amount::Terms;
use super::super::local::LocalLease;
use super::super::pace::Pace;
use super::super::shard::Shard;
use super::super::store::{StoreError, StoreResponse, held};
use super::super::target::mix;
use super::super::window::WINDOW;
use super::{Agent, Call};

impl Agent {
    /// The result of the call that `next` asked for.
    pub fn done(&mut self, result: Result<StoreResponse, StoreError>, local: &mut LocalLease, now: u64) {
        let call = self.call.take();
        match result {
            Err(StoreError::Unavailable(_)) => {
                self.failed_at = Some(now);
                self.failing_since.get_or_insert(now);
                self.failures = self.failures.saturating_add(1);
                if let Some(Call::Write(after)) = call {
                    self.write_unknown = true;
                    let (least, hold) = self.perhaps.unwrap_or((held(self.lease.as_ref()), self.hold()));
                    self.perhaps =
                        Some((least.min(after.held), hold.min(after.hold_ms.saturating_mul(SECOND / 1_000))));
                }
                self.watch.start_again();
                self.neighbour.start_again();
                self.old.start_again();
            }
            Err(StoreError::Conflict) => {
                self.reached();
                self.pool_read_at = None;
                match call {
                    Some(Call::Write(_)) => {
                        // Too late for what was free, or the lease is not what it was.
                        self.write_unknown = true;
                        self.too_late = true;
                        self.changed_at = Some(now);
                    }
                    Some(Call::Neighbour) => self.neighbour.look_again(),
                    Some(Call::Balance) => {
                        self.looked_at = None;
                        self.balance_at = now + SECOND + mix(self.seed ^ now) % SECOND;
                    }
                    Some(Call::PoolWrite) => self.terms_to_check = true,
                    _ => self.looked_at = None,
                }
            }
            Ok(response) => {
                self.reached();
                if let Some(call) = call {
                    self.learn(call, response, now);
                }
            }
        }
        local.set_allowance(self.allowance(now));
    }

    fn learn(&mut self, call: Call, response: StoreResponse, now: u64) {
        match (call, response) {
            (Call::Pool, StoreResponse::Pool(pool)) => {
                self.pool_read_at = Some(self.sent_at);
                if let Some(pool) = &pool {
                    self.learn_terms(pool.terms);
                    self.know(pool.hosts, pool.shards);
                } else {
                    // It was never made, or somebody has deleted it.
                    self.terms = None;
                }
                self.pool = pool;
            }
            (Call::Write(after), StoreResponse::Shard(shard)) => {
                if self.renewed_at.is_some_and(|renewed| self.sent_at >= renewed.saturating_add(self.hold())) {
                    self.grace_until = now + Pace::RETRY * 2 + WINDOW + SECOND;
                }
                self.lease = Some(after);
                self.perhaps = None;
                self.too_late = false;
                self.renewed_at = Some(self.sent_at);
                self.changed_at = Some(self.sent_at);
                self.learn_shard(shard, now);
            }
            (Call::Look { now: as_it_is }, StoreResponse::Shard(shard)) => {
                if as_it_is {
                    self.write_unknown = false;
                    // Reclaimed by others, or never written: then this host holds nothing.
                    self.lease = shard.as_ref().and_then(|shard| shard.lease(&self.id)).cloned();
                    self.cap = self.cap.filter(|_| self.lease.is_some());
                }
                self.learn_shard(shard, now);
            }
            (Call::ShardWrite, StoreResponse::Shard(shard)) => self.learn_shard(shard, now),
            (Call::ShardWrite | Call::Balance, _) => (self.looked_at, self.pool_read_at) = (None, None),
            (Call::PoolWrite, _) => {
                self.pool_read_at = None;
                self.terms_to_check = true;
            }
            (Call::Neighbour, StoreResponse::Shard(shard)) => self.neighbour.learn(shard, self.sent_at, now),
            (Call::Neighbour, _) => {
                self.pool_read_at = None;
                self.neighbour.look_again();
            }
            (Call::Old, response) => self.old.learn(response, self.sent_at, now),
            (Call::Pool | Call::Write(_) | Call::Look { .. }, _) => {}
        }
    }

    fn learn_terms(&mut self, terms: Terms) {
        if self.terms.is_none_or(|known| known.revision <= terms.revision) {
            self.terms = Some(terms);
        }
    }

    fn learn_shard(&mut self, shard: Option<Arc<Shard>>, now: u64) {
        self.looked_at = Some(self.sent_at);
        self.considered_at = None;
        if let Some(shard) = &shard {
            self.watch.observe(&shard.leases, now);
            // One that was never balanced has not been told.
            if shard.round > 0 {
                self.learn_terms(shard.terms);
                // There are never fewer shards than there were; this one may not have been told of new ones yet.
                self.know(shard.hosts(), shard.shards.max(self.shards));
            }
        }
        if shard.is_none() {
            // Somebody has deleted it: nothing is held.
            self.lease = None;
        }
        self.shard = shard;
    }

    fn know(&mut self, hosts: u64, shards: u64) {
        (self.hosts, self.shards) = (hosts.max(1), shards.max(1));
        self.pace = Pace::of(self.hosts, self.shards);
    }

    fn reached(&mut self) {
        self.failed_at = None;
        self.failures = 0;
        self.failing_since = None;
    }
}
