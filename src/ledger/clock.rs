//! The clocks of the host: the wall clock, and the one that never jumps.

use std::fmt::Debug;
use std::time::Instant;

/// Milliseconds since 1970-01-01T00:00:00Z, by a clock that an admin or NTP may set.
pub(crate) fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

/// What deletes records for their age asks this, so that tests can put clocks there that jump.
pub(crate) trait Clock: Debug + Send + Sync {
    /// As [`now_ms`].
    fn now_ms(&self) -> i64 {
        now_ms()
    }

    /// By a clock that nobody sets.
    fn instant(&self) -> Instant {
        Instant::now()
    }
}

/// The one that the daemon uses.
#[derive(Debug)]
pub(crate) struct RealClock;

impl Clock for RealClock {}
