//! What an auditor uses: queries to the records of this host or of the fleet, the verification of the hash chain,
//! exports, and the check of the table. Everything here reads the ledger; nothing writes to it.

mod anchors;
mod answer;
mod chain_check;
pub(crate) mod chain_end;
pub mod check;
pub mod cli;
mod finding;
pub mod query;
mod reading;
mod search_index;
mod search_table;
mod snapshot;
mod starts;
mod time_index;
pub(crate) mod usage;

pub use answer::answer;
pub(crate) use answer::{answer_holding, between};
pub(crate) use cli::args::Format;
pub(crate) use cli::output::written;
pub use query::{Query, Scope};
