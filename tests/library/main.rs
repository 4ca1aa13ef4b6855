//! The library's API, without the daemon around it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "tests state expectations by unwrapping, and print what was not run"
)]

mod callers;
mod docs;
mod fleet;
mod ledger;
mod limits;
