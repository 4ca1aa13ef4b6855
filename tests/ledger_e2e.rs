//! The ledger behind the real daemon: what the stand-in for Bedrock received, what clients saw, and what stands in
//! DynamoDB Local afterwards are joined request by request.
//!
//! `BEDROCK_SIDECAR_KILLS=N` sets how often the daemon is killed (3; 50 with `BEDROCK_SIDECAR_SLOW`). What needs root and
//! `setpriv` prints NOT RUN without them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests state expectations by unwrapping")]

mod common;
#[allow(dead_code, reason = "shared with the ledger's own tests")]
#[path = "audit/dynamo.rs"]
mod dynamo;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use common::client::Reader;
use common::*;
use dynamo::{Fault as Outage, Proxy};
use http::Method;
use serde_json::{Value, json};
use simulator::{Effect, Ending, Fault, Options, Simulator};
use tempfile::TempDir;
use tokio::net::TcpStream;

const KEYS: [&str; 2] = ["requestId", "timestamp"];
const DENIED: &str = "cohere.command-r-v1:0";
/// A local user that owns nothing.
const ANY_UID: u32 = 61_234;

/// A ledger directory that outlives daemons, and the table that it is shipped to.
struct Scene {
    state: TempDir,
    table: &'static str,
    port: u16,
}

impl Scene {
    async fn new(table: &'static str) -> Scene {
        dynamo::create_table(table, &KEYS).await;
        Scene { state: tempfile::tempdir().unwrap(), table, port: dynamo::port() }
    }

    fn through(self, proxy: &Proxy) -> Scene {
        Scene { port: proxy.port, ..self }
    }

    fn setup(&self, bedrock: &Simulator, audit: &str, more: &str) -> Setup {
        let Scene { state, table, port } = self;
        Setup::tls(bedrock)
            .with(&format!("[audit]\nstate_dir = \"{}\"\ntable = \"{table}\"\n{audit}\n{more}", state.path().display()))
            .env("AWS_ENDPOINT_URL_DYNAMODB", format!("http://127.0.0.1:{port}"))
            .env("AWS_ACCESS_KEY_ID", "AKIATEST")
            .env("AWS_SECRET_ACCESS_KEY", "dynamodb-secret-CANARY")
            .env("AWS_EC2_METADATA_DISABLED", "true")
    }

    /// Every item of the table by its requestId; two of one request fail the test.
    async fn items(&self) -> BTreeMap<String, Value> {
        dynamo::items(&dynamo::client(dynamo::port()), self.table).await
    }
}

/// What `/status` says of the ledger.
async fn ledger(daemon: &Daemon) -> Value {
    daemon.admin_get("/status").await.json()["audit"].take()
}

/// Waits until no request is open and DynamoDB has confirmed every record; `/metrics` has to say the same.
async fn shipped(daemon: &Daemon) {
    until_async("everything to be shipped", || async {
        let ledger = ledger(daemon).await;
        (ledger["pending"] == 0 && ledger["open"] == 0).then_some(())
    })
    .await;
    assert_eq!(metric(&daemon.metrics().await, "bedrock_sidecar_audit_pending"), Some(0.0));
}

async fn stopped(mut daemon: Daemon) {
    daemon.signal("TERM");
    assert_eq!(daemon.ended().await.code(), Some(0), "{}", daemon.log_text());
}

fn id_of(answer: &Answer) -> String {
    answer.header("x-bedrock-sidecar-request-id").unwrap_or_else(|| panic!("no request id in {answer:?}")).to_owned()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Asserts that an item says so; what is expected to be null has to be absent.
#[track_caller]
fn says(item: &Value, expected: Value) {
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(item.get(name).unwrap_or(&Value::Null), value, "{name} in {item:#}");
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// kill -9

/// What a client has sent, and the answer that it saw to its end.
#[derive(Debug, Clone)]
struct Sent {
    operation: &'static str,
    model: &'static str,
    seen: Option<Answer>,
}

/// By body length, which no two requests share.
type Book = Arc<Mutex<BTreeMap<usize, Sent>>>;

const SORTS: [(&str, &str, &str); 5] = [
    ("InvokeModel", "invoke", ON_DEMAND),
    ("Converse", "converse", PROFILE_ONLY),
    ("ConverseStream", "converse-stream", ON_DEMAND),
    ("InvokeModel", "invoke", DENIED),
    ("ConverseStream", "converse-stream", PROFILE_ONLY),
];

struct Load {
    book: Book,
    next: AtomicUsize,
    not_found: Mutex<Vec<Answer>>,
}

impl Load {
    /// Enters a request into the book, before it is sent.
    fn draw(&self, sort: usize, prompt: &str) -> (usize, http::Request<http_body_util::Full<bytes::Bytes>>) {
        let length = self.next.fetch_add(1, Ordering::SeqCst);
        let (operation, verb, model) = SORTS[sort % SORTS.len()];
        let path = format!("/model/{}/{verb}", encoded(model));
        self.book.lock().unwrap().insert(length, Sent { operation, model, seen: None });
        (length, request(Method::POST, &path, padded(&converse(prompt), length)))
    }

    fn saw(&self, length: usize, answer: Answer) {
        self.book.lock().unwrap().get_mut(&length).unwrap().seen = Some(answer);
    }

    /// Asks one thing after the other until the daemon is gone.
    async fn run(&self, address: std::net::SocketAddr, answered: &AtomicU64) {
        loop {
            let Ok(stream) = TcpStream::connect(address).await else { return };
            let mut client = Http1::on(stream, &address.to_string()).await;
            for turn in 0..6 {
                if turn == 5 {
                    let asked = request(Method::GET, "/no/such/operation", "");
                    let Some(answer) = whole(&mut client, asked).await else { return };
                    assert_eq!(answer.status, 404, "{answer:?}");
                    self.not_found.lock().unwrap().push(answer);
                } else {
                    let (length, asked) = self.draw(turn, "one two three");
                    let Some(answer) = whole(&mut client, asked).await else { return };
                    self.saw(length, answer);
                }
                answered.fetch_add(1, Ordering::SeqCst);
            }
        }
    }
}

/// The answer if all of it came.
async fn whole(client: &mut Http1, request: http::Request<http_body_util::Full<bytes::Bytes>>) -> Option<Answer> {
    let response = client.start(request).await.ok()?;
    within("the body", Answer::of(response)).await.ok()
}

fn kills() -> usize {
    let asked = std::env::var("BEDROCK_SIDECAR_KILLS").ok().and_then(|kills| kills.parse().ok());
    asked.unwrap_or(if std::env::var_os("BEDROCK_SIDECAR_SLOW").is_some() { 50 } else { 3 })
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_is_lost_doubled_or_misattributed_by_kill_9_under_load() {
    let bedrock = bedrock_with(Options { record_limit: 1_000_000, ..Options::default() }).await;
    let scene = Scene::new("e2e-killed").await;
    let more = "[models]\ndeny = [\"cohere.*\"]\n[log]\nlevel = \"info\"\n";
    let load = Arc::new(Load { book: Book::default(), next: AtomicUsize::new(300), not_found: Mutex::default() });
    let mut hanging = Vec::new();
    for round in 0..kills() {
        let mut daemon = scene.setup(&bedrock, "", more).ready().await;
        let address = daemon.address();
        // Two that are certainly under way when it dies: one before its first byte, one amid its stream.
        let (thinking, asked) = load.draw(1, "think 600000");
        let (book, client) = (load.clone(), TcpStream::connect(address).await.unwrap());
        let thinker = tokio::spawn(async move {
            let mut client = Http1::on(client, &address.to_string()).await;
            if let Some(answer) = whole(&mut client, asked).await {
                book.saw(thinking, answer);
            }
        });
        let (streaming, asked) = load.draw(2, "events 100000 pace 20");
        let mut client = Http1::to(address).await;
        let mut reader = Reader::new(client.start(asked).await.unwrap());
        reader.until(1).await.unwrap();
        until("the slow one to arrive", || {
            bedrock.requests().iter().any(|received| received.body_length == thinking).then_some(())
        })
        .await;
        hanging.extend([thinking, streaming]);

        let answered = Arc::new(AtomicU64::new(0));
        let workers: Vec<_> = (0..8)
            .map(|_| {
                let (load, answered) = (load.clone(), answered.clone());
                tokio::spawn(async move { load.run(address, &answered).await })
            })
            .collect();
        // The moment is drawn: after so many answers, and then within some microseconds.
        let chance = uuid::Uuid::now_v7().as_u128() as u64;
        until("answers", || (answered.load(Ordering::SeqCst) >= chance % 97).then_some(())).await;
        let moment = std::time::Instant::now();
        while moment.elapsed() < Duration::from_micros((chance >> 8) % 5_000) {
            tokio::task::yield_now().await;
        }
        daemon.signal("KILL");
        assert!(daemon.ended().await.code().is_none(), "killed by a signal");
        for worker in workers {
            worker.await.unwrap();
        }
        thinker.await.unwrap();
        println!("round {round}: killed after {} answers", answered.load(Ordering::SeqCst));
    }
    let daemon = scene.setup(&bedrock, "", more).ready().await;
    shipped(&daemon).await;
    let items = scene.items().await;
    let received: Vec<_> = bedrock
        .requests()
        .into_iter()
        .filter(|received| matches!(received.operation.as_deref(), Some("InvokeModel" | "Converse" | "ConverseStream")))
        .collect();
    let book = load.book.lock().unwrap().clone();
    let not_found: BTreeSet<String> = load.not_found.lock().unwrap().iter().map(id_of).collect();

    let mut by_length: BTreeMap<usize, &Value> = BTreeMap::new();
    for item in items.values().filter(|item| item["requestSize"] != 0) {
        let length = item["requestSize"].as_u64().unwrap() as usize;
        assert!(by_length.insert(length, item).is_none(), "two items for one request: {item:#}");
        let sent = book.get(&length).unwrap_or_else(|| panic!("nobody sent this: {item:#}"));
        says(item, json!({ "operation": sent.operation, "modelId": sent.model }));
    }
    // What the upstream received has one item.
    let mut arrived = BTreeSet::new();
    for request in &received {
        assert!(arrived.insert(request.body_length), "one request was sent upstream twice: {}", request.body_length);
        let item = by_length.get(&request.body_length).unwrap_or_else(|| panic!("LOST: {}", request.body_length));
        assert_eq!(item["operation"], request.operation.as_deref().unwrap());
        match item["outcome"].as_str().unwrap() {
            "completed" => assert_eq!(item["upstreamRequestId"], request.request_id.as_str(), "{item:#}"),
            "interrupted" => says(item, json!({ "success": false, "responseSize": 0, "upstreamRequestId": null })),
            other => panic!("{other}: {item:#}"),
        }
    }
    // What a client saw to its end is recorded as such, under the id that it saw.
    let mut complete = 0;
    for (length, sent) in &book {
        let Some(answer) = &sent.seen else { continue };
        complete += 1;
        let item = items.get(&id_of(answer)).unwrap_or_else(|| panic!("LOST: {answer:?}"));
        assert_eq!(item["requestSize"], *length, "another's item: {item:#}");
        let refused = sent.model == DENIED;
        assert_eq!(answer.status, if refused { 403 } else { 200 }, "{answer:?}");
        says(
            item,
            json!({
                "outcome": if refused { "refused" } else { "completed" },
                "success": !refused,
                "statusCode": answer.status,
                "responseSize": answer.body.len(),
                "upstreamRequestId": answer.header("x-amzn-requestid").filter(|_| !refused),
                "attempts": if refused { 0 } else { 1 },
            }),
        );
    }
    for id in &not_found {
        says(&items[id], json!({ "outcome": "refused", "statusCode": 404, "operation": "Unknown", "requestSize": 0 }));
    }
    for length in &hanging {
        says(by_length[length], json!({ "outcome": "interrupted" }));
    }
    let bodiless = items.values().filter(|item| item["requestSize"] == 0);
    for item in bodiless.clone() {
        says(item, json!({ "operation": "Unknown", "statusCode": 404 }));
    }
    let unseen = bodiless.count() - not_found.len();
    assert!(unseen <= kills() * 8, "{unseen} requests without a body that nobody sent");
    let interrupted = items.values().filter(|item| item["outcome"] == "interrupted").count();
    println!(
        "{} kills: {} requests sent, {} received upstream, {complete} + {} answers seen whole, {} items, {interrupted} \
         interrupted; 0 lost, 0 twice, 0 misattributed",
        kills(),
        book.len(),
        received.len(),
        not_found.len(),
        items.len()
    );
    stopped(daemon).await;

    let setup = scene.setup(&bedrock, "", more);
    for source in ["ledger", "dynamodb"] {
        let verdict = setup.command(&["audit", "verify", "--source", source]).await;
        assert_eq!(verdict.status.code(), Some(0), "{source}: {}", text(&verdict));
        let expected = format!("{} records checked; whole", items.len());
        assert!(text(&verdict).contains(&expected), "{}", text(&verdict));
    }
    // By hand, one number of one record.
    let edited = by_length[&hanging[0]]["requestId"].as_str().unwrap().to_owned();
    let db = rusqlite::Connection::open(scene.state.path().join("ledger.db")).unwrap();
    let changed = db
        .execute(
            "UPDATE records SET item = replace(item, '\"responseSize\":0', '\"responseSize\":7') \
             WHERE instr(item, ?) > 0",
            [&edited],
        )
        .unwrap();
    assert_eq!(changed, 1);
    drop(db);
    for source in ["ledger", "dynamodb"] {
        let verdict = setup.command(&["audit", "verify", "--source", source]).await;
        let said = text(&verdict);
        assert_eq!(verdict.status.code(), Some(1), "{source}: {said}");
        assert!(said.contains("CHANGED") && said.contains(&edited) && said.contains("NOT WHOLE"), "{source}: {said}");
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// DynamoDB away

#[tokio::test(flavor = "multi_thread")]
async fn with_dynamodb_away_requests_are_served_and_the_backlog_arrives_when_it_is_back() {
    let bedrock = bedrock().await;
    let proxy = Proxy::start().await;
    let scene = Scene::new("e2e-away").await.through(&proxy);
    proxy.set(Outage::Gone);
    let daemon = scene.setup(&bedrock, "", "").ready().await;
    let mut client = Http1::to(daemon.address()).await;
    let mut answers = BTreeMap::new();
    for number in 0..300 {
        let body = padded(&converse("hello"), 200 + number);
        let answer = client.send(request(Method::POST, &converse_path(ON_DEMAND), body)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answers.insert(id_of(&answer), 200 + number);
    }
    until_async("an attempt to fail", || async {
        let ledger = ledger(&daemon).await;
        (ledger["tableReachable"] == false && ledger["pending"] == 300).then_some(())
    })
    .await;
    assert!(ledger(&daemon).await["lastError"].is_string(), "what does not work is said");
    assert_eq!(
        daemon.admin_get("/ready").await.status,
        200,
        "a table that is away does not keep requests from being served"
    );
    assert!(metric(&daemon.metrics().await, "bedrock_sidecar_audit_failures_total").unwrap() >= 1.0);
    assert!(proxy.faults.load(Ordering::SeqCst) >= 1);
    assert!(scene.items().await.is_empty());
    // A restart amid the outage loses nothing either.
    stopped(daemon).await;
    let daemon = scene.setup(&bedrock, "", "").ready().await;
    assert_eq!(ledger(&daemon).await["pending"], 300);
    proxy.set(Outage::None);
    shipped(&daemon).await;
    let items = scene.items().await;
    assert_eq!(items.len(), 300);
    for (id, length) in answers {
        says(&items[&id], json!({ "requestSize": length, "outcome": "completed", "statusCode": 200 }));
    }
    let page = daemon.metrics().await;
    assert_eq!(metric(&page, "bedrock_sidecar_audit_shipped_total"), Some(300.0));
    let status = ledger(&daemon).await;
    says(&status, json!({ "lastError": null, "tableReachable": true, "setAside": 0, "unrecorded": 0, "bytes": 0 }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_ledger_denies_or_allows_as_on_failure_says_and_recovers() {
    let bedrock = bedrock().await;
    for (policy, table) in [("deny", "e2e-full-deny"), ("allow", "e2e-full-allow")] {
        let proxy = Proxy::start().await;
        let scene = Scene::new(table).await.through(&proxy);
        proxy.set(Outage::Gone);
        let audit = format!("max_ledger_bytes = 4000\non_failure = \"{policy}\"");
        let daemon = scene.setup(&bedrock, &audit, "").ready().await;
        let path = converse_path(ON_DEMAND);
        let ask = || daemon.post(&path, converse("hello"));
        let mut recorded = BTreeSet::new();
        while ledger(&daemon).await["bytes"].as_u64().unwrap() < 4000 {
            let answer = ask().await;
            assert_eq!(answer.status, 200, "{answer:?}");
            recorded.insert(id_of(&answer));
            assert!(recorded.len() < 20, "the bound is not kept");
        }
        bedrock.clear();
        let answer = ask().await;
        if policy == "deny" {
            let sentence = refused(&answer, 503, "ServiceUnavailableException");
            for word in ["cannot be recorded", "audit.max_ledger_bytes is 4000", table] {
                assert!(sentence.contains(word), "{sentence}");
            }
            assert!(answer.header("retry-after").is_some());
            assert!(received(&bedrock, "Converse").is_empty(), "what is refused is not sent");
            let ready = daemon.admin_get("/ready").await;
            assert_eq!(ready.status, 503);
            assert!(ready.text().contains("max_ledger_bytes"), "{ready:?}");
        } else {
            assert_eq!(answer.status, 200, "{answer:?}");
            assert_eq!(received(&bedrock, "Converse").len(), 1);
        }
        let page = daemon.metrics().await;
        let unrecorded = metric(&page, "bedrock_sidecar_audit_unrecorded_total").unwrap();
        // A refusal that cannot be recorded either is counted, not forgotten.
        assert_eq!(unrecorded, 1.0, "{policy}");
        assert!(daemon.log_text().contains("max_ledger_bytes"), "it is said loudly");

        proxy.set(Outage::None);
        shipped(&daemon).await;
        let items = scene.items().await;
        assert_eq!(items.keys().cloned().collect::<BTreeSet<_>>(), recorded, "the oldest are not dropped");
        daemon.until_ready().await;
        let answer = ask().await;
        assert_eq!(answer.status, 200, "{answer:?}");
        shipped(&daemon).await;
        assert!(scene.items().await.contains_key(&id_of(&answer)));
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Items

const TEXTS: [&str; 19] = [
    "requestId",
    "timestamp",
    "sourcePartition",
    "destinationPartition",
    "modelId",
    "userArn",
    "sourceIP",
    "errorMessage",
    "operation",
    "inferenceProfileUsed",
    "destinationRegion",
    "upstreamRequestId",
    "caller",
    "accessKeyId",
    "dataClassification",
    "hostId",
    "outcome",
    "chainId",
    "chainHash",
];
const NUMBERS: [&str; 14] = [
    "costNanoUsd",
    "requestSize",
    "responseSize",
    "latency",
    "statusCode",
    "ttl",
    "inputTokens",
    "outputTokens",
    "cacheReadTokens",
    "cacheWriteTokens",
    "firstByteLatency",
    "callerUid",
    "attempts",
    "chainSeq",
];
const FLAGS: [&str; 3] = ["success", "streaming", "identityVerified"];
/// What every item has.
const ALWAYS: [&str; 21] = [
    "requestId",
    "timestamp",
    "sourcePartition",
    "destinationPartition",
    "modelId",
    "userArn",
    "sourceIP",
    "requestSize",
    "responseSize",
    "latency",
    "success",
    "statusCode",
    "ttl",
    "operation",
    "destinationRegion",
    "streaming",
    "identityVerified",
    "hostId",
    "attempts",
    "outcome",
    "chainHash",
];

/// Names and types as DynamoDB has them.
async fn assert_types(table: &str) {
    let scan = dynamo::client(dynamo::port()).scan().table_name(table).send().await.unwrap();
    assert!(scan.last_evaluated_key().is_none());
    for item in scan.items() {
        for (name, value) in item {
            let right = match value {
                AttributeValue::S(_) => TEXTS.contains(&name.as_str()),
                AttributeValue::N(_) => NUMBERS.contains(&name.as_str()),
                AttributeValue::Bool(_) => FLAGS.contains(&name.as_str()),
                _ => false,
            };
            assert!(right, "{name} is {value:?}");
        }
        for name in ALWAYS {
            assert!(item.contains_key(name), "{name} is missing in {item:?}");
        }
    }
}

fn own_uid() -> u32 {
    rustix::process::getuid().as_raw()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_end_has_its_item_with_every_attribute() {
    let bedrock = bedrock().await;
    let scene = Scene::new("e2e-items").await;
    let key = scene.state.path().parent().unwrap().join(format!("{}.key", uuid::Uuid::now_v7()));
    std::fs::write(&key, "local-secret-of-billing-0123456789").unwrap();
    let more = format!(
        "[models]\ndeny = [\"cohere.*\"]\n[limits]\nmax_body_bytes = 5000\n[limits.models.\"meta.*\"]\nrequests_per_minute = 1\nrequest_burst = 1\n\
         [[callers]]\nname = \"billing\"\naccess_key_id = \"LOCALBILLING\"\nsecret_access_key_file = \"{}\"\ndata_classification = \"internal\"\n\
         [[callers]]\nname = \"here\"\nusers = [\"{}\"]\ndata_classification = \"internal\"\n",
        key.display(),
        own_uid()
    );
    let daemon = scene.setup(&bedrock, "retention = \"7d\"", &more).ready().await;
    std::fs::remove_file(&key).unwrap();
    let upstream_id = |answer: &Answer| answer.header("x-amzn-requestid").unwrap().to_owned();
    let mut expected: Vec<(String, Value)> = Vec::new();

    // Converse through a profile.
    let body = converse("one two three");
    let answer = daemon.post(&converse_path(PROFILE_ONLY), body.clone()).await;
    expected.push((
        id_of(&answer),
        json!({
            "sourcePartition": "govcloud", "destinationPartition": "commercial", "modelId": PROFILE_ONLY,
            "sourceIP": "127.0.0.1", "requestSize": body.len(), "responseSize": answer.body.len(), "success": true,
            "statusCode": 200, "errorMessage": null, "operation": "Converse",
            "inferenceProfileUsed": format!("us.{PROFILE_ONLY}"), "destinationRegion": "us-east-1",
            "upstreamRequestId": upstream_id(&answer), "inputTokens": 3, "outputTokens": 4, "cacheReadTokens": null,
            "streaming": false, "caller": "here", "callerUid": own_uid(), "accessKeyId": null,
            "dataClassification": "internal", "attempts": 1, "outcome": "completed",
        }),
    ));
    // With a prompt cache.
    let cached = json!({
        "system": [{ "text": "be very brief" }, { "cachePoint": { "type": "default" } }],
        "messages": [{ "role": "user", "content": [{ "text": "hello" }] }],
    })
    .to_string();
    let answer = daemon.post(&converse_path("anthropic.claude-3-haiku-20240307-v1:0"), cached).await;
    let usage = answer.json()["usage"].clone();
    expected.push((
        id_of(&answer),
        json!({
            "inputTokens": usage["inputTokens"], "outputTokens": usage["outputTokens"],
            "cacheReadTokens": usage["cacheReadInputTokens"], "cacheWriteTokens": usage["cacheWriteInputTokens"],
        }),
    ));
    assert!(usage["cacheReadInputTokens"].as_u64().unwrap() > 0, "{usage}");
    // A stream.
    let answer = daemon.post(&stream_path(ON_DEMAND), converse("events 5")).await;
    expected.push((
        id_of(&answer),
        json!({
            "operation": "ConverseStream", "streaming": true, "outcome": "completed", "success": true, "attempts": 1,
            "responseSize": answer.body.len(), "outputTokens": 5, "inferenceProfileUsed": null, "statusCode": 200,
        }),
    ));
    // A local key.
    let app = {
        use aws_sdk_bedrockruntime::config::{BehaviorVersion, Config, Credentials, Region};
        let keys = Credentials::new("LOCALBILLING", "local-secret-of-billing-0123456789", None, None, "test");
        let config = Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("us-gov-west-1"))
            .credentials_provider(keys)
            .endpoint_url(format!("http://{}", daemon.address()))
            .retry_config(aws_sdk_bedrockruntime::config::retry::RetryConfig::disabled())
            .http_client(aws_smithy_http_client::Builder::new().build_http())
            .build();
        aws_sdk_bedrockruntime::Client::from_conf(config)
    };
    let body = converse("signed");
    let blob = aws_sdk_bedrockruntime::primitives::Blob::new(body.clone());
    app.invoke_model().model_id(ON_DEMAND).content_type("application/json").body(blob).send().await.unwrap();
    let signed = daemon.record("the signed request", |record| record["accessKeyId"] == "LOCALBILLING").await;
    expected.push((
        signed["requestId"].as_str().unwrap().to_owned(),
        json!({
            "operation": "InvokeModel", "caller": "billing", "accessKeyId": "LOCALBILLING", "identityVerified": true,
            "dataClassification": "internal", "requestSize": body.len(), "outcome": "completed",
        }),
    ));
    // Refusals.
    let refusal = |answer: &Answer, status: u16, kind: &str| {
        let sentence = refused(answer, status, kind);
        (
            id_of(answer),
            json!({
                "statusCode": status, "outcome": "refused", "success": false, "attempts": 0, "upstreamRequestId": null,
                "inputTokens": null, "outputTokens": null, "responseSize": answer.body.len(), "firstByteLatency": null,
                "errorMessage": sentence,
            }),
        )
    };
    let answer = daemon.post(&converse_path(DENIED), converse("denied")).await;
    let (id, mut item) = refusal(&answer, 403, "AccessDeniedException");
    item["modelId"] = DENIED.into();
    item["requestSize"] = converse("denied").len().into();
    expected.push((id, item));
    let answer = daemon.get("/no/such/path").await;
    assert_eq!(answer.status, 404, "{answer:?}");
    expected.push((
        id_of(&answer),
        json!({ "statusCode": 404, "outcome": "refused", "operation": "Unknown", "attempts": 0 }),
    ));
    let answer = daemon.post(&converse_path(ON_DEMAND), padded(&converse("large"), 5001)).await;
    assert_eq!(answer.status, 413, "{answer:?}");
    expected.push((
        id_of(&answer),
        json!({ "statusCode": 413, "outcome": "refused", "operation": "Converse", "modelId": ON_DEMAND, "attempts": 0 }),
    ));
    let llama = "meta.llama3-8b-instruct-v1:0";
    let first = daemon.post(&converse_path(llama), converse("first")).await;
    assert_eq!(first.status, 200, "{first:?}");
    expected.push((id_of(&first), json!({ "outcome": "completed", "modelId": llama })));
    let answer = daemon.post(&converse_path(llama), converse("second")).await;
    expected.push(refusal(&answer, 429, "ThrottlingException"));
    // The upstream's errors.
    bedrock.inject(Fault::once(Effect::Throttle { text: simulator::ThrottleText::Tokens }));
    let answer = daemon.post(&converse_path(ON_DEMAND), converse("throttled")).await;
    assert_eq!(answer.status, 429, "{answer:?}");
    expected.push((
        id_of(&answer),
        json!({
            "statusCode": 429, "outcome": "upstream_error", "success": false, "attempts": 1,
            "upstreamRequestId": upstream_id(&answer), "responseSize": answer.body.len(), "inputTokens": null,
        }),
    ));
    bedrock.inject(Fault::once(Effect::StreamException {
        after_events: 2,
        exception: "modelStreamErrorException".into(),
        message: "the model broke".into(),
    }));
    let answer = daemon.post(&stream_path(ON_DEMAND), converse("events 9")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    expected.push((
        id_of(&answer),
        json!({ "statusCode": 200, "outcome": "upstream_error", "success": false, "responseSize": answer.body.len() }),
    ));
    // The upstream breaks.
    bedrock.inject(Fault::once(Effect::Cut { after_bytes: None, after_events: Some(2), how: Ending::Rst }));
    let mut client = Http1::to(daemon.address()).await;
    let response = client.start(request(Method::POST, &stream_path(ON_DEMAND), converse("events 9"))).await.unwrap();
    let broken = response.headers()["x-bedrock-sidecar-request-id"].to_str().unwrap().to_owned();
    assert!(Answer::of(response).await.is_err());
    expected
        .push((broken, json!({ "statusCode": 200, "outcome": "upstream_broke", "success": false, "streaming": true })));
    bedrock.inject(Fault::once(Effect::BreakBeforeHeaders { how: Ending::Rst }).times(0));
    let answer = daemon.post(&converse_path(ON_DEMAND), converse("broken")).await;
    assert_eq!(answer.status, 503, "{answer:?}");
    bedrock.clear_faults();
    expected.push((
        id_of(&answer),
        json!({ "statusCode": 503, "outcome": "upstream_broke", "success": false, "upstreamRequestId": null, "inputTokens": null }),
    ));
    // The client goes.
    bedrock.gate().close();
    bedrock.gate().release(1);
    let mut client = Http1::to(daemon.address()).await;
    let response = client.start(request(Method::POST, &stream_path(ON_DEMAND), converse("events 9"))).await.unwrap();
    let left = response.headers()["x-bedrock-sidecar-request-id"].to_str().unwrap().to_owned();
    let mut reader = Reader::new(response);
    reader.until(1).await.unwrap();
    let seen = reader.bytes.len();
    drop((reader, client));
    daemon.record("the client that left", |record| record["requestId"] == left.as_str()).await;
    bedrock.gate().open();
    expected.push((
        left,
        json!({
            "statusCode": 499, "outcome": "client_disconnected", "success": false, "responseSize": seen, "attempts": 1,
            "inputTokens": null, "outputTokens": null,
        }),
    ));
    // The seed's API.
    let seed = json!({ "modelId": ON_DEMAND, "body": converse("seed") }).to_string();
    let answer = daemon.post("/v1/bedrock/invoke-model", seed.clone()).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    expected.push((
        id_of(&answer),
        json!({
            "operation": "InvokeModel", "modelId": ON_DEMAND, "requestSize": seed.len(), "statusCode": 200,
            "outcome": "completed", "success": true, "caller": "here",
        }),
    ));
    let answer = daemon.post("/v1/bedrock/invoke-model", json!({ "modelId": DENIED, "body": "{}" }).to_string()).await;
    assert_eq!(answer.status, 403, "{answer:?}");
    expected.push((id_of(&answer), json!({ "statusCode": 403, "outcome": "refused", "modelId": DENIED })));
    // An operation without a model or usage.
    let answer = daemon.get("/foundation-models").await;
    expected.push((
        id_of(&answer),
        json!({
            "operation": "ListFoundationModels", "modelId": "", "inputTokens": null, "outputTokens": null,
            "outcome": "completed", "requestSize": 0,
        }),
    ));

    shipped(&daemon).await;
    let items = scene.items().await;
    for (id, wanted) in &expected {
        says(items.get(id).unwrap_or_else(|| panic!("no item for {wanted}")), wanted.clone());
    }
    assert_eq!(items.len(), expected.len(), "one item a request");
    for item in items.values() {
        let timestamp = item["timestamp"].as_str().unwrap();
        let started: jiff::Timestamp = timestamp.parse().unwrap();
        assert!(timestamp.len() == 24 && timestamp.ends_with('Z'), "{timestamp}");
        assert_eq!(item["ttl"], started.as_second() + 7 * 86_400);
        assert!(item["userArn"].as_str().unwrap().starts_with("arn:"), "{item:#}");
        if let Some(first) = item["firstByteLatency"].as_u64() {
            assert!(first <= item["latency"].as_u64().unwrap(), "{item:#}");
        }
        if item["outcome"] == "completed" {
            assert!(item["firstByteLatency"].is_u64() && item.get("errorMessage").is_none(), "{item:#}");
        } else {
            assert!(item["errorMessage"].as_str().is_some_and(|why| !why.is_empty()), "{item:#}");
        }
    }
    assert_types(scene.table).await;
}

// ---------------------------------------------------------------------------------------------------------------------
// Questions

/// Asks the dashboard at an address, all pages of it.
async fn dashboard(address: std::net::SocketAddr, filters: &str, limit: usize) -> (u64, Vec<Value>) {
    let (mut token, mut found, mut total) = (String::new(), Vec::new(), None);
    loop {
        let answer = get(address, &format!("/v1/dashboard/requests?limit={limit}&{filters}{token}")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let page = answer.json();
        total.get_or_insert(page["totalCount"].as_u64().unwrap());
        let requests = page["requests"].as_array().unwrap();
        assert!(requests.len() <= limit);
        found.extend(requests.iter().cloned());
        match page["nextToken"].as_str() {
            Some(next) => token = format!("&nextToken={next}"),
            None => return (total.unwrap(), found),
        }
    }
}

fn jsonl(output: &Output) -> BTreeMap<String, Value> {
    assert!(output.status.success(), "{}", text(output));
    let lines = String::from_utf8(output.stdout.clone()).unwrap();
    lines
        .lines()
        .map(|line| {
            let item: Value = serde_json::from_str(line).unwrap();
            (item["requestId"].as_str().unwrap().to_owned(), item)
        })
        .collect()
}

/// curl as another user.
fn as_other(url: &str, body: Option<&str>) -> Value {
    let id = ANY_UID.to_string();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", &id, "--regid", &id, "--clear-groups", "curl", "-sS", "--max-time", "40", url]);
    if let Some(body) = body {
        command.args(["-H", "content-type: application/json", "-d", body]);
    }
    let output = command.stderr(Stdio::inherit()).output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("not JSON: {}", text(&output)))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_dashboard_and_the_commands_say_what_the_raw_items_say() {
    let bedrock = bedrock().await;
    let scene = Scene::new("e2e-questions").await;
    let more = format!(
        "[models]\ndeny = [\"cohere.*\"]\n[[callers]]\nname = \"here\"\nusers = [\"{}\"]\n[[callers]]\nname = \"there\"\nusers = [\"{ANY_UID}\"]\n",
        own_uid()
    );
    let setup = scene.setup(&bedrock, "", &more);
    let config_for_commands = scene.setup(&bedrock, "", &more);
    let daemon = setup.ready().await;
    for number in 0..40 {
        let model = [ON_DEMAND, PROFILE_ONLY, DENIED][number % 3];
        if number % 10 == 9 {
            bedrock.inject(Fault::once(Effect::InternalServerError).on("Converse"));
        }
        daemon.post(&converse_path(model), converse("hello")).await;
        bedrock.clear_faults();
    }
    let other = own_uid() == 0
        && ["setpriv", "curl"].iter().all(|program| {
            Command::new(program).arg("--version").stdout(Stdio::null()).status().is_ok_and(|status| status.success())
        });
    if other {
        let url = format!("http://{}{}", daemon.address(), converse_path(ON_DEMAND));
        tokio::task::spawn_blocking(move || {
            for _ in 0..3 {
                assert!(as_other(&url, Some(&converse("from elsewhere")))["output"].is_object());
            }
        })
        .await
        .unwrap();
    } else {
        println!("NOT RUN: what another user sees (needs root, setpriv and curl)");
    }
    shipped(&daemon).await;
    let items = scene.items().await;
    assert_eq!(items.len(), if other { 43 } else { 40 });

    // The admin address answers without leaving a record, so all can be compared.
    type Fits = Box<dyn Fn(&Value) -> bool>;
    let on_demand = ON_DEMAND.to_owned();
    let questions: Vec<(String, Fits)> = vec![
        ("timeRange=1h".into(), Box::new(|_| true)),
        ("timeRange=24h&success=true".into(), Box::new(|item| item["success"] == true)),
        ("timeRange=7d&success=false".into(), Box::new(|item| item["success"] == false)),
        ("partition=commercial&timeRange=30d".into(), Box::new(|_| true)),
        ("partition=govcloud".into(), Box::new(|_| false)),
        (format!("modelId={}", encoded(ON_DEMAND)), Box::new(move |item| item["modelId"] == on_demand.as_str())),
        ("caller=here&success=false".into(), Box::new(|item| item["caller"] == "here" && item["success"] == false)),
        ("caller=there".into(), Box::new(|item| item["caller"] == "there")),
    ];
    for (filters, fits) in &questions {
        let wanted: BTreeMap<&String, &Value> = items.iter().filter(|(_, item)| fits(item)).collect();
        for source in ["ledger", "dynamodb"] {
            let (total, found) = dashboard(daemon.admin, &format!("{filters}&source={source}"), 7).await;
            let count = found.len();
            let times: Vec<&str> = found.iter().map(|item| item["timestamp"].as_str().unwrap()).collect();
            if source == "ledger" {
                assert_eq!(total as usize, wanted.len(), "{filters}");
                assert!(times.is_sorted_by(|a, b| a >= b), "newest first");
            }
            let found: BTreeMap<&String, &Value> = found
                .iter()
                .map(|item| (items.get_key_value(item["requestId"].as_str().unwrap()).unwrap().0, item))
                .collect();
            assert_eq!(found.len(), count, "{filters}, {source}: a record on two pages");
            assert_eq!(found, wanted, "{filters}, {source}");
        }
    }
    // The main address says the same of these, and keeps a record of each question.
    let model = format!("modelId={}", encoded(PROFILE_ONLY));
    let profiles = items.values().filter(|item| item["modelId"] == PROFILE_ONLY).count();
    if own_uid() == 0 {
        let (total, found) = dashboard(daemon.address(), &model, 1000).await;
        assert_eq!((total as usize, found.len()), (profiles, profiles));
        let (total, _) = dashboard(daemon.address(), "", 1000).await;
        assert_eq!(total as usize, items.len() + 1, "and the question before this one");
    }
    assert_eq!(get(daemon.admin, "/v1/dashboard/requests?color=red").await.status, 400);

    if other {
        let (main, admin) = (daemon.address(), daemon.admin);
        tokio::task::spawn_blocking(move || {
            for address in [admin, main] {
                for source in ["ledger", "dynamodb"] {
                    let url = format!(
                        "http://{address}/v1/dashboard/requests?modelId={}&source={source}",
                        encoded(ON_DEMAND)
                    );
                    let page = as_other(&url, None);
                    let requests = page["requests"].as_array().unwrap_or_else(|| panic!("{page}"));
                    assert_eq!((requests.len(), &page["totalCount"]), (3, &json!(3)), "{source}: {page:#}");
                    assert!(requests.iter().all(|item| item["callerUid"] == ANY_UID && item["caller"] == "there"));
                    // Asking for another's by name shows nothing of them.
                    let page = as_other(&format!("{url}&caller=here"), None);
                    assert_eq!(page["requests"], json!([]), "{page:#}");
                }
            }
        })
        .await
        .unwrap();
    }
    shipped(&daemon).await;
    let items = scene.items().await;
    let list = config_for_commands.command(&["audit", "list", "--limit", "1000", "--format", "jsonl"]).await;
    assert_eq!(jsonl(&list), items);
    let words = ["audit", "list", "--limit", "1000", "--format", "jsonl", "--source", "dynamodb"];
    assert_eq!(jsonl(&config_for_commands.command(&words).await), items);
    let failed = config_for_commands
        .command(&["audit", "list", "--limit", "1000", "--format", "jsonl", "--success", "false"])
        .await;
    let wanted: BTreeMap<_, _> = items.clone().into_iter().filter(|(_, item)| item["success"] == false).collect();
    assert_eq!(jsonl(&failed), wanted);
    let export = config_for_commands.command(&["audit", "export"]).await;
    assert_eq!(jsonl(&export), items);
    let file = config_for_commands.path().join("export.jsonl");
    std::fs::write(&file, &export.stdout).unwrap();
    let verdict = config_for_commands.command(&["audit", "verify", "--source", "export", file.to_str().unwrap()]).await;
    assert!(verdict.status.success(), "{}", text(&verdict));
    let csv = config_for_commands.command(&["audit", "export", "--format", "csv"]).await;
    let csv = String::from_utf8(csv.stdout).unwrap();
    assert_eq!(csv.lines().count(), items.len() + 1);
    assert!(items.keys().all(|id| csv.contains(id.as_str())));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_daemon_on_the_same_ledger_is_refused_with_a_sentence() {
    let bedrock = bedrock().await;
    let scene = Scene::new("e2e-second").await;
    let daemon = scene.setup(&bedrock, "", "").ready().await;
    let second = scene.setup(&bedrock, "", "");
    let second = within("the second daemon's end", second.command(&["run"])).await;
    let said = text(&second);
    assert_eq!(second.status.code(), Some(1), "{said}");
    let sentence = format!(
        "another bedrock-sidecar (pid {}) uses the state directory {}; stop it, or give this one its own audit.state_dir",
        daemon.pid(),
        scene.state.path().display()
    );
    assert!(said.contains(&sentence), "{said}");
    assert_eq!(daemon.post(&converse_path(ON_DEMAND), converse("hello")).await.status, 200, "the first goes on");
    shipped(&daemon).await;
    assert_eq!(scene.items().await.len(), 1);
}

// ---------------------------------------------------------------------------------------------------------------------
// Nothing of prompts, answers or keys

/// Every file below a directory that holds the text.
fn files_with(directory: &Path, canary: &str, looked_at: &mut usize) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_with(&path, canary, looked_at));
        } else {
            *looked_at += 1;
            let bytes = std::fs::read(&path).unwrap();
            if bytes.windows(canary.len()).any(|window| window == canary.as_bytes()) {
                found.push(path.display().to_string());
            }
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn no_prompt_answer_or_key_stands_in_any_file_item_log_or_metric() {
    let bedrock = bedrock().await;
    let scene = Scene::new("e2e-canaries").await;
    let daemon = scene.setup(&bedrock, "", "[models]\ndeny = [\"cohere.*\"]\n[log]\nlevel = \"debug\"\n").ready().await;
    let prompt = converse("PROMPTCANARY says hello");
    let with_keys = |path: &str| {
        let mut request = request(Method::POST, path, prompt.clone());
        let headers = request.headers_mut();
        headers.insert("authorization", "Bearer CLIENTKEYCANARY".parse().unwrap());
        headers.insert("x-amz-security-token", "TOKENCANARY".parse().unwrap());
        headers.insert("cookie", "COOKIECANARY=1".parse().unwrap());
        headers.insert("x-amzn-bedrock-trace", "HEADERCANARY".parse().unwrap());
        request
    };
    let mut statuses = Vec::new();
    for effect in [
        None,
        Some(Effect::Error {
            status: 400,
            error_type: "ValidationException".into(),
            message: "the input ERRORCANARY is malformed".into(),
            capital: false,
            headers: BTreeMap::new(),
        }),
        Some(Effect::StreamException {
            after_events: 2,
            exception: "validationException".into(),
            message: "the input ERRORCANARY is malformed".into(),
        }),
        Some(Effect::Cut { after_bytes: Some(20), after_events: None, how: Ending::Rst }),
    ] {
        for path in [converse_path(ON_DEMAND), stream_path(PROFILE_ONLY), converse_path(DENIED)] {
            if let Some(effect) = &effect {
                bedrock.inject(Fault::once(effect.clone()));
            }
            let mut client = Http1::to(daemon.address()).await;
            match client.start(with_keys(&path)).await {
                Ok(response) => {
                    statuses.push(response.status().as_u16());
                    if let Ok(answer) = Answer::of(response).await
                        && effect.is_none()
                        && answer.status == 200
                        && !path.contains("stream")
                    {
                        assert!(answer.text().contains("echo: PROMPTCANARY"), "{answer:?}");
                    }
                }
                Err(_) => statuses.push(0),
            }
            bedrock.clear_faults();
        }
    }
    daemon.post("/v1/bedrock/invoke-model", json!({ "modelId": ON_DEMAND, "body": prompt }).to_string()).await;
    daemon.post(&converse_path(ON_DEMAND), "{\"PROMPTCANARY\": not json").await;
    daemon.get("/no/path?X-Amz-Signature=SIGNATURECANARY&prompt=PROMPTCANARY").await;
    shipped(&daemon).await;
    let items = scene.items().await;
    assert!(items.len() >= statuses.len() + 3, "{} items for {statuses:?}", items.len());
    let items = serde_json::to_string(&items).unwrap();
    let pages = format!("{}{}", daemon.metrics().await, daemon.admin_get("/status").await.text());
    let log = daemon.log_text();
    let mut looked_at = 0;
    for canary in [
        "PROMPTCANARY",
        "echo: ",
        "CLIENTKEYCANARY",
        "TOKENCANARY",
        "COOKIECANARY",
        "HEADERCANARY",
        "ERRORCANARY",
        "SIGNATURECANARY",
        "dynamodb-secret-CANARY",
        simulator::DEFAULT_BEARER_TOKEN,
    ] {
        assert!(!items.contains(canary), "{canary} stands in an item: {items}");
        assert!(!pages.contains(canary), "{canary} stands in /metrics or /status");
        assert!(!log.contains(canary), "{canary} stands in the log: {log}");
        let files = files_with(scene.state.path(), canary, &mut looked_at);
        assert!(files.is_empty(), "{canary} stands in {files:?}");
    }
    assert!(looked_at >= 20, "journal and database were looked at");
    // The search finds what is there.
    assert!(!files_with(scene.state.path(), ON_DEMAND, &mut looked_at).is_empty());
}
