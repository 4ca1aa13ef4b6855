//! How far an upstream's clock is ahead of this host's. Signatures carry a date, and the upstream judges it by its own
//! clock: what it refuses is signed again with its time, if that can be believed.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A clock that is off by less than this is not what a refused signature is about.
const NOTABLE_SKEW_MS: i64 = 30_000;
/// A clock that is off by more than this is not believed, whoever says so.
const MOST_SKEW_MS: i64 = 24 * 3600 * 1000;
/// How often the log says that an upstream's clock is not believed.
const DISBELIEF_EVERY_MS: u64 = 60_000;

/// What is known of an upstream's clock. It reads no clock itself.
#[derive(Debug, Default)]
pub(super) struct Clock {
    /// How far it is ahead of ours, in milliseconds, as far as that mattered.
    offset: AtomicI64,
    /// Answers whose time was not believed, and that /metrics has not counted yet.
    disbelieved: AtomicU64,
    /// Milliseconds of our clock when the log last said so.
    said: AtomicU64,
}

/// What an upstream's claim of its time leads to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Learnt {
    /// An attempt would now be signed with another date than the one that was refused.
    pub helps: bool,
    /// What the log should say.
    pub news: Option<News>,
}

/// With the milliseconds that the upstream's clock is ahead.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum News {
    Differs(i64),
    NotBelieved(i64),
}

impl Clock {
    /// One that starts from what another one knows.
    pub(super) fn starting_from(other: &Clock) -> Clock {
        Clock { offset: AtomicI64::new(other.offset()), ..Clock::default() }
    }

    pub(super) fn offset(&self) -> i64 {
        self.offset.load(Ordering::Relaxed)
    }

    /// Takes over the upstream's time, which came as an answer to an attempt that was signed with the offset `used`. Of many
    /// that were refused together, only the first finds a clock that nobody has set right yet.
    pub(super) fn learn(&self, theirs: SystemTime, ours: SystemTime, used: i64) -> Learnt {
        let offset = offset_between(theirs, ours);
        if offset.unsigned_abs() > MOST_SKEW_MS.unsigned_abs() {
            let news = self.disbelieve(ours).then_some(News::NotBelieved(offset));
            // Another attempt may have found a time that can be believed.
            return Learnt { helps: is_notable(self.offset(), used), news };
        }
        let before = self.offset.swap(offset, Ordering::Relaxed);
        let news = is_notable(offset, before).then_some(News::Differs(offset));
        Learnt { helps: is_notable(offset, used), news }
    }

    /// True if the log should say so now.
    fn disbelieve(&self, ours: SystemTime) -> bool {
        self.disbelieved.fetch_add(1, Ordering::Relaxed);
        let now =
            ours.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
        let said = self.said.load(Ordering::Relaxed);
        let is_due = now.abs_diff(said) >= DISBELIEF_EVERY_MS;
        is_due && self.said.compare_exchange(said, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// How many answers claimed a time that was not believed since this was last asked.
    pub(super) fn take_disbelieved(&self) -> u64 {
        self.disbelieved.swap(0, Ordering::Relaxed)
    }
}

fn is_notable(offset: i64, other: i64) -> bool {
    offset.abs_diff(other) > NOTABLE_SKEW_MS.unsigned_abs()
}

/// How far the upstream's clock is ahead of ours, in whole milliseconds; negative when it is behind.
pub(crate) fn offset_between(theirs: SystemTime, ours: SystemTime) -> i64 {
    let millis = |gap: Duration| i64::try_from(gap.as_millis()).unwrap_or(i64::MAX);
    match theirs.duration_since(ours) {
        Ok(ahead) => millis(ahead),
        Err(behind) => -millis(behind.duration()),
    }
}

/// A clock's time, shifted by milliseconds; the clock's own where that is no time at all.
pub(crate) fn shifted(clock: SystemTime, millis: i64) -> SystemTime {
    let shift = Duration::from_millis(millis.unsigned_abs());
    let shifted = if millis >= 0 { clock.checked_add(shift) } else { clock.checked_sub(shift) };
    shifted.unwrap_or(clock)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 24 * 3600;

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    fn later(seconds: u64) -> SystemTime {
        now() + Duration::from_secs(seconds)
    }

    #[test]
    fn a_clock_that_differs_is_followed_and_said_once() {
        let clock = Clock::default();
        let news = Some(News::Differs(3_600_000));
        assert_eq!(clock.learn(later(3_600), now(), 0), Learnt { helps: true, news });
        assert_eq!(clock.offset(), 3_600_000);
        // Others were signed before that was known; one was not.
        assert_eq!(clock.learn(later(3_601), now(), 0), Learnt { helps: true, news: None });
        assert_eq!(clock.learn(later(3_601), now(), 3_600_000), Learnt { helps: false, news: None });
        assert_eq!(Clock::starting_from(&clock).offset(), 3_601_000);
        // Back again.
        let back = clock.learn(now(), now(), 3_601_000);
        assert_eq!(back, Learnt { helps: true, news: Some(News::Differs(0)) });
        assert_eq!(clock.take_disbelieved(), 0);
    }

    #[test]
    fn a_small_difference_is_not_what_a_refusal_is_about() {
        let clock = Clock::default();
        assert_eq!(clock.learn(later(30), now(), 0), Learnt { helps: false, news: None });
        assert!(clock.learn(later(31), now(), 0).helps);
    }

    #[test]
    fn a_time_that_is_more_than_a_day_away_is_counted_and_not_believed() {
        let clock = Clock::default();
        let not_believed = |seconds: i64| Some(News::NotBelieved(seconds * 1_000));
        let far = clock.learn(later(DAY + 1), now(), 0);
        assert_eq!(far, Learnt { helps: false, news: not_believed(86_401) });
        let past = now() - Duration::from_secs(DAY + 1);
        assert_eq!(clock.learn(past, now(), 0), Learnt { helps: false, news: None }, "said a moment ago");
        assert_eq!(clock.learn(later(DAY + 61), later(60), 0).news, not_believed(86_401), "and again after a minute");
        assert_eq!((clock.offset(), clock.take_disbelieved(), clock.take_disbelieved()), (0, 3, 0));
        // Another attempt has found a time that can be believed.
        clock.learn(later(DAY), now(), 0);
        assert_eq!(clock.offset(), 86_400_000);
        assert!(clock.learn(later(2 * DAY), now(), 0).helps);
    }

    #[test]
    fn a_clock_is_shifted_whatever_it_is_shifted_by() {
        for offset in [0, 1, -1, 86_400_000, -86_400_000] {
            assert_eq!(offset_between(shifted(now(), offset), now()), offset);
        }
        for offset in [i64::MAX, i64::MIN, i64::MIN + 1] {
            let _ = shifted(now(), offset);
        }
        let end = httpdate::parse_http_date("Fri, 31 Dec 9999 23:59:59 GMT").unwrap();
        assert!(offset_between(end, now()) > 0 && offset_between(now(), end) < 0);
    }
}
