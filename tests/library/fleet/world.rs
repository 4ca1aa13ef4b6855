//! Fleets under a virtual clock, with the real agents and the real local limits. Clocks are years apart and run at different
//! speeds, hosts die, answers get lost, the table fails. What is asserted is counted outside, in true time.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;

use bedrock_sidecar::config::OnUnavailable;
use bedrock_sidecar::limits::fleet::agent::{Agent, Next};
use bedrock_sidecar::limits::fleet::amount::Amount;
use bedrock_sidecar::limits::fleet::local::LocalLease;
use bedrock_sidecar::limits::fleet::memory::MemoryStore;
use bedrock_sidecar::limits::fleet::shard::Shard;
use bedrock_sidecar::limits::fleet::store::{Pool, StoreError, StoreRequest, StoreResponse};
use bedrock_sidecar::settings::limits::Fleet;

pub(super) const SECOND: u64 = 1_000_000_000;
pub(super) const MINUTE: u64 = 60 * SECOND;

/// Nothing here is random twice.
pub(super) struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    /// Of the exponential distribution.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is from 0 to 1e18")]
    fn gap(&mut self, mean: f64) -> u64 {
        let unit = (self.next() >> 11) as f64 / (1u64 << 53) as f64;
        ((-(1.0 - unit).ln()) * mean).min(1e18) as u64
    }
}

pub(super) struct Host {
    pub(super) agent: Agent,
    pub(super) local: LocalLease,
    /// Its clock: so far off, and so many millionths too fast or too slow.
    offset: u64,
    drift: i64,
    pub(super) alive: bool,
    /// Requests a minute that its apps would make.
    pub(super) demand: f64,
    /// Only the newest wake-up, and when it is, and the newest demand count.
    wake: u64,
    wakes_at: u64,
    hungry_since: u64,
    asks: u64,
    calling: bool,
}

impl Host {
    fn clock(&self, now: u64) -> u64 {
        self.offset + now.saturating_add_signed((now.cast_signed() / 1_000_000) * self.drift)
    }

    fn true_time(&self, clock: u64) -> u64 {
        // Rounded up, so that a host never wakes before its time.
        let since = u128::from(clock.saturating_sub(self.offset));
        let speed = u128::from(1_000_000u64.saturating_add_signed(self.drift));
        u64::try_from((since * 1_000_000).div_ceil(speed)).unwrap_or(u64::MAX)
    }
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Wake(usize, u64),
    Arrive(usize),
    Answer(usize),
    Ask(usize, u64),
    /// A request that was refused, its tokens, and how often it will be tried again.
    Retry(usize, u64, u32),
}

pub(super) struct World {
    pub(super) hosts: Vec<Host>,
    pub(super) table: MemoryStore,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    sequence: u64,
    random: Random,
    pub(super) now: u64,
    limit: Amount,
    tokens: std::ops::Range<u64>,
    /// How often a refused request is tried again, some six seconds later.
    pub(super) tries: u32,
    /// The table answers nobody.
    pub(super) down: bool,
    /// A host's call: as it was sent, and as it was answered.
    calls: Vec<Option<StoreRequest>>,
    answers: Vec<Option<Result<StoreResponse, StoreError>>>,
    /// By tenths of a second.
    pub(super) used: Vec<Amount>,
    writes: Vec<u64>,
    pub(super) reads: u64,
    /// What DynamoDB would charge, in half units.
    pub(super) read_halves: u64,
    pub(super) write_units: u64,
    /// Until when a transaction is at work on an item, and how much an item took in the present second.
    busy: HashMap<String, u64>,
    heat: HashMap<String, (u64, u64)>,
    pub(super) conflicts: u64,
    pub(super) throttles: u64,
    /// Requests that each host's apps made, tries of the same counted once, and those that it was allowed.
    pub(super) asked: Vec<u64>,
    pub(super) admitted: Vec<u64>,
    /// Hosts that the table does not answer.
    pub(super) cut_off: Vec<bool>,
}

impl World {
    pub(super) fn new(count: usize, limit: Amount, tokens: std::ops::Range<u64>, policy: OnUnavailable) -> World {
        let mut random = Random(0x5eed_0001);
        let settings = Fleet {
            table: "fleet".into(),
            region: "us-gov-west-1".into(),
            requests_per_minute: Some(limit.requests),
            tokens_per_minute: Some(limit.tokens),
            revision: 0,
            on_unavailable: policy,
        };
        let hosts = (0..count)
            .map(|host| {
                let offset = random.below(10 * 365 * 86_400) * SECOND;
                Host {
                    agent: Agent::new(&format!("host-{host:011}"), 1, offset),
                    local: LocalLease::new(&settings, offset),
                    offset,
                    drift: random.below(4_001).cast_signed() - 2_000,
                    alive: true,
                    demand: 0.0,
                    wake: 0,
                    wakes_at: u64::MAX,
                    hungry_since: 0,
                    asks: 0,
                    calling: false,
                }
            })
            .collect();
        let mut world = World {
            hosts,
            table: MemoryStore::default(),
            events: BinaryHeap::new(),
            sequence: 0,
            random,
            now: 0,
            limit,
            tokens,
            tries: 12,
            down: false,
            calls: (0..count).map(|_| None).collect(),
            answers: (0..count).map(|_| None).collect(),
            used: Vec::new(),
            writes: Vec::new(),
            reads: 0,
            read_halves: 0,
            write_units: 0,
            busy: HashMap::new(),
            heat: HashMap::new(),
            conflicts: 0,
            throttles: 0,
            asked: vec![0; count],
            admitted: vec![0; count],
            cut_off: vec![false; count],
        };
        for host in 0..count {
            let start = world.random.below(5 * SECOND.max(count as u64 * SECOND / 1_000));
            world.at(start, Event::Wake(host, 0));
        }
        world
    }

    fn at(&mut self, time: u64, event: Event) {
        self.sequence += 1;
        self.events.push(Reverse((time, self.sequence, event)));
    }

    pub(super) fn run_until(&mut self, end: u64) {
        while self.events.peek().is_some_and(|Reverse((time, ..))| *time <= end) {
            let Some(Reverse((time, _, event))) = self.events.pop() else { return };
            self.now = time;
            match event {
                Event::Wake(host, wake) if self.hosts[host].wake == wake => {
                    self.hosts[host].wakes_at = u64::MAX;
                    self.wake(host);
                }
                Event::Wake(..) => {}
                Event::Arrive(host) => self.arrive(host),
                Event::Answer(host) => {
                    if let Some(answer) = self.answers[host].take()
                        && self.hosts[host].alive
                    {
                        let clock = self.hosts[host].clock(self.now);
                        let Host { agent, local, calling, .. } = &mut self.hosts[host];
                        *calling = false;
                        agent.done(answer, local, clock);
                        self.wake(host);
                    }
                }
                Event::Ask(host, asks) if self.hosts[host].asks == asks => self.ask(host),
                Event::Ask(..) => {}
                Event::Retry(host, tokens, tries) => self.try_request(host, tokens, tries),
            }
        }
        self.now = end;
    }

    fn wake(&mut self, host: usize) {
        if !self.hosts[host].alive || self.hosts[host].calling {
            return;
        }
        let clock = self.hosts[host].clock(self.now);
        let Host { agent, local, .. } = &mut self.hosts[host];
        match agent.next(local, clock) {
            Next::Call(request) => {
                self.hosts[host].calling = true;
                self.calls[host] = Some(request);
                let there = self.now + 2_000_000 + self.random.below(20_000_000);
                self.at(there, Event::Arrive(host));
            }
            Next::Wait(until) => {
                let time = self.hosts[host].true_time(until).max(self.now) + 1_000;
                self.wake_at(host, time);
            }
        }
    }

    fn wake_at(&mut self, host: usize, time: u64) {
        self.hosts[host].wake += 1;
        self.hosts[host].wakes_at = time;
        self.at(time, Event::Wake(host, self.hosts[host].wake));
    }

    fn arrive(&mut self, host: usize) {
        let Some(request) = self.calls[host].take() else { return };
        // One answer in a thousand gets lost after the write was done.
        let lost = self.random.below(1_000) == 0;
        let unreachable = self.down || self.cut_off[host];
        let answer = if unreachable { Err(StoreError::Unavailable("down".into())) } else { self.apply(&request) };
        let (answer, back) = if lost || unreachable {
            (Err(StoreError::Unavailable("no answer".into())), 4 * SECOND)
        } else {
            (answer, 2_000_000 + self.random.below(20_000_000))
        };
        self.answers[host] = Some(answer);
        self.at(self.now + back, Event::Answer(host));
    }

    /// As DynamoDB does it: an item that a transaction is at work on refuses other writes, and an item takes 1,000 units of
    /// writes and 3,000 of reads a second.
    fn apply(&mut self, request: &StoreRequest) -> Result<StoreResponse, StoreError> {
        let Cost { reads, writes, items } = Cost::of(request, &self.table);
        let second = self.now / SECOND;
        for item in &items {
            let heat = self.heat.entry(item.clone()).or_default();
            if heat.0 != second {
                *heat = (second, 0);
            }
            // In sixths of what it takes: a write is worth three reads, and reads are counted in halves.
            heat.1 += reads + writes * 6 / items.len() as u64;
            if heat.1 > 6_000 {
                self.throttles += 1;
                return Err(StoreError::Unavailable("throttled".into()));
            }
        }
        self.read_halves += reads;
        self.write_units += writes;
        if writes == 0 {
            self.reads += 1;
        } else {
            let minute = (self.now / MINUTE) as usize;
            self.writes.resize(self.writes.len().max(minute + 1), 0);
            self.writes[minute] += 1;
            if items.iter().any(|item| self.busy.get(item).is_some_and(|until| *until > self.now)) {
                self.conflicts += 1;
                return Err(StoreError::Conflict);
            }
            if items.len() > 1 {
                // Between its prepare and its commit.
                let until = self.now + 4_000_000 + self.random.below(8_000_000);
                self.busy.extend(items.into_iter().map(|item| (item, until)));
            }
        }
        let answer = self.table.apply(request);
        self.conflicts += u64::from(matches!(answer, Err(StoreError::Conflict)));
        answer
    }

    fn ask(&mut self, host: usize) {
        if !self.hosts[host].alive {
            return;
        }
        self.one_request(host);
        self.schedule(host);
    }

    fn schedule(&mut self, host: usize) {
        let Host { demand, asks, .. } = &mut self.hosts[host];
        *asks += 1;
        if *demand > 0.0 {
            let (mean, asks) = (MINUTE as f64 / *demand, *asks);
            let at = self.now + self.random.gap(mean);
            self.at(at, Event::Ask(host, asks));
        }
    }

    pub(super) fn one_request(&mut self, host: usize) {
        let tokens = self.tokens.start + self.random.below(self.tokens.end - self.tokens.start);
        self.asked[host] += 1;
        self.try_request(host, tokens, self.tries);
    }

    fn try_request(&mut self, host: usize, tokens: u64, tries: u32) {
        if !self.hosts[host].alive {
            return;
        }
        let clock = self.hosts[host].clock(self.now);
        if self.hosts[host].local.draw(tokens, clock).is_some() {
            let tenth = (self.now / (SECOND / 10)) as usize;
            self.used.resize(self.used.len().max(tenth + 1), Amount::default());
            self.used[tenth].requests += 1;
            self.used[tenth].tokens += tokens;
            self.admitted[host] += 1;
        } else {
            // As the task does: hungry, it looks soon. In large fleets, where agents look every quarter of a minute, a second
            // refusal within five seconds is nothing new.
            let soon = self.now + 20_000_000;
            let is_new = self.hosts.len() <= 1_000 || self.now >= self.hosts[host].hungry_since + 5 * SECOND;
            if is_new && soon < self.hosts[host].wakes_at {
                self.hosts[host].hungry_since = self.now;
                self.wake_at(host, soon);
            }
            if tries > 0 {
                let again = self.now + 4 * SECOND + self.random.below(4 * SECOND);
                self.at(again, Event::Retry(host, tokens, tries - 1));
            }
        }
    }

    pub(super) fn demand(&mut self, of: impl Fn(usize) -> f64) {
        for host in 0..self.hosts.len() {
            self.hosts[host].demand = of(host);
            self.schedule(host);
        }
    }

    /// The most that any sixty seconds saw, as parts of the limit.
    pub(super) fn worst(&self) -> (f64, f64) {
        let (mut sum, mut worst) = (Amount::default(), Amount::default());
        for (tenth, used) in self.used.iter().enumerate() {
            sum.requests += used.requests;
            sum.tokens += used.tokens;
            // 599 whole tenths and the rest of two more can be in sixty seconds; 600 are counted, each whole.
            if tenth >= 600 {
                sum.requests -= self.used[tenth - 600].requests;
                sum.tokens -= self.used[tenth - 600].tokens;
            }
            worst = worst.max(sum);
        }
        (worst.requests as f64 / self.limit.requests as f64, worst.tokens as f64 / self.limit.tokens as f64)
    }

    /// What was used between two times, as parts of the limit.
    pub(super) fn share(&self, from: u64, to: u64) -> (f64, f64) {
        let tenths = |time: u64| (time / (SECOND / 10)) as usize;
        let used = &self.used[tenths(from).min(self.used.len())..tenths(to).min(self.used.len())];
        let minutes = (to - from) as f64 / MINUTE as f64;
        let part = |sum: u64, limit: u64| sum as f64 / minutes / limit as f64;
        (
            part(used.iter().map(|used| used.requests).sum(), self.limit.requests),
            part(used.iter().map(|used| used.tokens).sum(), self.limit.tokens),
        )
    }

    fn pool(&self) -> Arc<Pool> {
        match self.table.apply(&StoreRequest::ReadPool) {
            Ok(StoreResponse::Pool(Some(pool))) => pool,
            other => panic!("{other:?}"),
        }
    }

    fn shard(&self, number: u64) -> Option<Arc<Shard>> {
        match self.table.apply(&StoreRequest::ReadShard { number, now: true }) {
            Ok(StoreResponse::Shard(shard)) => shard,
            other => panic!("{other:?}"),
        }
    }

    /// What is free in the pool and in the shards, and what is due, as parts of the limit.
    pub(super) fn free(&self) -> String {
        let pool = self.pool();
        let shards: Vec<_> = (0..pool.shards).filter_map(|number| self.shard(number)).collect();
        let part = |sum: u64| sum as f64 / self.limit.requests as f64;
        let sum = |of: fn(&Shard) -> u64| part(shards.iter().map(|shard| of(shard)).sum());
        format!(
            "free: {:.3} in the pool, {:.3} in shards; budgets {:.3}, due {:.3}, held {:.3}, wanted {:.3}, told {:.3}",
            part(pool.free_requests.cast_unsigned()),
            sum(|shard| shard.free.requests),
            sum(|shard| shard.budget.requests),
            sum(|shard| shard.due.requests),
            sum(|shard| shard.leases.iter().map(|lease| lease.held.requests).sum()),
            sum(|shard| shard.leases.iter().map(|lease| lease.wanted.requests).sum()),
            part(pool.wanted.requests),
        )
    }

    pub(super) fn shards(&self) -> u64 {
        self.pool().shards
    }

    pub(super) fn budget(&self, number: u64) -> Amount {
        self.shard(number).map_or(Amount::default(), |shard| shard.budget)
    }

    /// The hosts that have a lease in a shard.
    pub(super) fn hosts_of(&self, number: u64) -> Vec<usize> {
        let leases = self.shard(number).map_or(Vec::new(), |shard| shard.leases.clone());
        leases.iter().map(|lease| lease.id["host-".len()..].parse().unwrap()).collect()
    }

    /// What is held and what is free add up to the limit.
    pub(super) fn check_sums(&self) {
        let pool = self.pool();
        let (mut requests, mut tokens) = (pool.free_requests, pool.free_tokens);
        for shard in (0..pool.shards).filter_map(|number| self.shard(number)) {
            let held = shard.leases.iter().fold(shard.free, |sum, lease| Amount {
                requests: sum.requests + lease.held.requests,
                tokens: sum.tokens + lease.held.tokens,
            });
            assert_eq!(held, shard.budget, "{shard:?}");
            requests += shard.budget.requests.cast_signed();
            tokens += shard.budget.tokens.cast_signed();
        }
        assert_eq!((requests.cast_unsigned(), tokens.cast_unsigned()), (self.limit.requests, self.limit.tokens));
    }

    pub(super) fn writes_a_minute(&self, from: u64, to: u64) -> u64 {
        let sum: u64 =
            (from / MINUTE..to / MINUTE).filter_map(|minute| self.writes.get(usize::try_from(minute).unwrap())).sum();
        sum / (to / MINUTE - from / MINUTE)
    }
}

/// What a call costs by DynamoDB's rules, and the items it writes or reads.
struct Cost {
    /// Half units: eventually consistent ones of 4 KB.
    reads: u64,
    writes: u64,
    items: Vec<String>,
}

impl Cost {
    fn of(request: &StoreRequest, table: &MemoryStore) -> Cost {
        let pool = || match table.apply(&StoreRequest::ReadPool) {
            Ok(StoreResponse::Pool(Some(pool))) => {
                200 + pool.curves.iter().flat_map(|curve| curve.buckets()).count() as u64 * 17
            }
            _ => 1,
        };
        // A lease is its id and some thirty bytes.
        let shard = |number: u64| match table.apply(&StoreRequest::ReadShard { number, now: true }) {
            Ok(StoreResponse::Shard(Some(shard))) => {
                let buckets = shard.declared.curves.iter().flat_map(|curve| curve.buckets()).count();
                300 + shard.leases.len() as u64 * 46 + buckets as u64 * 6
            }
            _ => 1,
        };
        let (kilobytes, pages) = (|size: u64| size.div_ceil(1_024), |size: u64| size.div_ceil(4_096));
        let of = |number: u64| format!("shard#{number}");
        let at_pool = || vec!["pool".to_owned()];
        match request {
            StoreRequest::ReadPool => Cost { reads: pages(pool()), writes: 0, items: at_pool() },
            StoreRequest::ReadShard { number, now } => {
                Cost { reads: pages(shard(*number)) * (1 + u64::from(*now)), writes: 0, items: vec![of(*number)] }
            }
            StoreRequest::Create(_) | StoreRequest::Resize(..) | StoreRequest::Double(_) => {
                Cost { reads: 0, writes: kilobytes(pool()), items: at_pool() }
            }
            StoreRequest::Open(number) | StoreRequest::Write(number, ..) => {
                Cost { reads: 0, writes: kilobytes(shard(*number)), items: vec![of(*number)] }
            }
            StoreRequest::Balance(balance) => {
                let number = balance.before.number;
                let writes = 2 * (kilobytes(pool()) + kilobytes(shard(number)));
                Cost { reads: 0, writes, items: vec!["pool".to_owned(), of(number)] }
            }
            // Not part of any simulation.
            StoreRequest::ListOld | StoreRequest::ReclaimOld(_) => Cost { reads: 1, writes: 0, items: Vec::new() },
        }
    }
}
