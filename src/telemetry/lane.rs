//! How it goes with the exports of one signal: when the next one may be tried, and when the log is to hear of a failure.
//! Each signal has its own, because collectors often take one of them only.

use std::time::Duration;

use tokio::time::Instant;

/// The pause after a failure doubles from the first to the second, and has jitter.
const PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(60);
/// A collector may ask for a longer one, up to this.
const MAX_ASKED: Duration = Duration::from_secs(300);
/// How often the log tells that a collector takes nothing.
const REMIND: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Lane {
    pause: Duration,
    resume: Option<Instant>,
    /// When the log last told of a failure.
    told: Option<Instant>,
    /// The log has not told yet that this is over.
    end_is_untold: bool,
}

impl Lane {
    pub(super) fn new() -> Lane {
        Lane { pause: PAUSE, resume: None, told: None, end_is_untold: false }
    }

    /// Whether an export may be tried.
    pub(super) fn is_open(&self, now: Instant) -> bool {
        self.resume.is_none_or(|resume| now >= resume)
    }

    /// An export was taken. Whether the log is to tell it, because it had told of a failure.
    pub(super) fn is_well_again(&mut self) -> bool {
        self.pause = PAUSE;
        self.resume = None;
        std::mem::take(&mut self.end_is_untold)
    }

    /// An export failed; the collector may have `asked` for a pause. `jitter` is from 0 to 1. Whether the log is to tell it.
    pub(super) fn fails(&mut self, now: Instant, asked: Option<Duration>, jitter: f64) -> bool {
        let own = self.pause.mul_f64(0.5 + jitter / 2.0);
        self.resume = Some(now + asked.map_or(own, |asked| asked.clamp(own, MAX_ASKED)));
        self.pause = (self.pause * 2).min(MAX_PAUSE);
        let is_due = self.told.is_none_or(|told| now >= told + REMIND);
        if is_due {
            (self.told, self.end_is_untold) = (Some(now), true);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_a_bound_and_end_with_the_first_success() {
        let (mut lane, mut now) = (Lane::new(), Instant::now());
        assert!(lane.is_open(now));
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            lane.fails(now, None, 1.0);
            let pause = Duration::from_secs(seconds);
            assert!(!lane.is_open(now + pause - Duration::from_millis(1)) && lane.is_open(now + pause), "{seconds}");
            now += pause;
        }
        assert!(lane.is_well_again() && lane.is_open(now));
        lane.fails(now, None, 0.0);
        assert!(lane.is_open(now + PAUSE / 2));
    }

    #[test]
    fn a_collector_may_ask_for_a_longer_pause_within_reason() {
        let (mut lane, now) = (Lane::new(), Instant::now());
        lane.fails(now, Some(Duration::from_secs(90)), 1.0);
        assert!(!lane.is_open(now + Duration::from_secs(89)) && lane.is_open(now + Duration::from_secs(90)));
        lane.fails(now, Some(Duration::MAX), 1.0);
        assert!(lane.is_open(now + MAX_ASKED));
        lane.fails(now, Some(Duration::ZERO), 1.0);
        assert!(!lane.is_open(now), "the daemon's own pause is the least");
    }

    #[test]
    fn failures_are_told_once_a_minute() {
        let (mut lane, now) = (Lane::new(), Instant::now());
        let at = |seconds| now + Duration::from_secs(seconds);
        let told = [0, 1, 59, 60, 61, 120].map(|seconds| lane.fails(at(seconds), None, 1.0));
        assert_eq!(told, [true, false, false, true, false, true]);
        assert!(lane.is_well_again() && !lane.is_well_again());
        assert!(!lane.fails(at(121), None, 1.0) && !lane.is_well_again(), "a collector that fails now and then");
        assert!(lane.fails(at(180), None, 1.0) && lane.is_well_again());
    }
}
