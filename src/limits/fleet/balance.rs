//! What a shard is due of the pool: pure arithmetic on what its hosts and the fleet want.

use std::sync::Arc;

use super::amount::Amount;
use super::curve::{Curve, Level};
use super::shard::{Balance, Declared, Shard};
use super::store::{Pool, more};

/// So many buckets of each curve are told to the pool at once; DynamoDB has a bound on what one expression may hold.
const STEPS: usize = 40;

/// What the pool and the shard should tell each other now, and move; none if all is as it should be. `lots` decide where what
/// is due is less than what one request needs.
pub(super) fn balance(pool: &Pool, shard: &Arc<Shard>, lots: [u64; 2]) -> Option<Balance> {
    let told = &shard.declared;
    let hosts = u64::try_from(shard.leases.len()).unwrap_or(u64::MAX);
    let curves = [
        Curve::of(shard.leases.iter().map(|lease| lease.wanted.requests)),
        Curve::of(shard.leases.iter().map(|lease| lease.wanted.tokens)),
    ];
    let steps = [0, 1].map(|kind: usize| told.curves[kind].differences(&curves[kind], STEPS));
    let mut declared = Declared { wanted: shard.wanted(), hosts, curves: told.curves.clone() };
    let mut fleet = pool.curves.clone();
    for kind in [0, 1] {
        declared.curves[kind].add_all(&steps[kind], 1);
        fleet[kind].add_all(&told.curves[kind], -1);
        fleet[kind].add_all(&curves[kind], 1);
    }
    let elsewhere = pool.hosts.saturating_sub(told.hosts);
    let all_hosts = elsewhere.saturating_add(hosts);
    let others = |curve: &Curve| all_hosts.saturating_sub(curve.hosts());
    let requests = Part {
        limit: pool.terms.limit.requests,
        pool_free: pool.free_requests,
        budget: shard.budget.requests,
        shard_free: shard.free.requests,
        wanted: pool.wanted.requests.saturating_sub(told.wanted.requests).saturating_add(declared.wanted.requests),
        wishes: shard.leases.iter().map(|lease| lease.wanted.requests).collect(),
        curve: &fleet[0],
        hosts: all_hosts,
        others: others(&fleet[0]),
        lot: lots[0],
    };
    let tokens = Part {
        limit: pool.terms.limit.tokens,
        pool_free: pool.free_tokens,
        budget: shard.budget.tokens,
        shard_free: shard.free.tokens,
        wanted: pool.wanted.tokens.saturating_sub(told.wanted.tokens).saturating_add(declared.wanted.tokens),
        wishes: shard.leases.iter().map(|lease| lease.wanted.tokens).collect(),
        curve: &fleet[1],
        hosts: all_hosts,
        others: others(&fleet[1]),
        lot: lots[1],
    };
    let (requests, tokens) = (requests.size(), tokens.size());
    let due = Amount { requests: requests.due, tokens: tokens.due };
    let balance = Balance {
        before: shard.clone(),
        requests: more(shard.budget.requests, requests.budget),
        tokens: more(shard.budget.tokens, tokens.budget),
        due,
        terms: pool.terms,
        shards: pool.shards,
        elsewhere,
        declared,
        steps,
    };
    let alone = elsewhere == 0;
    let declared = &balance.declared;
    let near = |before: u64, after: u64| before.abs_diff(after) <= before / 8;
    let same = (balance.requests, balance.tokens) == (0, 0)
        && due == shard.due
        && (pool.terms, pool.shards) == (shard.terms, shard.shards)
        && near(shard.elsewhere, elsewhere)
        && told.hosts == declared.hosts
        && (alone
            || near(told.wanted.requests, declared.wanted.requests)
                && near(told.wanted.tokens, declared.wanted.tokens));
    (!same).then_some(balance)
}

/// One of the two things that are shared.
struct Part<'a> {
    limit: u64,
    pool_free: i64,
    budget: u64,
    shard_free: u64,
    /// By the whole fleet.
    wanted: u64,
    /// By each of the shard's hosts.
    wishes: Vec<u64>,
    /// Of the whole fleet.
    curve: &'a Curve,
    /// Of the whole fleet.
    hosts: u64,
    /// Hosts that the curve does not know.
    others: u64,
    lot: u64,
}

struct Size {
    budget: u64,
    due: u64,
}

impl Part<'_> {
    fn size(&self) -> Size {
        let due = self.due();
        let Part { limit, pool_free, budget, shard_free, .. } = *self;
        let free = u64::try_from(pool_free).unwrap_or(0);
        let wanted = self.wishes.iter().fold(0u64, |sum, wish| sum.saturating_add(*wish));
        if due >= budget {
            let mut more = (due - budget).min(free);
            if more == 0 && wanted > budget && free > limit / 100 {
                // What nobody else has taken is better used than left.
                let part = u128::from(free) * u128::from(wanted) / u128::from(self.wanted.max(1));
                more = u64::try_from(part).unwrap_or(free).min(wanted - budget).min(free);
            }
            return Size { budget: budget + more, due: budget + more };
        }
        let scarce = free < limit / 20 || pool_free < 0;
        let slack = if due == 0 || pool_free < 0 { 0 } else { (due / 50).max(1) };
        if budget > due.saturating_add(slack) && (scarce || budget > due.saturating_mul(2)) {
            // The rest follows as hosts make room.
            let budget = due.max(budget - shard_free);
            return Size { budget, due };
        }
        Size { budget, due: budget }
    }

    /// What the shard should have.
    fn due(&self) -> u64 {
        let hosts = u64::try_from(self.wishes.len()).unwrap_or(u64::MAX);
        if hosts == 0 {
            return 0;
        }
        if hosts >= self.hosts {
            return self.limit;
        }
        // The rest is for newcomers.
        let usable = self.limit - self.limit / 200;
        let sum = self.wishes.iter().fold(0u64, |sum, wish| sum.saturating_add(*wish));
        let level = if self.wanted > usable { self.curve.level(usable, self.wanted, self.others) } else { None };
        let Some(Level { rest, among }) = level else {
            let even = u128::from(usable.saturating_sub(self.wanted) / 5 * 4) * u128::from(hosts);
            let even = u64::try_from(even / u128::from(self.hosts)).unwrap_or(u64::MAX);
            return sum.saturating_add(even).min(usable);
        };
        let is_below = |wish: u64| u128::from(wish) * u128::from(among) <= u128::from(rest);
        let below =
            self.wishes.iter().filter(|wish| is_below(**wish)).fold(0u64, |sum, wish| sum.saturating_add(*wish));
        let above = u64::try_from(self.wishes.iter().filter(|wish| !is_below(**wish)).count()).unwrap_or(u64::MAX);
        let due = u128::from(rest) * u128::from(above);
        let (whole, odd) = (due / u128::from(among), due % u128::from(among));
        let whole = below.saturating_add(u64::try_from(whole).unwrap_or(u64::MAX));
        // No wish is less than what one request needs. Half of that serves nobody: so it is drawn by lot.
        let unit = self.wishes.iter().copied().filter(|wish| *wish > 0).min().unwrap_or(1);
        let drawn = u128::from(self.lot % 1_000_000);
        let due = if whole >= unit {
            whole.saturating_add(u64::from(drawn * u128::from(among) < odd * 1_000_000))
        } else if drawn * u128::from(unit) < u128::from(whole) * 1_000_000 {
            unit
        } else {
            0
        };
        due.min(usable)
    }
}
