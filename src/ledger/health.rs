//! Which components of the ledger fail at the moment, and how that is logged.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Between two log lines about the same component's failures.
const LOG_INTERVAL: Duration = Duration::from_secs(10);
/// A recovery is logged when the failure was logged at least this long ago.
const MIN_LOGGED_OUTAGE: Duration = Duration::from_secs(1);

/// A part of the ledger that fails and recovers by itself, the gravest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Component {
    /// Writing requests to the journal: appending, flushing, or the bound on the ledger's size.
    Recording = 0,
    /// Writing the journal's ended records into the SQLite index.
    Index = 1,
    /// Sending records to the table.
    Shipping = 2,
}

/// The failures of all components.
#[derive(Debug, Default)]
pub(crate) struct Health {
    components: Mutex<[ComponentHealth; 3]>,
    failures: AtomicU64,
    recording_fails: AtomicBool,
}

#[derive(Debug, Default)]
struct ComponentHealth {
    /// The last failure, until the component works again.
    failure: Option<String>,
    /// When a failure was last logged; kept after a recovery, so that a component that comes and goes does not fill the
    /// log.
    logged: Option<Instant>,
}

impl Health {
    /// Counts a failure, and logs it unless one of the same component was logged a moment ago. Whether the component had
    /// worked until then.
    pub(crate) fn report_failure(&self, component: Component, sentence: &str) -> bool {
        let failures = self.failures.fetch_add(1, Relaxed) + 1;
        let mut components = self.components();
        let state = &mut components[component as usize];
        let begins = state.failure.replace(sentence.to_owned()).is_none();
        let logged_recently = state.logged.is_some_and(|logged| logged.elapsed() < LOG_INTERVAL);
        if !logged_recently {
            state.logged = Some(Instant::now());
        }
        drop(components);
        if component == Component::Recording {
            self.recording_fails.store(true, Relaxed);
        }
        if !logged_recently {
            tracing::error!(failures, "audit: {sentence}");
        }
        begins
    }

    /// Counts and logs something that is over and cannot be mended, such as a record that cannot be read.
    pub(crate) fn report_incident(&self, sentence: &str) {
        let failures = self.failures.fetch_add(1, Relaxed) + 1;
        tracing::error!(failures, "audit: {sentence}");
    }

    /// The component works. Logged when it had failed.
    pub(crate) fn report_success(&self, component: Component) {
        let mut components = self.components();
        let state = &mut components[component as usize];
        let failure = state.failure.take();
        let lasted = state.logged.is_some_and(|logged| logged.elapsed() >= MIN_LOGGED_OUTAGE);
        drop(components);
        if component == Component::Recording {
            self.recording_fails.store(false, Relaxed);
        }
        if let Some(failure) = failure.filter(|_| lasted) {
            tracing::info!("audit: works again, after: {failure}");
        }
    }

    /// Whether the last attempt to record a request failed.
    pub(crate) fn recording_fails(&self) -> bool {
        self.recording_fails.load(Relaxed)
    }

    /// Failures of all components since the daemon's start.
    pub(crate) fn failures_total(&self) -> u64 {
        self.failures.load(Relaxed)
    }

    /// The gravest failure at the moment, in a sentence.
    pub(crate) fn gravest_failure(&self) -> Option<String> {
        self.components().iter().find_map(|component| component.failure.clone())
    }

    fn components(&self) -> MutexGuard<'_, [ComponentHealth; 3]> {
        self.components.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
