//! Time as the limits see it, so that tests can turn it by hand.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::Notify;

/// Nanoseconds in a second.
pub(super) const SECOND: u64 = 1_000_000_000;

/// A span of time in nanoseconds; one of more than 584 years is the longest there is.
pub(super) fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

/// A clock that never goes back, and the calendar's time.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// Nanoseconds since some start. They go on while the host sleeps: a lease that ran out meanwhile has run out.
    fn now(&self) -> u64;

    /// Seconds since 1970-01-01T00:00:00Z. May be wrong, and may jump.
    fn utc(&self) -> u64;

    /// Names the boot of the host, within which `now` goes on over restarts of the daemon; none when nobody knows. Each boot
    /// begins near 0.
    fn boot(&self) -> Option<String>;

    /// Returns once `now` has reached `at`.
    fn sleep_until(&self, at: u64) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
}

impl<C: Clock> Clock for Arc<C> {
    fn now(&self) -> u64 {
        C::now(self)
    }

    fn utc(&self) -> u64 {
        C::utc(self)
    }

    fn boot(&self) -> Option<String> {
        C::boot(self)
    }

    fn sleep_until(&self, at: u64) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        C::sleep_until(self, at)
    }
}

/// The host's clocks.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> u64 {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        time.tv_sec.unsigned_abs() * SECOND + time.tv_nsec.unsigned_abs()
    }

    fn utc(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
    }

    fn boot(&self) -> Option<String> {
        let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        Some(id.trim().to_owned()).filter(|id| !id.is_empty())
    }

    fn sleep_until(&self, at: u64) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        // The timer wheel counts whole milliseconds; a nanosecond too early would only cost another turn.
        Box::pin(tokio::time::sleep(Duration::from_nanos(at.saturating_sub(self.now()))))
    }
}

/// A clock that stands still until it is advanced.
#[derive(Debug, Default)]
pub struct VirtualClock {
    now: AtomicU64,
    utc: AtomicU64,
    boots: AtomicU64,
    advanced: Notify,
}

impl VirtualClock {
    /// Starts at noon, 2025-11-22 UTC.
    pub fn new() -> Arc<VirtualClock> {
        Arc::new(VirtualClock {
            now: 0.into(),
            utc: 1_763_812_800_000_000_000.into(),
            boots: 0.into(),
            advanced: Notify::new(),
        })
    }

    /// Turns the clock and the calendar on, and wakes who sleeps.
    pub fn advance(&self, by: Duration) {
        let by = nanos(by);
        self.now.fetch_add(by, Ordering::SeqCst);
        self.utc.fetch_add(by, Ordering::SeqCst);
        self.advanced.notify_waiters();
    }

    /// Begins a new boot of the host; the calendar goes on.
    pub fn reboot(&self) {
        self.boots.fetch_add(1, Ordering::SeqCst);
        self.now.store(0, Ordering::SeqCst);
    }

    /// Sets the calendar alone, as a step of the host's clock does.
    pub fn set_utc(&self, seconds: u64) {
        self.utc.store(seconds * SECOND, Ordering::SeqCst);
    }
}

impl Clock for VirtualClock {
    fn now(&self) -> u64 {
        self.now.load(Ordering::SeqCst)
    }

    fn utc(&self) -> u64 {
        self.utc.load(Ordering::SeqCst) / SECOND
    }

    fn boot(&self) -> Option<String> {
        Some(self.boots.load(Ordering::SeqCst).to_string())
    }

    fn sleep_until(&self, at: u64) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async move {
            loop {
                let advanced = self.advanced.notified();
                tokio::pin!(advanced);
                // Registered before the check, so that no step falls between.
                advanced.as_mut().enable();
                if self.now() >= at {
                    return;
                }
                advanced.await;
            }
        })
    }
}
