//! What the fleet keeps in its table, and the few operations on it. Each is one conditional step: done whole or not at
//! all.

use std::sync::Arc;

use super::amount::{Amount, Terms};
use super::curve::Curve;
use super::shard::{Balance, Shard};

/// The item that all shards share, and the leases of hosts with an older version.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pool {
    /// The limits of the whole fleet.
    pub terms: Terms,
    /// What no shard and no lease of an older version holds. Below zero for a while after the limit was lowered.
    pub free_requests: i64,
    /// Of the tokens, likewise.
    pub free_tokens: i64,
    /// The sum of what the hosts want.
    pub wanted: Amount,
    /// The number of hosts.
    pub hosts: u64,
    /// The number of shards.
    pub shards: u64,
    /// Hosts in shards, by the requests and by the tokens that they want.
    pub curves: [Curve; 2],
}

/// A host's lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredLease {
    /// Of one run of the daemon, never used again.
    pub id: Arc<str>,
    /// Grows with each write. A lease whose version stands still is dead.
    pub version: u64,
    /// The lease: what its holder may use in any sixty seconds.
    pub held: Amount,
    /// What its holder would use if it could.
    pub wanted: Amount,
    /// How long, in milliseconds, its holder may use it after it sent the write of this version.
    pub hold_ms: u64,
}

/// One step on the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreRequest {
    /// The pool as it is, perhaps a moment ago.
    ReadPool,
    /// Makes the pool, all of it free.
    Create(Terms),
    /// Changes the limits, if they still are the first.
    Resize(Terms, Terms),
    /// Doubles the number of shards, if it still is this.
    Double(u64),
    /// A shard: as it is now, or perhaps as it was a moment ago.
    ReadShard {
        /// Which.
        number: u64,
        /// As it is now.
        now: bool,
    },
    /// Makes a shard, with nothing in it.
    Open(u64),
    /// Replaces a lease in a shard, if it still is the first. What it holds more comes from the shard's free part, which must
    /// have it; what it holds less goes there. No first: a new lease, unless the shard is full. No second: the lease is given
    /// back, by its holder or by a host that saw it die.
    Write(u64, Option<StoredLease>, Option<StoredLease>),
    /// Moves budget between the pool and a shard, if both have it free, and if nobody has balanced the shard meanwhile.
    Balance(Box<Balance>),
    /// All leases of hosts with an older version, perhaps as they were a moment ago.
    ListOld,
    /// Takes a dead one of those back, if it still is as it was.
    ReclaimOld(StoredLease),
}

/// What a step that was done brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreResponse {
    /// To `ReadPool`; none before the first host has made it.
    Pool(Option<Arc<Pool>>),
    /// To `ReadShard`, and to `Write` as the shard is then.
    Shard(Option<Arc<Shard>>),
    /// To whatever else writes.
    Done,
    /// To `ListOld`.
    Leases(Vec<StoredLease>),
}

/// Why a step was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The condition did not hold; nothing was written.
    #[error("another host was first")]
    Conflict,
    /// Nobody knows whether it was written.
    #[error("{0}")]
    Unavailable(String),
}

/// Where leases are kept.
pub trait LeaseStore: Send + Sync + 'static {
    /// Takes one step.
    ///
    /// # Errors
    /// The step's condition does not hold, or nobody knows whether it was done.
    fn call(&self, request: StoreRequest) -> impl Future<Output = Result<StoreResponse, StoreError>> + Send;
}

impl<S: LeaseStore> LeaseStore for Arc<S> {
    fn call(&self, request: StoreRequest) -> impl Future<Output = Result<StoreResponse, StoreError>> + Send {
        S::call(self, request)
    }
}

/// By how much more the second is. DynamoDB's numbers have 38 digits and ours 63 bits: more than any limit that is meant.
pub(super) fn more(before: u64, after: u64) -> i64 {
    i64::try_from(i128::from(after) - i128::from(before)).unwrap_or(if after > before { i64::MAX } else { i64::MIN })
}

/// What a lease holds, and nothing if there is none.
pub(super) fn held(lease: Option<&StoredLease>) -> Amount {
    lease.map_or(Amount::default(), |lease| lease.held)
}
