//! What a scope had used when the state was last saved, in the form in which a file keeps it.

use serde::{Deserialize, Serialize};

use super::bucket::SavedBucket;
use super::by_period::Use;
use super::calendar::Period;
use super::clock::SECOND;
use super::limit::ScopeId;
use super::past_use::more_missing;
use super::scope::Scope;
use super::spent::Spent;
use crate::settings::limits::Rates;

/// A scope's use. Days count from 1970-01-01, months from January of the year 0, both UTC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SavedUse {
    day: u64,
    month: u64,
    tokens_today: u64,
    nano_usd_today: u64,
    nano_usd_this_month: u64,
    #[serde(default)]
    warned_today: bool,
    #[serde(default)]
    warned_this_month: bool,
    /// Use of other dates, which a clock that is put right may lead back to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    other_days: Vec<Use>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    other_months: Vec<Use>,
    /// For how long the daemon has run under an earlier date than that of some use.
    #[serde(default, skip_serializing_if = "is_zero")]
    days_behind_for_seconds: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    months_behind_for_seconds: u64,
    /// What is missing in the minute's buckets; none when they are full or there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    requests: Option<SavedBucket>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tokens: Option<SavedBucket>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl SavedUse {
    /// The scope's name in the file.
    pub(super) fn key(scope: &ScopeId) -> String {
        match scope {
            ScopeId::Host => "host".to_owned(),
            ScopeId::Caller(name) => format!("caller:{name}"),
            ScopeId::Model(pattern) => format!("model:{pattern}"),
            ScopeId::Fleet => "fleet".to_owned(),
        }
    }

    /// The same, read from a file.
    pub(super) fn scope(key: &str) -> Option<ScopeId> {
        match key.split_once(':') {
            None => (key == "host").then_some(ScopeId::Host),
            Some(("caller", name)) => Some(ScopeId::Caller(name.into())),
            Some(("model", pattern)) => Some(ScopeId::Model(pattern.into())),
            Some(_) => None,
        }
    }

    /// Nothing was used.
    pub(super) fn none(period: Period) -> SavedUse {
        SavedUse::of(&mut Scope::new(ScopeId::Host, Rates::default(), period, 0), 0)
    }

    /// The date under which it was saved.
    pub(super) fn period(&self) -> Period {
        Period { day: self.day, month: self.month }
    }

    /// Changes what was used in days and months.
    pub(super) fn amend(&mut self, now: u64, change: impl FnOnce(&mut Spent)) {
        let mut scope = Scope::new(ScopeId::Host, Rates::default(), self.period(), now);
        self.restore(&mut scope, now);
        change(&mut scope.spent);
        *self = SavedUse { requests: self.requests, tokens: self.tokens, ..SavedUse::of(&mut scope, now) };
    }

    /// More was taken from the minute's buckets, at `at` if they were full then.
    pub(super) fn take_from_buckets(&mut self, requests: u64, tokens: u64, at: u64) {
        self.requests = more_missing(self.requests, requests, at);
        self.tokens = more_missing(self.tokens, tokens, at);
    }

    /// Puts what a request used in the place of what it had taken from the minute's bucket of tokens.
    pub(super) fn settle_bucket(&mut self, counted: u64, actual: u64) {
        if let Some(bucket) = &mut self.tokens {
            bucket.missing = bucket.missing.saturating_sub(counted).saturating_add(actual);
        }
    }

    /// Turns the times of the file into those of this run's clock.
    pub(super) fn set_times(&mut self, time: impl Fn(u64) -> u64) {
        for bucket in [&mut self.requests, &mut self.tokens].into_iter().flatten() {
            bucket.at = time(bucket.at);
        }
    }

    pub(super) fn of(scope: &mut Scope, now: u64) -> SavedUse {
        let (requests, tokens) = scope.saved_buckets(now);
        let spent = &scope.spent;
        let (today, this_month) = (spent.days.dated_now(), spent.months.dated_now());
        SavedUse {
            day: today.number,
            month: this_month.number,
            tokens_today: today.tokens,
            nano_usd_today: today.nano_usd,
            nano_usd_this_month: this_month.nano_usd,
            warned_today: today.warned,
            warned_this_month: this_month.warned,
            other_days: spent.days.others(),
            other_months: spent.months.others(),
            days_behind_for_seconds: spent.days.behind_for(now) / SECOND,
            months_behind_for_seconds: spent.months.behind_for(now) / SECOND,
            requests,
            tokens,
        }
    }

    /// Adds what was used. Under an earlier date than that of the file, it stays used.
    pub(super) fn restore(&self, scope: &mut Scope, now: u64) {
        let today = Use {
            number: self.day,
            tokens: self.tokens_today,
            nano_usd: self.nano_usd_today,
            warned: self.warned_today,
        };
        let this_month =
            Use { number: self.month, tokens: 0, nano_usd: self.nano_usd_this_month, warned: self.warned_this_month };
        let nanos = |seconds: u64| seconds.saturating_mul(SECOND);
        let days = self.other_days.iter().copied().chain([today]);
        scope.spent.days.restore(self.day, days, nanos(self.days_behind_for_seconds), now);
        let months = self.other_months.iter().copied().chain([this_month]);
        scope.spent.months.restore(self.month, months, nanos(self.months_behind_for_seconds), now);
        scope.restore_buckets(self.requests, self.tokens, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::cost::Cost;

    const DAY: u64 = 86_400;

    #[test]
    fn a_restart_under_another_date_forgets_nothing() {
        let today = 20_414;
        for (name, starts, expected) in [
            ("the same day", &[today][..], (10, 7)),
            ("the next day", &[today + 1], (0, 7)),
            ("the next month", &[today + 9], (0, 0)),
            ("the day before", &[today - 1], (10, 7)),
            ("1970", &[0], (10, 7)),
            ("1970 and then right", &[0, today], (10, 7)),
            ("next year and then right", &[today + 365, today], (10, 7)),
            ("next year, twice, and then right", &[today + 365, today + 365, today], (10, 7)),
        ] {
            let mut scope = Scope::new(ScopeId::Host, Rates::default(), Period::of(today * DAY), 0);
            scope.spent.add(Cost { tokens: 10, nano_usd: 7 });
            for day in starts {
                let saved = serde_json::to_string(&SavedUse::of(&mut scope, 0)).unwrap();
                scope = Scope::new(ScopeId::Host, Rates::default(), Period::of(day * DAY), 0);
                serde_json::from_str::<SavedUse>(&saved).unwrap().restore(&mut scope, 0);
            }
            assert_eq!((scope.spent.tokens_today(), scope.spent.nano_usd_this_month()), expected, "{name}");
            // The clock is put right while the daemon runs.
            scope.spent.turn(Period::of(today * DAY), 0);
            assert_eq!((scope.spent.tokens_today(), scope.spent.nano_usd_this_month()), (10, 7), "{name}, then right");
        }
    }

    #[test]
    fn the_file_of_an_earlier_version_is_read() {
        let text = r#"{"day":20414,"month":24310,"tokensToday":10,"nanoUsdToday":7,"nanoUsdThisMonth":9}"#;
        let saved: SavedUse = serde_json::from_str(text).unwrap();
        let mut scope = Scope::new(ScopeId::Host, Rates::default(), Period { day: 20_414, month: 24_310 }, 0);
        saved.restore(&mut scope, 0);
        let spent = &scope.spent;
        assert_eq!((spent.tokens_today(), spent.nano_usd_today(), spent.nano_usd_this_month()), (10, 7, 9));
    }

    #[test]
    fn a_scope_has_one_name() {
        for id in [ScopeId::Host, ScopeId::Caller("a:b".into()), ScopeId::Model("anthropic.*:0".into())] {
            assert_eq!(SavedUse::scope(&SavedUse::key(&id)), Some(id));
        }
        assert_eq!(SavedUse::scope("fleet"), None);
    }
}
