//! All counts of this host, behind one lock.

use std::collections::HashMap;

use super::calendar::{Calendar, Period};
use super::clock::Clock;
use super::cost::{self, Ask};
use super::fleet::local::{Draw, Local};
use super::persist::Kept;
use super::queue::Queue;
use super::refusal::refusal;
use super::scope::{Block, Cost, Limit, Scope, Warning, Whose};
use super::status::Status;
use crate::error::Refusal;
use crate::record::Usage;
use crate::settings::limits::{self as settings, Rates};

/// A scope's place in the state. Slots are never freed: their number is bounded by what admins have ever configured.
pub(super) type Slot = u16;

pub(super) const HOST: Slot = 0;

/// Stands for the fleet where scopes are named; it has no slot of its own.
pub(super) const FLEET: Slot = Slot::MAX;

#[derive(Debug)]
pub(super) struct State {
    scopes: Vec<Scope>,
    callers: HashMap<Box<str>, Slot>,
    models: HashMap<Box<str>, Slot>,
    calendar: Calendar,
    pub fleet: Option<Local>,
    /// How many hosts were last seen in the fleet's table, by this run or the one before.
    pub fleet_hosts: u64,
    /// Refusals of the fleet's two limits, which outlive its configuration.
    fleet_limited: [u64; Limit::ALL.len()],
    pub queue: Queue,
    /// What earlier runs had spent, for scopes that are not known yet.
    pub kept: HashMap<String, Kept>,
    /// Something that is kept over restarts has changed.
    pub changed: bool,
}

/// The slots that apply to a request; the host's is always meant. No allocation for the usual one or two.
#[derive(Debug, Clone, Default)]
pub(super) struct Slots {
    few: [Slot; 4],
    count: u8,
    more: Vec<Slot>,
}

/// What an admitted request holds.
#[derive(Debug)]
pub(super) struct Hold {
    slots: Slots,
    ask: Ask,
    /// What is counted for it at present: the reservation, then the usage.
    counted: Cost,
    settled: bool,
    admitted: Period,
    fleet: Option<Draw>,
}

/// The scope and limit that is in the way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Obstacle {
    pub whose: Slot,
    pub block: Block,
}

#[derive(Debug)]
pub(super) enum Try {
    Admitted(Hold),
    Blocked { ask: Ask, obstacle: Obstacle },
}

impl State {
    pub fn new(clock: &dyn Clock, host: Rates) -> State {
        let mut calendar = Calendar::new(clock);
        let now = clock.now();
        let period = calendar.period(clock, now);
        State {
            scopes: vec![Scope::new(Whose::Host, host, period, now)],
            callers: HashMap::new(),
            models: HashMap::new(),
            calendar,
            fleet: None,
            fleet_hosts: 1,
            fleet_limited: Default::default(),
            queue: Queue::default(),
            kept: HashMap::new(),
            changed: false,
        }
    }

    /// Admits at once, or says what is in the way. Nobody who waits is overtaken at a scope at which they are next.
    pub fn admit(&mut self, clock: &dyn Clock, ask: Ask, now: u64) -> Try {
        if self.queue.is_empty() {
            return self.attempt(clock, ask, now);
        }
        let slots = self.slots(&ask, now);
        let ahead = self.queue.ahead.iter().find(|other| slots.contains(other.whose)).copied();
        match ahead {
            Some(obstacle) => Try::Blocked { ask, obstacle },
            None => self.attempt(clock, ask, now),
        }
    }

    /// The check of all scopes and the taking from all of them, as one step.
    pub fn attempt(&mut self, clock: &dyn Clock, mut ask: Ask, now: u64) -> Try {
        let slots = self.slots(&ask, now);
        let period = self.calendar.period(clock, now);
        let mut worst: Option<Obstacle> = None;
        for slot in slots.iter().filter(|slot| *slot != FLEET) {
            if let Err(block) = self.scopes[usize::from(slot)].check(ask.cost, now, &self.calendar, period)
                && worst.is_none_or(|other| other.block.wait < block.wait)
            {
                worst = Some(Obstacle { whose: slot, block });
            }
        }
        if let Some(fleet) = &mut self.fleet {
            // Asked even when another limit refuses: only what the host itself would let pass is the fleet's demand.
            if worst.is_none()
                && let Err(block) = fleet.check(ask.cost.tokens, ask.fresh, now)
            {
                worst = Some(Obstacle { whose: FLEET, block });
            }
        }
        if let Some(obstacle) = worst {
            ask.fresh = false;
            return Try::Blocked { ask, obstacle };
        }
        for slot in slots.iter().filter(|slot| *slot != FLEET) {
            self.scopes[usize::from(slot)].take(ask.cost);
        }
        let fleet = self.fleet.as_mut().map(|fleet| fleet.take(ask.cost.tokens, now));
        self.changed |= ask.cost != Cost::default();
        Try::Admitted(Hold { slots, counted: ask.cost, ask, settled: false, admitted: period, fleet })
    }

    /// Replaces what is counted for a request by what it used.
    pub fn settle(&mut self, hold: &mut Hold, usage: &Usage, now: u64) -> Vec<Warning> {
        let actual = cost::actual(usage, hold.ask.estimate, hold.ask.price);
        self.recount(hold, actual, now)
    }

    /// Gives back all that a request took but its place, which its end gives back.
    pub fn cancel(&mut self, hold: &mut Hold, now: u64) {
        self.recount(hold, Cost::default(), now);
        for slot in hold.slots.iter().filter(|slot| *slot != FLEET) {
            self.scopes[usize::from(slot)].give_back_request(now);
        }
        if let (Some(fleet), Some(draw)) = (&mut self.fleet, hold.fleet.take()) {
            fleet.give_back_request(draw, now);
        }
    }

    /// The last byte has gone. A reservation that nobody has settled stays spent.
    pub fn end(&mut self, hold: &mut Hold) {
        let unsettled = if hold.settled { Cost::default() } else { hold.counted };
        for slot in hold.slots.iter().filter(|slot| *slot != FLEET) {
            let scope = &mut self.scopes[usize::from(slot)];
            scope.unreserve(unsettled);
            scope.end();
        }
        hold.settled = true;
    }

    fn recount(&mut self, hold: &mut Hold, actual: Cost, now: u64) -> Vec<Warning> {
        let mut warnings = Vec::new();
        for slot in hold.slots.iter().filter(|slot| *slot != FLEET) {
            let scope = &mut self.scopes[usize::from(slot)];
            warnings.extend(scope.settle(hold.counted, actual, hold.admitted, !hold.settled, now));
        }
        if let (Some(fleet), Some(draw)) = (&mut self.fleet, &mut hold.fleet) {
            fleet.settle(draw, actual.tokens, now);
        }
        self.changed |= hold.counted != actual;
        hold.counted = actual;
        hold.settled = true;
        warnings
    }

    /// Counts the refusal and words it.
    pub fn refuse(&mut self, obstacle: &Obstacle, waited: bool) -> Refusal {
        let limit = obstacle.block.limit as usize;
        if obstacle.whose == FLEET {
            self.fleet_limited[limit] += 1;
            if let Some(refusal) = self.fleet.as_ref().and_then(|fleet| fleet.refusal(&obstacle.block)) {
                return refusal;
            }
            return refusal(&Whose::Fleet, &obstacle.block, waited);
        }
        let scope = &mut self.scopes[usize::from(obstacle.whose)];
        scope.limited[limit] += 1;
        refusal(&scope.whose, &obstacle.block, waited)
    }

    pub fn apply_host(&mut self, rates: Rates, now: u64) {
        self.scopes[usize::from(HOST)].change(rates, now);
    }

    pub fn apply_fleet(&mut self, fleet: Option<&settings::Fleet>, now: u64) {
        match (self.fleet.as_mut(), fleet) {
            (Some(local), Some(fleet)) => local.change(fleet),
            (None, Some(fleet)) => self.fleet = Some(Local::new(fleet, now)),
            (_, None) => self.fleet = None,
        }
    }

    /// Patterns that are no longer configured limit nothing, and still count what is in flight.
    pub fn forget_models_but(&mut self, kept: &[Slot], now: u64) {
        for slot in self.models.values().filter(|slot| !kept.contains(slot)) {
            self.scopes[usize::from(*slot)].change(Rates::default(), now);
        }
    }

    /// The slot of a caller or of a pattern on models, with these limits from now on.
    pub fn slot(&mut self, whose: Whose, rates: Rates, now: u64) -> Slot {
        let known = match &whose {
            Whose::Caller(name) => self.callers.get(name),
            Whose::Model(pattern) => self.models.get(pattern),
            Whose::Host | Whose::Fleet => Some(&HOST),
        };
        if let Some(&slot) = known {
            let scope = &mut self.scopes[usize::from(slot)];
            if scope.rates != rates {
                scope.change(rates, now);
            }
            return slot;
        }
        // No configuration has 65,000 callers; should one, the last of them share a slot.
        let slot = Slot::try_from(self.scopes.len()).unwrap_or(FLEET).min(FLEET - 1);
        if usize::from(slot) == self.scopes.len() {
            let mut scope = Scope::new(whose.clone(), rates, self.calendar_period(), now);
            if let Some(kept) = self.kept.remove(&Kept::name(&whose)) {
                kept.restore(&mut scope);
            }
            self.scopes.push(scope);
        }
        match whose {
            Whose::Caller(name) => self.callers.insert(name, slot),
            Whose::Model(pattern) => self.models.insert(pattern, slot),
            Whose::Host | Whose::Fleet => None,
        };
        slot
    }

    /// The scopes and the current period.
    pub fn scopes(&mut self, clock: &dyn Clock, now: u64) -> (&mut [Scope], Period) {
        let period = self.calendar.period(clock, now);
        for scope in &mut self.scopes {
            scope.spent.turn(period);
        }
        (&mut self.scopes, period)
    }

    pub fn status(&mut self, clock: &dyn Clock, now: u64) -> Status {
        let waiting = self.queue.len();
        let fleet = self.fleet.as_mut().map(|fleet| fleet.status(now));
        let fleet_limited = self.fleet_limited;
        let (scopes, _) = self.scopes(clock, now);
        Status::new(scopes, now, waiting, fleet, fleet_limited)
    }

    /// All scopes of a request, the host's first.
    pub fn slots(&mut self, ask: &Ask, now: u64) -> Slots {
        let mut slots = Slots::default();
        slots.push(HOST);
        if let Some(caller) = &ask.caller {
            let rates = ask.caller_limits.unwrap_or_default();
            let slot = match self.callers.get(caller) {
                Some(&slot) if self.scopes[usize::from(slot)].rates == rates => slot,
                _ => self.slot(Whose::Caller(caller.clone()), rates, now),
            };
            slots.push(slot);
        }
        for slot in ask.models.iter() {
            slots.push(slot);
        }
        if self.fleet.is_some() {
            slots.push(FLEET);
        }
        slots
    }

    fn calendar_period(&self) -> Period {
        self.scopes[usize::from(HOST)].spent.period
    }
}

impl Obstacle {
    /// Time alone will not lift it within `nanos`, and nothing else is likely to.
    pub fn lasts(&self, nanos: u64) -> bool {
        self.block.wait > nanos && !self.block.hopeful
    }
}

impl Slots {
    pub fn push(&mut self, slot: Slot) {
        match self.few.get_mut(usize::from(self.count)) {
            Some(place) => {
                *place = slot;
                self.count += 1;
            }
            None => self.more.push(slot),
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = Slot> + '_ {
        self.few[..usize::from(self.count)].iter().chain(&self.more).copied()
    }

    pub fn contains(&self, slot: Slot) -> bool {
        self.iter().any(|other| other == slot)
    }
}
