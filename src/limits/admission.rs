//! What an admitted request holds, from its first byte upstream to the last byte of its answer.

use std::fmt;
use std::sync::Arc;

use super::Inner;
use super::refusal::usd;
use super::scope::Warning;
use super::state::Hold;
use crate::record::Usage;

/// A request's place among those that run, and what it has reserved. Dropping it frees the place.
///
/// Tokens that were reserved and never settled stay spent: a request whose usage nobody knows may have used them all.
/// [`Admission::cancel`] is for one that never went upstream.
#[must_use = "the request's place is free again as soon as this is dropped"]
pub struct Admission {
    limits: Arc<Inner>,
    hold: Hold,
}

impl Admission {
    pub(super) fn new(limits: &Arc<Inner>, hold: Hold) -> Admission {
        Admission { limits: limits.clone(), hold }
    }

    /// Puts the usage that was metered in the place of the reservation. What is unknown in it stays as it was reserved;
    /// usage above the reservation becomes a debt. May be called again with better numbers.
    pub fn settle(&mut self, usage: &Usage) {
        let now = self.limits.clock.now();
        let warnings = self.limits.free(|state| state.settle(&mut self.hold, usage, now));
        // Logging may block: not under the lock.
        warnings.iter().for_each(warn);
    }

    /// The request never went upstream: nothing of it counts.
    pub fn cancel(mut self) {
        let now = self.limits.clock.now();
        self.limits.lock().cancel(&mut self.hold, now);
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.limits.free(|state| state.end(&mut self.hold));
    }
}

impl fmt::Debug for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admission").field("hold", &self.hold).finish_non_exhaustive()
    }
}

fn warn(warning: &Warning) {
    tracing::warn!(
        scope = warning.whose.label(),
        whose = %warning.whose,
        limit = warning.limit.key(),
        spent_usd = usd(warning.spent),
        budget_usd = usd(warning.configured),
        "80 % of a budget are spent; requests are refused once all of it is",
    );
}
