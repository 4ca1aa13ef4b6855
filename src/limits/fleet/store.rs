//! What the fleet keeps in its table, and the few operations on it. Each is one conditional step: done whole or not at
//! all.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use super::amount::{Amount, Terms};

/// The item that all hosts share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pool {
    /// Of the whole fleet, in any sixty seconds. 0 is not limited.
    pub limit: Amount,
    /// Which limit it is: only one of a higher revision takes its place.
    pub revision: u64,
    /// What no lease holds. Below zero for a while after the limit was lowered.
    pub free_requests: i64,
    /// Of the tokens, likewise.
    pub free_tokens: i64,
    /// The sum of what the hosts want.
    pub wanted: Amount,
    /// The number of leases.
    pub hosts: u64,
}

impl Pool {
    pub(super) fn terms(&self) -> Terms {
        Terms { limit: self.limit, revision: self.revision }
    }
}

/// A host's lease.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StoredLease {
    /// Of one run of the daemon, never used again.
    pub id: String,
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
    Read,
    /// Makes the pool, all of it free.
    Create(Terms),
    /// Changes the limit, if it still is the first.
    Resize(Terms, Terms),
    /// Replaces a lease, if it still is the first, and keeps the pool's sums right. No first: a new lease. No second: the
    /// lease is given back, by its holder or by a host that saw it die.
    Write(Option<StoredLease>, Option<StoredLease>),
    /// A lease as it is now.
    Get(String),
    /// All leases, perhaps as they were a moment ago.
    List,
}

/// What a step that was done brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreResponse {
    /// To `Read`; none before the first host has made it.
    Pool(Option<Pool>),
    /// To whatever writes.
    Done,
    /// To `Get`; none when there is no such lease.
    Lease(Option<StoredLease>),
    /// To `List`.
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

/// The difference that a write makes to the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Change {
    pub(super) free_requests: i64,
    pub(super) free_tokens: i64,
    pub(super) wanted_requests: i64,
    pub(super) wanted_tokens: i64,
    pub(super) hosts: i64,
}

impl Change {
    pub(super) fn of(before: Option<&StoredLease>, after: Option<&StoredLease>) -> Change {
        let held = |lease: Option<&StoredLease>| lease.map_or(Amount::default(), |lease| lease.held);
        let wanted = |lease: Option<&StoredLease>| lease.map_or(Amount::default(), |lease| lease.wanted);
        let less = |a: u64, b: u64| i64::try_from(i128::from(a) - i128::from(b)).unwrap_or(i64::MAX);
        Change {
            free_requests: less(held(before).requests, held(after).requests),
            free_tokens: less(held(before).tokens, held(after).tokens),
            wanted_requests: less(wanted(after).requests, wanted(before).requests),
            wanted_tokens: less(wanted(after).tokens, wanted(before).tokens),
            hosts: i64::from(after.is_some()) - i64::from(before.is_some()),
        }
    }
}

/// The table as a model of it, for tests and simulations: `tests/library/fleet/table.rs` checks it against DynamoDB Local.
#[derive(Debug, Default)]
pub struct MemoryStore {
    tables: Mutex<(Option<Pool>, BTreeMap<String, StoredLease>)>,
}

impl MemoryStore {
    /// Takes one step, at once.
    ///
    /// # Errors
    /// The step's condition does not hold; never [`StoreError::Unavailable`].
    pub fn apply(&self, request: &StoreRequest) -> Result<StoreResponse, StoreError> {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        let (pool, leases) = &mut *tables;
        match request {
            StoreRequest::Read => Ok(StoreResponse::Pool(*pool)),
            StoreRequest::Get(id) => Ok(StoreResponse::Lease(leases.get(id).cloned())),
            StoreRequest::List => Ok(StoreResponse::Leases(leases.values().cloned().collect())),
            StoreRequest::Create(Terms { limit, revision }) => {
                if pool.is_some() {
                    return Err(StoreError::Conflict);
                }
                let (free_requests, free_tokens) = (signed(limit.requests), signed(limit.tokens));
                *pool =
                    Some(Pool { limit: *limit, revision: *revision, free_requests, free_tokens, ..Pool::default() });
                Ok(StoreResponse::Done)
            }
            StoreRequest::Resize(from, to) => {
                let pool = pool.as_mut().filter(|pool| pool.terms() == *from).ok_or(StoreError::Conflict)?;
                let (before, after) = (from.limit, to.limit);
                (pool.limit, pool.revision) = (after, to.revision);
                pool.free_requests += signed(after.requests) - signed(before.requests);
                pool.free_tokens += signed(after.tokens) - signed(before.tokens);
                Ok(StoreResponse::Done)
            }
            StoreRequest::Write(before, after) => {
                let Some(id) = before.as_ref().or(after.as_ref()).map(|lease| lease.id.clone()) else {
                    return Err(StoreError::Conflict);
                };
                if leases.get(&id).map(|lease| lease.version) != before.as_ref().map(|lease| lease.version) {
                    return Err(StoreError::Conflict);
                }
                let change = Change::of(before.as_ref(), after.as_ref());
                if change != Change::default() {
                    let pool = pool.as_mut().ok_or(StoreError::Conflict)?;
                    let enough = |free: i64, change: i64| change >= 0 || free >= -change;
                    if !enough(pool.free_requests, change.free_requests)
                        || !enough(pool.free_tokens, change.free_tokens)
                    {
                        return Err(StoreError::Conflict);
                    }
                    pool.free_requests += change.free_requests;
                    pool.free_tokens += change.free_tokens;
                    pool.wanted.requests = pool.wanted.requests.saturating_add_signed(change.wanted_requests);
                    pool.wanted.tokens = pool.wanted.tokens.saturating_add_signed(change.wanted_tokens);
                    pool.hosts = pool.hosts.saturating_add_signed(change.hosts);
                }
                match after {
                    Some(lease) => leases.insert(id, lease.clone()),
                    None => leases.remove(&id),
                };
                Ok(StoreResponse::Done)
            }
        }
    }
}

impl LeaseStore for MemoryStore {
    async fn call(&self, request: StoreRequest) -> Result<StoreResponse, StoreError> {
        self.apply(&request)
    }
}

impl<S: LeaseStore> LeaseStore for std::sync::Arc<S> {
    fn call(&self, request: StoreRequest) -> impl Future<Output = Result<StoreResponse, StoreError>> + Send {
        S::call(self, request)
    }
}

/// DynamoDB's numbers have 38 digits and ours 63 bits: more than any limit that is meant.
fn signed(amount: u64) -> i64 {
    i64::try_from(amount).unwrap_or(i64::MAX)
}
