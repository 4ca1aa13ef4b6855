//! The host's agent at the table: decides what to ask of it next, and learns from the answers. It does no I/O and reads no
//! clock, so that a simulation runs the very same code.

use super::super::clock::SECOND;
use super::amount::{Amount, Terms};
use super::local::{Allowance, LocalLease};
use super::pace::Pace;
use super::sizing::{Sizing, next_wanted};
use super::store::{Change, Pool, StoreError, StoreRequest, StoreResponse, StoredLease};
use super::target::{Shared, lot, mix};
use super::watch::Watch;
use super::window::WINDOW;

/// A daemon that starts while the table cannot be reached gives it this long.
const STARTUP_TIMEOUT: u64 = 3 * SECOND;

/// What the agent wants.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// A call; its result goes to `done`.
    Call(StoreRequest),
    /// Nothing before this time, unless a request is refused for want of a lease.
    Wait(u64),
}

/// One host's agent. All its times are nanoseconds of the host's clock.
#[derive(Debug)]
pub struct Agent {
    id: String,
    seed: u64,
    pace: Pace,
    /// As the table has it, as far as is known.
    lease: Option<StoredLease>,
    /// A write whose fate is unknown: the lease must be looked up.
    write_unknown: bool,
    /// The call under way: when it was sent, and for a write what it would make of the lease.
    sent_at: u64,
    writing: Option<Option<StoredLease>>,
    /// The dead lease that is being taken back.
    reclaiming: Option<String>,
    /// The pool as it was last read, with the changes of this host since; when it was read.
    pool: Option<Pool>,
    pool_read_at: Option<u64>,
    /// When the last write that changed the lease was sent, or found another host in its way.
    changed_at: Option<u64>,
    /// When the last successful write of the lease was sent.
    renewed_at: Option<u64>,
    /// When all leases were last looked at, and what the others wanted then: requests and tokens, each from the smallest.
    listed_at: Option<u64>,
    others: [Vec<u64>; 2],
    watch: Watch,
    /// When the last call failed, if none has succeeded since, and how many have failed in a row.
    failed_at: Option<u64>,
    failures: u32,
    /// The first of the failures that no success has ended.
    failing_since: Option<u64>,
    /// What this host is configured with.
    configured: Terms,
    /// After an outage: others may still use their local share until then.
    grace_until: u64,
    /// Number of hosts when the pool was last read, by this run or the one before.
    hosts: u64,
    started_at: u64,
    /// What this host wants for sixty seconds.
    wanted: Amount,
    /// What this host restrains itself to while it makes room.
    cap: Option<Amount>,
}

impl Agent {
    /// `id` is of this run alone. `hosts`: how many were seen by an earlier run, 1 when nothing is known.
    pub fn new(id: String, hosts: u64, now: u64) -> Agent {
        let seed = id.bytes().fold(0, |seed, byte| mix(seed ^ u64::from(byte)));
        Agent {
            id,
            seed,
            pace: Pace::of(1),
            lease: None,
            write_unknown: false,
            sent_at: now,
            writing: None,
            reclaiming: None,
            pool: None,
            pool_read_at: None,
            changed_at: None,
            renewed_at: None,
            listed_at: None,
            others: Default::default(),
            watch: Watch::default(),
            failed_at: None,
            failures: 0,
            failing_since: None,
            configured: Terms::default(),
            grace_until: 0,
            hosts: hosts.max(1),
            started_at: now,
            wanted: Amount::default(),
            cap: None,
        }
    }

    pub(in crate::limits) fn hosts(&self) -> u64 {
        self.hosts
    }

    /// The table's limits, where this host is configured with others and the table's hold.
    pub(in crate::limits) fn overruled_by(&self) -> Option<Terms> {
        let terms = self.pool?.terms();
        (terms.limit != self.configured.limit && terms.revision >= self.configured.revision).then_some(terms)
    }

    /// The configured limits have changed.
    pub(in crate::limits) fn reconfigured(&mut self) {
        self.pool_read_at = None;
    }

    /// What to do now.
    pub fn next(&mut self, local: &mut LocalLease, now: u64) -> Next {
        let next = self.decide(local, now);
        if let Next::Call(request) = &next {
            self.sent_at = now;
            self.writing = match request {
                StoreRequest::Write(_, after) if self.reclaiming.is_none() => Some(after.clone()),
                _ => None,
            };
        }
        local.set_allowance(self.allowance(now));
        next
    }

    fn decide(&mut self, local: &mut LocalLease, now: u64) -> Next {
        self.reclaiming = None;
        self.configured = local.configured();
        if let Some(failed) = self.failed_at {
            let retry = (SECOND << self.failures.min(4)).min(Pace::RETRY).min(self.pace.look.max(2 * SECOND));
            let at = failed + retry * 3 / 4 + mix(self.seed ^ failed) % (retry / 4);
            if now < at {
                return Next::Wait(at);
            }
        }
        if self.write_unknown {
            return Next::Call(StoreRequest::Get(self.id.clone()));
        }
        let starved = local.starved(now);
        let look = if starved { self.pace.change.min(self.pace.look) } else { self.pace.look };
        let seed = self.seed;
        let due = |last: Option<u64>, period: u64, what: u64| {
            // Spread over the period, so that hosts that were started together do not stay together.
            last.map_or(now, |last| last + period - mix(seed ^ what ^ last) % (period / 8 + 1))
        };
        let look_at = due(self.pool_read_at, look, 1);
        if look_at <= now {
            return Next::Call(StoreRequest::Read);
        }
        let Some(pool) = self.pool else { return Next::Call(StoreRequest::Create(self.configured)) };
        if self.configured.revision > pool.revision {
            return Next::Call(StoreRequest::Resize(pool.terms(), self.configured));
        }
        let change_at = due(self.changed_at, self.pace.change, 2);
        let renew_at = due(self.renewed_at, self.pace.renew, 3);
        if change_at <= now
            && let Some(after) = self.change(local, &pool, renew_at <= now, now)
        {
            return Next::Call(StoreRequest::Write(self.lease.clone(), Some(after)));
        }
        if let Some(lease) = self.watch.next_dead() {
            self.reclaiming = Some(lease.id.clone());
            return Next::Call(StoreRequest::Write(Some(lease), None));
        }
        // A newcomer first looks after a while, not all at once.
        let list_at = due(self.listed_at.or(Some(self.started_at)), self.pace.list, 4);
        if list_at <= now {
            return Next::Call(StoreRequest::List);
        }
        let next = look_at.min(renew_at.max(change_at)).min(list_at);
        Next::Wait(next.max(now + 1))
    }

    /// The lease as it should be, if it should be another; always, when it is to be renewed.
    fn change(&mut self, local: &mut LocalLease, pool: &Pool, renew: bool, now: u64) -> Option<StoredLease> {
        let (asked, largest, used) = (local.asked(now), local.largest(now), local.used(now));
        let starved = local.starved(now);
        let declared = self.lease.as_ref().map_or(Amount::default(), |lease| lease.wanted);
        let held = self.lease.as_ref().map_or(Amount::default(), |lease| lease.held);
        let lots = (lot(self.seed, now), lot(mix(self.seed), now));
        // Clients that try again ask for the same many times. So of the one no more is of use than the other would serve, and
        // a quarter on top: else what is plenty would look short, be shared by lot, and become short.
        let useful = match used.tokens {
            0 => u64::MAX,
            _ if pool.limit.tokens == 0 => u64::MAX,
            tokens => u64::try_from(u128::from(held.tokens) * u128::from(used.requests) / u128::from(tokens))
                .unwrap_or(u64::MAX),
        };
        let useful = useful.saturating_add(useful / 4).max(pool.limit.requests / pool.hosts.max(1)).saturating_add(1);
        self.wanted.requests =
            next_wanted(asked.requests.min(useful), self.wanted.requests.min(useful), 1, pool.limit.requests, renew);
        let all = |sum: u64, declared: u64, want: u64| sum.saturating_sub(declared).saturating_add(want);
        let requests = Shared {
            limit: pool.limit.requests,
            others: &self.others[0],
            wanted: all(pool.wanted.requests, declared.requests, self.wanted.requests),
            hosts: pool.hosts.max(1),
        };
        let requests_target = requests.target(self.wanted.requests, 1, lots.0);
        let useful = match used.requests {
            _ if pool.limit.requests == 0 => u64::MAX,
            0 => requests_target.max(held.requests).saturating_mul(largest.tokens),
            count => (used.tokens / count).saturating_mul(requests_target.max(held.requests)),
        };
        let useful = useful.saturating_add(useful / 4).saturating_add(largest.tokens);
        let asked_tokens = asked.tokens.min(useful);
        self.wanted.tokens =
            next_wanted(asked_tokens, self.wanted.tokens.min(useful), largest.tokens, pool.limit.tokens, renew);
        let tokens = Shared {
            limit: pool.limit.tokens,
            others: &self.others[1],
            wanted: all(pool.wanted.tokens, declared.tokens, self.wanted.tokens),
            hosts: pool.hosts.max(1),
        };
        let wanted = self.wanted;
        let target = Amount { requests: requests_target, tokens: tokens.target(wanted.tokens, largest.tokens, lots.1) };
        let requests = Sizing {
            target: target.requests,
            held: held.requests,
            used: used.requests,
            wanted: wanted.requests,
            unit: 1,
            free: pool.free_requests,
            limit: pool.limit.requests,
            fleet_wanted: requests.wanted,
            starved,
        };
        let tokens = Sizing {
            target: target.tokens,
            held: held.tokens,
            used: used.tokens,
            wanted: wanted.tokens,
            unit: largest.tokens,
            free: pool.free_tokens,
            limit: pool.limit.tokens,
            fleet_wanted: tokens.wanted,
            starved,
        };
        let (requests, tokens) = (requests.decide(), tokens.decide());
        self.cap = Some(Amount { requests: requests.cap, tokens: tokens.cap });
        let next = Amount { requests: requests.held, tokens: tokens.held };
        // A wish that has doubled is declared at once; others travel with what is written anyway.
        let doubled = |want: u64, declared: u64, unit: u64| want >= declared.saturating_mul(2).saturating_add(unit);
        let worth_it = next != held
            || starved
                && (doubled(wanted.requests, declared.requests, 1)
                    || doubled(wanted.tokens, declared.tokens, largest.tokens));
        if !worth_it && !renew && self.lease.is_some() {
            return None;
        }
        let version = self.lease.as_ref().map_or(1, |lease| lease.version + 1);
        Some(StoredLease {
            id: self.id.clone(),
            version,
            held: next,
            wanted,
            hold_ms: self.pace.hold / (SECOND / 1_000),
        })
    }

    /// The result of the call that `next` asked for.
    pub fn done(&mut self, result: Result<StoreResponse, StoreError>, local: &mut LocalLease, now: u64) {
        let writing = self.writing.take();
        let reclaiming = self.reclaiming.take();
        match result {
            Err(StoreError::Unavailable(_)) => {
                self.failed_at = Some(now);
                self.failing_since.get_or_insert(now);
                self.failures = self.failures.saturating_add(1);
                self.write_unknown |= writing.is_some();
                self.watch.start_again();
            }
            Err(StoreError::Conflict) => {
                self.reached();
                if writing.is_some() {
                    // Too late for what was free, or the lease is not what it was.
                    self.write_unknown = true;
                    self.changed_at = Some(now);
                }
                if reclaiming.is_none() {
                    self.pool_read_at = None;
                }
            }
            Ok(response) => {
                self.reached();
                self.learn(response, writing, now);
            }
        }
        local.set_allowance(self.allowance(now));
    }

    fn learn(&mut self, response: StoreResponse, writing: Option<Option<StoredLease>>, now: u64) {
        match (response, writing) {
            (StoreResponse::Pool(pool), _) => {
                self.pool = pool;
                self.pool_read_at = Some(self.sent_at);
                if let Some(pool) = pool {
                    self.hosts = pool.hosts.max(1);
                    self.pace = Pace::of(pool.hosts);
                }
            }
            (StoreResponse::Done, Some(after)) => {
                if self.renewed_at.is_some_and(|renewed| self.sent_at >= renewed + self.hold()) {
                    self.grace_until = now + Pace::RETRY * 2 + WINDOW + SECOND;
                }
                if let (Some(pool), Some(after)) = (&mut self.pool, &after) {
                    // So that the next decision does not take from the pool what has just been taken.
                    let change = Change::of(self.lease.as_ref(), Some(after));
                    pool.free_requests = pool.free_requests.saturating_add(change.free_requests);
                    pool.free_tokens = pool.free_tokens.saturating_add(change.free_tokens);
                    pool.wanted.requests = pool.wanted.requests.saturating_add_signed(change.wanted_requests);
                    pool.wanted.tokens = pool.wanted.tokens.saturating_add_signed(change.wanted_tokens);
                    pool.hosts = pool.hosts.saturating_add_signed(change.hosts);
                }
                self.lease = after;
                self.renewed_at = Some(self.sent_at);
                self.changed_at = Some(self.sent_at);
            }
            // The pool was made or resized: look again.
            (StoreResponse::Done, None) => self.pool_read_at = None,
            (StoreResponse::Lease(lease), _) => {
                self.write_unknown = false;
                // Reclaimed by others, or never written: then this host holds nothing.
                self.lease = lease;
                self.pool_read_at = None;
                self.cap = self.cap.filter(|_| self.lease.is_some());
            }
            (StoreResponse::Leases(leases), _) => {
                self.listed_at = Some(self.sent_at);
                let others = || leases.iter().filter(|lease| lease.id != self.id);
                self.others = [
                    others().map(|lease| lease.wanted.requests).collect(),
                    others().map(|lease| lease.wanted.tokens).collect(),
                ];
                self.others.iter_mut().for_each(|wishes| wishes.sort_unstable());
                self.watch.observe(leases, &self.id, now);
            }
        }
    }

    fn reached(&mut self) {
        self.failed_at = None;
        self.failures = 0;
        self.failing_since = None;
    }

    fn hold(&self) -> u64 {
        self.lease.as_ref().map_or(0, |lease| lease.hold_ms.saturating_mul(SECOND / 1_000))
    }

    /// What the hot path may draw from.
    fn allowance(&self, now: u64) -> Allowance {
        let limit = self.pool.map_or(self.configured.limit, |pool| pool.limit);
        let share = Amount { requests: limit.requests / self.hosts, tokens: limit.tokens / self.hosts };
        let held = self.lease.as_ref().map_or(Amount::default(), |lease| lease.held);
        let mut cap = self.cap.map_or(held, |restraint| held.min(restraint));
        if now < self.grace_until {
            cap = cap.min(share);
        }
        let (until, share_from) = match (self.renewed_at, &self.lease) {
            (Some(renewed), Some(_)) => {
                let until = renewed + self.hold();
                (until, until + self.pace.renew + Pace::RETRY + WINDOW + SECOND)
            }
            // Nothing was ever leased, or it was lost: nothing is to be had while the table can be asked.
            _ => {
                let others = if self.pool.is_some() { self.pace.hold + WINDOW + Pace::RETRY } else { 0 };
                (0, self.failing_since.map_or(u64::MAX, |since| since + others + STARTUP_TIMEOUT))
            }
        };
        Allowance {
            limit: self.pool.map(|pool| pool.limit),
            cap,
            until,
            share,
            share_from,
            growth_wait: self.pace.change.max(SECOND),
        }
    }

    /// Gives the lease back at the end of a drain: at once what was not used in the last minute; the rest dies by time.
    pub(in crate::limits) fn leave(&mut self, local: &mut LocalLease, now: u64) -> Option<StoreRequest> {
        let lease = self.lease.take()?;
        local.set_allowance(Allowance::default());
        let held = local.used(now).min(lease.held);
        let rest =
            StoredLease { version: lease.version + 1, held, wanted: Amount::default(), hold_ms: 0, ..lease.clone() };
        Some(StoreRequest::Write(Some(lease), Some(rest).filter(|rest| rest.held != Amount::default())))
    }
}
