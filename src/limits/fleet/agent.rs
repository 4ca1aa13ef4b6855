//! The host's agent at the table: decides what to ask of it next, and learns from the answers. It does no I/O and reads no
//! clock, so that a simulation runs the very same code.

use std::collections::HashMap;

use super::super::clock::SECOND;
use super::aim::{View, lot, mix};
use super::local::{Lease, Local, Pair};
use super::pace::Pace;
use super::store::{Pool, Record, Request, Response, StoreError};
use super::window::WINDOW;

/// A daemon that starts while the table cannot be reached gives it this long.
const PATIENCE: u64 = 3 * SECOND;

/// What the agent wants.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// A call; its result goes to `done`.
    Call(Request),
    /// Nothing before this time, unless a request is refused for want of a lease.
    Wait(u64),
}

#[derive(Debug)]
pub struct Agent {
    id: String,
    seed: u64,
    pace: Pace,
    /// As the table has it, as far as is known.
    record: Option<Record>,
    /// A write whose fate is unknown: the lease must be looked up.
    lost: bool,
    /// The call under way: when it was sent, and for a write what it would make of the lease.
    sent: u64,
    writing: Option<Option<Record>>,
    reclaiming: Option<String>,
    pool: Option<Pool>,
    looked: Option<u64>,
    changed: Option<u64>,
    /// When the last successful write of the lease was sent.
    renewed: Option<u64>,
    listed: Option<u64>,
    watched: HashMap<String, Watched>,
    dead: Vec<Record>,
    failed: Option<u64>,
    failures: u32,
    /// The first of the failures that no success has ended.
    failing_since: Option<u64>,
    /// What this host is configured with.
    configured: Pair,
    /// After an outage: others may still use their local share until then.
    grace: u64,
    /// Number of hosts when the pool was last read, by this run or the one before.
    hosts: u64,
    started: u64,
    /// The limit that this host is configured with and has not compared with the table's yet.
    resize: bool,
    want: Pair,
    /// What this host restrains itself to while it makes room.
    restraint: Option<Pair>,
}

/// A lease of another host, since when at this version.
#[derive(Debug, Clone, Copy)]
struct Watched {
    version: u64,
    since: u64,
}

impl Agent {
    /// `id` is of this run alone. `hosts`: how many were seen by an earlier run, 1 when nothing is known.
    pub fn new(id: String, hosts: u64, now: u64) -> Agent {
        let seed = id.bytes().fold(0, |seed, byte| mix(seed ^ u64::from(byte)));
        Agent {
            id,
            seed,
            pace: Pace::of(1),
            record: None,
            lost: false,
            sent: now,
            writing: None,
            reclaiming: None,
            pool: None,
            looked: None,
            changed: None,
            renewed: None,
            listed: None,
            watched: HashMap::new(),
            dead: Vec::new(),
            failed: None,
            failures: 0,
            failing_since: None,
            configured: Pair::default(),
            grace: 0,
            hosts: hosts.max(1),
            started: now,
            resize: true,
            want: Pair::default(),
            restraint: None,
        }
    }

    pub fn hosts(&self) -> u64 {
        self.hosts
    }

    /// The configured limits have changed.
    pub fn reconfigured(&mut self) {
        self.resize = true;
        self.looked = None;
    }

    /// What to do now.
    pub fn next(&mut self, local: &mut Local, now: u64) -> Next {
        let next = self.decide(local, now);
        match &next {
            Next::Call(request) => {
                self.sent = now;
                self.writing = match request {
                    Request::Write(_, after) if self.reclaiming.is_none() => Some(after.clone()),
                    _ => None,
                };
            }
            Next::Wait(_) => {}
        }
        local.lease(self.lease(now));
        next
    }

    fn decide(&mut self, local: &mut Local, now: u64) -> Next {
        self.reclaiming = None;
        self.configured = Pair { requests: local.requests.limit.unwrap_or(0), tokens: local.tokens.limit.unwrap_or(0) };
        let limit = self.configured;
        if let Some(failed) = self.failed {
            let retry = (SECOND << self.failures.min(4)).min(Pace::RETRY).min(self.pace.look.max(2 * SECOND));
            let at = failed + retry * 3 / 4 + mix(self.seed ^ failed) % (retry / 4);
            if now < at {
                return Next::Wait(at);
            }
        }
        if self.lost {
            return Next::Call(Request::Get(self.id.clone()));
        }
        let starved = local.starved(now);
        let look = if starved { self.pace.change.min(self.pace.look) } else { self.pace.look };
        let seed = self.seed;
        let due = |last: Option<u64>, period: u64, what: u64| {
            // Spread over the period, so that hosts that were started together do not stay together.
            last.map_or(now, |last| last + period - mix(seed ^ what ^ last) % (period / 8 + 1))
        };
        let look_at = due(self.looked, look, 1);
        if look_at <= now {
            return Next::Call(Request::Read);
        }
        let Some(pool) = self.pool else { return Next::Call(Request::Create(limit)) };
        if std::mem::take(&mut self.resize) && pool.limit != limit {
            return Next::Call(Request::Resize(pool.limit, limit));
        }
        let change_at = due(self.changed, self.pace.change, 2);
        let renew_at = due(self.renewed, self.pace.renew, 3);
        if change_at <= now
            && let Some(after) = self.change(local, &pool, renew_at <= now, now)
        {
            return Next::Call(Request::Write(self.record.clone(), Some(after)));
        }
        if let Some(record) = self.dead.pop() {
            self.reclaiming = Some(record.id.clone());
            return Next::Call(Request::Write(Some(record), None));
        }
        // A newcomer first looks after a while, not all at once.
        let list_at = due(self.listed.or(Some(self.started)), self.pace.list, 4);
        if list_at <= now {
            return Next::Call(Request::List);
        }
        let next = look_at.min(renew_at.max(change_at)).min(list_at);
        Next::Wait(next.max(now + 1))
    }

    /// The lease as it should be, if it should be another; always, when it is to be renewed.
    fn change(&mut self, local: &mut Local, pool: &Pool, renew: bool, now: u64) -> Option<Record> {
        let (asked, largest, used) = (local.asked(now), local.largest(now), local.used(now));
        let starved = local.starved(now);
        let declared = self.record.as_ref().map_or(Pair::default(), |record| record.wanted);
        let held = self.record.as_ref().map_or(Pair::default(), |record| record.held);
        let wish = |asked: u64, want: u64, unit: u64, limit: u64| {
            // Up at once; down at once when a minute has brought nothing. Else down with a renewal, by halves unless most
            // of it has gone, so that demand that comes in gusts keeps its lease.
            let want = match asked.checked_sub(want) {
                Some(_) => asked,
                None if asked == 0 || renew && asked < want / 2 => asked,
                None if renew => want - (want - asked).div_ceil(2),
                None => want,
            };
            if want == 0 { 0 } else { want.max(unit).min(limit) }
        };
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
        self.want.requests = wish(asked.requests.min(useful), self.want.requests.min(useful), 1, pool.limit.requests);
        let requests = View::requests(pool, declared.requests, self.want.requests);
        let aimed = requests.aim(self.want.requests, 1, lots.0);
        let useful = match used.requests {
            _ if pool.limit.requests == 0 => u64::MAX,
            0 => aimed.max(held.requests).saturating_mul(largest.tokens),
            count => (used.tokens / count).saturating_mul(aimed.max(held.requests)),
        };
        let useful = useful.saturating_add(useful / 4).saturating_add(largest.tokens);
        let asked_tokens = asked.tokens.min(useful);
        self.want.tokens = wish(asked_tokens, self.want.tokens.min(useful), largest.tokens, pool.limit.tokens);
        let tokens = View::tokens(pool, declared.tokens, self.want.tokens);
        let want = self.want;
        let aim = Pair { requests: aimed, tokens: tokens.aim(want.tokens, largest.tokens, lots.1) };
        let requests = Meter {
            aim: aim.requests,
            held: held.requests,
            used: used.requests,
            want: want.requests,
            unit: 1,
            free: pool.free_requests,
            limit: pool.limit.requests,
            wanted: requests.wanted,
            starved,
        };
        let tokens = Meter {
            aim: aim.tokens,
            held: held.tokens,
            used: used.tokens,
            want: want.tokens,
            unit: largest.tokens,
            free: pool.free_tokens,
            limit: pool.limit.tokens,
            wanted: tokens.wanted,
            starved,
        };
        let (requests, tokens) = (requests.decide(), tokens.decide());
        self.restraint = Some(Pair { requests: requests.cap, tokens: tokens.cap });
        let next = Pair { requests: requests.hold, tokens: tokens.hold };
        // A wish that has doubled is declared at once; others travel with what is written anyway.
        let doubled = |want: u64, declared: u64, unit: u64| want >= declared.saturating_mul(2).saturating_add(unit);
        let worth_it = next != held
            || starved
                && (doubled(want.requests, declared.requests, 1)
                    || doubled(want.tokens, declared.tokens, largest.tokens));
        if !worth_it && !renew && self.record.is_some() {
            return None;
        }
        let version = self.record.as_ref().map_or(1, |record| record.version + 1);
        Some(Record {
            id: self.id.clone(),
            version,
            held: next,
            wanted: want,
            hold_ms: self.pace.hold / (SECOND / 1_000),
        })
    }

    /// The result of the call that `next` asked for.
    pub fn done(&mut self, result: Result<Response, StoreError>, local: &mut Local, now: u64) {
        let writing = self.writing.take();
        let reclaiming = self.reclaiming.take();
        match result {
            Err(StoreError::Unavailable(_)) => {
                self.failed = Some(now);
                self.failing_since.get_or_insert(now);
                self.failures = self.failures.saturating_add(1);
                self.lost |= writing.is_some();
                // What stood still while nobody could write is not dead for that.
                self.watched.clear();
                self.dead.clear();
            }
            Err(StoreError::Conflict) => {
                self.reached();
                if writing.is_some() {
                    // Too late for what was free, or the lease is not what it was.
                    self.lost = true;
                    self.changed = Some(now);
                }
                if reclaiming.is_none() {
                    self.looked = None;
                }
            }
            Ok(response) => {
                self.reached();
                self.learn(response, writing, now);
            }
        }
        local.lease(self.lease(now));
    }

    fn learn(&mut self, response: Response, writing: Option<Option<Record>>, now: u64) {
        match (response, writing) {
            (Response::Pool(pool), _) => {
                self.pool = pool;
                self.looked = Some(self.sent);
                if let Some(pool) = pool {
                    self.hosts = pool.hosts.max(1);
                    self.pace = Pace::of(pool.hosts);
                }
            }
            (Response::Done, Some(after)) => {
                if self.renewed.is_some_and(|renewed| self.sent >= renewed + self.hold()) {
                    self.grace = now + Pace::RETRY * 2 + WINDOW + SECOND;
                }
                if let (Some(pool), Some(after)) = (&mut self.pool, &after) {
                    // So that the next decision does not take from the pool what has just been taken.
                    let change = super::store::Change::of(self.record.as_ref(), Some(after));
                    pool.free_requests += change.free_requests;
                    pool.free_tokens += change.free_tokens;
                    pool.wanted.requests = pool.wanted.requests.saturating_add_signed(change.wanted_requests);
                    pool.wanted.tokens = pool.wanted.tokens.saturating_add_signed(change.wanted_tokens);
                    pool.hosts = pool.hosts.saturating_add_signed(change.hosts);
                }
                self.record = after;
                self.renewed = Some(self.sent);
                self.changed = Some(self.sent);
            }
            // The pool was made or resized: look again.
            (Response::Done, None) => self.looked = None,
            (Response::Lease(record), _) => {
                self.lost = false;
                // Reclaimed by others, or never written: then this host holds nothing.
                self.record = record;
                self.looked = None;
                self.restraint = self.restraint.filter(|_| self.record.is_some());
            }
            (Response::Leases(records), _) => {
                self.listed = Some(self.sent);
                self.watch(records, now);
            }
        }
    }

    fn reached(&mut self) {
        self.failed = None;
        self.failures = 0;
        self.failing_since = None;
    }

    /// Leases that have stood still for long enough are dead.
    fn watch(&mut self, records: Vec<Record>, now: u64) {
        let before = std::mem::take(&mut self.watched);
        for record in records.into_iter().filter(|record| record.id != self.id) {
            let since = match before.get(&record.id) {
                Some(seen) if seen.version == record.version => seen.since,
                _ => now,
            };
            self.watched.insert(record.id.clone(), Watched { version: record.version, since });
            if now - since >= Pace::dead_after(record.hold_ms.saturating_mul(SECOND / 1_000)) {
                self.dead.push(record);
            }
        }
    }

    fn hold(&self) -> u64 {
        self.record.as_ref().map_or(0, |record| record.hold_ms.saturating_mul(SECOND / 1_000))
    }

    /// What the hot path may draw from.
    fn lease(&self, now: u64) -> Lease {
        let limit = self.pool.map_or(self.configured, |pool| pool.limit);
        let share = Pair { requests: limit.requests / self.hosts, tokens: limit.tokens / self.hosts };
        let held = self.record.as_ref().map_or(Pair::default(), |record| record.held);
        let mut cap = self.restraint.map_or(held, |restraint| held.min(restraint));
        if now < self.grace {
            cap = cap.min(share);
        }
        let (until, share_from) = match (self.renewed, &self.record) {
            (Some(renewed), Some(_)) => {
                let until = renewed + self.hold();
                (until, until + self.pace.renew + Pace::RETRY + WINDOW + SECOND)
            }
            // Nothing was ever leased, or it was lost: nothing is to be had while the table can be asked.
            _ => {
                let others = if self.pool.is_some() { self.pace.hold + WINDOW + Pace::RETRY } else { 0 };
                (0, self.failing_since.map_or(u64::MAX, |since| since + others + PATIENCE))
            }
        };
        Lease { cap, until, share, share_from, patience: self.pace.change.max(SECOND) }
    }

    /// Gives the lease back at the end of a drain: at once what was not used in the last minute; the rest dies by time.
    pub fn leave(&mut self, local: &mut Local, now: u64) -> Option<Request> {
        let record = self.record.take()?;
        local.lease(Lease::default());
        let held = local.used(now).min(record.held);
        let rest = Record { version: record.version + 1, held, wanted: Pair::default(), hold_ms: 0, ..record.clone() };
        Some(Request::Write(Some(record), Some(rest).filter(|rest| rest.held != Pair::default())))
    }
}

/// One of the two things, at the moment of a decision.
#[derive(Debug)]
struct Meter {
    aim: u64,
    held: u64,
    used: u64,
    want: u64,
    unit: u64,
    free: i64,
    limit: u64,
    wanted: u64,
    starved: bool,
}

struct Decision {
    /// What the lease should be.
    hold: u64,
    /// What may be used meanwhile.
    cap: u64,
}

impl Meter {
    fn decide(&self) -> Decision {
        let Meter { aim, held, used, want, unit, limit, .. } = *self;
        let free = u64::try_from(self.free).unwrap_or(0);
        let keep = Decision { hold: held, cap: held };
        if aim > held {
            return self.take(aim - held, free).unwrap_or(keep);
        }
        let scarce = free < limit / 20 || self.free < 0;
        // Who is due nothing keeps nothing that others may need; who is due some is not made to trade single units.
        let slack = if aim == 0 { 0 } else { (aim / 10).max(unit) };
        if held > aim + slack && scarce || held > aim.saturating_mul(2).saturating_add(slack) {
            // Room is made as use grows old.
            let hold = held.min(aim.max(used));
            return Decision { hold, cap: aim };
        }
        // What nobody else has taken is better used than left.
        if self.starved && want > held && free > limit / 100 {
            let part = u128::from(free) * u128::from(want) / u128::from(self.wanted.max(1));
            let part = u64::try_from(part).unwrap_or(free).max(unit).min(want - held);
            return self.take(part, free).unwrap_or(keep);
        }
        keep
    }

    /// As much as there is, if that is enough to serve one more request.
    fn take(&self, more: u64, free: u64) -> Option<Decision> {
        let took = more.min(free);
        let whole =
            took == more || self.held + took >= self.unit.max(self.used.saturating_add(self.unit).min(self.aim));
        (took > 0 && whole).then(|| Decision { hold: self.held + took, cap: self.held + took })
    }
}
