//! What this host should hold of its shard: pure arithmetic on what it and the shard's other hosts want.

use super::amount::Amount;
use super::local::LocalLease;
use super::shard::Shard;
use super::sizing::{Sizing, next_wanted};
use super::store::{StoredLease, more};
use super::target::Shared;

/// A host's part.
#[derive(Debug, Clone, Copy)]
pub(super) struct Share {
    /// Its lease.
    pub(super) held: Amount,
    /// What it wants for sixty seconds.
    pub(super) wanted: Amount,
    /// What it may use of the lease meanwhile.
    pub(super) cap: Amount,
}

/// The part that the host should have after this. `limit` is the whole fleet's; `renew`: the lease is written anyway.
#[expect(clippy::too_many_arguments, reason = "all that a decision depends on")]
pub(super) fn share(
    local: &mut LocalLease,
    shard: &Shard,
    id: &str,
    limit: Amount,
    before: Share,
    lots: [u64; 2],
    renew: bool,
    now: u64,
) -> Share {
    let (asked, largest, used) = (local.asked(now), local.largest(now), local.used(now));
    let starved = local.starved(now);
    let Share { held, mut wanted, .. } = before;
    let due = shard.due.min(shard.budget);
    let others = |of: fn(&StoredLease) -> u64| -> Vec<u64> {
        shard.leases.iter().filter(|lease| &*lease.id != id).map(of).collect()
    };
    let hosts =
        u64::try_from(shard.leases.len()).unwrap_or(u64::MAX).saturating_add(u64::from(shard.lease(id).is_none()));
    // Clients that try again ask for the same many times. So of the one no more is of use than the other would serve, and
    // a quarter on top: else what is plenty would look short, be shared by lot, and become short.
    let useful = match used.tokens {
        0 => u64::MAX,
        _ if limit.tokens == 0 => u64::MAX,
        tokens => {
            u64::try_from(u128::from(held.tokens) * u128::from(used.requests) / u128::from(tokens)).unwrap_or(u64::MAX)
        }
    };
    let useful = useful.saturating_add(useful / 4).max(due.requests / hosts.max(1)).saturating_add(1);
    wanted.requests = next_wanted(asked.requests.min(useful), wanted.requests.min(useful), 1, limit.requests, renew);
    let wishes = others(|lease| lease.wanted.requests);
    let requests = Shared::new(due.requests, &wishes, wanted.requests);
    let requests_target = requests.target(wanted.requests, 1, lots[0]);
    let useful = match used.requests {
        _ if limit.requests == 0 => u64::MAX,
        0 => requests_target.max(held.requests).saturating_mul(largest.tokens),
        count => (used.tokens / count).saturating_mul(requests_target.max(held.requests)),
    };
    let useful = useful.saturating_add(useful / 4).saturating_add(largest.tokens);
    wanted.tokens =
        next_wanted(asked.tokens.min(useful), wanted.tokens.min(useful), largest.tokens, limit.tokens, renew);
    let wishes = others(|lease| lease.wanted.tokens);
    let tokens = Shared::new(due.tokens, &wishes, wanted.tokens);
    // What the pool is to have back is not free here.
    let free = |free: u64, budget: u64, due: u64| more(budget.saturating_sub(due), free);
    let requests = Sizing {
        target: requests_target,
        held: held.requests,
        used: used.requests,
        wanted: wanted.requests,
        unit: 1,
        free: free(shard.free.requests, shard.budget.requests, due.requests),
        limit: due.requests,
        fleet_wanted: requests.wanted,
        starved,
    };
    let tokens = Sizing {
        target: tokens.target(wanted.tokens, largest.tokens, lots[1]),
        held: held.tokens,
        used: used.tokens,
        wanted: wanted.tokens,
        unit: largest.tokens,
        free: free(shard.free.tokens, shard.budget.tokens, due.tokens),
        limit: due.tokens,
        fleet_wanted: tokens.wanted,
        starved,
    };
    let (requests, tokens) = (requests.decide(), tokens.decide());
    Share {
        held: Amount { requests: requests.held, tokens: tokens.held },
        wanted,
        cap: Amount { requests: requests.cap, tokens: tokens.cap },
    }
}
