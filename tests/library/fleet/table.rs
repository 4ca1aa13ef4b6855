//! The model of the table against DynamoDB Local, and two hosts on it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bedrock_sidecar::caller::User;
use bedrock_sidecar::config::OnUnavailable;
use bedrock_sidecar::error::RefusalKind;
use bedrock_sidecar::limits::fleet::Dynamo;
use bedrock_sidecar::limits::fleet::amount::{Amount, Terms};
use bedrock_sidecar::limits::fleet::store::{LeaseStore, MemoryStore, StoreError, StoreRequest, StoredLease};
use bedrock_sidecar::limits::{Behind, Estimate, LimitRequest, Limits, SystemClock};
use bedrock_sidecar::service_tier::AskedTier;
use bedrock_sidecar::settings::limits as settings;
use test_support::dynamodb::create_table;

/// The same steps, many of which must fail, on both: every answer is the same.
#[tokio::test]
async fn the_model_is_what_the_table_does() {
    let client = create_table("fleet-model", &["id"]).await;
    let (real, model) = (Dynamo::new(client.clone(), "fleet-model", "test"), MemoryStore::default());
    let mut seed = 42u64;
    let mut next = |bound: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % bound
    };
    let limits = [
        Terms { limit: Amount { requests: 100, tokens: 5_000 }, revision: 0 },
        Terms { limit: Amount { requests: 60, tokens: 9_000 }, revision: 3 },
    ];
    let mut known: Vec<Option<StoredLease>> = vec![None; 4];
    let (mut conflicts, mut written) = (0, 0);
    for step in 0..600 {
        let host = usize::try_from(next(4)).unwrap();
        let request = match next(12) {
            0 => StoreRequest::Read,
            1 => StoreRequest::List,
            2 => StoreRequest::Get(format!("host-{host}")),
            3 => StoreRequest::Create(limits[0]),
            4 => {
                let mut drawn = || limits[usize::try_from(next(2)).unwrap()];
                StoreRequest::Resize(drawn(), drawn())
            }
            5 if known[host].is_some() => StoreRequest::Write(known[host].clone(), None),
            kind => {
                let mut before = known[host].clone();
                // Now and then from a stale lease, or from none.
                if kind == 6 {
                    before =
                        before.map(|record| StoredLease { version: record.version + 1 - next(3).min(1) * 2, ..record });
                } else if kind == 7 {
                    before = None;
                }
                let same = kind == 8;
                let last = known[host].clone().unwrap_or_default();
                let after = StoredLease {
                    id: format!("host-{host}"),
                    version: before.as_ref().map_or(1, |record| record.version + 1),
                    held: if same { last.held } else { Amount { requests: next(60), tokens: next(4_000) } },
                    wanted: if same { last.wanted } else { Amount { requests: next(90), tokens: next(9_000) } },
                    hold_ms: next(60_000),
                };
                StoreRequest::Write(before, Some(after))
            }
        };
        let expected = model.apply(&request);
        let answered = real.call(request.clone()).await;
        let sorted = |answer| match answer {
            Ok(bedrock_sidecar::limits::fleet::store::StoreResponse::Leases(mut leases)) => {
                leases.sort_by(|a: &StoredLease, b: &StoredLease| a.id.cmp(&b.id));
                Ok(bedrock_sidecar::limits::fleet::store::StoreResponse::Leases(leases))
            }
            other => other,
        };
        assert_eq!(sorted(answered.clone()), sorted(expected), "step {step}: {request:?}");
        match (answered, request) {
            (Ok(_), StoreRequest::Write(_, after)) => {
                written += 1;
                known[host] = after;
            }
            (Err(StoreError::Conflict), _) => conflicts += 1,
            _ => {}
        }
    }
    assert!(written > 100 && conflicts > 100, "{written} writes and {conflicts} conflicts");
    let missing = Dynamo::new(client, "missing", "test").call(StoreRequest::Read).await.unwrap_err();
    assert!(missing.to_string().starts_with("the table missing does not exist; create it with `aws dynamodb"));
}

fn fleet(requests: u64, on_unavailable: OnUnavailable) -> settings::Limits {
    settings::Limits {
        max_waiting: 100,
        fleet: Some(settings::Fleet {
            table: "fleet".into(),
            region: "us-gov-west-1".into(),
            requests_per_minute: Some(requests),
            tokens_per_minute: None,
            revision: 0,
            on_unavailable,
        }),
        ..settings::Limits::default()
    }
}

const ASK: LimitRequest<'static> = LimitRequest {
    caller: None,
    user: User::Unknown,
    caller_limits: None,
    model: None,
    behind: &Behind::Itself,
    estimate: Estimate::NONE,
    tier: AskedTier::Unsaid,
};

async fn admitted(limits: &Limits) -> bool {
    limits.admit(ASK).await.is_ok()
}

/// Two hosts, one idle at first: the limit moves to where the demand is, and the sum keeps it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hosts_on_one_table_keep_one_limit() {
    let client = create_table("fleet-limit", &["id"]).await;
    let settings = fleet(200, OnUnavailable::Deny);
    let hosts: Vec<_> = ["a", "b"]
        .into_iter()
        .map(|name| {
            let limits = Limits::new(&settings, SystemClock);
            let fleet = limits.join_fleet(Dynamo::new(client.clone(), "fleet-limit", name));
            (limits, fleet)
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(4)).await;
    let counts = [Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0))];
    let started = Instant::now();
    let storm = |host: usize, from: u64| {
        let (limits, count) = (hosts[host].0.clone(), counts[host].clone());
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(from)).await;
            while started.elapsed() < Duration::from_secs(55) {
                if admitted(&limits).await {
                    count.fetch_add(1, Ordering::SeqCst);
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
    };
    let first = storm(0, 0);
    tokio::time::sleep(Duration::from_secs(10)).await;
    let alone = counts[0].load(Ordering::SeqCst);
    assert!(alone >= 190, "one host with all the demand got {alone} of 200 within ten seconds");
    let second = storm(1, 0);
    first.await.unwrap();
    second.await.unwrap();
    let total = counts[0].load(Ordering::SeqCst) + counts[1].load(Ordering::SeqCst);
    assert!((190..=200).contains(&total), "{total} in less than a minute");
    for (_, fleet) in hosts {
        fleet.stop().await;
    }
    // What was used in the last minute is still on the table, and nothing else.
    let left = Dynamo::new(client, "fleet-limit", "test").call(StoreRequest::List).await.unwrap();
    let bedrock_sidecar::limits::fleet::store::StoreResponse::Leases(left) = left else { panic!("{left:?}") };
    assert!(left.iter().map(|record| record.held.requests).sum::<u64>() <= 200);
    assert!(left.iter().all(|record| record.hold_ms == 0));
}

/// A table that never answers: with "deny" 503, with "local_share" a share of one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unreachable_table_follows_on_unavailable() {
    struct Nowhere;
    impl LeaseStore for Nowhere {
        async fn call(
            &self,
            _: StoreRequest,
        ) -> Result<bedrock_sidecar::limits::fleet::store::StoreResponse, StoreError> {
            Err(StoreError::Unavailable("no route".into()))
        }
    }
    let deny = Limits::new(&fleet(10, OnUnavailable::Deny), SystemClock);
    let share = Limits::new(&fleet(10, OnUnavailable::LocalShare), SystemClock);
    let tasks = [deny.join_fleet(Nowhere), share.join_fleet(Nowhere)];
    tokio::time::sleep(Duration::from_secs(6)).await;
    let refusal = deny.admit(ASK).await.unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::ServiceUnavailable);
    assert!(refusal.message.contains("on_unavailable = \"deny\""), "{}", refusal.message);
    let mut count = 0;
    for _ in 0..20 {
        count += u64::from(admitted(&share).await);
    }
    assert_eq!(count, 10);
    for task in tasks {
        task.stop().await;
    }
}
