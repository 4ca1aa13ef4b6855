//! The library's API, without the daemon around it.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "tests state expectations by unwrapping, and print what was not run"
)]

mod callers;
mod configuration;
mod docs;
mod fleet;
mod ledger;
mod limits;
mod monitoring;
