//! How far the host's clock is to be believed. One that jumped must not delete records, nor let items expire at once.
//!
//! The time that is known to be good goes on with the clock that never jumps. A wall clock that is more than a day away
//! from it is in doubt, until it has gone on evenly for a day.

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Instant;

use serde::{Deserialize, Serialize};

const DAY_MS: i64 = 86_400_000;

/// What is known of the clock. Kept over restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct KnownTime {
    /// The time that is known to be good, in milliseconds since 1970.
    pub(crate) good_ms: i64,
    doubt: Option<Doubt>,
}

/// A clock that says something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Doubt {
    /// What it said last.
    last_ms: i64,
    /// For how long it has gone on evenly.
    even_ms: i64,
}

impl KnownTime {
    pub(crate) fn new(good_ms: i64) -> KnownTime {
        KnownTime { good_ms, doubt: None }
    }

    /// Takes in what the wall clock says, `elapsed_ms` after the last time. True when it is in doubt from now on.
    pub(crate) fn observe(&mut self, wall_ms: i64, elapsed_ms: i64) -> bool {
        self.good_ms = self.good_ms.saturating_add(elapsed_ms);
        if wall_ms.saturating_sub(self.good_ms).saturating_abs() <= DAY_MS {
            *self = KnownTime::new(wall_ms);
            return false;
        }
        let even_ms = match self.doubt {
            Some(doubt) if goes_evenly(wall_ms.saturating_sub(doubt.last_ms), elapsed_ms) => {
                doubt.even_ms.saturating_add(elapsed_ms)
            }
            _ => 0,
        };
        if even_ms >= DAY_MS {
            *self = KnownTime::new(wall_ms);
            return false;
        }
        let begins = self.doubt.is_none();
        self.doubt = Some(Doubt { last_ms: wall_ms, even_ms });
        begins
    }

    /// The time by which records are old: of the good one and that of a clock in doubt the earlier.
    pub(crate) fn careful_ms(&self) -> i64 {
        self.doubt.map_or(self.good_ms, |doubt| doubt.last_ms.min(self.good_ms))
    }

    /// The time up to which a record's date can be true: of the good one and that of a clock in doubt the later.
    pub(crate) fn latest_ms(&self) -> i64 {
        self.doubt.map_or(self.good_ms, |doubt| doubt.last_ms.max(self.good_ms))
    }
}

/// Whether a wall clock that has gone so far since the last time may have gone evenly. It may go further than what has
/// elapsed, by as long as the host was asleep or down, but falls behind only while it is slewed: by 0.05 % at most, with
/// NTP.
fn goes_evenly(wall_ms: i64, elapsed_ms: i64) -> bool {
    let slowest = elapsed_ms.saturating_sub(elapsed_ms / 1_000).saturating_sub(1_000);
    (slowest..=elapsed_ms.saturating_add(DAY_MS)).contains(&wall_ms)
}

/// Follows the clock, and keeps what is known of it in a file.
#[derive(Debug)]
pub(crate) struct WallClock {
    path: PathBuf,
    known: Option<KnownTime>,
    observed_at: Instant,
}

impl WallClock {
    pub(crate) fn load(path: PathBuf, now: Instant) -> WallClock {
        let known = std::fs::read(&path).ok().and_then(|text| serde_json::from_slice(&text).ok());
        WallClock { path, known, observed_at: now }
    }

    /// The time that is known to be good; none on a host that has never observed its clock.
    pub(crate) fn good_ms(&self) -> Option<i64> {
        self.known.map(|known| known.good_ms)
    }

    /// Takes in what the wall clock says. `newest_ms` is when the newest record began, for a ledger that has no file yet.
    pub(crate) fn observe(&mut self, wall_ms: i64, now: Instant, newest_ms: Option<i64>) -> KnownTime {
        let elapsed = now.saturating_duration_since(self.observed_at).as_millis();
        let mut known = self.known.unwrap_or_else(|| KnownTime::new(newest_ms.unwrap_or(wall_ms)));
        if known.observe(wall_ms, i64::try_from(elapsed).unwrap_or(i64::MAX)) {
            tracing::warn!(
                clock = %jiff::Timestamp::from_millisecond(wall_ms).unwrap_or_default(),
                expected = %jiff::Timestamp::from_millisecond(known.good_ms).unwrap_or_default(),
                "audit: the clock is more than a day away from what is known; until it has gone on evenly for a day, no record is deleted for its age by it"
            );
        }
        self.known = Some(known);
        self.observed_at = now;
        self.save(&known);
        known
    }

    /// A file that cannot be written only costs patience after the next start. One that a loss of power empties would
    /// let a wrong clock be believed, so it is on the disk before it takes the old one's place.
    fn save(&self, known: &KnownTime) {
        if let Err(error) = self.replace(known) {
            tracing::debug!(path = %self.path.display(), %error, "what is known of the clock cannot be kept");
        }
    }

    fn replace(&self, known: &KnownTime) -> io::Result<()> {
        let beside = self.path.with_extension("new");
        let mut file = File::create(&beside)?;
        file.write_all(&serde_json::to_vec(known)?)?;
        file.sync_data()?;
        std::fs::rename(&beside, &self.path)?;
        self.path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: i64 = 1_763_812_800_000;
    const MINUTE: i64 = 60_000;

    /// What is tried, its steps (minutes that pass, days by which the wall clock is wrong then), and the days by which the
    /// careful time is wrong at the end.
    type Case = (&'static str, &'static [(i64, i64)], i64);

    #[test]
    fn a_clock_that_jumps_is_believed_after_an_even_day() {
        let cases: [Case; 9] = [
            ("a good clock", &[(1, 0), (1, 0), (10_000, 0)], 0),
            ("small steps", &[(1, 0), (1, 1), (1, 0)], 0),
            ("a jump ahead", &[(1, 0), (1, 40), (60, 40)], 0),
            ("a jump ahead and back", &[(1, 0), (1, 40), (600, 40), (1, 0)], 0),
            ("a jump that stays", &[(1, 40), (1_439, 40), (1, 40)], 40),
            ("a clock that wanders is never believed", &[(1, 40), (1_000, 80), (1_000, 40), (1_000, 90)], 0),
            ("a jump to another wrong time that nobody saw", &[(1, 40), (14_400, 38)], 0),
            ("a slow clock deletes less", &[(1, 0), (1, -400)], -400),
            ("a slow clock that is mended", &[(1, -400), (5, 0)], 0),
        ];
        for (name, steps, wrong_days) in cases {
            let (mut known, mut truth) = (KnownTime::new(START), START);
            for (minutes, wrong) in steps {
                truth += minutes * MINUTE;
                known.observe(truth + wrong * DAY_MS, minutes * MINUTE);
            }
            assert_eq!(known.careful_ms(), truth + wrong_days * DAY_MS, "{name}");
        }
    }

    #[test]
    fn the_doubt_is_said_once_and_outlives_restarts() {
        let mut known = KnownTime::new(START);
        let mut warnings = 0;
        for minute in 1..=1_000 {
            warnings += u32::from(known.observe(START + 40 * DAY_MS + minute * MINUTE, MINUTE));
            known = serde_json::from_str(&serde_json::to_string(&known).unwrap()).unwrap();
        }
        assert_eq!(warnings, 1);
        assert_eq!(known.careful_ms(), START + 1_000 * MINUTE);
        for minute in 1_001..=1_442 {
            known.observe(START + 40 * DAY_MS + minute * MINUTE, MINUTE);
        }
        assert_eq!(known.careful_ms(), START + 40 * DAY_MS + 1_442 * MINUTE);
    }
}
