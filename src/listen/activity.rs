//! What goes on on one connection: requests in progress, the last sign of life, and answers that nobody takes.
//!
//! The paths that bytes take only leave notes here. The connection's own task reads them from time to time, so that no
//! timer is set for a read or a write.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::workers::{self, Busy};

/// Longer than what HTTP/2 writes of itself: pings, settings, window updates.
const CONTROL_FRAME: usize = 64;

/// How long a connection that was asked to end is expected to take, and how soon after that a request has set out before
/// its client could know.
const LEAVE: Duration = Duration::from_secs(2);
const CROSSING: Duration = Duration::from_millis(500);
/// A body that has come for less time is not called slow.
const LEAST_AGE: Duration = Duration::from_secs(5);

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
    leaving: Mutex<Leaving>,
    /// Whether any is.
    any_leaving: AtomicBool,
    /// The place is needed for somebody else.
    unwanted: AtomicBool,
    told: Notify,
    /// When it was told.
    told_at: AtomicU64,
    /// It is to end at once.
    late: Notify,
    arrivals: Mutex<Vec<Weak<Arrival>>>,
}

/// A request's body that is being received.
#[derive(Debug)]
pub(crate) struct Arrival {
    since: Instant,
    received: AtomicU64,
    ended: AtomicBool,
    unwanted: Notify,
}

impl Arrival {
    /// So many more bytes have come.
    pub(crate) fn received(&self, count: usize) {
        self.received.fetch_add(count as u64, Relaxed);
    }

    /// All has come, or no more is waited for.
    pub(crate) fn ended(&self) {
        self.ended.store(true, Relaxed);
    }

    /// Waits until its place is needed for somebody else.
    pub(crate) async fn until_unwanted(&self) {
        self.unwanted.notified().await;
    }
}

/// An answer that can be ended before its end.
pub(crate) trait Cut: std::fmt::Debug + Send + Sync {
    /// Since when its next bytes have not been asked for, by `Activity::now`.
    fn waiting_since(&self) -> Option<u64>;
    /// Ends it, as one that its client did not take.
    fn cut(&self);
    /// The socket has taken all of it.
    fn delivered(&self);
}

/// Answers that the HTTP library has taken whole, and the socket perhaps not.
#[derive(Debug, Default)]
struct Leaving {
    answers: Vec<Arc<dyn Cut>>,
    /// The connection is gone.
    closed: bool,
}

/// A request in progress.
#[derive(Debug)]
pub(crate) struct InProgress(
    Arc<Activity>,
    #[expect(dead_code, reason = "it counts as long as it is held")] Option<Busy>,
);

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
            leaving: Mutex::default(),
            any_leaving: AtomicBool::new(false),
            unwanted: AtomicBool::new(false),
            told: Notify::new(),
            told_at: AtomicU64::new(0),
            late: Notify::new(),
            arrivals: Mutex::default(),
        })
    }

    /// Milliseconds from the connection's start, from 1.
    pub(crate) fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1)
    }

    pub(crate) fn request(self: &Arc<Self>) -> InProgress {
        self.requests.fetch_add(1, Relaxed);
        if self.is_told() && self.since(self.told_at.load(Relaxed)) >= CROSSING {
            self.late.notify_one();
        }
        InProgress(Arc::clone(self), workers::busy())
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

    /// This answer is told when the socket has taken all that was written; until then it can be cut.
    pub(super) fn await_flush(&self, answer: Arc<dyn Cut>) {
        let mut leaving = self.leaving();
        if !leaving.closed {
            leaving.answers.push(answer);
            self.any_leaving.store(true, Relaxed);
        }
    }

    /// The socket has taken all that was written.
    pub(super) fn flushed(&self) {
        if self.any_leaving.load(Relaxed) {
            self.any_leaving.store(false, Relaxed);
            let answers = std::mem::take(&mut self.leaving().answers);
            answers.iter().for_each(|answer| answer.delivered());
        }
    }

    /// The connection has ended, and the socket takes no more.
    pub(super) fn closed(&self) {
        let answers = {
            let mut leaving = self.leaving();
            leaving.closed = true;
            std::mem::take(&mut leaving.answers)
        };
        drop(answers);
    }

    fn leaving(&self) -> MutexGuard<'_, Leaving> {
        self.leaving.lock().unwrap_or_else(PoisonError::into_inner)
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
            self.told_at.store(self.now(), Relaxed);
            self.told.notify_one();
        }
        first
    }

    /// Whether it has been asked to end.
    pub(crate) fn is_told(&self) -> bool {
        self.unwanted.load(Relaxed)
    }

    /// Whether it was asked to end a moment ago, so that it can be expected to.
    pub(crate) fn is_leaving(&self) -> bool {
        self.is_told() && self.since(self.told_at.load(Relaxed)) < LEAVE
    }

    /// Ends it at once, and its answers with it.
    pub(super) fn evict(&self) {
        self.cut_all();
        self.late.notify_one();
    }

    /// Waits until it has to end at once: a request has begun after it was asked to, or its client has stalled.
    pub(super) async fn until_late(&self) {
        self.late.notified().await;
    }

    /// A request's body begins to come.
    pub(super) fn arrival(&self) -> Arc<Arrival> {
        let arrival = Arc::new(Arrival {
            since: Instant::now(),
            received: AtomicU64::new(0),
            ended: AtomicBool::new(false),
            unwanted: Notify::new(),
        });
        let mut arrivals = self.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
        arrivals.retain(|known| known.strong_count() > 0);
        arrivals.push(Arc::downgrade(&arrival));
        arrival
    }

    /// Bytes a second of its slowest body; none unless all its requests are bodies that have come for a while.
    pub(super) fn slowest_arrival(&self) -> Option<u64> {
        let arriving = self.arriving();
        if arriving.len() != self.requests.load(Relaxed) || arriving.iter().any(|one| one.since.elapsed() < LEAST_AGE) {
            return None;
        }
        arriving.iter().map(|one| one.received.load(Relaxed) / one.since.elapsed().as_secs().max(1)).min()
    }

    /// Ends the bodies that are being received.
    pub(super) fn cut_arrivals(&self) {
        for arrival in self.arriving() {
            arrival.unwanted.notify_one();
        }
    }

    fn arriving(&self) -> Vec<Arc<Arrival>> {
        let arrivals = self.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
        arrivals.iter().filter_map(Weak::upgrade).filter(|arrival| !arrival.ended.load(Relaxed)).collect()
    }

    /// Waits until it is asked to end.
    pub(super) async fn until_told(&self) {
        self.told.notified().await;
    }

    fn since(&self, moment: u64) -> Duration {
        Duration::from_millis(self.now().saturating_sub(moment))
    }
}
