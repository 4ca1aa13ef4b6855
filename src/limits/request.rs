//! A request on its way to the limits: as it is asked for, and weighed against the settings before the lock is taken.

use super::cost::{self, Cost};
use super::estimate::Estimate;
use super::model_pattern::fits;
use super::slot::{Slot, Slots};
use crate::config::Glob;
use crate::settings::limits::{self as settings, Price, Rates};

/// A request that wants to pass.
#[derive(Debug, Clone, Copy)]
pub struct LimitRequest<'a> {
    /// The name of the caller's entry; none when no entry fits.
    pub caller: Option<&'a str>,
    /// The limits of that entry. They are those of the newest request, so a reload reaches them by itself.
    pub caller_limits: Option<&'a Rates>,
    /// The model or profile identifier that the limits of models and the prices are matched with.
    pub model: Option<&'a str>,
    /// What it may use, which is reserved until it is settled.
    pub estimate: Estimate,
}

/// What a request is weighed against: the settings, with the place of each pattern on models in the state.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) settings: settings::Limits,
    pub(super) models: Vec<(Glob, Slot)>,
}

/// A request, weighed and matched, so that little is left to do under the lock.
#[derive(Debug, Clone)]
pub(super) struct WeighedRequest {
    pub(super) caller: Option<Box<str>>,
    pub(super) caller_limits: Option<Rates>,
    /// The groups of models that its model belongs to.
    pub(super) models: Slots,
    pub(super) estimate: Estimate,
    pub(super) price: Option<Price>,
    pub(super) cost: Cost,
    /// It has not been refused by the fleet's lease yet, so it is new demand.
    pub(super) first_attempt: bool,
}

impl WeighedRequest {
    pub(super) fn new(request: &LimitRequest<'_>, plan: &Plan) -> WeighedRequest {
        let mut models = Slots::default();
        let mut price = None;
        if let Some(model) = request.model {
            for (glob, slot) in &plan.models {
                if fits(glob, model) {
                    models.push(*slot);
                }
            }
            if !plan.settings.prices.is_empty() {
                price = plan.settings.prices.of(|glob| fits(glob, model));
            }
        }
        WeighedRequest {
            caller: request.caller.map(Into::into),
            caller_limits: request.caller_limits.copied(),
            models,
            estimate: request.estimate,
            price,
            cost: cost::estimated(request.estimate, price),
            first_attempt: true,
        }
    }
}
