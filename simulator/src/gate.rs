//! A gate across all event streams, so that a test decides when the next event may leave.

use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

/// While closed, every event stream withholds its next event until [`Gate::release`] lets it through.
#[derive(Debug, Clone, Default)]
pub struct Gate(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<GateState>,
    changed: Notify,
}

/// What the gate looks like at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GateState {
    /// Whether events are withheld.
    pub closed: bool,
    /// Events that may still pass although it is closed.
    pub permits: u64,
    /// Streams that wait for a permit now.
    pub waiting: u64,
}

impl Gate {
    /// Withholds events from now on.
    pub fn close(&self) {
        self.change(|state| {
            state.closed = true;
            state.permits = 0;
        });
    }

    /// Lets everything through again.
    pub fn open(&self) {
        self.change(|state| {
            state.closed = false;
            state.permits = 0;
        });
    }

    /// Lets `events` more events through.
    pub fn release(&self, events: u64) {
        self.change(|state| state.permits += events);
    }

    /// How the gate stands.
    pub fn state(&self) -> GateState {
        *self.lock()
    }

    /// Waits until one event may pass, and uses up its permit.
    pub(crate) async fn pass(self) {
        let mut waiting = Waiting { gate: self.clone(), counted: false };
        loop {
            let changed = self.0.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            {
                let mut state = self.lock();
                if !state.closed {
                    return;
                }
                if state.permits > 0 {
                    state.permits -= 1;
                    return;
                }
                if !waiting.counted {
                    state.waiting += 1;
                    waiting.counted = true;
                }
            }
            changed.await;
        }
    }

    fn change(&self, change: impl FnOnce(&mut GateState)) {
        change(&mut self.lock());
        self.0.changed.notify_waiters();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, GateState> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a stream off the count of the waiting, also when its client leaves.
struct Waiting {
    gate: Gate,
    counted: bool,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.counted {
            self.gate.lock().waiting -= 1;
        }
    }
}
