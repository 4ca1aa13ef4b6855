//! All counts of this host, behind one lock.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use uuid::Uuid;

use super::calendar::{Calendar, Period};
use super::clock::Clock;
use super::cost::{self, Cost};
use super::fleet::local::LocalLease;
use super::limit::{Limit, ScopeId};
use super::outcome::{Obstacle, Outcome, Reservation};
use super::past_use::OpenRequest;
use super::queue::Queue;
use super::refusal::refusal;
use super::request::{Plan, WeighedRequest};
use super::saved_use::SavedUse;
use super::scope::{Scope, Warning};
use super::slot::{FLEET, HOST, Slot, Slots};
use super::spent::Spent;
use super::status::Status;
use crate::error::Refusal;
use crate::record::Usage;
use crate::settings::limits::{self as settings, Rates};

#[derive(Debug)]
pub(super) struct State {
    scopes: Vec<Scope>,
    callers: HashMap<Box<str>, Slot>,
    /// The limits of configured callers.
    caller_rates: Arc<HashMap<Box<str>, Rates>>,
    models: HashMap<Box<str>, Slot>,
    calendar: Calendar,
    pub(super) fleet: Option<LocalLease>,
    /// How many hosts were last seen in the fleet's table, by this run or the one before.
    pub(super) fleet_hosts: u64,
    /// Refusals of the fleet's two limits, which outlive its configuration.
    fleet_limited: [u64; Limit::ALL.len()],
    pub(super) queue: Queue,
    /// What earlier runs had spent, for scopes that are not known yet.
    pub(super) saved: HashMap<String, SavedUse>,
    /// Requests that have not been settled and whose records the ledger will have, with what they have reserved.
    open: HashMap<Uuid, (Slots, Cost, Period)>,
    /// Something that is kept over restarts has changed.
    pub(super) changed: bool,
}

impl State {
    pub(super) fn new(clock: &dyn Clock, host: Rates) -> State {
        let mut calendar = Calendar::new(clock);
        let now = clock.now();
        let period = calendar.period(clock, now);
        State {
            scopes: vec![Scope::new(ScopeId::Host, host, period, now)],
            callers: HashMap::new(),
            caller_rates: Arc::default(),
            models: HashMap::new(),
            calendar,
            fleet: None,
            fleet_hosts: 1,
            fleet_limited: Default::default(),
            queue: Queue::default(),
            saved: HashMap::new(),
            open: HashMap::new(),
            changed: false,
        }
    }

    /// Other limits from now on. Returns what requests are weighed against.
    pub(super) fn apply(&mut self, settings: &settings::Limits, now: u64) -> Plan {
        self.scopes[usize::from(HOST)].change(settings.host, now);
        let models: Vec<_> = settings
            .models
            .iter()
            .map(|(glob, rates)| (glob.clone(), self.model_slot(&glob.to_string(), *rates, now)))
            .collect();
        match (self.fleet.as_mut(), settings.fleet.as_ref()) {
            (Some(lease), Some(fleet)) => lease.change(fleet),
            (None, Some(fleet)) => self.fleet = Some(LocalLease::new(fleet, now)),
            (_, None) => self.fleet = None,
        }
        // Patterns that are no longer configured limit nothing, and still count what is in flight.
        for slot in self.models.values().filter(|slot| models.iter().all(|(_, kept)| kept != *slot)) {
            self.scopes[usize::from(*slot)].change(Rates::default(), now);
        }
        self.caller_rates = Arc::clone(&settings.callers);
        // Requests of callers that are no longer configured are of before; what limited these limits them still.
        for scope in &mut self.scopes {
            if let ScopeId::Caller(name) = &scope.id
                && let Some(rates) = settings.callers.get(name)
            {
                scope.change(*rates, now);
            }
        }
        Plan { settings: settings.clone(), models }
    }

    /// Admits at once, or says what is in the way. Nobody who waits is overtaken at a scope at which they are next.
    pub(super) fn admit(&mut self, clock: &dyn Clock, request: WeighedRequest, now: u64) -> Outcome {
        if self.queue.is_empty() {
            return self.attempt(clock, request, now);
        }
        match self.obstacle_ahead(&request, now) {
            Some(obstacle) => Outcome::Blocked { request, obstacle },
            None => self.attempt(clock, request, now),
        }
    }

    /// What those who are next in the queue wait for, if the request needs the same.
    pub(super) fn obstacle_ahead(&mut self, request: &WeighedRequest, now: u64) -> Option<Obstacle> {
        let slots = self.slots(request, now);
        self.queue.obstacles.iter().find(|other| slots.contains(other.scope)).copied()
    }

    /// The check of all scopes and the taking from all of them, as one step.
    pub(super) fn attempt(&mut self, clock: &dyn Clock, mut request: WeighedRequest, now: u64) -> Outcome {
        let slots = self.slots(&request, now);
        let period = self.calendar.period(clock, now);
        let mut worst: Option<Obstacle> = None;
        for scope in slots.on_this_host() {
            if let Err(exceeded) = self.scopes[usize::from(scope)].check(request.cost, now, &self.calendar, period)
                && worst.is_none_or(|other| other.exceeded.wait < exceeded.wait)
            {
                worst = Some(Obstacle { scope, exceeded });
            }
        }
        if let Some(fleet) = &mut self.fleet {
            // Only what the host itself would let pass is the fleet's demand.
            if worst.is_none()
                && let Err(exceeded) = fleet.check(request.cost.tokens, request.first_attempt, now)
            {
                worst = Some(Obstacle { scope: FLEET, exceeded });
            }
        }
        if let Some(obstacle) = worst {
            request.first_attempt = false;
            return Outcome::Blocked { request, obstacle };
        }
        for slot in slots.on_this_host() {
            self.scopes[usize::from(slot)].take(request.cost);
        }
        let fleet = self.fleet.as_mut().map(|fleet| fleet.take(request.cost.tokens, now));
        let counted = request.cost;
        self.changed = true;
        Outcome::Admitted(Reservation { slots, request, counted, settled: false, id: None, admitted: period, fleet })
    }

    /// The reservation is of the request that the ledger knows by this id.
    pub(super) fn recorded_as(&mut self, id: Uuid, reservation: &mut Reservation) {
        if !reservation.settled {
            let Reservation { slots, counted, admitted, .. } = &*reservation;
            self.open.insert(id, (slots.clone(), *counted, *admitted));
            reservation.id = Some(id);
        }
    }

    /// What is in the way of any request of this caller, however small it is and whatever its model. A minute's tokens
    /// are left out: how long they are to be waited for depends on the request.
    pub(super) fn used_up(
        &mut self,
        clock: &dyn Clock,
        caller: Option<&str>,
        uses_tokens: bool,
        now: u64,
    ) -> Option<Obstacle> {
        let period = self.calendar.period(clock, now);
        let least = Cost { tokens: u64::from(uses_tokens), ..Cost::default() };
        let own = caller.map(|name| self.caller_slot(name, now));
        let mut worst: Option<Obstacle> = None;
        for scope in std::iter::once(HOST).chain(own) {
            if let Err(exceeded) = self.scopes[usize::from(scope)].check(least, now, &self.calendar, period)
                && exceeded.limit != Limit::TokensPerMinute
                && worst.is_none_or(|other| other.exceeded.wait < exceeded.wait)
            {
                worst = Some(Obstacle { scope, exceeded });
            }
        }
        worst
    }

    /// Replaces what is counted for a request by what it used.
    pub(super) fn settle(&mut self, reservation: &mut Reservation, usage: &Usage, now: u64) -> Vec<Warning> {
        let actual = cost::actual(usage, reservation.request.estimate, reservation.request.price);
        self.recount(reservation, actual, now)
    }

    /// Gives back all that a request took but its place, which its end gives back.
    pub(super) fn cancel(&mut self, reservation: &mut Reservation, now: u64) {
        self.recount(reservation, Cost::default(), now);
        self.changed = true;
        for slot in reservation.slots.on_this_host() {
            self.scopes[usize::from(slot)].give_back_request(now);
        }
        if let (Some(fleet), Some(draw)) = (&mut self.fleet, reservation.fleet.take()) {
            fleet.give_back_request(draw, now);
        }
    }

    /// The last byte has gone. A reservation that nobody has settled stays spent.
    pub(super) fn end(&mut self, reservation: &mut Reservation) {
        let unsettled = if reservation.settled { Cost::default() } else { reservation.counted };
        for slot in reservation.slots.on_this_host() {
            let scope = &mut self.scopes[usize::from(slot)];
            scope.unreserve(unsettled);
            scope.end();
        }
        self.settled(reservation);
    }

    fn settled(&mut self, reservation: &mut Reservation) {
        reservation.settled = true;
        if let Some(id) = reservation.id.take() {
            self.open.remove(&id);
            self.changed = true;
        }
    }

    fn recount(&mut self, reservation: &mut Reservation, actual: Cost, now: u64) -> Vec<Warning> {
        let Reservation { counted, settled, admitted, .. } = *reservation;
        let mut warnings = Vec::new();
        for slot in reservation.slots.on_this_host() {
            let scope = &mut self.scopes[usize::from(slot)];
            warnings.extend(scope.settle(counted, actual, admitted, !settled, now));
        }
        if let (Some(fleet), Some(draw)) = (&mut self.fleet, &mut reservation.fleet) {
            fleet.settle(draw, actual.tokens, now);
        }
        self.changed |= counted != actual;
        reservation.counted = actual;
        self.settled(reservation);
        warnings
    }

    /// Counts the refusal and words it.
    pub(super) fn refuse(&mut self, obstacle: &Obstacle, waited: bool) -> Refusal {
        let Obstacle { scope, exceeded } = obstacle;
        let limit = exceeded.limit as usize;
        if *scope == FLEET {
            self.fleet_limited[limit] += 1;
            if let Some(refusal) = self.fleet.as_ref().and_then(|fleet| fleet.refusal(exceeded)) {
                return refusal;
            }
            return refusal(&ScopeId::Fleet, exceeded, waited);
        }
        let scope = &mut self.scopes[usize::from(*scope)];
        scope.limited[limit] += 1;
        refusal(&scope.id, exceeded, waited)
    }

    /// The place of a pattern on models, with these limits from now on.
    fn model_slot(&mut self, pattern: &str, rates: Rates, now: u64) -> Slot {
        let Some(&slot) = self.models.get(pattern) else {
            return self.add(ScopeId::Model(pattern.into()), rates, now);
        };
        self.scopes[usize::from(slot)].change(rates, now);
        slot
    }

    /// A place for a caller or a pattern that has none.
    fn add(&mut self, id: ScopeId, rates: Rates, now: u64) -> Slot {
        // No configuration has 65,000 callers; should one, the last of them share a place.
        let slot = Slot::try_from(self.scopes.len()).unwrap_or(FLEET).min(FLEET - 1);
        if usize::from(slot) == self.scopes.len() {
            let mut scope = Scope::new(id.clone(), rates, self.current_period(), now);
            if let Some(saved) = self.saved.remove(&SavedUse::key(&id)) {
                saved.restore(&mut scope, now);
            }
            self.scopes.push(scope);
        }
        match id {
            ScopeId::Caller(name) => self.callers.insert(name, slot),
            ScopeId::Model(pattern) => self.models.insert(pattern, slot),
            ScopeId::Host | ScopeId::Fleet => None,
        };
        slot
    }

    /// The place of a caller, whose limits are those of the configuration and not of what a request was read under.
    fn caller_slot(&mut self, name: &str, now: u64) -> Slot {
        self.callers.get(name).copied().unwrap_or_else(|| {
            let rates = self.caller_rates.get(name).copied().unwrap_or_default();
            self.add(ScopeId::Caller(name.into()), rates, now)
        })
    }

    /// All scopes, in the current period.
    pub(super) fn scopes(&mut self, clock: &dyn Clock, now: u64) -> &mut [Scope] {
        let period = self.calendar.period(clock, now);
        for scope in &mut self.scopes {
            scope.spent.turn(period, now);
        }
        &mut self.scopes
    }

    pub(super) fn status(&mut self, clock: &dyn Clock, now: u64) -> Status {
        let waiting = self.queue.len();
        let fleet = self.fleet.as_mut().map(|fleet| fleet.status(now));
        let fleet_limited = self.fleet_limited;
        Status::new(self.scopes(clock, now), now, waiting, fleet, fleet_limited)
    }

    /// All scopes of a request, the host's first.
    pub(super) fn slots(&mut self, request: &WeighedRequest, now: u64) -> Slots {
        let mut slots = Slots::default();
        slots.push(HOST);
        if let Some(caller) = &request.caller {
            slots.push(self.caller_slot(caller, now));
        }
        for slot in request.models.iter() {
            slots.push(slot);
        }
        if self.fleet.is_some() {
            slots.push(FLEET);
        }
        slots
    }

    /// Takes up what earlier runs had used; scopes that are not known yet take theirs when they come.
    pub(super) fn restore(&mut self, clock: &dyn Clock, saved: BTreeMap<String, SavedUse>, now: u64) {
        let mut remaining: HashMap<String, SavedUse> = saved.into_iter().collect();
        for scope in self.scopes(clock, now) {
            if let Some(saved) = remaining.remove(&SavedUse::key(&scope.id)) {
                saved.restore(scope, now);
            }
        }
        self.saved = remaining;
    }

    /// Changes what the scopes have spent: those that are known, those in `ids`, and those of earlier runs.
    pub(super) fn amend_spent(
        &mut self,
        clock: &dyn Clock,
        ids: impl Iterator<Item = ScopeId>,
        now: u64,
        change: impl Fn(&ScopeId, &mut Spent),
    ) {
        let mut known = HashSet::new();
        for scope in self.scopes(clock, now) {
            known.insert(SavedUse::key(&scope.id));
            change(&scope.id, &mut scope.spent);
        }
        let present = self.current_period();
        for key in ids.map(|id| SavedUse::key(&id)).filter(|key| !known.contains(key)) {
            self.saved.entry(key).or_insert_with(|| SavedUse::none(present));
        }
        for (key, saved) in &mut self.saved {
            if let Some(id) = SavedUse::scope(key) {
                saved.amend(now, |spent| change(&id, spent));
            }
        }
        self.changed = true;
    }

    /// Requests that have not been settled, as a file keeps them.
    pub(super) fn open_requests(&self) -> Vec<OpenRequest> {
        let key = |slot: Slot| SavedUse::key(&self.scopes[usize::from(slot)].id);
        let open = self.open.iter().map(|(id, (slots, counted, admitted))| OpenRequest {
            request_id: id.to_string(),
            tokens: counted.tokens,
            nano_usd: counted.nano_usd,
            day: admitted.day,
            month: admitted.month,
            scopes: slots.on_this_host().map(key).collect(),
        });
        open.collect()
    }

    pub(super) fn current_period(&self) -> Period {
        self.scopes[usize::from(HOST)].spent.period()
    }
}
