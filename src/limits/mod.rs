//! How much may be called: requests, tokens and money, of this host, a caller, a group of models and the fleet.
//!
//! A request is admitted by every limit that applies to it or by none: one short lock covers the check and the taking.
//! What it takes it holds as an [`Admission`] until its answer's last byte.

mod admission;
mod bucket;
mod calendar;
pub mod clock;
mod cost;
pub mod estimate;
pub mod fleet;
mod persist;
mod queue;
mod refusal;
mod scan;
mod scope;
mod state;
mod status;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::Notify;

pub use admission::Admission;
pub use clock::{Clock, SystemClock, VirtualClock};
pub use estimate::{Estimate, estimate};
pub use persist::Keeper;
pub use scope::{Limit, Whose};
pub use status::{Limited, ScopeStatus, Status};

use crate::config::Glob;
use crate::error::Refusal;
use crate::record::Usage;
use crate::settings::limits as settings;
use crate::settings::limits::Rates;
use cost::Ask as Weighed;
use state::{Slot, State, Try};

/// The limits of this host. Cheap to clone, shared by all connections.
#[derive(Debug)]
pub struct Limits {
    inner: Arc<Inner>,
}

/// A request that wants to pass.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    /// The name of the caller's entry; none when no entry fits.
    pub caller: Option<&'a str>,
    /// The limits of that entry. They are those of the newest request, so a reload reaches them by itself.
    pub caller_limits: Option<&'a Rates>,
    /// The model or profile identifier that the limits of models and the prices are matched with.
    pub model: Option<&'a str>,
    pub estimate: Estimate,
}

#[derive(Debug)]
struct Inner {
    clock: Box<dyn Clock>,
    plan: ArcSwap<Plan>,
    state: Mutex<State>,
    /// Something was given back while requests wait.
    freed: Notify,
    /// The fleet's lease is too small for what is asked.
    hungry: Arc<Notify>,
}

/// What a request can be matched with before the lock is taken.
#[derive(Debug)]
struct Plan {
    settings: settings::Limits,
    models: Vec<(Glob, Slot)>,
}

impl Limits {
    pub fn new(settings: &settings::Limits, clock: impl Clock) -> Arc<Limits> {
        let mut state = State::new(&clock, settings.host);
        let plan = Plan::new(settings, &mut state, clock.now());
        Arc::new(Limits {
            inner: Arc::new(Inner {
                clock: Box::new(clock),
                plan: ArcSwap::from_pointee(plan),
                state: Mutex::new(state),
                freed: Notify::new(),
                hungry: Arc::new(Notify::new()),
            }),
        })
    }

    /// Admits the request if every limit that applies admits it: those of the host, of the fleet, of the caller and of
    /// the groups its model belongs to. Waits no longer than `max_wait`, callers taking turns.
    ///
    /// The refusal is a 429 that names the limit and says when to come back. Dropping the future leaves the queue.
    pub async fn admit(&self, ask: Ask<'_>) -> Result<Admission, Refusal> {
        let plan = self.inner.plan.load();
        let weighed = Weighed::new(&ask, &plan);
        let max_wait = ask.caller_limits.and_then(|rates| rates.max_wait).or(plan.settings.host.max_wait);
        let max_waiting = plan.settings.max_waiting;
        drop(plan);

        let now = self.inner.clock.now();
        let waiting = {
            let mut state = self.inner.lock();
            match state.admit(&*self.inner.clock, weighed, now) {
                Try::Admitted(hold) => return Ok(Admission::new(&self.inner, hold)),
                Try::Blocked { ask, obstacle } => {
                    if obstacle.whose == state::FLEET {
                        self.inner.hungry.notify_one();
                    }
                    let max_wait = max_wait.unwrap_or_default().as_nanos() as u64;
                    if max_wait == 0 || obstacle.lasts(max_wait) || state.queue.len() >= max_waiting {
                        return Err(state.refuse(&obstacle, false));
                    }
                    queue::enter(&self.inner, &mut state, ask, obstacle, now.saturating_add(max_wait))
                }
            }
        };
        waiting.granted().await
    }

    /// Other limits from now on. What is in flight stays admitted and counted, and what was used stays used.
    pub fn apply(&self, settings: &settings::Limits) {
        let now = self.inner.clock.now();
        let mut state = self.inner.lock();
        state.apply_host(settings.host, now);
        let plan = Plan::new(settings, &mut state, now);
        let kept: Vec<Slot> = plan.models.iter().map(|(_, slot)| *slot).collect();
        state.forget_models_but(&kept, now);
        self.inner.plan.store(Arc::new(plan));
        drop(state);
        self.inner.freed.notify_one();
    }

    /// What a request has cost, in nano-dollars; none when no price fits the model or the usage is unknown.
    pub fn cost(&self, model: &str, usage: &Usage) -> Option<u64> {
        cost::cost(&self.inner.plan.load().settings.prices, model, usage)
    }

    /// The numbers behind the metrics and the status page.
    pub fn status(&self) -> Status {
        let now = self.inner.clock.now();
        self.inner.lock().status(&*self.inner.clock, now)
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing below the lock panics half-way through a change of counts that another request could see.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Changes counts in a way that may let a waiting request pass.
    fn free<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        let result = change(&mut state);
        let waiting = !state.queue.is_empty();
        drop(state);
        if waiting {
            self.freed.notify_one();
        }
        result
    }
}

impl Plan {
    fn new(settings: &settings::Limits, state: &mut State, now: u64) -> Plan {
        let models = settings
            .models
            .iter()
            .map(|(glob, rates)| (glob.clone(), state.slot(Whose::Model(glob.to_string().into()), *rates, now)))
            .collect();
        state.apply_fleet(settings.fleet.as_ref(), now);
        Plan { settings: settings.clone(), models }
    }
}
