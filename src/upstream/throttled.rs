//! Models for which an upstream has no room at the moment: its 429 is remembered for a while, so that the next request for
//! such a model goes to another upstream first. Other models are not concerned.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use http::HeaderMap;
use http::header::RETRY_AFTER;

/// How long a 429 without Retry-After is remembered.
const UNSAID: Duration = Duration::from_secs(5);
/// Bounds of what Retry-After may say.
const LEAST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);
/// Models that are remembered; callers make names up.
const MOST: usize = 256;

/// What one upstream is throttling, by the names that requests give.
#[derive(Debug, Default)]
pub(crate) struct Throttled(Mutex<HashMap<String, Instant>>);

impl Throttled {
    /// Takes down a 429 for `name`. `after` is what its Retry-After says.
    pub(crate) fn note(&self, name: &str, after: Option<Duration>, now: Instant) {
        let until = now + after.map_or(UNSAID, |after| after.clamp(LEAST, LONGEST));
        let mut names = self.lock();
        if names.len() >= MOST && !names.contains_key(name) {
            names.retain(|_, until| *until > now);
        }
        if names.len() < MOST || names.contains_key(name) {
            names.insert(name.to_owned(), until);
        }
    }

    /// Until when `name` is throttled; none when it is not, as far as is known.
    pub(crate) fn until(&self, name: &str, now: Instant) -> Option<Instant> {
        self.lock().get(name).copied().filter(|until| *until > now)
    }

    /// `name` has been served.
    pub(crate) fn forget(&self, name: &str) {
        let mut names = self.lock();
        // To remove is to hash, also where there is nothing.
        if !names.is_empty() {
            names.remove(name);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Instant>> {
        // Every critical section is a single insert, removal or look-up.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What Retry-After says: seconds, or a date (RFC 9110, 10.2.3).
pub(crate) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    Some(httpdate::parse_http_date(text).ok()?.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_throttle_is_remembered_as_long_as_it_says_within_bounds() {
        let (throttled, now) = (Throttled::default(), Instant::now());
        for (after, expected) in [(None, 5), (Some(0), 1), (Some(7), 7), (Some(86_400), 60)] {
            throttled.note("a", after.map(Duration::from_secs), now);
            let until = now + Duration::from_secs(expected);
            assert_eq!(throttled.until("a", now), Some(until), "{after:?}");
            assert_eq!(throttled.until("a", until), None, "{after:?}");
            assert_eq!(throttled.until("b", now), None, "other models are not concerned");
        }
        throttled.forget("a");
        assert_eq!(throttled.until("a", now), None);
    }

    #[test]
    fn names_are_bounded() {
        let (throttled, now) = (Throttled::default(), Instant::now());
        for number in 0..MOST + 10 {
            throttled.note(&number.to_string(), None, now);
        }
        assert_eq!(throttled.lock().len(), MOST);
        throttled.note("0", Some(LONGEST), now);
        assert_eq!(throttled.until("0", now), Some(now + LONGEST), "what is known is kept up to date");
        throttled.note("new", None, now + UNSAID);
        assert!(throttled.until("new", now + UNSAID).is_some(), "what has passed makes room");
    }

    #[test]
    fn both_forms_of_retry_after_are_read() {
        let now = httpdate::parse_http_date("Sat, 31 Jan 2026 23:59:59 GMT").unwrap();
        let read = |text: &str| {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, text.parse().unwrap())]);
            retry_after(&headers, now).map(|after| after.as_secs())
        };
        assert_eq!(read("12"), Some(12));
        assert_eq!(read("Sun, 01 Feb 2026 00:00:09 GMT"), Some(10));
        assert_eq!(read("Sat, 31 Jan 2026 00:00:00 GMT"), Some(0), "a date that has passed");
        assert_eq!((read("soon"), read("-1"), retry_after(&HeaderMap::new(), now)), (None, None, None));
    }
}
