//! What was used before, as the ledger tells it: for what the file of daily and monthly use does not know.

use std::collections::{BTreeMap, HashMap};
use std::io;

use serde::{Deserialize, Serialize};

use super::bucket::SavedBucket;
use super::calendar::Period;
use super::cost::{self, Cost};
use super::estimate::Estimate;
use super::limit::ScopeId;
use super::request::{Behind, Plan, Priced, may_fit};
use super::saved_use::SavedUse;
use super::spent::Spent;
use crate::config::Glob;
use crate::record::Usage;
use crate::service_tier::AskedTier;

/// What one caller has used of one model on one day.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PastUse {
    /// Days since 1970-01-01, UTC.
    pub day: u64,
    /// The name of the caller's entry; none when no entry fitted.
    pub caller: Option<String>,
    /// As it was asked for.
    pub model: String,
    /// The inference profile that was sent in its place.
    pub profile: Option<String>,
    /// Requests that were sent upstream.
    pub requests: u64,
    /// Tokens as limits count them.
    pub tokens: u64,
    /// Billionths of a US dollar, of requests whose records tell their cost.
    pub nano_usd: u64,
    /// What the others have used.
    pub unpriced: Usage,
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
    /// Of those that were: tokens and nano-dollars by `requestId`, where the record is sure of them. It may know the tokens
    /// and not what they cost.
    pub known: HashMap<String, (u64, Option<u64>)>,
}

/// Where requests are recorded, so that use that the file does not know can be read there.
pub trait UseRecords: Send + Sync + 'static {
    /// The last record; none while some that have ended are not in the chain yet.
    fn head(&self) -> Option<ChainHead>;

    /// What was used in the last 31 days, by requests that were recorded up to `until`.
    fn all(&self, until: Option<ChainHead>) -> impl Future<Output = io::Result<Vec<PastUse>>> + Send;

    /// What was used by requests that were recorded after `head`, up to `until`. Those in `open` are answered one by one.
    fn after(
        &self,
        head: ChainHead,
        until: Option<ChainHead>,
        open: Vec<String>,
    ) -> impl Future<Output = io::Result<UseAfter>> + Send;
}

/// Tells by what names limits and prices go, of a model as it was asked for and the profile that was sent in its place:
/// the name that an alias stands for, and what is behind it.
pub type Names = dyn Fn(&str, Option<&str>) -> (String, Behind) + Send + Sync;

/// [`PastUse`], by the names and prices of the settings.
#[derive(Debug)]
pub(super) struct WeighedUse {
    day: u64,
    caller: Option<String>,
    model: String,
    behind: Behind,
    pub(super) requests: u64,
    cost: Cost,
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

impl WeighedUse {
    pub(super) fn new(used: PastUse, names: &Names, plan: &Plan) -> WeighedUse {
        let (model, behind) = names(&used.model, used.profile.as_deref());
        let prices = Priced::new(&plan.settings.prices, &model, &behind).prices;
        let price = prices.map(|prices| prices.at_most(AskedTier::Unsaid));
        let unpriced = cost::actual(&used.unpriced, Estimate::NONE, price).nano_usd;
        let cost = Cost { tokens: used.tokens, nano_usd: used.nano_usd.saturating_add(unpriced) };
        WeighedUse { day: used.day, caller: used.caller, model, behind, requests: used.requests, cost }
    }

    /// Whether a scope counts it.
    fn concerns(&self, scope: &ScopeId) -> bool {
        match scope {
            ScopeId::Host => true,
            ScopeId::Caller(name) => self.caller.as_deref() == Some(&**name),
            ScopeId::Model(pattern) => may_fit(&Glob::new(pattern), &self.model, &self.behind),
            ScopeId::Fleet => false,
        }
    }
}

impl OpenRequest {
    /// What it had reserved, what it has used, and when it was admitted; none when its use is unknown. The money stays as
    /// it was reserved where only the tokens are known.
    pub(super) fn replacement(&self, known: &HashMap<String, (u64, Option<u64>)>) -> Option<(Cost, Cost, Period)> {
        let (tokens, nano_usd) = *known.get(&self.request_id)?;
        let counted = Cost { tokens: self.tokens, nano_usd: self.nano_usd };
        let actual = Cost { tokens, nano_usd: nano_usd.unwrap_or(self.nano_usd) };
        Some((counted, actual, Period { day: self.day, month: self.month }))
    }
}

/// The scopes of callers that have used something.
pub(super) fn callers(used: &[WeighedUse]) -> impl Iterator<Item = ScopeId> + '_ {
    used.iter().filter_map(|used| Some(ScopeId::Caller(used.caller.as_deref()?.into())))
}

/// What a scope has used, where there is no file: of the present day and month, and of later ones, for who knows whether
/// the present date is right.
pub(super) fn from_records(id: &ScopeId, used: &[WeighedUse], present: Period, now: u64) -> SavedUse {
    let mut saved = SavedUse::none(present);
    saved.amend(now, |spent| add_dated(id, spent, used, present));
    saved
}

/// The same, for what a scope has spent.
pub(super) fn add_dated(id: &ScopeId, spent: &mut Spent, used: &[WeighedUse], present: Period) {
    for used in used.iter().filter(|used| used.concerns(id)) {
        let then = Period::of(used.day.saturating_mul(86_400));
        if then.day >= present.day {
            spent.days.add_to(then.day, used.cost);
        }
        if then.month >= present.month {
            spent.months.add_to(then.month, used.cost);
        }
    }
}

/// Adds what was used between two dates, whatever dates the records bear.
pub(super) fn add_between(id: &ScopeId, spent: &mut Spent, used: &[WeighedUse], from: Period, to: Period) {
    for used in used.iter().filter(|used| used.concerns(id)) {
        let then = Period::of(used.day.saturating_mul(86_400));
        spent.days.add_to(then.day.min(to.day).max(from.day), used.cost);
        spent.months.add_to(then.month.min(to.month).max(from.month), used.cost);
    }
}

/// Adds to a scope's use what was recorded after the file was written. Whatever dates the records bear, that was between
/// the file's date and the present one.
pub(super) fn add_after(
    id: &ScopeId,
    saved: &mut SavedUse,
    used: &[WeighedUse],
    present: Period,
    written_at: u64,
    now: u64,
) {
    let (mut requests, mut tokens) = (0u64, 0u64);
    for used in used.iter().filter(|used| used.concerns(id)) {
        requests = requests.saturating_add(used.requests);
        tokens = tokens.saturating_add(used.cost.tokens);
    }
    let file = saved.period();
    saved.amend(now, |spent| add_between(id, spent, used, file, present));
    saved.take_from_buckets(requests, tokens, written_at);
}

/// Puts what open requests have used in the place of what they had reserved, where it is known.
pub(super) fn settle(
    scopes: &mut BTreeMap<String, SavedUse>,
    open: &[OpenRequest],
    known: &HashMap<String, (u64, Option<u64>)>,
    now: u64,
) {
    for request in open {
        let Some((counted, actual, admitted)) = request.replacement(known) else { continue };
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
    use crate::settings::limits::{Limits, Price, Prices, Rates};

    // The 22nd of November 2025.
    const TODAY: u64 = 20_414;

    fn used(day: u64, caller: Option<&str>, model: &str) -> WeighedUse {
        let (caller, model, cost) = (caller.map(str::to_owned), model.to_owned(), Cost { tokens: 10, nano_usd: 7 });
        WeighedUse { day, caller, model, behind: Behind::Itself, requests: 1, cost }
    }

    #[test]
    fn names_and_missing_prices_are_those_of_the_settings() {
        let price = |of: u64| Price { input: of, output: of, cache_read: 0, cache_write: 0, cache_write_1h: 0 };
        let prices = Prices::new(vec![(Glob::new("anthropic.*"), price(2_000)), (Glob::new("meta.*"), price(9_000))]);
        let plan = Plan { settings: Limits { prices: prices.into(), ..Limits::default() }, models: Vec::new() };
        let names = |model: &str, profile: Option<&str>| match (model, profile) {
            ("fast", _) => ("us.anthropic.claude".to_owned(), Behind::Itself),
            (arn, Some(profile)) => (arn.to_owned(), Behind::Models(vec![profile.to_owned()])),
            (arn, None) => (arn.to_owned(), Behind::Unknown),
        };
        let unpriced = Usage { input_tokens: Some(4), output_tokens: Some(6), ..Usage::default() };
        for (model, profile, is_group, nano_usd) in
            [("fast", None, true, 27), ("arn:x", Some("meta.llama"), false, 97), ("arn:x", None, true, 97)]
        {
            let (model, profile) = (model.to_owned(), profile.map(str::to_owned));
            let past =
                PastUse { day: TODAY, caller: None, model, profile, requests: 2, tokens: 20, nano_usd: 7, unpriced };
            let weighed = WeighedUse::new(past, &names, &plan);
            assert_eq!(weighed.concerns(&ScopeId::Model("anthropic.*".into())), is_group, "{weighed:?}");
            assert_eq!(weighed.cost, Cost { tokens: 20, nano_usd }, "{weighed:?}");
        }
    }

    #[test]
    fn where_only_the_tokens_are_known_the_money_stays_reserved() {
        let request = OpenRequest {
            request_id: "a".to_owned(),
            tokens: 100,
            nano_usd: 50,
            day: TODAY,
            month: 0,
            scopes: Vec::new(),
        };
        for (cost, expected) in [(None, 50), (Some(3), 3)] {
            let (_, actual, _) = request.replacement(&[("a".to_owned(), (10, cost))].into()).unwrap();
            assert_eq!(actual, Cost { tokens: 10, nano_usd: expected });
        }
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
