//! What goes on on one connection: requests in progress, the last sign of life, and answers that nobody takes.
//!
//! The paths that bytes take only leave notes here. The connection's own task reads them from time to time, so that no
//! timer is set for a read or a write.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// Longer than what HTTP/2 writes of itself: pings, settings, window updates.
const CONTROL_FRAME: usize = 64;

/// Of one connection.
#[derive(Debug)]
pub(crate) struct Activity {
    start: Instant,
    /// Whose answers have not ended.
    requests: AtomicUsize,
    /// When the last request ended, or its last bytes were written.
    busy: AtomicU64,
    /// Since when the socket has taken nothing, while there is something to send; 0 otherwise.
    blocked: AtomicU64,
    /// Those that HTTP/2 may hold back one by one.
    answers: Mutex<Vec<Weak<dyn Cut>>>,
    /// The place is needed for somebody else.
    unwanted: AtomicBool,
    told: Notify,
}

/// An answer that can be ended before its end.
pub(crate) trait Cut: std::fmt::Debug + Send + Sync {
    /// Since when its next bytes have not been asked for, by `Activity::now`.
    fn waiting_since(&self) -> Option<u64>;
    /// Ends it, as one that its client did not take.
    fn cut(&self);
}

/// A request in progress.
#[derive(Debug)]
pub(crate) struct InProgress(Arc<Activity>);

impl Drop for InProgress {
    fn drop(&mut self) {
        self.0.busy.store(self.0.now(), Relaxed);
        self.0.requests.fetch_sub(1, Relaxed);
    }
}

impl Activity {
    pub(crate) fn new() -> Arc<Activity> {
        Arc::new(Activity {
            start: Instant::now(),
            requests: AtomicUsize::new(0),
            busy: AtomicU64::new(1),
            blocked: AtomicU64::new(0),
            answers: Mutex::default(),
            unwanted: AtomicBool::new(false),
            told: Notify::new(),
        })
    }

    /// Milliseconds from the connection's start, from 1.
    pub(crate) fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1)
    }

    pub(crate) fn request(self: &Arc<Self>) -> InProgress {
        self.requests.fetch_add(1, Relaxed);
        InProgress(Arc::clone(self))
    }

    /// For how long no request has been in progress; none while one is, or while the end of an answer is being sent.
    pub(crate) fn idle(&self) -> Option<Duration> {
        let busy = self.requests.load(Relaxed) > 0 || self.blocked.load(Relaxed) > 0;
        (!busy).then(|| self.since(self.busy.load(Relaxed)))
    }

    /// For how long the socket has taken nothing; none while it takes what there is.
    pub(crate) fn blocked(&self) -> Option<Duration> {
        Some(self.blocked.load(Relaxed)).filter(|since| *since > 0).map(|since| self.since(since))
    }

    /// The client's kernel takes bytes, although the socket has no room for more yet.
    pub(crate) fn moves(&self) {
        self.blocked.store(self.now(), Relaxed);
    }

    /// The socket has taken so many bytes.
    pub(super) fn wrote(&self, count: usize) {
        if self.blocked.load(Relaxed) > 0 {
            self.blocked.store(0, Relaxed);
        }
        if count > CONTROL_FRAME {
            self.busy.store(self.now(), Relaxed);
        }
    }

    /// The socket has no room.
    pub(super) fn waits(&self) {
        if self.blocked.load(Relaxed) == 0 {
            self.blocked.store(self.now(), Relaxed);
        }
    }

    /// Adds an answer to those that `cut_waiting` looks at.
    pub(super) fn watch(&self, answer: Weak<dyn Cut>) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.retain(|known| known.strong_count() > 0);
        answers.push(answer);
    }

    /// Cuts every answer whose bytes have waited so long, and says how many.
    pub(super) fn cut_waiting(&self, longest: Duration) -> usize {
        self.cut(|answer| answer.waiting_since().is_some_and(|since| self.since(since) >= longest))
    }

    /// Cuts all answers.
    pub(super) fn cut_all(&self) {
        self.cut(|_| true);
    }

    fn cut(&self, condemned: impl Fn(&dyn Cut) -> bool) -> usize {
        let answers: Vec<Arc<dyn Cut>> = {
            let known = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
            known.iter().filter_map(Weak::upgrade).collect()
        };
        answers.iter().filter(|answer| condemned(&***answer)).map(|answer| answer.cut()).count()
    }

    /// Asks the connection to end; true the first time.
    pub(crate) fn tell(&self) -> bool {
        let first = !self.unwanted.swap(true, Relaxed);
        if first {
            self.told.notify_one();
        }
        first
    }

    /// Whether it has been asked to end.
    pub(crate) fn is_told(&self) -> bool {
        self.unwanted.load(Relaxed)
    }

    /// Waits until it is asked to end.
    pub(super) async fn until_told(&self) {
        self.told.notified().await;
    }

    fn since(&self, moment: u64) -> Duration {
        Duration::from_millis(self.now().saturating_sub(moment))
    }
}
