//! The host's agent at the table: decides what to ask of it next, and learns from the answers. It does no I/O and reads no
//! clock, so that a simulation runs the very same code.

mod answers;

use std::sync::Arc;

use super::super::clock::SECOND;
use super::amount::{Amount, Terms};
use super::balance::balance;
use super::local::{Allowance, LocalLease};
use super::neighbour::{Errand, Neighbour};
use super::old::OldHosts;
use super::pace::Pace;
use super::shard::{FULL, Shard};
use super::share::{Share, share};
use super::store::{Pool, StoreRequest, StoredLease, held};
use super::target::{lot, mix};
use super::watch::Watch;
use super::window::WINDOW;

/// A daemon that starts while the table cannot be reached gives it this long.
const STARTUP_TIMEOUT: u64 = 3 * SECOND;

/// What was read so long ago is as good as new: two calls fit in, however slow.
const FRESH: u64 = 5 * SECOND;

/// Hosts that a shard should have, when there are enough of them.
const HOSTS: u64 = 50;

/// What the agent wants.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// A call; its result goes to `done`.
    Call(StoreRequest),
    /// Nothing before this time, unless a request is refused for want of a lease.
    Wait(u64),
}

/// Whose call is under way.
#[derive(Debug)]
enum Call {
    Pool,
    /// The pool is made, or its limit or number of shards changed.
    PoolWrite,
    /// The shard is opened, or a dead lease in it taken back.
    ShardWrite,
    Balance,
    Look {
        now: bool,
    },
    Write(StoredLease),
    Neighbour,
    Old,
}

/// One host's agent. All its times are nanoseconds of the host's clock.
#[derive(Debug)]
pub struct Agent {
    id: Arc<str>,
    seed: u64,
    pace: Pace,
    /// What this host is configured with, and what the table was last known to have.
    configured: Terms,
    terms: Option<Terms>,
    terms_to_check: bool,
    /// The pool as it was last read, and when. None: never, or it is not there.
    pool: Option<Arc<Pool>>,
    pool_read_at: Option<u64>,
    /// Number of hosts, as last known by this run or the one before, and of shards.
    hosts: u64,
    shards: u64,
    /// The shard that holds this host's lease, or that it tries; how many it has tried, and of how many it drew them.
    number: u64,
    tries: u64,
    drawn_of: u64,
    /// That shard as it was last read, and when. A time without a shard: it is not there.
    shard: Option<Arc<Shard>>,
    looked_at: Option<u64>,
    watch: Watch,
    /// As the table has it, as far as is known.
    lease: Option<StoredLease>,
    /// A write whose fate is unknown: the shard must be looked at.
    write_unknown: bool,
    /// What may have been written besides `lease`, and may yet be, until another write has succeeded: no more than this is
    /// used meanwhile, and for no longer.
    perhaps: Option<(Amount, u64)>,
    /// The call under way, and when it was sent.
    call: Option<Call>,
    sent_at: u64,
    /// When the last write that changed the lease was sent, or found another host in its way; and when it was last seen that
    /// nothing is to be changed, unless the shard has been looked at since.
    changed_at: Option<u64>,
    considered_at: Option<u64>,
    /// Of the last lease that it has written.
    version: u64,
    /// The last write came too late for what was free. The next one asks for no more if it has anything else to do: others
    /// that take what becomes free must not keep this host from renewing its lease.
    too_late: bool,
    /// When the last successful write of the lease was sent.
    renewed_at: Option<u64>,
    /// When it is to be seen to again that the shard has what it is due.
    balance_at: u64,
    neighbour: Neighbour,
    old: OldHosts,
    /// When the last call failed, if none has succeeded since, and how many have failed in a row.
    failed_at: Option<u64>,
    failures: u32,
    /// The first of the failures that no success has ended.
    failing_since: Option<u64>,
    /// After an outage: others may still use their local share until then.
    grace_until: u64,
    /// What this host wants for sixty seconds.
    wanted: Amount,
    /// What this host restrains itself to while it makes room.
    cap: Option<Amount>,
}

impl Agent {
    /// `id` is of this run alone. `hosts`: how many were seen by an earlier run, 1 when nothing is known.
    pub fn new(id: &str, hosts: u64, now: u64) -> Agent {
        let seed = id.bytes().fold(0, |seed, byte| mix(seed ^ u64::from(byte)));
        Agent {
            id: id.into(),
            seed,
            pace: Pace::of(1, 1),
            configured: Terms::default(),
            terms: None,
            terms_to_check: true,
            pool: None,
            pool_read_at: None,
            hosts: hosts.max(1),
            shards: 1,
            number: 0,
            tries: 0,
            drawn_of: 1,
            shard: None,
            looked_at: None,
            watch: Watch::default(),
            lease: None,
            write_unknown: false,
            perhaps: None,
            call: None,
            sent_at: now,
            changed_at: None,
            considered_at: None,
            version: 0,
            too_late: false,
            renewed_at: None,
            balance_at: now,
            neighbour: Neighbour::new(now),
            old: OldHosts::new(now),
            failed_at: None,
            failures: 0,
            failing_since: None,
            grace_until: 0,
            wanted: Amount::default(),
            cap: None,
        }
    }

    pub(in crate::limits) fn hosts(&self) -> u64 {
        self.hosts
    }

    /// The table's limits, where this host is configured with others and the table's hold.
    pub(in crate::limits) fn overruled_by(&self) -> Option<Terms> {
        let terms = self.terms?;
        (terms.limit != self.configured.limit && terms.revision >= self.configured.revision).then_some(terms)
    }

    /// The configured limits have changed.
    pub(in crate::limits) fn reconfigured(&mut self) {
        self.terms_to_check = true;
    }

    /// What to do now.
    pub fn next(&mut self, local: &mut LocalLease, now: u64) -> Next {
        self.configured = local.configured();
        let next = match self.decide(local, now) {
            Ok((call, request)) => {
                (self.call, self.sent_at) = (Some(call), now);
                Next::Call(request)
            }
            Err(at) => Next::Wait(at.max(now + 1)),
        };
        local.set_allowance(self.allowance(now));
        next
    }

    /// A call, or the time of the next.
    fn decide(&mut self, local: &mut LocalLease, now: u64) -> Result<(Call, StoreRequest), u64> {
        if let Some(failed) = self.failed_at {
            let retry = (SECOND << self.failures.min(4)).min(Pace::RETRY).min(self.pace.look.max(2 * SECOND));
            let at = failed + retry * 3 / 4 + mix(self.seed ^ failed) % (retry / 4);
            if now < at {
                return Err(at);
            }
        }
        if self.write_unknown {
            return Ok(self.look(true));
        }
        if let Some(call) = self.settle_terms(now) {
            return Ok(call);
        }
        if self.lease.is_none()
            && let Some(call) = self.find_shard(now)
        {
            return Ok(call);
        }
        let look = if local.starved(now) { self.pace.change.max(SECOND).min(self.pace.look) } else { self.pace.look };
        let look_at = self.due(self.looked_at, look, 1, now);
        let Some(shard) = self.shard.clone().filter(|_| look_at > now) else { return Ok(self.look(false)) };
        if self.lease.is_some()
            && self.balance_at <= now
            && let Some(call) = self.balance(&shard, now)
        {
            return Ok(call);
        }
        let change_at = self.due(self.changed_at.max(self.considered_at), self.pace.change, 2, now);
        // A lease of a time when there were fewer hosts runs out sooner.
        let renew = if self.lease.is_some() { self.pace.renew.min(self.hold() / 3) } else { self.pace.renew };
        let renew_at = self.due(self.renewed_at, renew, 3, now);
        // The pace of changes does not hold up a renewal.
        let renew_at = renew_at.max(self.changed_at.map_or(now, |changed| changed + SECOND / 4));
        if change_at.min(renew_at) <= now
            && let Some(after) = self.change(local, &shard, renew_at <= now, now)
        {
            let request = StoreRequest::Write(self.number, self.lease.clone(), Some(after.clone()));
            return Ok((Call::Write(after), request));
        }
        let mut next = look_at.min(renew_at);
        if self.lease.is_some() {
            next = next.min(self.balance_at);
            match self.for_others(&shard, now) {
                Ok(call) => return Ok(call),
                Err(at) => next = next.min(at),
            }
        }
        Err(next)
    }

    /// Spread over the period, so that hosts that were started together do not stay together.
    fn due(&self, last: Option<u64>, period: u64, what: u64, now: u64) -> u64 {
        last.map_or(now, |last| last + period - mix(self.seed ^ what ^ last) % (period / 8 + 1))
    }

    fn look(&self, now: bool) -> (Call, StoreRequest) {
        (Call::Look { now }, StoreRequest::ReadShard { number: self.number, now })
    }

    /// The pool as it was a moment ago.
    fn fresh_pool(&self, now: u64) -> Option<&Arc<Pool>> {
        self.pool.as_ref().filter(|_| self.pool_read_at.is_some_and(|read| now < read + FRESH))
    }

    /// Sees to it that there is a pool, with this host's limits if they are of a higher revision.
    fn settle_terms(&mut self, now: u64) -> Option<(Call, StoreRequest)> {
        let outdated = self.terms.is_none_or(|terms| self.configured.revision > terms.revision);
        if !outdated && !self.terms_to_check {
            return None;
        }
        let Some(pool) = self.fresh_pool(now) else {
            let missing = self.pool.is_none() && self.pool_read_at.is_some_and(|read| now < read + FRESH);
            return Some(if missing {
                (Call::PoolWrite, StoreRequest::Create(self.configured))
            } else {
                (Call::Pool, StoreRequest::ReadPool)
            });
        };
        if self.configured.revision > pool.terms.revision {
            return Some((Call::PoolWrite, StoreRequest::Resize(pool.terms, self.configured)));
        }
        self.terms_to_check = false;
        None
    }

    /// A shard for this host: one drawn by lot that is not full. More shards, if none can be found.
    fn find_shard(&mut self, now: u64) -> Option<(Call, StoreRequest)> {
        if self.tries == 0 {
            self.try_shard(1);
        }
        self.looked_at?;
        let Some(shard) = &self.shard else {
            return Some((Call::ShardWrite, StoreRequest::Open(self.number)));
        };
        if shard.leases.len() < FULL {
            return None;
        }
        if self.tries.is_multiple_of(3) {
            let Some(pool) = self.fresh_pool(now) else { return Some((Call::Pool, StoreRequest::ReadPool)) };
            if pool.shards > self.drawn_of {
                self.try_shard(1);
                return None;
            }
            if pool.hosts >= pool.shards.saturating_mul(HOSTS) || self.tries >= 12 {
                let shards = pool.shards;
                self.tries = 0;
                return Some((Call::PoolWrite, StoreRequest::Double(shards)));
            }
        }
        self.try_shard(self.tries + 1);
        None
    }

    fn try_shard(&mut self, tries: u64) {
        (self.tries, self.drawn_of) = (tries, self.shards.max(1));
        self.number = mix(self.seed ^ mix(self.drawn_of ^ tries << 32)) % self.drawn_of;
        (self.shard, self.looked_at) = (None, None);
        self.watch.start_again();
    }

    /// Whether this host sees to its shard: of those that live, it is the first.
    fn leads(&self, shard: &Shard, now: u64) -> bool {
        let first = shard.leases.iter().find(|lease| lease.id == self.id || self.watch.is_live(lease, now));
        first.is_some_and(|lease| lease.id == self.id)
    }

    fn balance(&mut self, shard: &Arc<Shard>, now: u64) -> Option<(Call, StoreRequest)> {
        let again = self.due(Some(now), self.pace.balance, 4, now);
        if !self.leads(shard, now) {
            self.balance_at = again;
            return None;
        }
        // What the shard has free changes all the time.
        if self.looked_at.is_none_or(|looked| now >= looked + FRESH) {
            return Some(self.look(false));
        }
        let Some(pool) = self.fresh_pool(now).cloned() else { return Some((Call::Pool, StoreRequest::ReadPool)) };
        (self.balance_at, self.pool_read_at) = (again, None);
        self.old.told(&pool);
        let balance = balance(&pool, shard, self.lots(now))?;
        Some((Call::Balance, StoreRequest::Balance(Box::new(balance))))
    }

    fn lots(&self, now: u64) -> [u64; 2] {
        [lot(self.seed, now), lot(mix(self.seed), now)]
    }

    /// What this host does for the shard's other hosts, for other shards, and for hosts with an older version.
    fn for_others(&mut self, shard: &Arc<Shard>, now: u64) -> Result<(Call, StoreRequest), u64> {
        let leads = self.leads(shard, now);
        let dead = |lease: &&StoredLease| lease.id != self.id && self.watch.is_dead(lease, now);
        if leads && let Some(lease) = shard.leases.iter().find(dead) {
            return Ok((Call::ShardWrite, StoreRequest::Write(self.number, Some(lease.clone()), None)));
        }
        let mut next = u64::MAX;
        match self.neighbour.errand(self.number, self.shards, self.seed, self.pace.list, now) {
            Errand::Call(request) => return Ok((Call::Neighbour, request)),
            Errand::Balance(shard) => {
                let Some(pool) = self.fresh_pool(now).cloned() else { return Ok((Call::Pool, StoreRequest::ReadPool)) };
                if let Some(balance) = balance(&pool, &shard, self.lots(now)) {
                    return Ok((Call::Neighbour, StoreRequest::Balance(Box::new(balance))));
                }
                self.neighbour.go_on();
                next = now;
            }
            Errand::Wait(at) => next = next.min(at),
        }
        if leads {
            match self.old.errand(self.pace.list.saturating_mul(self.shards), now) {
                Ok(request) => return Ok((Call::Old, request)),
                Err(at) => next = next.min(at),
            }
        }
        Err(next)
    }

    /// The lease as it should be, if it should be another; always, when it is to be renewed.
    fn change(&mut self, local: &mut LocalLease, shard: &Shard, renew: bool, now: u64) -> Option<StoredLease> {
        let limit = self.terms.unwrap_or(self.configured).limit;
        let own = self.lease.as_ref();
        let declared = own.map_or(Amount::default(), |lease| lease.wanted);
        let renew = renew || self.perhaps.is_some();
        let before = Share { held: held(own), wanted: self.wanted, cap: held(own) };
        let mut after = share(local, shard, &self.id, limit, before, self.lots(now), renew, now);
        (self.wanted, self.cap) = (after.wanted, Some(after.cap));
        let least = after.held.min(before.held);
        if self.too_late && (renew || least != before.held) {
            after.held = least;
        }
        // A wish that has doubled is declared at once; others travel with what is written anyway.
        let doubled = |want: u64, declared: u64, unit: u64| want >= declared.saturating_mul(2).saturating_add(unit);
        let largest = local.largest(now);
        let worth_it = after.held != before.held
            || local.starved(now)
                && (doubled(after.wanted.requests, declared.requests, 1)
                    || doubled(after.wanted.tokens, declared.tokens, largest.tokens));
        if !worth_it && !renew && own.is_some() {
            self.considered_at = Some(now);
            return None;
        }
        // Never one that others have seen before, not even after a lease was taken away: they would think that it stands still.
        self.version = own.map_or(0, |lease| lease.version).max(self.version) + 1;
        Some(StoredLease {
            id: self.id.clone(),
            version: self.version,
            held: after.held,
            wanted: after.wanted,
            hold_ms: self.pace.hold / (SECOND / 1_000),
        })
    }

    /// How long the lease is good for.
    fn hold(&self) -> u64 {
        self.lease.as_ref().map_or(0, |lease| lease.hold_ms.saturating_mul(SECOND / 1_000))
    }

    /// What the hot path may draw from.
    fn allowance(&self, now: u64) -> Allowance {
        let limit = self.terms.unwrap_or(self.configured).limit;
        let share = Amount { requests: limit.requests / self.hosts, tokens: limit.tokens / self.hosts };
        let held = held(self.lease.as_ref());
        let mut cap = self.cap.map_or(held, |restraint| held.min(restraint));
        let mut hold = self.hold();
        if let Some((amount, time)) = self.perhaps {
            (cap, hold) = (cap.min(amount), hold.min(time));
        }
        if now < self.grace_until {
            cap = cap.min(share);
        }
        let (until, share_from) = match (self.renewed_at, &self.lease) {
            (Some(renewed), Some(_)) => {
                let until = renewed.saturating_add(hold);
                (until, until.saturating_add(self.pace.renew + Pace::RETRY + WINDOW + SECOND))
            }
            // Nothing was ever leased, or it was lost: nothing is to be had while the table can be asked.
            _ => {
                let others = if self.terms.is_some() { self.pace.hold + WINDOW + Pace::RETRY } else { 0 };
                (0, self.failing_since.map_or(u64::MAX, |since| since + others + STARTUP_TIMEOUT))
            }
        };
        let growth_wait = self.pace.change.max(SECOND);
        Allowance { limit: self.terms.map(|terms| terms.limit), cap, until, share, share_from, growth_wait }
    }

    /// Gives the lease back at the end of a drain: at once what was not used in the last minute; the rest dies by time.
    pub(in crate::limits) fn leave(&mut self, local: &mut LocalLease, now: u64) -> Option<StoreRequest> {
        let lease = self.lease.take()?;
        local.set_allowance(Allowance::default());
        let held = local.used(now).min(lease.held);
        let rest =
            StoredLease { version: lease.version + 1, held, wanted: Amount::default(), hold_ms: 0, ..lease.clone() };
        let rest = Some(rest).filter(|rest| rest.held != Amount::default());
        Some(StoreRequest::Write(self.number, Some(lease), rest))
    }
}
