//! What was used before, as the ledger tells it: for what the file of daily and monthly use does not know.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use super::bucket::SavedBucket;
use super::calendar::Period;
use super::cost::Cost;
use super::limit::ScopeId;
use super::model_pattern::fits;
use super::saved_use::SavedUse;
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
    /// Requests that were sent upstream.
    pub requests: u64,
    /// Tokens as limits count them.
    pub tokens: u64,
    /// Billionths of a US dollar.
    pub nano_usd: u64,
}

/// A place in the ledger's chain: up to there, its records are counted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChainHead {
    /// The chain's name.
    pub chain_id: String,
    /// Of the last record.
    pub seq: u64,
}

/// What the ledger tells of the time after a [`ChainHead`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UseAfter {
    /// The use of requests that were not asked for one by one.
    pub used: Vec<PastUse>,
    /// Of those that were: tokens and nano-dollars by `requestId`, where the record is sure of them.
    pub known: HashMap<String, (u64, u64)>,
}

/// Where requests are recorded, so that use that the file does not know can be read there.
pub trait UseRecords: Send + Sync + 'static {
    /// The last record; none while some that have ended are not in the chain yet.
    fn head(&self) -> Option<ChainHead>;

    /// What was used in the last 31 days.
    fn all(&self) -> impl Future<Output = Vec<PastUse>> + Send;

    /// What was used by requests that were recorded after `head`. Those in `open` are answered one by one.
    fn after(&self, head: ChainHead, open: Vec<String>) -> impl Future<Output = UseAfter> + Send;
}

/// A request whose answer had not ended when the file was written. In the counts it stands with what it had reserved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct OpenRequest {
    pub(super) request_id: String,
    pub(super) tokens: u64,
    pub(super) nano_usd: u64,
    pub(super) day: u64,
    pub(super) month: u64,
    /// The names of the scopes that it belongs to.
    pub(super) scopes: Vec<String>,
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

    fn cost(&self) -> Cost {
        Cost { tokens: self.tokens, nano_usd: self.nano_usd }
    }
}

/// The scopes of callers that have used something.
pub(super) fn callers(used: &[PastUse]) -> impl Iterator<Item = ScopeId> + '_ {
    used.iter().filter_map(|used| Some(ScopeId::Caller(used.caller.as_deref()?.into())))
}

/// What a scope has used, where there is no file: of the present day and month, and of later ones, for who knows whether
/// the present date is right.
pub(super) fn from_records(id: &ScopeId, used: &[PastUse], present: Period, now: u64) -> SavedUse {
    let mut saved = SavedUse::none(present);
    saved.amend(now, |spent| {
        for used in used.iter().filter(|used| used.concerns(id)) {
            let then = Period::of(used.day.saturating_mul(86_400));
            if then.day >= present.day {
                spent.days.add_to(then.day, used.cost());
            }
            if then.month >= present.month {
                spent.months.add_to(then.month, used.cost());
            }
        }
    });
    saved
}

/// Adds to a scope's use what was recorded after the file was written. Whatever dates the records bear, that was between
/// the file's date and the present one.
pub(super) fn add_after(
    id: &ScopeId,
    saved: &mut SavedUse,
    used: &[PastUse],
    present: Period,
    written_at: u64,
    now: u64,
) {
    let (mut requests, mut tokens) = (0u64, 0u64);
    let file = saved.period();
    saved.amend(now, |spent| {
        for used in used.iter().filter(|used| used.concerns(id)) {
            requests = requests.saturating_add(used.requests);
            tokens = tokens.saturating_add(used.tokens);
            let then = Period::of(used.day.saturating_mul(86_400));
            spent.days.add_to(then.day.min(present.day).max(file.day), used.cost());
            spent.months.add_to(then.month.min(present.month).max(file.month), used.cost());
        }
    });
    saved.take_from_buckets(requests, tokens, written_at);
}

/// Puts what open requests have used in the place of what they had reserved, where it is known.
pub(super) fn settle(
    scopes: &mut BTreeMap<String, SavedUse>,
    open: &[OpenRequest],
    known: &HashMap<String, (u64, u64)>,
    now: u64,
) {
    for request in open {
        let Some((tokens, nano_usd)) = known.get(&request.request_id) else { continue };
        let counted = Cost { tokens: request.tokens, nano_usd: request.nano_usd };
        let actual = Cost { tokens: *tokens, nano_usd: *nano_usd };
        let admitted = Period { day: request.day, month: request.month };
        for scope in &request.scopes {
            if let Some(saved) = scopes.get_mut(scope) {
                saved.amend(now, |spent| spent.replace(counted, actual, admitted));
                saved.settle_bucket(counted.tokens, actual.tokens);
            }
        }
    }
}

/// What a bucket lacks once more is taken.
pub(super) fn more_missing(bucket: Option<SavedBucket>, more: u64, at: u64) -> Option<SavedBucket> {
    match bucket {
        Some(bucket) => Some(SavedBucket { missing: bucket.missing.saturating_add(more), ..bucket }),
        None => (more > 0).then_some(SavedBucket { missing: more, at }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::scope::Scope;
    use crate::settings::limits::Rates;

    // The 22nd of November 2025.
    const TODAY: u64 = 20_414;

    fn used(day: u64, caller: Option<&str>, model: &str) -> PastUse {
        let (caller, model) = (caller.map(str::to_owned), model.to_owned());
        PastUse { day, caller, model, requests: 1, tokens: 10, nano_usd: 7 }
    }

    fn restored(id: &ScopeId, saved: &SavedUse, today: u64) -> (u64, u64, u64) {
        let mut scope = Scope::new(id.clone(), Rates::default(), Period::of(today * 86_400), 0);
        saved.restore(&mut scope, 0);
        (scope.spent.tokens_today(), scope.spent.nano_usd_today(), scope.spent.nano_usd_this_month())
    }

    #[test]
    fn each_scope_takes_its_own_of_the_day_and_the_month() {
        let past = [
            used(TODAY, Some("billing"), "us.anthropic.claude"),
            used(TODAY, None, "meta.llama"),
            used(TODAY - 1, Some("billing"), "meta.llama"),
            used(TODAY - 30, Some("billing"), "anthropic.claude"),
        ];
        for (id, expected) in [
            (ScopeId::Host, (20, 14, 21)),
            (ScopeId::Caller("billing".into()), (10, 7, 14)),
            (ScopeId::Model("anthropic.*".into()), (10, 7, 7)),
            (ScopeId::Model("cohere.*".into()), (0, 0, 0)),
        ] {
            let saved = from_records(&id, &past, Period::of(TODAY * 86_400), 0);
            assert_eq!(restored(&id, &saved, TODAY), expected, "{id:?}");
        }
    }

    #[test]
    fn records_of_a_later_date_count_under_an_early_one_and_when_it_is_right() {
        let past = [used(TODAY, None, "meta.llama"), used(TODAY - 1, None, "meta.llama")];
        for start in [0, TODAY - 40, TODAY] {
            let saved = from_records(&ScopeId::Host, &past, Period::of(start * 86_400), 0);
            let mut scope = Scope::new(ScopeId::Host, Rates::default(), Period::of(start * 86_400), 0);
            saved.restore(&mut scope, 0);
            assert!(scope.spent.tokens_today() >= 10, "{start}");
            scope.spent.turn(Period::of(TODAY * 86_400), 0);
            assert_eq!((scope.spent.tokens_today(), scope.spent.nano_usd_this_month()), (10, 14), "{start}");
        }
    }

    #[test]
    fn what_was_recorded_after_the_file_counts_between_its_date_and_the_present() {
        let year = 365;
        for (name, file, recorded, now, expected) in [
            ("the same day", TODAY, TODAY, TODAY, (10, 7)),
            ("before midnight", TODAY, TODAY, TODAY + 1, (0, 7)),
            ("after midnight", TODAY, TODAY + 1, TODAY + 1, (10, 7)),
            ("a clock that was too fast", TODAY, TODAY + year, TODAY, (10, 7)),
            ("a clock that was too slow", TODAY, 0, TODAY, (10, 7)),
            ("a clock that is too slow", TODAY, TODAY, 0, (10, 7)),
        ] {
            let mut saved = SavedUse::none(Period::of(file * 86_400));
            let present = Period::of(now * 86_400);
            add_after(&ScopeId::Host, &mut saved, &[used(recorded, None, "meta.llama")], present, 0, 0);
            let (tokens, _, month) = restored(&ScopeId::Host, &saved, now);
            assert_eq!((tokens, month), expected, "{name}");
        }
    }
}
