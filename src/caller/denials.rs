//! The log of refused requests, bounded: any local process can cause any number of refusals.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use crate::error::Refusal;

const WINDOW: Duration = Duration::from_secs(60);
const PER_WINDOW: u32 = 30;

#[derive(Debug, Default)]
pub(super) struct Denials(Mutex<Window>);

#[derive(Debug, Default)]
struct Window {
    start: Option<SystemTime>,
    reported: u32,
    passed_over: u64,
}

impl Denials {
    pub(super) fn report(&self, uid: Option<u32>, caller: Option<&str>, refusal: &Refusal, now: SystemTime) {
        let Some(passed_over) = self.admit(now) else { return };
        if passed_over > 0 {
            tracing::warn!(passed_over, "more requests were refused than were logged in the last minute");
        }
        tracing::warn!(uid, caller, error = refusal.kind.error_type(), reason = %refusal, "request refused");
    }

    /// Whether this one may be logged, and how many before it were not.
    fn admit(&self, now: SystemTime) -> Option<u64> {
        let mut window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let current = window.start.is_some_and(|start| now.duration_since(start).is_ok_and(|age| age < WINDOW));
        let mut passed_over = 0;
        if !current {
            passed_over = std::mem::take(&mut *window).passed_over;
            window.start = Some(now);
        }
        if window.reported >= PER_WINDOW {
            window.passed_over += 1;
            return None;
        }
        window.reported += 1;
        Some(passed_over)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_logged_in_part_and_counted_in_full() {
        let denials = Denials::default();
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let logged = (0..1000).filter(|_| denials.admit(start).is_some()).count();
        assert_eq!(logged, 30);
        assert_eq!(denials.admit(start + WINDOW), Some(970));
        assert_eq!(denials.admit(start + WINDOW), Some(0));
    }
}
