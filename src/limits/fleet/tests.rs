//! A few hosts on the model of the table, by a clock that only turns here.

use super::super::clock::SECOND;
use super::agent::{Agent, Next};
use super::local::LocalLease;
use super::store::{MemoryStore, Pool, StoreRequest, StoreResponse};
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

fn pool(table: &MemoryStore) -> Pool {
    match table.apply(&StoreRequest::Read) {
        Ok(StoreResponse::Pool(Some(pool))) => pool,
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
        .map(|host| (Agent::new(format!("host-{host}"), 1, now), LocalLease::new(&settings(1_000, 0), now)))
        .collect();
    for _ in 0..18 {
        pass(&mut hosts, &table, &mut now);
    }
    assert!((0..100).contains(&pool(&table).free_requests), "they hold nearly all of it: {:?}", pool(&table));

    // By less than the tenth that a host keeps above its part otherwise.
    for (agent, local) in &mut hosts {
        local.change(&settings(930, 1));
        agent.reconfigured();
    }
    for _ in 0..30 {
        pass(&mut hosts, &table, &mut now);
    }
    assert_eq!(pool(&table).limit.requests, 930);
    assert!(pool(&table).free_requests >= 0, "{:?}", pool(&table));
}

/// The table's limit is that of the highest revision, and not that of the host that has started last.
#[test]
fn only_a_higher_revision_changes_the_limit() {
    let table = MemoryStore::default();
    let mut now = 1_000 * SECOND;
    let start = |requests: u64, revision, now: &mut u64| {
        let name = format!("host-{requests}-{revision}-{now}");
        let mut host = [(Agent::new(name, 1, *now), LocalLease::new(&settings(requests, revision), *now))];
        pass(&mut host, &table, now);
        let [(agent, mut local)] = host;
        let limit = pool(&table).limit.requests;
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
