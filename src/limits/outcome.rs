//! What an attempt to admit a request ends with.

use uuid::Uuid;

use super::calendar::Period;
use super::cost::Cost;
use super::fleet::local::Draw;
use super::limit::Exceeded;
use super::request::WeighedRequest;
use super::slot::{Slot, Slots};

#[derive(Debug)]
pub(super) enum Outcome {
    Admitted(Reservation),
    Blocked { request: WeighedRequest, obstacle: Obstacle },
}

/// What an admitted request has taken.
#[derive(Debug)]
pub(super) struct Reservation {
    pub(super) slots: Slots,
    pub(super) request: WeighedRequest,
    /// What is counted for it at present: the estimate, then the usage.
    pub(super) counted: Cost,
    pub(super) settled: bool,
    /// By which the ledger knows the request, until it is settled.
    pub(super) id: Option<Uuid>,
    pub(super) admitted: Period,
    pub(super) fleet: Option<Draw>,
}

/// The scope and limit that is in the way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Obstacle {
    pub(super) scope: Slot,
    pub(super) exceeded: Exceeded,
}

impl Obstacle {
    /// Time alone will not lift it within `nanos`, and nothing else is likely to.
    pub(super) fn outlasts(&self, nanos: u64) -> bool {
        self.exceeded.wait > nanos && !self.exceeded.may_clear_early
    }
}
