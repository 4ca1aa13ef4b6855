//! What was used before, as the ledger tells it: for a host whose file of daily and monthly use is gone.

use super::calendar::Period;
use super::cost::Cost;
use super::limit::ScopeId;
use super::model_pattern::fits;
use super::scope::Scope;
use crate::config::Glob;

/// What one caller has used of one model on one day.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PastUse {
    /// Days since 1970-01-01, UTC.
    pub day: u64,
    /// The name of the caller's entry; none when no entry fitted.
    pub caller: Option<String>,
    /// As it was asked for.
    pub model: String,
    /// Tokens as limits count them.
    pub tokens: u64,
    /// Billionths of a US dollar.
    pub nano_usd: u64,
}

impl PastUse {
    /// Whether a scope counts it.
    fn concerns(&self, scope: &ScopeId) -> bool {
        match scope {
            ScopeId::Host => true,
            ScopeId::Caller(name) => self.caller.as_deref() == Some(&**name),
            ScopeId::Model(pattern) => fits(&Glob::new(pattern), &self.model),
            ScopeId::Fleet => false,
        }
    }
}

/// Adds what was used in the scope's day and month.
pub(super) fn restore(past: &[PastUse], scope: &mut Scope) {
    let now = scope.spent.period;
    for used in past.iter().filter(|used| used.concerns(&scope.id)) {
        let then = Period::of(used.day.saturating_mul(86_400));
        if then.day == now.day {
            scope.spent.add(Cost { tokens: used.tokens, nano_usd: used.nano_usd });
        } else if then.month == now.month {
            let month = &mut scope.spent.nano_usd_this_month;
            *month = month.saturating_add(used.nano_usd);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::limits::Rates;

    #[test]
    fn each_scope_takes_its_own_of_the_day_and_the_month() {
        // The 22nd of November 2025.
        let today = 20_414;
        let used = |day, caller: Option<&str>, model: &str| PastUse {
            day,
            caller: caller.map(str::to_owned),
            model: model.to_owned(),
            tokens: 10,
            nano_usd: 7,
        };
        let past = [
            used(today, Some("billing"), "us.anthropic.claude"),
            used(today, None, "meta.llama"),
            used(today - 1, Some("billing"), "meta.llama"),
            used(today - 30, Some("billing"), "anthropic.claude"),
        ];
        for (id, expected) in [
            (ScopeId::Host, (20, 14, 21)),
            (ScopeId::Caller("billing".into()), (10, 7, 14)),
            (ScopeId::Model("anthropic.*".into()), (10, 7, 7)),
            (ScopeId::Model("cohere.*".into()), (0, 0, 0)),
        ] {
            let mut scope = Scope::new(id.clone(), Rates::default(), Period::of(today * 86_400), 0);
            restore(&past, &mut scope);
            let spent = scope.spent;
            assert_eq!((spent.tokens_today, spent.nano_usd_today, spent.nano_usd_this_month), expected, "{id:?}");
        }
    }
}
