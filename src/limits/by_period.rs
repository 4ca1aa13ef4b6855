//! What was used, by day or by month, so that a wrong date neither gives a budget back nor takes it for ever.
//!
//! The present day is what the calendar says, and it may go back. What is dated later than the present counts in the
//! present: nobody can tell at once which of the two dates was wrong. It counts until a whole day (or month) has gone by on
//! the clock that never jumps, for by then it is of no day that could be today.

use serde::{Deserialize, Serialize};

use super::cost::Cost;

/// So many days or months before the present one are kept, for a clock that had been too fast and is put right.
const KEPT_BEFORE: usize = 2;
/// No more are kept in all; should a clock jump about that often, the latest become one.
const KEPT: usize = 32;

/// What was used in one day or month.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Use {
    /// The day or month, counted as the calendar counts.
    pub(super) number: u64,
    #[serde(default)]
    pub(super) tokens: u64,
    #[serde(default)]
    pub(super) nano_usd: u64,
    #[serde(default)]
    pub(super) warned: bool,
}

/// The use of the present day or month, and of those around it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ByPeriod {
    present: u64,
    /// By number, the lowest first.
    uses: Vec<Use>,
    /// How long the clock has been behind what was used, if it is.
    behind: Option<Behind>,
    /// How long a day or a month is at most, in nanoseconds.
    length: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Behind {
    /// Nanoseconds before `since`, by earlier runs.
    before: u64,
    since: u64,
}

impl Use {
    pub(super) fn none(number: u64) -> Use {
        Use { number, tokens: 0, nano_usd: 0, warned: false }
    }

    fn absorb(&mut self, other: Use) {
        self.tokens = self.tokens.saturating_add(other.tokens);
        self.nano_usd = self.nano_usd.saturating_add(other.nano_usd);
        self.warned |= other.warned;
    }
}

impl ByPeriod {
    pub(super) fn new(present: u64, length: u64) -> ByPeriod {
        ByPeriod { present, uses: Vec::new(), behind: None, length }
    }

    pub(super) fn present(&self) -> u64 {
        self.present
    }

    /// Goes to another day or month. A later one starts at nothing. In an earlier one, what was used stays used.
    pub(super) fn turn(&mut self, to: u64, now: u64) {
        if to == self.present && self.behind.is_none() {
            return;
        }
        self.forget_what_is_long_ago(now);
        if to > self.present {
            // The clock had been too slow, and is right again: what was used meanwhile was used on that day.
            if self.uses.iter().any(|other| other.number == to)
                && let Some(meanwhile) = self.uses.iter().find(|other| other.number == self.present).copied()
            {
                self.of(to).absorb(meanwhile);
            }
        } else if to < self.present {
            self.behind = None;
        }
        self.present = to;
        match self.uses.last() {
            Some(last) if last.number > to => {
                self.behind.get_or_insert(Behind { before: 0, since: now });
            }
            _ => self.behind = None,
        }
        let before = self.uses.iter().filter(|other| other.number < to).count();
        self.uses.drain(..before.saturating_sub(KEPT_BEFORE));
    }

    fn forget_what_is_long_ago(&mut self, now: u64) {
        if self.behind_for(now) >= self.length {
            let present = self.present;
            self.uses.retain(|other| other.number <= present);
            self.behind = None;
        }
    }

    /// All that counts in the present.
    pub(super) fn used(&self) -> Use {
        let mut sum = Use::none(self.present);
        self.uses.iter().filter(|other| other.number >= self.present).for_each(|other| sum.absorb(*other));
        sum
    }

    pub(super) fn add(&mut self, cost: Cost) {
        self.add_to(self.present, cost);
    }

    pub(super) fn add_to(&mut self, number: u64, cost: Cost) {
        self.of(number).absorb(Use { tokens: cost.tokens, nano_usd: cost.nano_usd, ..Use::none(number) });
    }

    /// Takes back what was counted in a day or month that is still kept.
    pub(super) fn take_back(&mut self, number: u64, cost: Cost) {
        if let Some(there) = self.uses.iter_mut().find(|other| other.number == number) {
            there.tokens = there.tokens.saturating_sub(cost.tokens);
            there.nano_usd = there.nano_usd.saturating_sub(cost.nano_usd);
        }
    }

    /// Replaces what was counted in a day or month; one that is no longer kept is nobody's.
    pub(super) fn replace(&mut self, number: u64, counted: Cost, actual: Cost) {
        if self.uses.iter().any(|other| other.number == number) {
            self.take_back(number, counted);
            self.add_to(number, actual);
        }
    }

    pub(super) fn warn(&mut self) {
        self.of(self.present).warned = true;
    }

    /// What a file has kept, which was written when `present` was the day or month.
    pub(super) fn restore(&mut self, present: u64, uses: impl IntoIterator<Item = Use>, behind_for: u64, now: u64) {
        let to = std::mem::replace(&mut self.present, present);
        for other in uses {
            self.of(other.number).absorb(other);
        }
        if self.uses.last().is_some_and(|last| last.number > self.present) {
            self.behind = Some(Behind { before: behind_for, since: now });
        }
        self.turn(to, now);
    }

    /// What a file keeps beside the present.
    pub(super) fn others(&self) -> Vec<Use> {
        self.uses.iter().filter(|other| other.number != self.present).copied().collect()
    }

    /// What was used under the present date, without what is dated later.
    pub(super) fn dated_now(&self) -> Use {
        self.uses.iter().find(|other| other.number == self.present).copied().unwrap_or(Use::none(self.present))
    }

    /// For how long the clock has been behind, in nanoseconds; 0 if it is not.
    pub(super) fn behind_for(&self, now: u64) -> u64 {
        self.behind.map_or(0, |behind| behind.before.saturating_add(now.saturating_sub(behind.since)))
    }

    fn of(&mut self, number: u64) -> &mut Use {
        let place = match self.uses.binary_search_by_key(&number, |other| other.number) {
            Ok(place) => place,
            Err(place) => {
                self.uses.insert(place, Use::none(number));
                place
            }
        };
        if self.uses.len() > KEPT
            && place + 1 < self.uses.len()
            && let Some(last) = self.uses.pop()
        {
            let place = self.uses.len() - 1;
            self.uses[place].absorb(last);
        }
        let place = place.min(self.uses.len() - 1);
        &mut self.uses[place]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000_000_000;
    const TODAY: u64 = 20_414;

    /// Hours that pass, the day that the calendar says then, and tokens that are used then.
    type Step = (u64, u64, u64);

    /// 10 tokens have been used today.
    #[test]
    fn a_wrong_date_neither_gives_back_nor_takes_for_ever() {
        let year = 365;
        let cases: [(&str, &[Step], u64); 14] = [
            ("the same day", &[(1, TODAY, 0)], 10),
            ("the next day", &[(12, TODAY + 1, 0)], 0),
            ("too early", &[(1, TODAY - 1, 0)], 10),
            ("1970", &[(1, 0, 0)], 10),
            ("too early, then right", &[(1, TODAY - 1, 5), (1, TODAY, 0)], 15),
            ("1970, then right", &[(1, 0, 5), (1, TODAY, 3)], 18),
            ("1970 over midnight, then right", &[(1, 0, 5), (1, 1, 0), (1, TODAY, 0)], 10),
            ("too early, then a day later", &[(1, TODAY - 9, 5), (20, TODAY + 1, 0)], 0),
            ("too late, then right", &[(1, TODAY + year, 5), (1, TODAY, 0)], 15),
            ("too late twice, then right", &[(1, TODAY + year, 5), (1, TODAY + 9, 2), (1, TODAY, 0)], 17),
            ("too late, right, less than a day", &[(1, TODAY + year, 5), (1, TODAY, 3), (23, TODAY + 1, 0)], 5),
            ("too late, right, a day", &[(1, TODAY + year, 5), (1, TODAY, 3), (24, TODAY + 1, 2)], 2),
            ("too late and two days on", &[(1, TODAY + year, 5), (24, TODAY + year + 1, 0)], 0),
            ("too early for days", &[(1, TODAY - 90, 0), (13, TODAY - 89, 4), (11, TODAY - 89, 0)], 4),
        ];
        for (name, steps, expected) in cases {
            let mut days = ByPeriod::new(TODAY, 24 * HOUR);
            days.add(Cost { tokens: 10, nano_usd: 7 });
            let mut now = 0;
            for (hours, day, tokens) in steps {
                now += hours * HOUR;
                days.turn(*day, now);
                days.add(Cost { tokens: *tokens, nano_usd: 0 });
            }
            assert_eq!(days.used().tokens, expected, "{name}: {days:?}");
        }
    }

    #[test]
    fn a_file_goes_on_where_it_was_saved() {
        let mut saved = ByPeriod::new(TODAY, 24 * HOUR);
        saved.add(Cost { tokens: 10, nano_usd: 7 });
        // Each start is under an early date and lasts an hour.
        let mut hours = 0;
        while saved.used().tokens > 0 {
            let uses: Vec<_> = saved.others().into_iter().chain([saved.dated_now()]).collect();
            let (present, behind_for) = (saved.present(), saved.behind_for(HOUR));
            saved = ByPeriod::new(TODAY - 90, 24 * HOUR);
            saved.restore(present, uses, behind_for, 0);
            hours += 1;
            assert!(hours < 100, "{saved:?}");
        }
        assert_eq!(hours, 25, "the first hour was not behind");
    }

    #[test]
    fn a_clock_that_jumps_about_fills_no_memory_and_frees_nothing() {
        let mut days = ByPeriod::new(100_000, 24 * HOUR);
        for jump in 1..=1_000u64 {
            days.add(Cost { tokens: 1, nano_usd: u64::MAX });
            days.turn(100_000 - jump * 7, jump);
        }
        assert_eq!((days.used().tokens, days.used().nano_usd), (1_000, u64::MAX));
        assert!(days.uses.len() <= KEPT + 1);
    }
}
