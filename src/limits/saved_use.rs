//! What a scope had used when the state was last saved, in the form in which a file keeps it.

use serde::{Deserialize, Serialize};

use super::limit::ScopeId;
use super::scope::Scope;
use super::spent::Spent;

/// A scope's use. Days count from 1970-01-01, months from January of the year 0, both UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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

    pub(super) fn of(spent: &Spent) -> SavedUse {
        SavedUse {
            day: spent.period.day,
            month: spent.period.month,
            tokens_today: spent.tokens_today,
            nano_usd_today: spent.nano_usd_today,
            nano_usd_this_month: spent.nano_usd_this_month,
            warned_today: spent.warned_today,
            warned_this_month: spent.warned_this_month,
        }
    }

    /// Adds what was used in the same day and month, or in later ones: then the clock has been put back, which gives
    /// nothing back.
    pub(super) fn restore(self, scope: &mut Scope) {
        let spent = &mut scope.spent;
        if self.day >= spent.period.day {
            spent.tokens_today = spent.tokens_today.saturating_add(self.tokens_today);
            spent.nano_usd_today = spent.nano_usd_today.saturating_add(self.nano_usd_today);
            spent.warned_today |= self.warned_today;
        }
        if self.month >= spent.period.month {
            spent.nano_usd_this_month = spent.nano_usd_this_month.saturating_add(self.nano_usd_this_month);
            spent.warned_this_month |= self.warned_this_month;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::calendar::Period;
    use crate::limits::cost::Cost;
    use crate::settings::limits::Rates;

    #[test]
    fn a_restart_under_an_earlier_date_forgets_nothing() {
        const DAY: u64 = 86_400;
        let today = 20_414;
        for (name, now, expected) in [
            ("the same day", today, (10, 7)),
            ("the next day", today + 1, (0, 7)),
            ("the next month", today + 9, (0, 0)),
            ("the day before", today - 1, (10, 7)),
            ("1970", 0, (10, 7)),
        ] {
            let mut spent = Spent::none(Period::of(today * DAY));
            spent.add(Cost { tokens: 10, nano_usd: 7 });
            let mut scope = Scope::new(ScopeId::Host, Rates::default(), Period::of(now * DAY), 0);
            SavedUse::of(&spent).restore(&mut scope);
            assert_eq!((scope.spent.tokens_today, scope.spent.nano_usd_this_month), expected, "{name}");
        }
    }
}
