//! A request on its way to the limits: as it is asked for, and weighed against the settings before the lock is taken.

use std::sync::Arc;
use std::time::Duration;

use super::cost::{self, Cost};
use super::estimate::Estimate;
use super::model_pattern::fits;
use super::slot::{Slot, Slots};
use crate::caller::User;
use crate::config::Glob;
use crate::service_tier::AskedTier;
use crate::settings::limits::{self as settings, Price, Prices};
use crate::settings::model_price::ModelPrice;

/// A request that wants to pass.
#[derive(Debug, Clone, Copy)]
pub struct LimitRequest<'a> {
    /// The name of the caller's entry; none when no entry fits.
    pub caller: Option<&'a str>,
    /// The user of the connection: among callers without an entry, each user waits in a line of its own.
    pub user: User,
    /// The model or profile identifier that the limits of models and the prices are matched with.
    pub model: Option<&'a str>,
    /// What stands behind that identifier.
    pub behind: &'a Behind,
    /// What it may use, which is reserved until it is settled.
    pub estimate: Estimate,
    /// The service tier that it asks for, which may have a price of its own.
    pub tier: AskedTier<'a>,
}

/// The models behind an identifier, by which limits and prices go as well as by the identifier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Behind {
    /// The identifier tells its model itself.
    Itself,
    /// It stands for one of these.
    Models(Vec<String>),
    /// Nobody can tell: the strictest holds that could.
    Unknown,
}

/// What a request is weighed against: the settings, with the place of each pattern on models in the state.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) settings: settings::Limits,
    pub(super) models: Vec<(Glob, Slot)>,
}

impl Plan {
    /// How long requests of a caller may wait; none if they may not.
    pub(super) fn max_wait(&self, caller: Option<&str>) -> Option<Duration> {
        let own = caller.and_then(|name| self.settings.callers.get(name)).and_then(|rates| rates.max_wait);
        own.or(self.settings.host.max_wait)
    }
}

/// A request, weighed and matched, so that little is left to do under the lock.
#[derive(Debug, Clone)]
pub(super) struct WeighedRequest {
    pub(super) caller: Option<Box<str>>,
    pub(super) user: User,
    /// The groups of models that its model belongs to.
    pub(super) models: Slots,
    pub(super) estimate: Estimate,
    /// The prices of its model, by tier.
    prices: Option<Arc<ModelPrice>>,
    /// They are the highest that could hold, because nobody can tell the model.
    prices_are_guessed: bool,
    /// What a token costs: the most that it may, until the answer has told its tier.
    pub(super) price: Option<Price>,
    /// The price is the highest that could hold: good enough to keep a budget, but not to be recorded.
    pub(super) price_is_guessed: bool,
    pub(super) cost: Cost,
    /// It has not been refused by the fleet's lease yet, so it is new demand.
    pub(super) first_attempt: bool,
}

impl WeighedRequest {
    pub(super) fn new(request: &LimitRequest<'_>, plan: &Plan) -> WeighedRequest {
        let mut models = Slots::default();
        let mut price = Priced::default();
        if let Some(model) = request.model {
            for (glob, slot) in &plan.models {
                if may_fit(glob, model, request.behind) {
                    models.push(*slot);
                }
            }
            if !plan.settings.prices.is_empty() {
                price = Priced::new(&plan.settings.prices, model, request.behind);
            }
        }
        let Priced { prices, is_guessed } = price;
        let price = prices.as_ref().map(|prices| prices.at_most(request.tier));
        let is_told = prices.as_ref().is_none_or(|prices| prices.unreported(request.tier).is_some());
        WeighedRequest {
            caller: request.caller.map(Into::into),
            user: request.user,
            models,
            estimate: request.estimate,
            prices,
            prices_are_guessed: is_guessed,
            price,
            price_is_guessed: is_guessed || !is_told,
            cost: cost::estimated(request.estimate, price),
            first_attempt: true,
        }
    }

    /// The answer has told which tier served the request: its price holds from now on.
    pub(super) fn served_in(&mut self, tier: &str) {
        self.price = self.prices.as_ref().map(|prices| prices.of(tier));
        self.price_is_guessed = self.prices_are_guessed;
    }
}

/// Whether a pattern fits the model, or one that may stand behind it.
pub(super) fn may_fit(glob: &Glob, model: &str, behind: &Behind) -> bool {
    match behind {
        Behind::Itself => fits(glob, model),
        Behind::Models(models) => fits(glob, model) || models.iter().any(|one| fits(glob, one)),
        Behind::Unknown => true,
    }
}

/// What a model costs.
#[derive(Debug, Default)]
pub(super) struct Priced {
    pub(super) prices: Option<Arc<ModelPrice>>,
    is_guessed: bool,
}

impl Priced {
    /// Of several models that may stand behind the name, the dearest. A price for the name itself holds where nothing is
    /// known of them, unless it is one for everything.
    pub(super) fn new(prices: &Prices, model: &str, behind: &Behind) -> Priced {
        let known = |prices| Priced { prices, is_guessed: false };
        match behind {
            Behind::Itself => known(prices.of(|glob| fits(glob, model))),
            Behind::Models(models) => known(
                models
                    .iter()
                    .filter_map(|one| prices.of(|glob| fits(glob, model) || fits(glob, one)))
                    .reduce(|one, other| Arc::new(one.or_higher(&other))),
            ),
            Behind::Unknown => match prices.of(|glob| glob.to_string() != "*" && fits(glob, model)) {
                Some(price) => known(Some(price)),
                None => Priced { prices: prices.highest(), is_guessed: true },
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARN: &str = "arn:aws:bedrock:us-east-1:1:application-inference-profile/x1";

    fn price(input: u64, output: u64) -> Price {
        Price { input, output, cache_read: 0, cache_write: 0, cache_write_1h: 0 }
    }

    fn weighed(model: &str, behind: &Behind, more: &[(&str, Price)]) -> WeighedRequest {
        let mut prices = vec![(Glob::new("anthropic.*"), price(3, 15)), (Glob::new("amazon.*"), price(4, 2))];
        prices.extend(more.iter().map(|(pattern, price)| (Glob::new(pattern), *price)));
        let settings = settings::Limits { prices: Arc::new(Prices::new(prices)), ..Default::default() };
        let models = vec![(Glob::new("anthropic.*"), 1), (Glob::new("meta.*"), 2)];
        let plan = Plan { settings, models };
        let estimate = Estimate { input: 1, output: 1 };
        let tier = AskedTier::Unsaid;
        let request = LimitRequest { caller: None, user: User::Unknown, model: Some(model), behind, estimate, tier };
        WeighedRequest::new(&request, &plan)
    }

    #[test]
    fn limits_and_prices_go_by_the_models_behind_a_name() {
        let models = |names: &[&str]| Behind::Models(names.iter().map(|name| (*name).to_owned()).collect());
        for (behind, slots, expected, is_guessed) in [
            (Behind::Itself, vec![], None, false),
            (models(&["anthropic.claude"]), vec![1], Some(price(3, 15)), false),
            (models(&["meta.llama"]), vec![2], None, false),
            (models(&["anthropic.claude", "amazon.nova"]), vec![1], Some(price(4, 15)), false),
            (Behind::Unknown, vec![1, 2], Some(price(4, 15)), true),
        ] {
            let weighed = weighed(ARN, &behind, &[]);
            assert_eq!(weighed.models.iter().collect::<Vec<_>>(), slots, "{behind:?}");
            assert_eq!((weighed.price, weighed.price_is_guessed), (expected, is_guessed), "{behind:?}");
        }
    }

    #[test]
    fn a_price_for_the_name_itself_holds() {
        let own = ("arn:aws:bedrock:*:application-inference-profile/*", price(1, 1));
        let weighed_own = weighed(ARN, &Behind::Unknown, &[own]);
        assert_eq!((weighed_own.price, weighed_own.price_is_guessed), (Some(price(1, 1)), false));
        let fallback = weighed(ARN, &Behind::Unknown, &[("*", price(1, 1))]);
        assert_eq!((fallback.price, fallback.price_is_guessed), (Some(price(4, 15)), true));
    }
}
