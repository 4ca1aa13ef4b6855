//! A few hosts on the model of the table, by a clock that only turns here.

use std::sync::Arc;

use super::super::clock::SECOND;
use super::agent::{Agent, Next};
use super::amount::{Amount, Terms};
use super::local::LocalLease;
use super::memory::MemoryStore;
use super::shard::Shard;
use super::store::{Pool, StoreError, StoreRequest, StoreResponse, StoredLease};
use crate::config::OnUnavailable;
use crate::settings::limits::Fleet;

const HOSTS: u64 = 10;

fn settings(requests: u64, revision: u64) -> Fleet {
    Fleet {
        table: "fleet".into(),
        region: "us-gov-west-1".into(),
        requests_per_minute: Some(requests),
        tokens_per_minute: Some(100 * requests),
        revision,
        on_unavailable: OnUnavailable::Deny,
    }
}

fn pool(table: &MemoryStore) -> Arc<Pool> {
    match table.apply(&StoreRequest::ReadPool) {
        Ok(StoreResponse::Pool(Some(pool))) => pool,
        other => panic!("{other:?}"),
    }
}

fn shard(table: &MemoryStore, number: u64) -> Arc<Shard> {
    match table.apply(&StoreRequest::ReadShard { number, now: true }) {
        Ok(StoreResponse::Shard(Some(shard))) => shard,
        other => panic!("{other:?}"),
    }
}

/// Lets ten seconds pass, in which each host asks for far more than its part, and does what its agent wants.
fn pass(hosts: &mut [(Agent, LocalLease)], table: &MemoryStore, now: &mut u64) {
    let end = *now + 10 * SECOND;
    while *now < end {
        for (agent, local) in hosts.iter_mut() {
            // Whether it is admitted is no matter.
            let _ = local.draw(0, *now);
            while let Next::Call(request) = agent.next(local, *now) {
                agent.done(table.apply(&request), local, *now);
            }
        }
        *now += SECOND / 10;
    }
}

#[test]
fn after_the_limit_was_lowered_the_fleet_holds_no_more_than_it() {
    let table = MemoryStore::default();
    let mut now = 1_000 * SECOND;
    let mut hosts: Vec<_> = (0..HOSTS)
        .map(|host| (Agent::new(&format!("host-{host}"), 1, now), LocalLease::new(&settings(1_000, 0), now)))
        .collect();
    for _ in 0..18 {
        pass(&mut hosts, &table, &mut now);
    }
    assert!((0..100).contains(&shard(&table, 0).free.requests), "they hold nearly all of it: {:?}", shard(&table, 0));

    // By less than the tenth that a host keeps above its part otherwise.
    for (agent, local) in &mut hosts {
        local.change(&settings(930, 1));
        agent.reconfigured();
    }
    for _ in 0..30 {
        pass(&mut hosts, &table, &mut now);
    }
    assert_eq!(pool(&table).terms.limit.requests, 930);
    assert!(pool(&table).free_requests >= 0, "{:?}", pool(&table));
}

/// Others tell a living lease by its version. One that comes again, after the lease was taken away, would look dead to them.
#[test]
fn no_version_of_a_lease_comes_twice() {
    let mut now = 1_000 * SECOND;
    let mut host = [(Agent::new("host", 1, now), LocalLease::new(&settings(100, 0), now))];
    let version = |table: &MemoryStore| shard(table, 0).lease("host").unwrap().version;
    let before = MemoryStore::default();
    for _ in 0..6 {
        pass(&mut host, &before, &mut now);
    }
    let after = MemoryStore::default();
    for _ in 0..2 {
        pass(&mut host, &after, &mut now);
    }
    assert!(version(&before) > 1 && version(&after) > version(&before), "{} {}", version(&before), version(&after));
}

/// The table's limit is that of the highest revision, and not that of the host that has started last.
#[test]
fn only_a_higher_revision_changes_the_limit() {
    let table = MemoryStore::default();
    let mut now = 1_000 * SECOND;
    let start = |requests: u64, revision, now: &mut u64| {
        let name = format!("host-{requests}-{revision}-{now}");
        let mut host = [(Agent::new(&name, 1, *now), LocalLease::new(&settings(requests, revision), *now))];
        pass(&mut host, &table, now);
        let [(agent, mut local)] = host;
        let limit = pool(&table).terms.limit.requests;
        let too_large = local.check(100 * requests.max(limit) + 1, true, *now).unwrap_err();
        assert_eq!((too_large.configured, too_large.wait), (100 * limit, u64::MAX), "it goes by the table's");
        (limit, agent.overruled_by().map(|terms| (terms.limit.requests, terms.revision)))
    };
    assert_eq!(start(100, 0, &mut now), (100, None));
    assert_eq!(start(70, 0, &mut now), (100, Some((100, 0))));
    assert_eq!(start(70, 2, &mut now), (70, None));
    assert_eq!(start(100, 0, &mut now), (70, Some((70, 2))));
    assert_eq!(start(90, 1, &mut now), (70, Some((70, 2))));
    assert_eq!(start(70, 1, &mut now), (70, None), "nothing is to be said");
    assert_eq!(start(120, 3, &mut now), (120, None));
}

/// Hosts before and after the upgrade share a table: what they hold together is the limit at most, a dead one's part comes
/// back, and one that starts gets its part.
#[test]
fn hosts_of_an_older_version_keep_their_part() {
    let table = MemoryStore::default();
    let mut now = 1_000 * SECOND;
    let mut hosts: Vec<_> = (0..HOSTS)
        .map(|host| (Agent::new(&format!("host-{host}"), 1, now), LocalLease::new(&settings(1_000, 0), now)))
        .collect();
    let held = |table: &MemoryStore| {
        let (pool, shard) = (pool(table), shard(table, 0));
        let Ok(StoreResponse::Leases(old)) = table.apply(&StoreRequest::ListOld) else { panic!("no list") };
        let old: u64 = old.iter().map(|lease| lease.held.requests).sum();
        let new = shard.leases.iter().map(|lease| lease.held.requests).sum::<u64>();
        assert_eq!(shard.budget.requests, shard.free.requests + new);
        assert_eq!(pool.free_requests.cast_unsigned() + shard.budget.requests + old, 1_000, "{pool:?} {shard:?}");
        (old, new)
    };
    // An old host is there first, and renews its lease all the time.
    let wanted = Amount { requests: 400, tokens: 0 };
    let mut old = StoredLease { id: "old".into(), version: 1, held: wanted, wanted, hold_ms: 15_000 };
    table.apply(&StoreRequest::Create(Terms { limit: Amount { requests: 1_000, tokens: 0 }, revision: 0 })).unwrap();
    table.apply_old(None, Some(&old)).unwrap();
    for _ in 0..20 {
        pass(&mut hosts, &table, &mut now);
        let next = StoredLease { version: old.version + 1, ..old.clone() };
        table.apply_old(Some(&old), Some(&next)).unwrap();
        old = next;
        let (old, new) = held(&table);
        assert!(old == 400 && new <= 600, "{old} and {new}");
    }
    assert!(held(&table).1 > 500, "{:?}", held(&table));
    // It dies.
    for _ in 0..25 {
        pass(&mut hosts, &table, &mut now);
    }
    assert_eq!(held(&table).0, 0);
    assert!(held(&table).1 > 900, "{:?}", held(&table));
    // Another one starts, and says what it wants.
    let mut old = StoredLease { id: "other".into(), version: 1, held: Amount::default(), wanted, hold_ms: 15_000 };
    table.apply_old(None, Some(&old)).unwrap();
    for _ in 0..20 {
        pass(&mut hosts, &table, &mut now);
        let free = u64::try_from(pool(&table).free_requests).unwrap();
        let held_now = Amount { requests: (old.held.requests + free).min(90), tokens: 0 };
        let next = StoredLease { version: old.version + 1, held: held_now, ..old.clone() };
        table.apply_old(Some(&old), Some(&next)).unwrap();
        old = next;
        held(&table);
    }
    // An eleventh of the limit is its max-min share; the shard keeps a fiftieth more than its own.
    assert!(held(&table).0 >= 70, "{:?}", held(&table));
}

/// A write whose answer is lost may still be done later: until the host knows, it uses the least that it may hold.
#[test]
fn a_late_write_gives_nothing_twice() {
    let table = MemoryStore::default();
    let mut now = 1_000 * SECOND;
    let mut hosts = vec![(Agent::new("host", 1, now), LocalLease::new(&settings(1_000, 0), now))];
    pass(&mut hosts, &table, &mut now);
    hosts.push((Agent::new("other", 1, now), LocalLease::new(&settings(1_000, 0), now)));
    let before = shard(&table, 0).lease("host").cloned().unwrap();
    assert!(before.held.requests > 900, "{before:?}");
    // The other one wants all of it, so this one's lease is to shrink. Its write is under way, and no answer comes.
    let late = 'late: loop {
        now += SECOND / 10;
        for (at, (agent, local)) in hosts.iter_mut().enumerate() {
            let _ = local.draw(0, now);
            while let Next::Call(request) = agent.next(local, now) {
                if let StoreRequest::Write(_, Some(from), Some(to)) = &request
                    && at == 0
                    && to.held.requests < from.held.requests
                {
                    break 'late request;
                }
                agent.done(table.apply(&request), local, now);
            }
        }
    };
    let StoreRequest::Write(number, Some(_), Some(after)) = &late else { panic!("{late:?}") };
    let (agent, local) = &mut hosts[0];
    agent.done(Err(StoreError::Unavailable("no answer".into())), local, now);
    now += 5 * SECOND;
    // It looks, and finds the lease as it was; then the write is done.
    let Next::Call(look) = agent.next(local, now) else { panic!("it does not look") };
    assert_eq!(look, StoreRequest::ReadShard { number: *number, now: true });
    agent.done(table.apply(&look), local, now);
    table.apply(&late).unwrap();
    let used = local.used(now).requests;
    let more = (0..1_000).filter(|_| local.draw(0, now).is_some()).count() as u64;
    assert!(used + more <= after.held.requests, "{used} and {more} of {after:?}");
    // Its next write finds out, and the one after that is done.
    for _ in 0..3 {
        pass(&mut hosts, &table, &mut now);
    }
    let (agent, local) = &mut hosts[0];
    let lease = shard(&table, 0).lease("host").cloned();
    assert!(lease.as_ref().is_some_and(|lease| lease.version > after.version), "{lease:?} after {after:?}: {agent:?}");
    assert!(matches!(agent.next(local, now), Next::Wait(_)));
}
