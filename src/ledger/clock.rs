//! The wall clock.

/// Milliseconds since 1970-01-01T00:00:00Z, by a clock that an admin or NTP may set.
pub(crate) fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}
