//! Limits, budgets and the fleet, from outside: storms counted at the stand-in for Bedrock, `/status`.
//!
//! Rates are so slow that nothing refills while a test runs, so that counts are exact.

mod budgets;
mod fleet;
mod places;
mod reload;
mod requests;
mod restarts;
mod tiers;
mod tokens;

use http::Method;
use serde_json::{Value, json};
use simulator::Simulator;
use test_support::*;
use tokio::task::JoinSet;

/// A Converse body with a bound on the answer.
fn bounded(prompt: &str, most: u64) -> String {
    let mut body: Value = serde_json::from_str(&converse(prompt)).unwrap();
    body["inferenceConfig"] = json!({ "maxTokens": most });
    body.to_string()
}

/// So many requests at once, each on a connection of its own.
async fn storm(daemon: &Daemon, count: usize, make: impl Fn() -> Request) -> Vec<Answer> {
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
