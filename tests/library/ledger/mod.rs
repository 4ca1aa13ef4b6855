//! The ledger: nothing that was opened or noted is lost, twice or changed, whatever happens to the process,
//! the disk or DynamoDB.

mod auditor;
mod check;
mod child;
mod clocks;
mod damage;
mod full;
mod genesis;
mod journal;
mod kill;
mod kit;
mod power;
mod refusals;
mod shipping;
mod time_index;
