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
    let part = |kind: usize, of: fn(&Amount) -> u64, pool_free: i64, unit: u64| Part {
        limit: of(&pool.terms.limit),
        pool_free,
        budget: of(&shard.budget),
        shard_free: of(&shard.free),
        wanted: of(&pool.wanted).saturating_sub(of(&told.wanted)).saturating_add(of(&declared.wanted)),
        wishes: shard.leases.iter().map(|lease| of(&lease.wanted)).collect(),
        curve: &fleet[kind],
        hosts: all_hosts,
        others: all_hosts.saturating_sub(fleet[kind].hosts()),
        unit,
        lot: lots[kind],
    };
    let requests = part(0, |amount| amount.requests, pool.free_requests, 1);
    let tokens = part(1, |amount| amount.tokens, pool.free_tokens, smallest_request(shard));
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

/// The tokens of one request, of the host whose requests are the smallest.
fn smallest_request(shard: &Shard) -> u64 {
    let wishes = shard.leases.iter().map(|lease| lease.wanted).filter(|wanted| wanted.tokens > 0);
    wishes.map(|wanted| wanted.tokens / wanted.requests.max(1)).min().unwrap_or(1).max(1)
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
    /// What one request needs: less than that serves nobody.
    unit: u64,
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
            let budget = due.max(budget.saturating_sub(shard_free));
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
        let unit = self.unit;
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

#[cfg(test)]
mod tests {
    use super::super::amount::Terms;
    use super::super::store::StoredLease;
    use super::*;

    /// A pool and shards whose hosts have these wishes.
    struct Table {
        pool: Pool,
        shards: Vec<Arc<Shard>>,
    }

    impl Table {
        fn new(limit: u64, shards: &[&[u64]]) -> Table {
            let terms = Terms { limit: Amount { requests: limit, tokens: limit }, revision: 0 };
            let free = more(0, limit);
            let pool = Pool { terms, free_requests: free, free_tokens: free, shards: 2, ..Pool::default() };
            let mut table = Table { pool, shards: Vec::new() };
            for (number, wishes) in (0..).zip(shards) {
                table.shards.push(Arc::new(Shard::empty(number)));
                table.want(number, wishes);
            }
            table
        }

        /// None of its hosts holds anything, so that budgets are free to go.
        fn want(&mut self, number: u64, wishes: &[u64]) {
            let lease = |(host, wish): (usize, &u64)| {
                let wanted = Amount { requests: *wish, tokens: *wish };
                let id = format!("{host:03}").into();
                StoredLease { id, version: 1, held: Amount::default(), wanted, hold_ms: 15_000 }
            };
            let shard = Arc::make_mut(&mut self.shards[usize::try_from(number).unwrap()]);
            shard.leases = wishes.iter().enumerate().map(lease).collect();
        }

        /// As the table does it.
        fn settle(&mut self) -> Vec<u64> {
            for _ in 0..6 {
                for shard in &mut self.shards {
                    let Some(balance) = balance(&self.pool, shard, [1, 1]) else { continue };
                    assert_eq!(balance.requests, balance.tokens, "both are alike here");
                    let told = &shard.declared;
                    self.pool.free_requests -= balance.requests;
                    self.pool.free_tokens -= balance.tokens;
                    assert!(self.pool.free_requests >= 0);
                    let wanted = |sum: u64, before: u64, after: u64| sum - before + after;
                    let after = &balance.declared.wanted;
                    self.pool.wanted.requests = wanted(self.pool.wanted.requests, told.wanted.requests, after.requests);
                    self.pool.wanted.tokens = wanted(self.pool.wanted.tokens, told.wanted.tokens, after.tokens);
                    self.pool.hosts = wanted(self.pool.hosts, told.hosts, balance.declared.hosts);
                    for (curve, step) in self.pool.curves.iter_mut().zip(&balance.steps) {
                        curve.add_all(step, 1);
                    }
                    let shard = Arc::make_mut(shard);
                    let budget = shard.budget.requests.checked_add_signed(balance.requests).unwrap();
                    shard.budget = Amount { requests: budget, tokens: budget };
                    shard.free = shard.budget;
                    (shard.due, shard.declared) = (balance.due, balance.declared);
                    (shard.terms, shard.shards, shard.elsewhere) = (balance.terms, balance.shards, balance.elsewhere);
                }
            }
            self.shards.iter().map(|shard| shard.budget.requests).collect()
        }
    }

    #[test]
    fn the_only_shard_has_the_whole_limit() {
        assert_eq!(Table::new(1_000, &[&[5, 7]]).settle(), [1_000]);
        assert_eq!(Table::new(1_000, &[&[5_000, 7]]).settle(), [1_000]);
    }

    #[test]
    fn shards_have_what_their_hosts_max_min_shares_add_up_to() {
        let budgets = Table::new(1_000, &[&[10, 10, 5_000], &[20, 20, 20, 20]]).settle();
        assert!(budgets[0].abs_diff(915) < 30 && (80..=85).contains(&budgets[1]), "{budgets:?}");
        let budgets = Table::new(1_000, &[&[5_000], &[5_000, 5_000, 5_000]]).settle();
        assert!(budgets[0].abs_diff(249) < 15 && budgets[1].abs_diff(746) < 15, "{budgets:?}");
        // The rest, by the number of hosts.
        let budgets = Table::new(1_000, &[&[100], &[0, 0, 0]]).settle();
        assert!(budgets[0] >= 100 + 179 && budgets[1] >= 500, "{budgets:?}");
    }

    #[test]
    fn budgets_follow_what_hosts_want_and_a_shard_without_hosts_has_none() {
        let mut table = Table::new(1_000, &[&[5_000, 5_000], &[0, 0]]);
        assert!(table.settle()[0] > 900, "{:?}", table.settle());
        table.want(0, &[]);
        table.want(1, &[700, 700]);
        assert_eq!(table.settle()[0], 0);
        assert!(table.settle()[1] >= 995, "{:?}", table.settle());
        assert_eq!((table.pool.hosts, table.pool.wanted.requests), (2, 1_400));
        assert_eq!(table.pool.curves[0], Curve::of([700, 700].into_iter()));
        let shard = table.shards[0].clone();
        assert_eq!(balance(&table.pool, &shard, [1, 1]), None, "nothing is left to be done");
    }

    #[test]
    fn no_numbers_of_the_table_make_anything_overflow() {
        let extremes = [0, 1, u64::MAX / 2, u64::MAX];
        for limit in extremes {
            for wish in extremes {
                for budget in extremes {
                    for free in [i64::MIN, -1, 0, i64::MAX] {
                        let mut table = Table::new(limit, &[&[wish, 1, wish], &[0]]);
                        (table.pool.free_requests, table.pool.free_tokens) = (free, free);
                        let amount = Amount { requests: budget, tokens: budget };
                        table.pool.wanted = amount;
                        table.pool.hosts = budget;
                        let shard = Arc::make_mut(&mut table.shards[0]);
                        (shard.budget, shard.due, shard.elsewhere) = (amount, amount, budget);
                        shard.free = Amount { requests: u64::MAX, tokens: 0 };
                        shard.declared.wanted = amount;
                        let _ = balance(&table.pool, &table.shards[0], [u64::MAX, 0]);
                    }
                }
            }
        }
    }
}
