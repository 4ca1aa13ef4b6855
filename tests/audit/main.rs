//! The ledger from outside: nothing that was opened or noted is lost, twice or changed, whatever happens to the process,
//! the disk or DynamoDB.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod journal;
mod kit;
