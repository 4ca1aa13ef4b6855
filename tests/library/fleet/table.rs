//! The model of the table against DynamoDB Local, and two hosts on it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use aws_sdk_dynamodb::types::AttributeValue;
use bedrock_sidecar::caller::User;
use bedrock_sidecar::config::OnUnavailable;
use bedrock_sidecar::error::RefusalKind;
use bedrock_sidecar::limits::fleet::Dynamo;
use bedrock_sidecar::limits::fleet::amount::{Amount, Terms};
use bedrock_sidecar::limits::fleet::curve::Curve;
use bedrock_sidecar::limits::fleet::memory::MemoryStore;
use bedrock_sidecar::limits::fleet::shard::{Balance, Declared, Shard};
use bedrock_sidecar::limits::fleet::store::{LeaseStore, StoreError, StoreRequest, StoreResponse, StoredLease};
use bedrock_sidecar::limits::{Behind, Estimate, LimitRequest, Limits, SystemClock};
use bedrock_sidecar::service_tier::AskedTier;
use bedrock_sidecar::settings::limits as settings;
use test_support::dynamodb::create_table;

/// The same steps, many of which must fail, on both: every answer is the same.
#[tokio::test]
async fn the_model_is_what_the_table_does() {
    let client = create_table("fleet-model", &["id"]).await;
    let (real, model) = (Dynamo::new(client.clone(), "fleet-model"), MemoryStore::default());
    let mut random = Steps { seed: 42, leases: HashMap::new() };
    let (mut conflicts, mut written, mut balanced) = (0, 0, 0);
    for step in 0..900 {
        if step == 100 {
            an_older_host_joins(&client, "fleet-model", &model).await;
        }
        let request = random.request(&model);
        let expected = model.apply(&request);
        let answered = real.call(request.clone()).await;
        assert_eq!(answered, expected, "step {step}: {request:?}");
        match (answered, request) {
            (Ok(_), StoreRequest::Write(shard, before, after)) => {
                written += 1;
                let id = before.as_ref().or(after.as_ref()).map(|lease| lease.id.clone()).unwrap();
                random.leases.insert((shard, id), after);
            }
            (Ok(_), StoreRequest::Balance(_)) => balanced += 1,
            (Err(StoreError::Conflict), _) => conflicts += 1,
            _ => {}
        }
    }
    assert!(
        written > 100 && conflicts > 100 && balanced > 30,
        "{written} writes, {balanced} balances and {conflicts} conflicts"
    );
    let broken = client.put_item().table_name("fleet-model").item("id", AttributeValue::S("shard#9".into()));
    broken.send().await.unwrap();
    let unreadable = real.call(StoreRequest::ReadShard { number: 9, now: true }).await.unwrap_err();
    assert!(unreadable.to_string().starts_with("the table fleet-model holds an item that this version cannot read"));
    let missing = Dynamo::new(client, "missing").call(StoreRequest::ReadPool).await.unwrap_err();
    assert!(missing.to_string().starts_with("the table missing does not exist; create it with `aws dynamodb"));
}

/// What the version before this one writes for a host: an item `lease#…`, and its part of the pool.
async fn an_older_host_joins(client: &aws_sdk_dynamodb::Client, table: &str, model: &MemoryStore) {
    let (held, wanted) = (Amount { requests: 3, tokens: 100 }, Amount { requests: 5, tokens: 700 });
    let lease = StoredLease { id: "older".into(), version: 7, held, wanted, hold_ms: 15_000 };
    let number = |number: i64| AttributeValue::N(number.to_string());
    let StoreResponse::Pool(Some(pool)) = model.apply(&StoreRequest::ReadPool).unwrap() else { panic!("no pool") };
    assert!(pool.free_requests >= 3 && pool.free_tokens >= 100, "{pool:?}");
    model.apply_old(None, Some(&lease)).unwrap();
    let item = [
        ("version", 7),
        ("requests", 3),
        ("tokens", 100),
        ("requestsWanted", 5),
        ("tokensWanted", 700),
        ("holdMs", 15_000),
    ];
    let mut put = client.put_item().table_name(table).item("id", AttributeValue::S("lease#older".into()));
    for (name, value) in item {
        put = put.item(name, number(value));
    }
    put.item("host", AttributeValue::S("i-0".into())).send().await.unwrap();
    client
        .update_item()
        .table_name(table)
        .key("id", AttributeValue::S("pool".into()))
        .update_expression("ADD requestsFree :r, tokensFree :t, requestsWanted :rw, tokensWanted :tw, hosts :h")
        .expression_attribute_values(":r", number(-3))
        .expression_attribute_values(":t", number(-100))
        .expression_attribute_values(":rw", number(5))
        .expression_attribute_values(":tw", number(700))
        .expression_attribute_values(":h", number(1))
        .send()
        .await
        .unwrap();
}

/// Steps that are the same in each run.
struct Steps {
    seed: u64,
    /// By shard and id: as they were last written.
    leases: HashMap<(u64, Arc<str>), Option<StoredLease>>,
}

impl Steps {
    fn next(&mut self, bound: u64) -> u64 {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        self.seed % bound
    }

    fn amount(&mut self, requests: u64, tokens: u64) -> Amount {
        Amount { requests: self.next(requests), tokens: self.next(tokens) }
    }

    fn terms(&mut self) -> Terms {
        [
            Terms { limit: Amount { requests: 1_000, tokens: 50_000 }, revision: 0 },
            Terms { limit: Amount { requests: 600, tokens: 90_000 }, revision: 3 },
        ][usize::try_from(self.next(2)).unwrap()]
    }

    fn request(&mut self, model: &MemoryStore) -> StoreRequest {
        let number = self.next(2);
        match self.next(20) {
            0 => StoreRequest::ReadPool,
            1 => StoreRequest::ReadShard { number, now: self.next(2) == 0 },
            2 => StoreRequest::ListOld,
            3 => StoreRequest::Create(Terms { limit: Amount { requests: 1_000, tokens: 50_000 }, revision: 0 }),
            4 => StoreRequest::Resize(self.terms(), self.terms()),
            5 => StoreRequest::Double(1 + number),
            6 => StoreRequest::Open(number),
            7 if self.next(4) == 0 => {
                let (held, wanted) = (Amount { requests: 3, tokens: 100 }, Amount { requests: 5, tokens: 700 });
                let version = 6 + self.next(2);
                StoreRequest::ReclaimOld(StoredLease { id: "older".into(), version, held, wanted, hold_ms: 15_000 })
            }
            7..=10 => self.balance(number, model),
            _ => self.write(number),
        }
    }

    fn balance(&mut self, number: u64, model: &MemoryStore) -> StoreRequest {
        let Ok(StoreResponse::Shard(Some(shard))) = model.apply(&StoreRequest::ReadShard { number, now: true }) else {
            return StoreRequest::Open(number);
        };
        let stale = u64::from(self.next(8) == 0);
        let wishes: Vec<_> = (0..6).map(|_| self.next(5_000)).collect();
        let steps = [Curve::of(wishes[..3].iter().copied()), Curve::of(wishes[3..].iter().copied())];
        let mut declared =
            Declared { wanted: self.amount(90, 9_000), hosts: self.next(9), curves: shard.declared.curves.clone() };
        for (curve, step) in declared.curves.iter_mut().zip(&steps) {
            step.buckets().for_each(|(bucket, hosts)| curve.add(bucket, hosts));
        }
        StoreRequest::Balance(Box::new(Balance {
            before: Arc::new(Shard { round: shard.round + stale, ..Shard::clone(&shard) }),
            requests: self.next(200).cast_signed() - 80,
            tokens: self.next(9_000).cast_signed() - 4_000,
            due: self.amount(200, 9_000),
            terms: self.terms(),
            shards: 1 + number,
            elsewhere: self.next(100),
            declared,
            steps,
        }))
    }

    fn write(&mut self, number: u64) -> StoreRequest {
        let id: Arc<str> = format!("host-{}", self.next(4)).into();
        let known = self.leases.get(&(number, id.clone())).cloned().flatten();
        let mut before = known.clone();
        // Now and then from a stale lease, or from none; now and then none after it.
        match self.next(8) {
            0 => before = before.map(|lease| StoredLease { version: lease.version + 1, ..lease }),
            1 => before = None,
            2 if before.is_some() => return StoreRequest::Write(number, before, None),
            _ => {}
        }
        let same = self.next(4) == 0;
        let held = if same { known.map_or(Amount::default(), |lease| lease.held) } else { self.amount(60, 4_000) };
        let version = before.as_ref().map_or(1, |lease| lease.version + 1);
        let after = StoredLease { id, version, held, wanted: self.amount(90, 9_000), hold_ms: self.next(60_000) };
        StoreRequest::Write(number, before, Some(after))
    }
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
    let hosts: Vec<_> = (0..2)
        .map(|_| {
            let limits = Limits::new(&settings, SystemClock);
            let fleet = limits.join_fleet(Dynamo::new(client.clone(), "fleet-limit"));
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
    let answer = Dynamo::new(client, "fleet-limit").call(StoreRequest::ReadShard { number: 0, now: true }).await;
    let Ok(StoreResponse::Shard(Some(shard))) = answer else { panic!("{answer:?}") };
    assert!(shard.leases.iter().map(|lease| lease.held.requests).sum::<u64>() <= 200);
    assert!(shard.leases.iter().all(|lease| lease.hold_ms == 0));
}

/// A table that never answers: with "deny" 503, with "local_share" a share of one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unreachable_table_follows_on_unavailable() {
    struct Nowhere;
    impl LeaseStore for Nowhere {
        async fn call(&self, _: StoreRequest) -> Result<StoreResponse, StoreError> {
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
