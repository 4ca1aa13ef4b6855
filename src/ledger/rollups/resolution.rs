//! The intervals that requests are added up in. Each request is in all of them that are still kept.

/// Seconds that a clock may have been fast when a record was dated. What claims to be later is not counted.
const MOST_AHEAD: i64 = 3_600;

/// An interval, and how long it is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Resolution {
    /// Seconds.
    pub(crate) step: i64,
    /// Seconds from its beginning on.
    keep: i64,
}

impl Resolution {
    pub(crate) const MINUTE: Resolution = Resolution { step: 60, keep: 2 * 3_600 };
    pub(crate) const QUARTER: Resolution = Resolution { step: 900, keep: 25 * 3_600 };
    pub(crate) const HOUR: Resolution = Resolution { step: 3_600, keep: 8 * 86_400 };

    /// The finest first; each is kept longer than the ones before it, and is a multiple of them.
    pub(super) const ALL: [Resolution; 3] = [Resolution::MINUTE, Resolution::QUARTER, Resolution::HOUR];

    /// The beginning of the interval that a moment is in, both in seconds since 1970.
    pub(crate) fn start(self, moment: i64) -> i64 {
        moment.div_euclid(self.step) * self.step
    }

    /// The beginning of the oldest interval that is kept.
    pub(super) fn oldest(self, now: i64) -> i64 {
        self.start(now.saturating_sub(self.keep))
    }

    /// Those that a request counts in which began at this moment: all from the finest that is still kept. None when the date
    /// is too old, or cannot be believed.
    pub(super) fn of(started: i64, now: i64) -> &'static [Resolution] {
        const ALL: &[Resolution] = &Resolution::ALL;
        if is_ahead(started, now) {
            return &[];
        }
        let finest = ALL.iter().position(|one| started >= one.oldest(now));
        finest.map_or(&[], |finest| &ALL[finest..])
    }
}

/// Whether a date lies so far in the future that it cannot be believed.
pub(super) fn is_ahead(started: i64, now: i64) -> bool {
    started > now.saturating_add(MOST_AHEAD)
}
