//! The table as a model of it, for tests and simulations: `tests/library/fleet/table.rs` checks it against DynamoDB Local.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::amount::{Amount, Terms};
use super::shard::{Balance, FULL, Shard};
use super::store::{LeaseStore, Pool, StoreError, StoreRequest, StoreResponse, StoredLease, held, more};

/// The table in memory.
#[derive(Debug, Default)]
pub struct MemoryStore {
    tables: Mutex<Tables>,
}

#[derive(Debug, Default)]
struct Tables {
    pool: Option<Pool>,
    shards: BTreeMap<u64, Arc<Shard>>,
    /// Of hosts with an older version.
    old: BTreeMap<Arc<str>, StoredLease>,
}

impl MemoryStore {
    /// Takes one step, at once.
    ///
    /// # Errors
    /// The step's condition does not hold; never [`StoreError::Unavailable`].
    pub fn apply(&self, request: &StoreRequest) -> Result<StoreResponse, StoreError> {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        match request {
            StoreRequest::ReadPool => Ok(StoreResponse::Pool(tables.pool.clone().map(Arc::new))),
            StoreRequest::ReadShard { number, .. } => Ok(StoreResponse::Shard(tables.shards.get(number).cloned())),
            StoreRequest::ListOld => Ok(StoreResponse::Leases(tables.old.values().cloned().collect())),
            StoreRequest::Create(terms) => tables.create(*terms),
            StoreRequest::Resize(from, to) => tables.resize(*from, *to),
            StoreRequest::Double(shards) => {
                let pool = tables.pool.as_mut().filter(|pool| pool.shards == *shards).ok_or(StoreError::Conflict)?;
                pool.shards *= 2;
                Ok(StoreResponse::Done)
            }
            StoreRequest::Open(number) => {
                if tables.shards.contains_key(number) {
                    return Err(StoreError::Conflict);
                }
                tables.shards.insert(*number, Arc::new(Shard::empty(*number)));
                Ok(StoreResponse::Done)
            }
            StoreRequest::Write(number, before, after) => tables.write(*number, before.as_ref(), after.as_ref()),
            StoreRequest::Balance(balance) => tables.balance(balance),
            StoreRequest::ReclaimOld(lease) => tables.write_old(Some(lease), None),
        }
    }

    /// What a host with an older version does: its lease is an item of its own, and moves in one step with the pool.
    ///
    /// # Errors
    /// The step's condition does not hold.
    pub fn apply_old(&self, before: Option<&StoredLease>, after: Option<&StoredLease>) -> Result<(), StoreError> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner).write_old(before, after).map(drop)
    }
}

impl Tables {
    fn create(&mut self, terms: Terms) -> Result<StoreResponse, StoreError> {
        if self.pool.is_some() {
            return Err(StoreError::Conflict);
        }
        self.pool = Some(Pool {
            terms,
            free_requests: more(0, terms.limit.requests),
            free_tokens: more(0, terms.limit.tokens),
            shards: 1,
            ..Pool::default()
        });
        Ok(StoreResponse::Done)
    }

    fn resize(&mut self, from: Terms, to: Terms) -> Result<StoreResponse, StoreError> {
        let pool = self.pool.as_mut().filter(|pool| pool.terms == from).ok_or(StoreError::Conflict)?;
        pool.terms = to;
        pool.free_requests += more(from.limit.requests, to.limit.requests);
        pool.free_tokens += more(from.limit.tokens, to.limit.tokens);
        Ok(StoreResponse::Done)
    }

    fn write(
        &mut self,
        number: u64,
        before: Option<&StoredLease>,
        after: Option<&StoredLease>,
    ) -> Result<StoreResponse, StoreError> {
        let id = &before.or(after).ok_or(StoreError::Conflict)?.id;
        let shard = self.shards.get_mut(&number).ok_or(StoreError::Conflict)?;
        let place = shard.leases.binary_search_by(|lease| lease.id.cmp(id));
        let found = place.ok().map(|at| &shard.leases[at]);
        let (from, to) = (held(before), held(after));
        let enough = |free: u64, from: u64, to: u64| to <= from || free >= to - from;
        if found != before
            || before.is_none() && shard.leases.len() >= FULL
            || !enough(shard.free.requests, from.requests, to.requests)
            || !enough(shard.free.tokens, from.tokens, to.tokens)
        {
            return Err(StoreError::Conflict);
        }
        let shard = Arc::make_mut(shard);
        shard.free = Amount {
            requests: shard.free.requests + from.requests - to.requests,
            tokens: shard.free.tokens + from.tokens - to.tokens,
        };
        match (place, after) {
            (Ok(at), Some(lease)) => shard.leases[at] = lease.clone(),
            (Ok(at), None) => drop(shard.leases.remove(at)),
            (Err(at), Some(lease)) => shard.leases.insert(at, lease.clone()),
            (Err(_), None) => {}
        }
        Ok(StoreResponse::Shard(self.shards.get(&number).cloned()))
    }

    fn balance(&mut self, balance: &Balance) -> Result<StoreResponse, StoreError> {
        let Balance { before, requests, tokens, due, terms, shards, elsewhere, declared, steps } = balance;
        let shard = self.shards.get_mut(&before.number).ok_or(StoreError::Conflict)?;
        let pool = self.pool.as_mut().ok_or(StoreError::Conflict)?;
        let enough = |pool: i64, shard: u64, moved: i64| {
            if moved > 0 { pool >= moved } else { shard >= moved.unsigned_abs() }
        };
        if shard.round != before.round
            || !enough(pool.free_requests, shard.free.requests, *requests)
            || !enough(pool.free_tokens, shard.free.tokens, *tokens)
        {
            return Err(StoreError::Conflict);
        }
        pool.free_requests -= requests;
        pool.free_tokens -= tokens;
        let told = |sum: u64, before: u64, after: u64| sum.saturating_add_signed(more(before, after));
        pool.wanted = Amount {
            requests: told(pool.wanted.requests, before.declared.wanted.requests, declared.wanted.requests),
            tokens: told(pool.wanted.tokens, before.declared.wanted.tokens, declared.wanted.tokens),
        };
        pool.hosts = told(pool.hosts, before.declared.hosts, declared.hosts);
        for (curve, step) in pool.curves.iter_mut().zip(steps) {
            curve.add_all(step, 1);
        }
        let shard = Arc::make_mut(shard);
        let moved = |amount: Amount| Amount {
            requests: amount.requests.saturating_add_signed(*requests),
            tokens: amount.tokens.saturating_add_signed(*tokens),
        };
        (shard.budget, shard.free) = (moved(shard.budget), moved(shard.free));
        shard.round += 1;
        (shard.due, shard.terms, shard.shards, shard.elsewhere) = (*due, *terms, *shards, *elsewhere);
        shard.declared = declared.clone();
        Ok(StoreResponse::Done)
    }

    fn write_old(
        &mut self,
        before: Option<&StoredLease>,
        after: Option<&StoredLease>,
    ) -> Result<StoreResponse, StoreError> {
        let id = before.or(after).ok_or(StoreError::Conflict)?.id.clone();
        let pool = self.pool.as_mut().ok_or(StoreError::Conflict)?;
        let (from, to) = (held(before), held(after));
        let (requests, tokens) = (more(to.requests, from.requests), more(to.tokens, from.tokens));
        let enough = |free: i64, change: i64| change >= 0 || free >= -change;
        if self.old.get(&id).map(|lease| lease.version) != before.map(|lease| lease.version)
            || !enough(pool.free_requests, requests)
            || !enough(pool.free_tokens, tokens)
        {
            return Err(StoreError::Conflict);
        }
        pool.free_requests += requests;
        pool.free_tokens += tokens;
        let wanted = |lease: Option<&StoredLease>| lease.map_or(Amount::default(), |lease| lease.wanted);
        let (from, to) = (wanted(before), wanted(after));
        pool.wanted = Amount {
            requests: pool.wanted.requests.saturating_add_signed(more(from.requests, to.requests)),
            tokens: pool.wanted.tokens.saturating_add_signed(more(from.tokens, to.tokens)),
        };
        pool.hosts =
            pool.hosts.saturating_add_signed(i64::from(after.is_some())).saturating_sub(u64::from(before.is_some()));
        match after {
            Some(lease) => self.old.insert(id, lease.clone()),
            None => self.old.remove(&id),
        };
        Ok(StoreResponse::Done)
    }
}

impl LeaseStore for MemoryStore {
    async fn call(&self, request: StoreRequest) -> Result<StoreResponse, StoreError> {
        self.apply(&request)
    }
}
