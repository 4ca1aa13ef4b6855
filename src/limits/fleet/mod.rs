//! Limits that all hosts keep together, by leases on items of a DynamoDB table.
//!
//! A lease is the right to so many requests and tokens **in any sixty seconds**. The leases of all hosts never add up to
//! more than the limit, and no host uses more than its lease in any sixty seconds: so neither does the fleet, whatever the
//! hosts' clocks say and whenever leases change hands. docs/limits.md tells the whole of it.

pub mod agent;
pub mod amount;
mod balance;
pub mod curve;
pub mod dynamo;
pub mod local;
pub mod memory;
mod neighbour;
mod old;
mod pace;
pub mod shard;
mod share;
mod sizing;
pub mod store;
mod target;
#[cfg(test)]
mod tests;
mod watch;
mod window;

pub use dynamo::Dynamo;
pub(crate) use dynamo::OwnDynamo;
pub use store::LeaseStore;
