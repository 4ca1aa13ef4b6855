//! A wall clock that jumps, beside one that tells the truth.

use std::sync::atomic::{AtomicI64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use crate::ledger::clock::{Clock, now_ms};

pub(super) const HOUR_MS: i64 = 3_600_000;
pub(super) const DAY_MS: i64 = 24 * HOUR_MS;

#[derive(Debug, Default)]
pub(super) struct TestClock {
    /// Milliseconds that have passed beside those of the test itself.
    passed_ms: AtomicI64,
    /// Of them those that a process of this host was there to see.
    seen_ms: AtomicI64,
    /// By so much the wall clock is wrong.
    error_ms: AtomicI64,
}

impl TestClock {
    /// The true time.
    pub(super) fn true_ms(&self) -> i64 {
        now_ms() + self.passed_ms.load(SeqCst)
    }

    pub(super) fn pass(&self, ms: i64) {
        self.passed_ms.fetch_add(ms, SeqCst);
        self.seen_ms.fetch_add(ms, SeqCst);
    }

    /// Time passes while the host is down.
    pub(super) fn pass_unseen(&self, ms: i64) {
        self.passed_ms.fetch_add(ms, SeqCst);
    }

    pub(super) fn set_error(&self, ms: i64) {
        self.error_ms.store(ms, SeqCst);
    }

    pub(super) fn is_right(&self) -> bool {
        self.error_ms.load(SeqCst) == 0
    }
}

impl Clock for TestClock {
    fn now_ms(&self) -> i64 {
        self.true_ms() + self.error_ms.load(SeqCst)
    }

    fn instant(&self) -> Instant {
        Instant::now() + Duration::from_millis(self.seen_ms.load(SeqCst).unsigned_abs())
    }
}
