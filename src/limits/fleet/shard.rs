//! A shard: the item that some fifty hosts share, with a budget out of the pool.

use std::sync::Arc;

use super::amount::{Amount, Terms};
use super::curve::Curve;
use super::store::StoredLease;

/// A shard with so many leases takes no other.
pub const FULL: usize = 75;

/// The item of a shard.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Shard {
    /// Which it is, from 0.
    pub number: u64,
    /// Grows with each balance.
    pub round: u64,
    /// What it has of the pool: its leases and its free part.
    pub budget: Amount,
    /// What its hosts should share: less than the budget while that is to shrink.
    pub due: Amount,
    /// What no lease holds.
    pub free: Amount,
    /// The pool's, as of the last balance.
    pub terms: Terms,
    /// The number of shards then.
    pub shards: u64,
    /// The number of hosts in other shards, and of older versions, then.
    pub elsewhere: u64,
    /// What the pool counts for this shard.
    pub declared: Declared,
    /// By id.
    pub leases: Vec<StoredLease>,
}

/// A shard's part in what the pool counts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Declared {
    /// The sum of what its hosts want.
    pub wanted: Amount,
    /// The number of its leases.
    pub hosts: u64,
    /// Its hosts by what they want: requests and tokens.
    pub curves: [Curve; 2],
}

/// Moves budget between the pool and a shard, and tells each about the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Balance {
    /// The shard as it was seen; only its number, round and what was declared count.
    pub before: Arc<Shard>,
    /// Moves into the shard; below zero, out of it.
    pub requests: i64,
    /// Of tokens likewise.
    pub tokens: i64,
    /// See [`Shard`].
    pub due: Amount,
    /// See [`Shard`].
    pub terms: Terms,
    /// See [`Shard`].
    pub shards: u64,
    /// See [`Shard`].
    pub elsewhere: u64,
    /// See [`Shard`].
    pub declared: Declared,
    /// The differences of the curves.
    pub steps: [Curve; 2],
}

impl Shard {
    /// A new one, with nothing.
    pub fn empty(number: u64) -> Shard {
        Shard { number, ..Shard::default() }
    }

    /// A host's lease.
    pub fn lease(&self, id: &str) -> Option<&StoredLease> {
        self.leases.iter().find(|lease| &*lease.id == id)
    }

    /// What all its hosts want.
    pub(super) fn wanted(&self) -> Amount {
        self.leases.iter().fold(Amount::default(), |sum, lease| Amount {
            requests: sum.requests.saturating_add(lease.wanted.requests),
            tokens: sum.tokens.saturating_add(lease.wanted.tokens),
        })
    }

    /// The number of all hosts, as far as is known here.
    pub(super) fn hosts(&self) -> u64 {
        self.elsewhere.saturating_add(u64::try_from(self.leases.len()).unwrap_or(u64::MAX))
    }
}
