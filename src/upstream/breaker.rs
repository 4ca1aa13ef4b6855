//! Whether an upstream is worth asking, for each of its planes: what its latest calls came to opens the breaker for a
//! while, and the next call after that is the only one until it has shown how the upstream is.
//!
//! An open breaker refuses nobody. Requests go to other upstreams first; where there is none, they are sent all the same
//! (`forward/line.rs`).

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::jitter::random;
use crate::operation::Plane;
use crate::upstream::pool::Handshake;

/// So many connects in a row must fail for the breaker to open…
const UNREACHED_IN_A_ROW: u32 = 3;
/// …or at least half of so many calls or more, within the window.
const LEAST_CALLS: u32 = 10;
/// The window is as long as all buckets; the oldest one is dropped as a new one begins.
const BUCKETS: usize = 10;
const BUCKET: Duration = Duration::from_secs(3);
/// How long it stays open at first. Each further time takes twice as long, unless it was closed for `FORGIVEN_AFTER`
/// in between. Up to a quarter is taken off at random, so that many hosts do not come back together.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
const FORGIVEN_AFTER: Duration = Duration::from_secs(60);
/// A probe that has not ended by then is joined by another one: models may think for minutes.
const LONGEST_PROBE: Duration = Duration::from_secs(60);

/// What a call came to, as far as it tells of the upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    /// It answered, and not with a failure of its own.
    Served,
    /// 429. The upstream is there; whether it has room for other models is not known (`throttled.rs`).
    Throttled,
    /// 5xx, no answer in time, or a connection that broke before one.
    Failed,
    /// There was no connection, or none that took the request. Many may have waited for the same handshake, and others for
    /// one that was under way at the same time: they count once. None where there were several.
    Unreached { handshake: Option<Handshake> },
}

/// Where a breaker stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Position {
    Closed,
    HalfOpen,
    Open,
}

impl Position {
    /// The value of the metric.
    pub(crate) fn number(self) -> i64 {
        match self {
            Position::Closed => 0,
            Position::HalfOpen => 1,
            Position::Open => 2,
        }
    }

    /// The word in `/status`.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Position::Closed => "closed",
            Position::HalfOpen => "half-open",
            Position::Open => "open",
        }
    }
}

/// For `/status`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Status {
    pub position: Position,
    /// Why it is not closed.
    pub reason: Option<&'static str>,
    /// Until the next call is let through as a probe; none unless it is open.
    pub probe_in: Option<Duration>,
}

/// What a breaker says to a request that could go to its upstream.
#[derive(Debug)]
pub(crate) enum Turn<'a> {
    Go,
    /// The one call that may show that the upstream is well again, as long as this is held.
    Probe(Probe<'a>),
    /// Others first.
    PassOver,
}

/// The breaker of one plane of one upstream.
#[derive(Debug)]
pub(crate) struct Breaker {
    region: String,
    plane: Plane,
    inner: Mutex<Inner>,
}

/// Held while the probe is under way. Dropped without a result, as when the client leaves, it lets another one follow.
#[derive(Debug)]
pub(crate) struct Probe<'a> {
    breaker: &'a Breaker,
    number: u64,
}

impl Drop for Probe<'_> {
    fn drop(&mut self) {
        self.breaker.lock().probe_ended(self.number);
    }
}

impl Breaker {
    pub(crate) fn new(region: &str, plane: Plane, now: Instant) -> Breaker {
        Breaker { region: region.to_owned(), plane, inner: Mutex::new(Inner::new(now)) }
    }

    /// Whether a request should be sent now.
    pub(crate) fn turn(&self, now: Instant) -> Turn<'_> {
        match self.lock().turn(now) {
            Permitted::Go => Turn::Go,
            Permitted::Probe(number) => Turn::Probe(Probe { breaker: self, number }),
            Permitted::No => Turn::PassOver,
        }
    }

    /// Takes down what a call came to that began at `began`.
    pub(crate) fn seen(&self, began: Instant, now: Instant, seen: Seen) {
        let change = self.lock().seen(began, now, seen, random);
        let (region, plane) = (self.region.as_str(), self.plane.name());
        match change {
            None => {}
            Some(Change::Opened { why, pause }) => tracing::warn!(
                region,
                plane,
                reason = why.sentence(),
                pause_seconds = pause.as_secs_f32(),
                "breaker opened: requests go to other upstreams first"
            ),
            Some(Change::OpenedAgain { why, pause }) => tracing::warn!(
                region,
                plane,
                reason = why.sentence(),
                pause_seconds = pause.as_secs_f32(),
                "breaker half-open: the probe failed, so it stays open"
            ),
            Some(Change::Closed) => tracing::info!(region, plane, "breaker closed: the upstream answers again"),
        }
    }

    pub(crate) fn status(&self, now: Instant) -> Status {
        self.lock().status(now)
    }

    /// It is open, or waits for its probe, because no connection could be had.
    pub(crate) fn is_unreachable(&self) -> bool {
        matches!(
            self.lock().phase,
            Phase::Open { why: Why::Unreachable, .. } | Phase::HalfOpen { why: Why::Unreachable, .. }
        )
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every critical section replaces whole values.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a breaker opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    Unreachable,
    Failing,
}

impl Why {
    fn sentence(self) -> &'static str {
        match self {
            Why::Unreachable => "connections failed several times in a row",
            Why::Failing => "at least half of its answers failed within 30 s",
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    Closed,
    Open { why: Why, since: Instant, until: Instant },
    HalfOpen { why: Why, since: Instant, overdue: Instant, probe: u64 },
}

#[derive(Debug, PartialEq, Eq)]
enum Permitted {
    Go,
    Probe(u64),
    No,
}

#[derive(Debug, PartialEq, Eq)]
enum Change {
    Opened { why: Why, pause: Duration },
    OpenedAgain { why: Why, pause: Duration },
    Closed,
}

/// The state machine. It reads no clock and draws no number itself.
#[derive(Debug)]
struct Inner {
    phase: Phase,
    /// In a row, and when the latest of them was told.
    unreached: u32,
    failed: Instant,
    /// The last handshake that had begun when the latest one that was counted failed. Those up to it tell nothing new.
    handshake: u64,
    window: Window,
    /// In a row; they make the pause grow.
    openings: u32,
    closed: Instant,
    probes: u64,
}

impl Inner {
    fn new(now: Instant) -> Inner {
        let window = Window::new(now);
        Inner {
            phase: Phase::Closed,
            unreached: 0,
            failed: now,
            handshake: 0,
            window,
            openings: 0,
            closed: now,
            probes: 0,
        }
    }

    fn turn(&mut self, now: Instant) -> Permitted {
        let (why, since) = match self.phase {
            Phase::Closed => return Permitted::Go,
            Phase::Open { why, since, until } if now >= until => (why, since),
            Phase::HalfOpen { why, since, overdue, .. } if now >= overdue => (why, since),
            Phase::Open { .. } | Phase::HalfOpen { .. } => return Permitted::No,
        };
        self.probes += 1;
        self.phase = Phase::HalfOpen { why, since, overdue: now + LONGEST_PROBE, probe: self.probes };
        Permitted::Probe(self.probes)
    }

    fn probe_ended(&mut self, number: u64) {
        if let Phase::HalfOpen { why, since, probe, .. } = self.phase
            && probe == number
        {
            self.phase = Phase::Open { why, since, until: since };
        }
    }

    fn seen(&mut self, began: Instant, now: Instant, seen: Seen, draw: impl FnOnce() -> u64) -> Option<Change> {
        let is_well = matches!(seen, Seen::Served | Seen::Throttled);
        let is_unreached = matches!(seen, Seen::Unreached { .. });
        // Who came before the last failure has seen the same incident, whichever handshake it waited for.
        if is_unreached && self.unreached > 0 && began < self.failed {
            return None;
        }
        if let Seen::Unreached { handshake: Some(handshake) } = seen {
            if handshake.number <= self.handshake {
                return None;
            }
            self.handshake = handshake.last.max(handshake.number);
        }
        match self.phase {
            Phase::Closed => {
                self.unreached = if is_unreached { self.unreached + 1 } else { 0 };
                if is_unreached {
                    self.failed = now;
                }
                if seen != Seen::Throttled {
                    self.window.add(now, !is_well);
                }
                let why = if self.unreached >= UNREACHED_IN_A_ROW {
                    Why::Unreachable
                } else if !is_well && self.window.is_bad() {
                    Why::Failing
                } else {
                    return None;
                };
                if now.saturating_duration_since(self.closed) >= FORGIVEN_AFTER {
                    self.openings = 0;
                }
                let pause = self.open(why, now, draw());
                Some(Change::Opened { why, pause })
            }
            // A call from before the opening tells nothing new.
            Phase::Open { since, .. } | Phase::HalfOpen { since, .. } if began < since => None,
            Phase::Open { .. } | Phase::HalfOpen { .. } if is_well => {
                let Inner { openings, probes, handshake, .. } = *self;
                *self = Inner { openings, probes, handshake, ..Inner::new(now) };
                Some(Change::Closed)
            }
            // Whoever had nowhere else to go was sent here all the same.
            Phase::Open { .. } => None,
            Phase::HalfOpen { .. } => {
                let why = if is_unreached { Why::Unreachable } else { Why::Failing };
                let pause = self.open(why, now, draw());
                Some(Change::OpenedAgain { why, pause })
            }
        }
    }

    fn open(&mut self, why: Why, now: Instant, draw: u64) -> Duration {
        let whole = FIRST_PAUSE.saturating_mul(1 << self.openings.min(8)).min(LONGEST_PAUSE);
        let pause = whole - whole / 4 * u32::try_from(draw % 1_000).unwrap_or(0) / 1_000;
        self.openings = self.openings.saturating_add(1);
        self.phase = Phase::Open { why, since: now, until: now + pause };
        pause
    }

    fn status(&self, now: Instant) -> Status {
        let reason = |why: Why| Some(why.sentence());
        match self.phase {
            Phase::Closed => Status { position: Position::Closed, reason: None, probe_in: None },
            Phase::HalfOpen { why, .. } => Status { position: Position::HalfOpen, reason: reason(why), probe_in: None },
            Phase::Open { why, until, .. } => Status {
                position: Position::Open,
                reason: reason(why),
                probe_in: Some(until.saturating_duration_since(now)),
            },
        }
    }
}

/// Calls and failures of the last while.
#[derive(Debug)]
struct Window {
    began: Instant,
    /// The number of the newest bucket, from the beginning of time.
    newest: u64,
    buckets: [(u32, u32); BUCKETS],
}

impl Window {
    fn new(now: Instant) -> Window {
        Window { began: now, newest: 0, buckets: [(0, 0); BUCKETS] }
    }

    fn add(&mut self, now: Instant, failed: bool) {
        let number = now.saturating_duration_since(self.began).as_secs() / BUCKET.as_secs();
        let passed = number.saturating_sub(self.newest).min(BUCKETS as u64);
        for step in 1..=passed {
            self.buckets[place(self.newest + step)] = (0, 0);
        }
        if passed == BUCKETS as u64 {
            self.buckets = [(0, 0); BUCKETS];
        }
        self.newest = self.newest.max(number);
        let bucket = &mut self.buckets[place(self.newest)];
        bucket.0 = bucket.0.saturating_add(1);
        bucket.1 = bucket.1.saturating_add(u32::from(failed));
    }

    fn is_bad(&self) -> bool {
        let (calls, failed) = self.buckets.iter().fold((0_u64, 0_u64), |(calls, failed), bucket| {
            (calls + u64::from(bucket.0), failed + u64::from(bucket.1))
        });
        calls >= u64::from(LEAST_CALLS) && failed * 2 >= calls
    }
}

fn place(number: u64) -> usize {
    usize::try_from(number % BUCKETS as u64).unwrap_or(0)
}

#[cfg(test)]
mod tests;
