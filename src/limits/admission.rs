//! What an admitted request holds, from its first byte upstream to the last byte of its answer.

use std::fmt;
use std::sync::Arc;

use uuid::Uuid;

use super::cost;
use super::outcome::Reservation;
use super::refusal::usd;
use super::scope::Warning;
use super::shared::Shared;
use crate::record::Usage;

/// A request's place among those that run, and what it has reserved. Dropping it frees the place.
///
/// Tokens that were reserved and never settled stay spent: a request whose usage nobody knows may have used them all.
/// [`Admission::cancel`] is for one that never went upstream.
#[must_use = "the request's place is free again as soon as this is dropped"]
pub struct Admission {
    shared: Arc<Shared>,
    reservation: Reservation,
}

impl Admission {
    pub(super) fn new(shared: &Arc<Shared>, reservation: Reservation) -> Admission {
        Admission { shared: shared.clone(), reservation }
    }

    /// The ledger will have a record of the request, by this id. Should the daemon be killed meanwhile, the next one finds
    /// there what became of it.
    pub fn recorded_as(&mut self, id: Uuid) {
        self.shared.lock().recorded_as(id, &mut self.reservation);
    }

    /// Puts the usage that was metered in the place of the reservation. What is unknown in it stays as it was reserved;
    /// usage above the reservation becomes a debt. May be called again with better numbers.
    pub fn settle(&mut self, usage: &Usage) {
        let now = self.shared.clock.now();
        let warnings = self.shared.free(|state| state.settle(&mut self.reservation, usage, now));
        // Logging may block: not under the lock.
        warnings.iter().for_each(warn);
    }

    /// Settles a request whose answer did not come to its end. `uncounted` are tokens of the output, by an estimate, that
    /// came after the upstream's last count; where it gave none, the reservation stays, or they count if they are more.
    pub fn settle_broken_off(&mut self, usage: &Usage, uncounted: u64) {
        let reserved = self.reservation.request.estimate.output;
        let output = usage.output_tokens.map_or(reserved.max(uncounted), |known| known.saturating_add(uncounted));
        self.settle(&Usage { output_tokens: Some(output), ..*usage });
    }

    /// The answer has told which service tier served the request, and so what its tokens cost.
    pub fn served_in(&mut self, tier: &str) {
        self.reservation.request.served_in(tier);
    }

    /// What was reported costs, in nano-dollars, by the price that the budgets count with; none when no price fits the
    /// model, the usage is unknown, or the price is a guess because nobody can tell the model or the tier.
    pub fn cost(&self, usage: &Usage) -> Option<u64> {
        let request = &self.reservation.request;
        cost::reported(usage, request.price.filter(|_| !request.price_is_guessed))
    }

    /// The request never went upstream: nothing of it counts.
    pub fn cancel(mut self) {
        let now = self.shared.clock.now();
        self.shared.lock().cancel(&mut self.reservation, now);
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.shared.free(|state| state.end(&mut self.reservation));
    }
}

impl fmt::Debug for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admission").field("reservation", &self.reservation).finish_non_exhaustive()
    }
}

fn warn(warning: &Warning) {
    tracing::warn!(
        scope = warning.id.label(),
        whose = %warning.id,
        limit = warning.limit.key(),
        spent_usd = usd(warning.spent),
        budget_usd = usd(warning.configured),
        "80 % of a budget are spent; requests are refused once all of it is",
    );
}
