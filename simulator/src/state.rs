//! What all exchanges of one simulator share.

use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, PoisonError, RwLock};

use tokio::sync::watch;

use crate::faults::{Effect, Fault, Faults};
use crate::framing::{Choice, Framing, Framings, Tally};
use crate::gate::Gate;
use crate::keys::{Change, Known, Session};
use crate::mantle::Stored;
use crate::operations::asynchronous::AsyncInvoke;
use crate::profiles::Profiles;
use crate::record::Record;
use crate::roles_anywhere::RolesAnywhere;

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) region: String,
    pub(crate) account: String,
    pub(crate) page_size: usize,
    pub(crate) added_headers: Vec<String>,
    pub(crate) head_after_first_event: bool,
    pub(crate) known: RwLock<Known>,
    pub(crate) profiles: Mutex<Profiles>,
    /// The account's data retention mode.
    pub(crate) retention: Mutex<String>,
    pub(crate) roles_anywhere: Mutex<Option<RolesAnywhere>>,
    /// What the mantle host keeps.
    pub(crate) stored: Stored,
    pub(crate) async_invokes: Mutex<Vec<AsyncInvoke>>,
    pub(crate) faults: Faults,
    pub(crate) gate: Gate,
    pub(crate) record: Record,
    /// True while both listeners are shut.
    pub(crate) refusing: watch::Sender<bool>,
    pub(crate) connections: AtomicU64,
    /// Under which clients know it.
    pub(crate) ports: RwLock<Vec<u16>>,
    pub(crate) framing: Framings,
    pub(crate) tally: Tally,
}

impl State {
    /// Adds a fault. One that frames by hand needs connections that are framed by hand.
    pub(crate) fn inject(&self, fault: Fault) {
        if matches!(fault.effect, Effect::Framing { .. }) && self.framing.choice().is_none() {
            self.framing.set(Some(Choice::Always(Framing::PLAIN)));
        }
        self.faults.add(fault);
    }

    /// Forgets what was received.
    pub(crate) fn clear(&self) {
        self.record.clear();
        self.tally.clear();
    }

    pub(crate) fn known(&self) -> Known {
        self.known.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn change_credentials(&self, change: Change) {
        self.known.write().unwrap_or_else(PoisonError::into_inner).apply(change, &self.region);
    }

    pub(crate) fn add_session(&self, session: Session) {
        self.known.write().unwrap_or_else(PoisonError::into_inner).sessions.push(session);
    }

    pub(crate) fn roles_anywhere(&self) -> Option<RolesAnywhere> {
        self.roles_anywhere.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_roles_anywhere(&self, known: Option<RolesAnywhere>) {
        *self.roles_anywhere.lock().unwrap_or_else(PoisonError::into_inner) = known;
    }

    pub(crate) fn data_retention(&self) -> String {
        self.retention.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_data_retention(&self, mode: &str) {
        mode.clone_into(&mut self.retention.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(crate) fn with_profiles<T>(&self, act: impl FnOnce(&mut Profiles) -> T) -> T {
        act(&mut self.profiles.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn with_async_invokes<T>(&self, act: impl FnOnce(&mut Vec<AsyncInvoke>) -> T) -> T {
        act(&mut self.async_invokes.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
