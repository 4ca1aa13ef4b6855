//! What the limits, the requests that they admitted and their background tasks share.

use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use super::clock::Clock;
use super::request::Plan;
use super::state::State;
use crate::settings::limits as settings;

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) clock: Box<dyn Clock>,
    pub(super) plan: ArcSwap<Plan>,
    state: Mutex<State>,
    /// Held to read while a request is settled and recorded, so that a snapshot sees both or neither.
    ending: RwLock<()>,
    /// Something was given back while requests wait.
    pub(super) freed: Notify,
    /// The fleet's lease is too small for what is asked.
    pub(super) lease_wanted: Notify,
}

impl Shared {
    pub(super) fn new(settings: &settings::Limits, clock: impl Clock) -> Shared {
        let mut state = State::new(&clock, settings.host);
        let plan = state.apply(settings, clock.now());
        Shared {
            clock: Box::new(clock),
            plan: ArcSwap::from_pointee(plan),
            state: Mutex::new(state),
            ending: RwLock::new(()),
            freed: Notify::new(),
            lease_wanted: Notify::new(),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing below the lock panics half-way through a change of counts that another request could see.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request is settled and recorded while this is held.
    pub(super) fn request_ends(&self) -> RwLockReadGuard<'_, ()> {
        self.ending.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// While this is held, none is.
    pub(super) fn no_request_ends(&self) -> RwLockWriteGuard<'_, ()> {
        self.ending.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes counts in a way that may let a waiting request pass.
    pub(super) fn free<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
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
