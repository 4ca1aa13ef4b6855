//! What is sent for the model that was asked for, and what may not be sent at all.

mod counted;
mod created;
mod learned;
mod listing;
mod names;
mod shown;

use http::Method;
use serde_json::json;
use simulator::Simulator;
use test_support::*;

const OPUS: &str = "anthropic.claude-opus-4-1-20250805-v1:0";
const SONNET: &str = "anthropic.claude-sonnet-4-5-20250929-v1:0";
const GLOBAL_ONLY: &str = "anthropic.claude-haiku-4-5-20251001-v1:0";

async fn ask(daemon: &Daemon, model: &str) -> Answer {
    daemon.post(&converse_path(model), converse("hello")).await
}

fn arn(resource: &str) -> String {
    format!("arn:aws:bedrock:us-east-1:{resource}")
}

/// Makes an application profile directly, outside the daemon.
async fn made_by_hand(bedrock: &Simulator, name: &str, source: &str) -> String {
    let body = json!({ "inferenceProfileName": name, "modelSource": { "copyFrom": source } });
    let answer = direct(bedrock, request(Method::POST, "/inference-profiles", body.to_string())).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    answer.json()["inferenceProfileArn"].as_str().unwrap().to_owned()
}
