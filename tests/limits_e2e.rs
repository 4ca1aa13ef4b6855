//! Limits, budgets and the fleet, from outside: the real binary, storms counted at the stand-in for Bedrock, `/status`.
//!
//! Rates are so slow that nothing refills while a test runs, so that counts are exact.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "tests state expectations by unwrapping"
)]

mod common;

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::client::Reader;
use common::*;
use http::{Method, Request};
use http_body_util::Full;
use serde_json::{Value, json};
use simulator::{Effect, Ended, Ending, Fault, Simulator, ThrottleText};
use tokio::task::JoinSet;

/// A Converse body with a bound on the answer.
fn bounded(prompt: &str, most: u64) -> String {
    let mut body: Value = serde_json::from_str(&converse(prompt)).unwrap();
    body["inferenceConfig"] = json!({ "maxTokens": most });
    body.to_string()
}

fn as_caller(token: &str, path: &str, body: String) -> Request<Full<bytes::Bytes>> {
    let mut request = request(Method::POST, path, body);
    request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    request
}

/// So many requests at once, each on a connection of its own.
async fn storm(daemon: &Daemon, count: usize, make: impl Fn() -> Request<Full<bytes::Bytes>>) -> Vec<Answer> {
    let address = daemon.address();
    let mut tasks = JoinSet::new();
    for _ in 0..count {
        tasks.spawn(send(address, make()));
    }
    tasks.join_all().await
}

fn admitted(answers: &[Answer]) -> usize {
    for answer in answers {
        assert!(matches!(answer.status, 200 | 429), "{answer:?}");
    }
    answers.iter().filter(|answer| answer.status == 200).count()
}

/// A 429 of ours: its sentence and its `Retry-After`.
#[track_caller]
fn throttled(answer: &Answer) -> (String, u64) {
    let sentence = refused(answer, 429, "ThrottlingException");
    let after: u64 = answer.header("retry-after").expect("Retry-After").parse().unwrap();
    assert!(after >= 1 && sentence.contains(&format!("try again in {after} s")), "{after}: {sentence}");
    (sentence, after)
}

async fn status(daemon: &Daemon) -> Value {
    daemon.admin_get("/status").await.json()["limits"].clone()
}

async fn scope(daemon: &Daemon, kind: &str, name: &str) -> Value {
    let status = status(daemon).await;
    let found = status["scopes"].as_array().unwrap().iter().find(|one| one["scope"] == kind && one["name"] == name);
    found.unwrap_or_else(|| panic!("no {kind} {name:?} in {status}")).clone()
}

async fn host(daemon: &Daemon) -> Value {
    scope(daemon, "host", "").await
}

async fn limited(daemon: &Daemon, limit: &str, scope: &str) -> f64 {
    let line = format!("bedrock_sidecar_limited_total{{limit=\"{limit}\",scope=\"{scope}\"}}");
    metric(&daemon.metrics().await, &line).unwrap_or(0.0)
}

/// A stream that has begun and cannot end before the gate lets it.
async fn held(bedrock: &Simulator, daemon: &Daemon, body: String) -> (Http1, Reader) {
    bedrock.gate().close();
    let before = bedrock.gate().state().waiting;
    let mut connection = Http1::to(daemon.address()).await;
    let path = stream_path(ON_DEMAND);
    let response = connection.start(request(Method::POST, &path, body)).await.unwrap();
    assert_eq!(response.status(), 200);
    until("the stream to wait at the gate", || Some(()).filter(|()| bedrock.gate().state().waiting > before)).await;
    (connection, Reader::new(response))
}

/// Replaces a text of the configuration and reloads it.
async fn reload(daemon: &Daemon, old: &str, new: &str) {
    let path = daemon.directory.path().join("config.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(old), "{text}");
    std::fs::write(&path, text.replace(old, new)).unwrap();
    let count =
        |daemon: &Daemon| daemon.lines().iter().filter(|line| line["message"] == "configuration reloaded").count();
    let before = count(daemon);
    daemon.signal("HUP");
    until("the reload", || Some(()).filter(|()| count(daemon) > before)).await;
}

#[tokio::test]
async fn a_storm_is_admitted_to_the_burst_and_not_one_more() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).with("[limits]\nrequests_per_minute = 1\nrequest_burst = 5").ready().await;
    let path = converse_path(ON_DEMAND);
    let answers = storm(&daemon, 50, || request(Method::POST, &path, converse("storm"))).await;
    assert_eq!(admitted(&answers), 5);
    assert_eq!(received(&bedrock, "Converse").len(), 5);
    for answer in answers.iter().filter(|answer| answer.status == 429) {
        let (sentence, after) = throttled(answer);
        assert!(sentence.contains("this host has used up requests_per_minute = 1;"), "{sentence}");
        assert!((1..=60).contains(&after), "{after}");
    }
    assert_eq!(limited(&daemon, "requests_per_minute", "host").await, 45.0);
    until("a line for each", || Some(()).filter(|()| daemon.records().len() == 50)).await;
    let refusals: Vec<Value> = daemon.records().into_iter().filter(|one| one["statusCode"] == 429).collect();
    assert_eq!(refusals.len(), 45);
    for record in refusals {
        assert_eq!((&record["outcome"], &record["attempts"]), (&json!("refused"), &json!(0)), "{record}");
        assert!(record["errorMessage"].as_str().unwrap().contains("requests_per_minute"), "{record}");
    }
    // The seed's API is under the same limits, in its own shape.
    let body = json!({ "modelId": ON_DEMAND, "contentType": "application/json", "body": converse("x") }).to_string();
    let answer = daemon.post("/v1/bedrock/invoke-model", body).await;
    assert_eq!(answer.status, 429, "{answer:?}");
    assert!(answer.json()["error"]["message"].as_str().unwrap().contains("requests_per_minute"), "{answer:?}");
    assert!(answer.header("retry-after").is_some(), "{answer:?}");
    assert_eq!(bedrock.requests().iter().filter(|one| one.method == "POST").count(), 5);
}

#[tokio::test]
async fn callers_and_groups_of_models_are_counted_apart_and_a_refusal_takes_nothing() {
    let bedrock = bedrock().await;
    let setup = Setup::plain(&bedrock);
    for name in ["ann", "ben"] {
        std::fs::write(setup.path().join(name), format!("token-of-{name}-0123456789")).unwrap();
    }
    let file = |name: &str| setup.path().join(name).display().to_string();
    let more = format!(
        "[limits.models.\"amazon.*\"]\nrequests_per_minute = 1\nrequest_burst = 7\n\
         [[callers]]\nname = \"ann\"\nbearer_token_file = \"{}\"\nrequests_per_minute = 1\nrequest_burst = 3\n\
         [[callers]]\nname = \"ben\"\nbearer_token_file = \"{}\"\n",
        file("ann"),
        file("ben")
    );
    let daemon = setup.with(&more).ready().await;
    let path = converse_path(ON_DEMAND);
    let by = |name: &'static str, path: &str| {
        let path = path.to_owned();
        move || as_caller(&format!("token-of-{name}-0123456789"), &path, converse("x"))
    };
    let of_ann = storm(&daemon, 20, by("ann", &path)).await;
    assert_eq!(admitted(&of_ann), 3);
    let (sentence, _) = throttled(of_ann.iter().find(|answer| answer.status == 429).unwrap());
    assert!(sentence.contains("the caller \"ann\" has used up requests_per_minute = 1"), "{sentence}");
    let of_ben = storm(&daemon, 20, by("ben", &path)).await;
    assert_eq!(admitted(&of_ben), 4, "what ann was refused took nothing from the models");
    let (sentence, _) = throttled(of_ben.iter().find(|answer| answer.status == 429).unwrap());
    assert!(sentence.contains("the group of models \"amazon.*\" has used up"), "{sentence}");
    assert_eq!(received(&bedrock, "Converse").len(), 7);
    // The group's profiles are of the group; other models are not.
    throttled(&send(daemon.address(), by("ben", &converse_path(&format!("us.{PROFILE_ONLY}")))()).await);
    let other = converse_path("anthropic.claude-3-haiku-20240307-v1:0");
    assert_eq!(admitted(&storm(&daemon, 10, by("ben", &other)).await), 10);
    assert_eq!(limited(&daemon, "requests_per_minute", "caller").await, 17.0);
    assert_eq!(limited(&daemon, "requests_per_minute", "model").await, 17.0);
    assert_eq!(limited(&daemon, "requests_per_minute", "host").await, 0.0);
}

#[tokio::test]
async fn a_place_is_held_until_the_last_byte_and_free_at_once_then() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).with("[limits]\nconcurrent_requests = 1").ready().await;
    let whole = daemon.post(&stream_path(ON_DEMAND), converse("events 4")).await;
    let (events, length) = (frames(&whole.body).len() as u64, whole.body.len());
    let last = frames(&whole.body).pop().unwrap().len();
    let (_connection, mut reader) = held(&bedrock, &daemon, converse("events 4")).await;
    let refusal = daemon.post(&converse_path(ON_DEMAND), converse("x")).await;
    let (sentence, after) = throttled(&refusal);
    assert!(sentence.contains("this host may run 1 requests at once (concurrent_requests = 1)"), "{sentence}");
    assert_eq!(after, 1);
    bedrock.gate().release(events - 1);
    reader.until(length - last).await.unwrap();
    throttled(&daemon.post(&converse_path(ON_DEMAND), converse("x")).await);
    assert_eq!(host(&daemon).await["running"], 1);
    bedrock.gate().release(1);
    reader.end().await.unwrap();
    assert_eq!(daemon.post(&converse_path(ON_DEMAND), converse("x")).await.status, 200, "free with the last byte");
    assert_eq!(host(&daemon).await["running"], 0);

    // A client that leaves frees its place.
    let (connection, reader) = held(&bedrock, &daemon, converse("events 4")).await;
    drop((connection, reader));
    until_async("the place of the one that left", || async { (host(&daemon).await["running"] == 0).then_some(()) })
        .await;
    bedrock.gate().open();
    assert_eq!(daemon.post(&stream_path(ON_DEMAND), converse("events 4")).await.status, 200);
    assert_eq!(limited(&daemon, "concurrent_requests", "host").await, 2.0);
}

#[tokio::test]
async fn a_storm_of_streams_never_has_more_than_its_places() {
    let bedrock = bedrock().await;
    let daemon = Setup::tls(&bedrock).with("[limits]\nconcurrent_requests = 6").ready().await;
    bedrock.gate().close();
    let path = stream_path(ON_DEMAND);
    let address = daemon.address();
    let mut tasks = JoinSet::new();
    for _ in 0..40 {
        tasks.spawn(send(address, request(Method::POST, &path, converse("events 3"))));
    }
    let mut refusals = 0;
    while refusals < 34 {
        let answer = within("a refusal", tasks.join_next()).await.unwrap().unwrap();
        assert_eq!(answer.status, 429, "{answer:?}");
        refusals += 1;
    }
    until("six streams", || Some(()).filter(|()| received(&bedrock, "ConverseStream").len() >= 6)).await;
    assert_eq!(host(&daemon).await["running"], 6);
    bedrock.gate().open();
    for answer in tasks.join_all().await {
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    assert_eq!(received(&bedrock, "ConverseStream").len(), 6);
    assert_eq!(host(&daemon).await["running"], 0);
}

/// tokensToday counts reservations and never refills, so it shows them exactly.
#[tokio::test]
async fn tokens_are_reserved_and_settled_for_every_operation() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).with("[limits]\ntokens_per_day = 100000000").ready().await;
    let today = async || host(&daemon).await["tokensToday"].as_u64().unwrap();
    let used = |record: &Value| record["inputTokens"].as_u64().unwrap() + record["outputTokens"].as_u64().unwrap();
    let mut spent = 0;
    for path in [
        converse_path(ON_DEMAND),
        stream_path(ON_DEMAND),
        format!("/model/{}/invoke", encoded(ON_DEMAND)),
        format!("/model/{}/invoke-with-response-stream", encoded(ON_DEMAND)),
    ] {
        let answer = daemon.post(&path, bounded("one two three", 500)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        spent += used(&daemon.record_of(&answer).await);
        assert_eq!(today().await, spent, "{path}");
    }

    // While it runs, what it may use at most; then what it used.
    let body = bounded("events 9", 500);
    let reserved = body.len().div_ceil(4) as u64 + 500;
    let (_connection, mut reader) = held(&bedrock, &daemon, body.clone()).await;
    assert_eq!(today().await, spent + reserved);
    bedrock.gate().open();
    reader.end().await.unwrap();
    spent += used(&daemon.records().pop().unwrap());
    assert_eq!(today().await, spent);

    // A body that bounds nothing reserves 2,048 for the answer.
    let unbounded = converse("events 9");
    let (_connection, mut reader) = held(&bedrock, &daemon, unbounded.clone()).await;
    assert_eq!(today().await, spent + unbounded.len().div_ceil(4) as u64 + 2048);
    bedrock.gate().open();
    reader.end().await.unwrap();
    spent += used(&daemon.records().pop().unwrap());
    assert_eq!(today().await, spent);

    // A stream that breaks before it reports stays as reserved.
    bedrock.inject(Fault::once(Effect::Cut { after_bytes: None, after_events: Some(3), how: Ending::Rst }));
    let mut connection = Http1::to(daemon.address()).await;
    let mut broken =
        Reader::new(connection.start(request(Method::POST, &stream_path(ON_DEMAND), body.clone())).await.unwrap());
    broken.end().await.unwrap_err();
    spent += reserved;
    until_async("the broken stream's end", || async { (host(&daemon).await["running"] == 0).then_some(()) }).await;
    assert_eq!(today().await, spent);

    // So does one whose client leaves.
    let (connection, reader) = held(&bedrock, &daemon, body.clone()).await;
    drop((connection, reader));
    until_async("the client's end", || async { (host(&daemon).await["running"] == 0).then_some(()) }).await;
    until("the upstream to see it", || {
        received(&bedrock, "ConverseStream").into_iter().find(|one| one.ended == Ended::ClientWentAway)
    })
    .await;
    bedrock.gate().open();
    spent += reserved;
    assert_eq!(today().await, spent);

    // What the upstream refuses, or what never reached it, costs nothing.
    bedrock.inject(Fault::once(Effect::Throttle { text: ThrottleText::Tokens }));
    let answer = daemon.post(&converse_path(ON_DEMAND), body.clone()).await;
    assert_eq!((answer.status, today().await), (429, spent), "{answer:?}");
    bedrock.refuse_connections(true);
    let answer = daemon.post(&converse_path(ON_DEMAND), body.clone()).await;
    assert_eq!((answer.status, today().await), (503, spent), "{answer:?}");
    bedrock.refuse_connections(false);
}

#[tokio::test]
async fn tokens_a_minute_are_taken_ahead_and_what_was_not_used_comes_back() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).with("[limits]\ntokens_per_minute = 1000").ready().await;
    let (_connection, mut reader) = held(&bedrock, &daemon, bounded("events 9", 900)).await;
    let path = converse_path(ON_DEMAND);
    let (sentence, after) = throttled(&daemon.post(&path, bounded("x", 900)).await);
    assert!(sentence.contains("this host has used up tokens_per_minute = 1000;"), "{sentence}");
    assert!((30..=60).contains(&after), "{after}");
    bedrock.gate().open();
    reader.end().await.unwrap();
    assert_eq!(daemon.post(&path, bounded("x", 900)).await.status, 200, "the reservation came back");

    // More than reserved is a debt, and it is paid before anything passes.
    let answer = daemon.post(&path, converse("events 2000")).await;
    // It reserves more than the whole limit, so it passes only when nothing of it is in use.
    let (sentence, _) = throttled(&answer);
    assert!(sentence.contains("tokens_per_minute"), "{sentence}");
    let fresh = Setup::plain(&bedrock).with("[limits]\ntokens_per_minute = 1000").ready().await;
    assert_eq!(fresh.post(&path, converse("events 1800")).await.status, 200);
    let left = host(&fresh).await["tokensLeft"].as_i64().unwrap();
    assert!((-810..=-100).contains(&left), "{left}");
    let (_, after) = throttled(&fresh.post(&path, bounded("x", 1)).await);
    assert!((10..=60).contains(&after), "{after}");
    assert_eq!(limited(&fresh, "tokens_per_minute", "host").await, 1.0);
}

#[tokio::test]
async fn with_max_wait_requests_stand_in_line() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock)
        .with("[limits]\nconcurrent_requests = 1\nmax_wait = \"10m\"\nmax_waiting = 3")
        .ready()
        .await;
    let (_connection, mut reader) = held(&bedrock, &daemon, converse("events 3")).await;
    let waiting = |count: u64| {
        let daemon = &daemon;
        until_async("the line", move || async move { (status(daemon).await["waiting"] == count).then_some(()) })
    };
    let address = daemon.address();
    let path = converse_path(ON_DEMAND);
    let mut line = JoinSet::new();
    for _ in 0..2 {
        line.spawn(send(address, request(Method::POST, &path, converse("x"))));
    }
    let leaver = tokio::spawn(send(address, request(Method::POST, &path, converse("gone"))));
    waiting(3).await;
    throttled(&daemon.post(&path, converse("x")).await);
    leaver.abort();
    let _ = leaver.await;
    waiting(2).await;
    assert_eq!(received(&bedrock, "Converse").len(), 0);
    bedrock.gate().open();
    reader.end().await.unwrap();
    for answer in line.join_all().await {
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    assert_eq!(received(&bedrock, "Converse").len(), 2, "who has left is not served");
    waiting(0).await;

    // A rate is waited for too; what time cannot help within max_wait is refused.
    let daemon = Setup::plain(&bedrock)
        .with("[limits]\nrequests_per_minute = 120\nrequest_burst = 1\nmax_wait = \"30s\"")
        .ready()
        .await;
    assert_eq!(admitted(&storm(&daemon, 4, || request(Method::POST, &path, converse("x"))).await), 4);
    let daemon = Setup::plain(&bedrock)
        .with("[limits]\nrequests_per_minute = 1\nrequest_burst = 1\nmax_wait = \"5s\"")
        .ready()
        .await;
    assert_eq!(admitted(&storm(&daemon, 9, || request(Method::POST, &path, converse("x"))).await), 1);
}

#[tokio::test]
async fn tokens_of_a_day_survive_restarts() {
    let bedrock = bedrock().await;
    let state = tempfile::tempdir().unwrap();
    let start = async || {
        let more = format!(
            "[audit]\nstate_dir = \"{}\"\ntable = \"\"\n[limits]\ntokens_per_day = 1000\n",
            state.path().display()
        );
        Setup::plain(&bedrock).with(&more).ready().await
    };
    let path = converse_path(ON_DEMAND);
    let mut daemon = start().await;
    assert_eq!(daemon.post(&path, bounded("events 400", 400)).await.status, 200);
    let spent = host(&daemon).await["tokensToday"].as_u64().unwrap();
    assert_eq!(spent, 402);
    daemon.signal("TERM");
    assert!(daemon.ended().await.success());

    let daemon = start().await;
    assert_eq!(host(&daemon).await["tokensToday"], spent);
    let (sentence, after) = throttled(&daemon.post(&path, bounded("x", 700)).await);
    assert!(sentence.contains("this host has used up tokens_per_day = 1000"), "{sentence}");
    assert!((1..=86_400).contains(&after));
    assert_eq!(daemon.post(&path, bounded("events 500", 500)).await.status, 200);
    let spent = host(&daemon).await["tokensToday"].as_u64().unwrap();
    assert_eq!(spent, 904);
    // kill -9 forgets nothing that has been written.
    until("limits.json", || {
        std::fs::read_to_string(state.path().join("limits.json")).ok().filter(|text| text.contains("904"))
    })
    .await;
    drop(daemon);
    let daemon = start().await;
    assert_eq!(host(&daemon).await["tokensToday"], spent);
    throttled(&daemon.post(&path, bounded("x", 200)).await);
}

#[tokio::test]
async fn budgets_warn_once_and_then_refuse() {
    let bedrock = bedrock().await;
    let setup = Setup::plain(&bedrock);
    let prices = setup.path().join("prices.toml");
    std::fs::write(&prices, "[[prices]]\nmodel = \"amazon.*\"\ninput = 1000.0\noutput = 1000.0\n").unwrap();
    let daemon = setup
        .with(&format!("[limits]\nprices_file = \"{}\"\nusd_per_day = 1.00\nusd_per_month = 50", prices.display()))
        .ready()
        .await;
    let path = converse_path(ON_DEMAND);
    let warnings = || {
        let lines = daemon.lines();
        lines.into_iter().filter(|line| line["level"] == "WARN" && line["budget_usd"].is_string()).collect::<Vec<_>>()
    };
    // 2 tokens in, 100 out: 10.2 cents each.
    for number in 1..=9 {
        assert_eq!(daemon.post(&path, bounded("events 100", 100)).await.status, 200);
        let spent = host(&daemon).await["nanoUsdToday"].as_u64().unwrap();
        assert_eq!(spent, number * 102_000_000);
        if number == 7 {
            assert_eq!(warnings().len(), 0);
        }
    }
    let (sentence, _) = throttled(&daemon.post(&path, bounded("events 100", 100)).await);
    assert!(sentence.contains("this host has used up usd_per_day = 1.00;"), "{sentence}");
    assert_eq!(limited(&daemon, "usd_per_day", "host").await, 1.0);
    until("the warning", || Some(()).filter(|()| !warnings().is_empty())).await;
    let warning = warnings();
    assert_eq!(warning.len(), 1, "{warning:?}");
    assert_eq!((&warning[0]["limit"], &warning[0]["spent_usd"]), (&json!("usd_per_day"), &json!("0.816")));
    // A model without a price spends nothing, and passes.
    let free = converse_path("anthropic.claude-3-haiku-20240307-v1:0");
    assert_eq!(daemon.post(&free, bounded("events 100", 100)).await.status, 200);
    // More money by reload.
    reload(&daemon, "usd_per_day = 1.00", "usd_per_day = 2.00").await;
    assert_eq!(daemon.post(&path, bounded("events 100", 100)).await.status, 200);
    assert_eq!(host(&daemon).await["nanoUsdToday"], 1_020_000_000u64);
}

#[tokio::test]
async fn a_reload_changes_limits_at_once_and_leaves_streams_alone() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).with("[limits]\nconcurrent_requests = 1\n").ready().await;
    let path = converse_path(ON_DEMAND);
    let whole = daemon.post(&stream_path(ON_DEMAND), converse("events 5")).await;
    let (_connection, mut reader) = held(&bedrock, &daemon, converse("events 5")).await;
    bedrock.gate().release(2);
    reader.until(40).await.unwrap();
    throttled(&daemon.post(&path, converse("x")).await);
    reload(&daemon, "concurrent_requests = 1", "concurrent_requests = 2").await;
    assert_eq!(daemon.post(&path, converse("x")).await.status, 200, "raised");
    assert_eq!(host(&daemon).await["running"], 1, "the stream keeps its place");
    reload(&daemon, "concurrent_requests = 2", "concurrent_requests = 1").await;
    throttled(&daemon.post(&path, converse("x")).await);
    reload(&daemon, "concurrent_requests = 1", "requests_per_minute = 1\nrequest_burst = 2").await;
    let answers = storm(&daemon, 10, || request(Method::POST, &path, converse("x"))).await;
    assert!((1..=2).contains(&admitted(&answers)), "a new limit holds at once: {}", admitted(&answers));
    // A file that cannot be used changes nothing.
    let config = daemon.directory.path().join("config.toml");
    let good = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, good.replace("request_burst = 2", "request_burst = \"many\"")).unwrap();
    daemon.signal("HUP");
    daemon.says("the new configuration cannot be used; the old one stays in force").await;
    throttled(&daemon.post(&path, converse("x")).await);
    bedrock.gate().open();
    reader.end().await.unwrap();
    assert_eq!(reader.bytes, whole.body, "not a byte of the stream was lost");
    assert_eq!(host(&daemon).await["running"], 0);
}

/// DynamoDB Local, ended by its pid.
struct Table {
    child: Child,
    endpoint: String,
}

impl Drop for Table {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn table() -> Option<Table> {
    if std::env::var_os("SKIP_DYNAMODB_LOCAL").is_some() {
        println!("NOT RUN: two_daemons_share_one_limit (SKIP_DYNAMODB_LOCAL is set)");
        return None;
    }
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let setup = root.join("tests/dynamodb-local");
    let done = tokio::task::spawn_blocking(move || Command::new(setup).output()).await.unwrap().unwrap();
    assert!(done.status.success(), "tests/dynamodb-local could not get it: {}", String::from_utf8_lossy(&done.stderr));
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let library = std::path::Path::new(String::from_utf8_lossy(&done.stdout).trim()).join("lib");
    let child = Command::new("java")
        .arg(format!("-Djava.library.path={}", library.display()))
        .args(["-Xmx256m", "-cp", &format!("{}/*", library.display())])
        .args(["com.amazonaws.services.dynamodbv2.local.main.ServerRunner", "-inMemory", "-disableTelemetry"])
        .args(["-port", &port.to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let table = Table { child, endpoint: format!("http://127.0.0.1:{port}") };
    use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials, Region};
    use aws_sdk_dynamodb::types::{AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType};
    let config = aws_sdk_dynamodb::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-gov-west-1"))
        .credentials_provider(Credentials::new("local", "local", None, None, "test"))
        .endpoint_url(&table.endpoint)
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .build();
    let client = aws_sdk_dynamodb::Client::from_conf(config);
    let id = AttributeDefinition::builder().attribute_name("id").attribute_type(ScalarAttributeType::S);
    let key = KeySchemaElement::builder().attribute_name("id").key_type(KeyType::Hash);
    let (id, key) = (id.build().unwrap(), key.build().unwrap());
    until_async("the table", || async {
        let make = client.create_table().table_name("fleet").attribute_definitions(id.clone());
        make.key_schema(key.clone()).billing_mode(BillingMode::PayPerRequest).send().await.ok()
    })
    .await;
    Some(table)
}

#[tokio::test]
async fn two_daemons_share_one_limit() {
    const LIMIT: usize = 40;
    let Some(table) = table().await else { return };
    let bedrock = bedrock().await;
    let start = async || {
        let fleet = format!("[fleet]\ntable = \"fleet\"\nregion = \"us-gov-west-1\"\nrequests_per_minute = {LIMIT}\n");
        Setup::plain(&bedrock)
            .with(&fleet)
            .env("AWS_ENDPOINT_URL_DYNAMODB", &table.endpoint)
            .env("AWS_ENDPOINT_URL_STS", "http://127.0.0.1:1")
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("AWS_ACCESS_KEY_ID", "local")
            .env("AWS_SECRET_ACCESS_KEY", "local")
            .ready()
            .await
    };
    let daemons = [start().await, start().await];
    let path = converse_path(ON_DEMAND);
    let make = || request(Method::POST, &path, converse("x"));
    for daemon in &daemons {
        until_async("each to hold a lease", || async {
            (status(daemon).await["fleet"]["lease"]["requests"].as_u64() > Some(0)).then_some(())
        })
        .await;
    }
    let first = Instant::now();
    let (mut total, mut refusals) = (0, 0);
    let mut served = [0, 0];
    // Both ask for far more than there is, again and again, while their leases come and move.
    while total < LIMIT && first.elapsed() < Duration::from_secs(40) {
        let (one, two) = tokio::join!(storm(&daemons[0], 20, make), storm(&daemons[1], 20, make));
        for (at, answers) in [one, two].into_iter().enumerate() {
            let some = answers.iter().filter(|answer| answer.status == 200).count();
            served[at] += some;
            total += some;
            for answer in answers.iter().filter(|answer| answer.status != 200) {
                assert!(matches!(answer.status, 429 | 503), "{answer:?}");
                refusals += usize::from(answer.status == 429);
            }
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let upstream = received(&bedrock, "Converse").len();
    let took = first.elapsed();
    println!("fleet of two: {upstream} of {LIMIT} admitted in {took:?} ({served:?}), {refusals} refused");
    assert_eq!(upstream, total);
    assert!(took < Duration::from_secs(60), "too slow a machine to tell: {took:?}");
    assert!(upstream <= LIMIT, "{upstream} of {LIMIT}");
    assert!(
        upstream >= LIMIT * 8 / 10,
        "{upstream} of {LIMIT}: {} {}",
        status(&daemons[0]).await,
        status(&daemons[1]).await
    );
    assert!(served.iter().all(|one| *one > 0), "{served:?}");
    let counted = limited(&daemons[0], "requests_per_minute", "fleet").await
        + limited(&daemons[1], "requests_per_minute", "fleet").await;
    assert_eq!(counted as usize, refusals);
    let refusal = daemons[0].post(&path, converse("x")).await;
    let (sentence, _) = throttled(&refusal);
    assert!(sentence.contains(&format!("requests_per_minute = {LIMIT}")), "{sentence}");
}
