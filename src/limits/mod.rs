//! How much may be called: requests, tokens and money, of this host, a caller, a group of models and the fleet.
//!
//! A request is admitted by every limit that applies to it or by none: one short lock covers the check and the taking.
//! What it takes it holds as an [`Admission`] until its answer's last byte. Times are nanoseconds of a [`Clock`] that
//! never goes back, money is nano-dollars.
//!
//! A request's way: it is estimated (`estimate`), weighed against the settings (`request`), and checked against its scopes
//! (`scope`) and the fleet's lease (`fleet::local`) in one step (`state`). It is then admitted (`admission`), waits
//! (`waiting`) or is refused (`refusal`). Beside that way, two tasks keep the file of what was used (`usage_file`) and the
//! host's lease (`lease_task`).

mod admission;
mod bucket;
mod by_period;
mod calendar;
mod clock;
mod cost;
mod estimate;
pub mod fleet;
mod lease_task;
mod limit;
pub(crate) mod model_pattern;
mod outcome;
mod past_use;
mod queue;
mod refusal;
mod request;
mod saved_use;
mod scan;
mod scope;
mod shared;
mod slot;
mod spent;
mod state;
mod status;
mod usage_file;
mod waiting;

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, RwLockReadGuard};

pub use admission::Admission;
pub use clock::{Clock, SystemClock, VirtualClock};
pub(crate) use estimate::estimate_and_tier;
pub use estimate::{Estimate, estimate};
pub use lease_task::LeaseTask;
pub use past_use::{ChainHead, Names, PastUse, UseAfter, UseRecords};
pub use request::{Behind, LimitRequest};
pub use status::{Limited, ScopeStatus, Status};
pub use usage_file::UsageFile;

use crate::error::Refusal;
use crate::settings::limits as settings;
use fleet::LeaseStore;
use outcome::Outcome;
use request::WeighedRequest;
use shared::Shared;
use slot::FLEET;

/// The limits of this host, shared by all connections.
#[derive(Debug)]
pub struct Limits {
    shared: Arc<Shared>,
}

impl Limits {
    /// Limits with nothing used yet.
    pub fn new(settings: &settings::Limits, clock: impl Clock) -> Arc<Limits> {
        Arc::new(Limits { shared: Arc::new(Shared::new(settings, clock)) })
    }

    /// Takes up what the file says was used, and keeps the file up to date from now on, from a task of the current
    /// runtime. To be called once, before the first request. A file that cannot be understood is set aside as
    /// `NAME.unreadable` and counts start at nothing.
    ///
    /// # Errors
    /// The file exists and cannot be read, or its directory cannot be written.
    pub fn persist_to(&self, path: impl Into<PathBuf>) -> io::Result<UsageFile> {
        UsageFile::open(&self.shared, path.into())
    }

    /// The same beside a ledger, which tells what the file does not: all, if there is no file; else what was recorded
    /// after the file was written last. Records name models as they were asked for; `names` tells what limits go by.
    ///
    /// # Errors
    /// As [`Limits::persist_to`].
    pub async fn persist_with(
        &self,
        path: impl Into<PathBuf>,
        records: Arc<impl UseRecords>,
        names: Arc<Names>,
    ) -> io::Result<UsageFile> {
        UsageFile::open_with(&self.shared, path.into(), records, names).await
    }

    /// To be held while a request is settled and its end is recorded. The file is not written in between, so that it never
    /// knows one without the other.
    pub fn request_ends(&self) -> RwLockReadGuard<'_, ()> {
        self.shared.request_ends()
    }

    /// Takes part in the fleet through a store, from a task of the current runtime. To be called once, if `[fleet]` is
    /// configured, after `persist_to`. Until the first lease has come, a few milliseconds later, the fleet's limits refuse.
    pub fn join_fleet(&self, store: impl LeaseStore) -> LeaseTask {
        LeaseTask::start(&self.shared, store)
    }

    /// Admits the request if every limit that applies admits it: those of the host, of the fleet, of the caller and of
    /// the groups its model belongs to. Waits no longer than `max_wait`, callers taking turns. Dropping the future
    /// leaves the queue.
    ///
    /// # Errors
    /// A 429 that names the limit and says when to come back. Of the fleet also a 503 when its table cannot be reached,
    /// and a 400 for a request that no lease could ever serve.
    pub async fn admit(&self, request: LimitRequest<'_>) -> Result<Admission, Refusal> {
        let plan = self.shared.plan.load();
        let weighed = WeighedRequest::new(&request, &plan);
        let max_wait = plan.max_wait(request.caller);
        let max_waiting = plan.settings.max_waiting;
        drop(plan);

        let now = self.shared.clock.now();
        let waiting = {
            let mut state = self.shared.lock();
            match state.admit(&*self.shared.clock, weighed, now) {
                Outcome::Admitted(reservation) => return Ok(Admission::new(&self.shared, reservation)),
                Outcome::Blocked { request, obstacle } => {
                    if obstacle.scope == FLEET {
                        self.shared.lease_wanted.notify_one();
                    }
                    let max_wait = clock::nanos(max_wait.unwrap_or_default());
                    if max_wait == 0 || obstacle.outlasts(max_wait) || !state.queue.has_place(&request, max_waiting) {
                        return Err(state.refuse(&obstacle, false));
                    }
                    waiting::enter(&self.shared, &mut state, request, obstacle, now.saturating_add(max_wait))
                }
            }
        };
        Box::pin(waiting.granted()).await
    }

    /// Refuses early, before a request's body is read, what no body could change: the host or the caller has used up a
    /// limit, and the request would not wait for it. Nothing is taken; [`Limits::admit`] follows.
    ///
    /// # Errors
    /// As those of [`Limits::admit`].
    pub fn check_early(&self, caller: Option<&str>, uses_tokens: bool) -> Result<(), Refusal> {
        let max_wait = clock::nanos(self.shared.plan.load().max_wait(caller).unwrap_or_default());
        let now = self.shared.clock.now();
        let mut state = self.shared.lock();
        match state.used_up(&*self.shared.clock, caller, uses_tokens, now) {
            Some(obstacle) if max_wait == 0 || obstacle.outlasts(max_wait) => Err(state.refuse(&obstacle, false)),
            _ => Ok(()),
        }
    }

    /// Other limits from now on. What is in flight stays admitted and counted, and what was used stays used.
    pub fn apply(&self, settings: &settings::Limits) {
        let now = self.shared.clock.now();
        let mut state = self.shared.lock();
        let plan = state.apply(settings, now);
        self.shared.plan.store(Arc::new(plan));
        drop(state);
        self.shared.freed.notify_one();
    }

    /// Whether it matters to some limit or price which model a request is for.
    pub fn go_by_model(&self) -> bool {
        let plan = self.shared.plan.load();
        !plan.models.is_empty() || !plan.settings.prices.is_empty()
    }

    /// The numbers behind the metrics and the status page.
    pub fn status(&self) -> Status {
        let now = self.shared.clock.now();
        self.shared.lock().status(&*self.shared.clock, now)
    }
}
