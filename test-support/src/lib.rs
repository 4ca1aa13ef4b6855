//! What the tests share: the daemon as a process with a directory of its own, the stand-in for Bedrock, clients,
//! DynamoDB Local, other users, a disk that is soon full.
//!
//! Nothing here waits for a length of time: every wait is for a condition, with a generous deadline.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests state expectations by unwrapping")]

pub mod client;
mod daemon;
pub mod dynamodb;
pub mod raw;
mod setup;
mod small_disk;
pub mod terminal;
pub mod users;

use std::future::Future;
use std::time::{Duration, Instant};

use serde_json::json;
use simulator::{Options, Received, Simulator};

pub use client::{Answer, Http1, Http2, Reader, Request, get, post, request, send};
pub use daemon::{Daemon, command, program};
pub use setup::{Setup, upstream};
pub use small_disk::SmallDisk;

/// Served by its bare identifier.
pub const ON_DEMAND: &str = "amazon.nova-lite-v1:0";
/// Served through `us.…` only.
pub const PROFILE_ONLY: &str = "amazon.nova-premier-v1:0";
/// No system profile exists for it.
pub const NEEDS_CREATED_PROFILE: &str = "mistral.pixtral-large-2502-v1:0";

/// Longer than anything here takes on a machine that is busy with other builds.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// A stand-in for us-east-1 with its defaults.
pub async fn bedrock() -> Simulator {
    bedrock_with(Options::default()).await
}

/// A stand-in for us-east-1 with these options.
pub async fn bedrock_with(options: Options) -> Simulator {
    Simulator::start(options).await.unwrap()
}

/// Waits until `condition` gives a value.
pub async fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(start.elapsed() < DEADLINE, "in vain: waited for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits until `condition` holds.
pub async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    until(what, || condition().then_some(())).await;
}

/// The same as [`until`] for a condition that has to ask somebody.
pub async fn until_async<T, F: Future<Output = Option<T>>>(what: &str, mut condition: impl FnMut() -> F) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(start.elapsed() < DEADLINE, "in vain: waited for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Gives up on something that should have come long ago.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(value) => value,
        Err(_) => panic!("in vain: waited for {what}"),
    }
}

/// A Converse body.
pub fn converse(prompt: &str) -> String {
    json!({ "messages": [{ "role": "user", "content": [{ "text": prompt }] }] }).to_string()
}

/// The path of Converse for a model.
pub fn converse_path(model: &str) -> String {
    format!("/model/{}/converse", encoded(model))
}

/// The path of ConverseStream for a model.
pub fn stream_path(model: &str) -> String {
    format!("/model/{}/converse-stream", encoded(model))
}

/// As botocore writes an identifier into a path.
pub fn encoded(identifier: &str) -> String {
    identifier.replace(':', "%3A").replace('/', "%2F")
}

/// What reached the stand-in of one operation.
pub fn received(bedrock: &Simulator, operation: &str) -> Vec<Received> {
    bedrock.requests().into_iter().filter(|request| request.operation.as_deref() == Some(operation)).collect()
}

/// An entry of a metrics page: the value of the line that starts with `line` and a space.
pub fn metric(page: &str, line: &str) -> Option<f64> {
    page.lines().find_map(|text| text.strip_prefix(line)?.strip_prefix(' ')?.parse().ok())
}

/// `{"message": …}` of an AWS-shaped error.
pub fn message(answer: &Answer) -> String {
    answer.json()["message"].as_str().unwrap_or_else(|| panic!("no message in {answer:?}")).to_owned()
}

/// Asserts an answer that the daemon makes itself, in AWS's shape, and returns its sentence.
#[track_caller]
pub fn refused(answer: &Answer, status: u16, error_type: &str) -> String {
    assert_eq!(answer.status, status, "{answer:?}");
    assert_eq!(answer.header("x-amzn-errortype"), Some(error_type), "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/json"), "{answer:?}");
    let message = message(answer);
    assert!(message.starts_with("bedrock-sidecar: ") && message.ends_with('.'), "not a sentence of ours: {message}");
    message
}

/// Splits an event stream into its frames.
pub fn frames(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    while bytes.len() >= 4 {
        let length = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize;
        let (frame, rest) = bytes.split_at_checked(length).expect("a frame is cut short");
        frames.push(frame.to_vec());
        bytes = rest;
    }
    assert!(bytes.is_empty(), "bytes behind the last frame");
    frames
}

/// The same request straight to the stand-in, with the commercial key.
pub async fn direct(bedrock: &Simulator, request: Request) -> Answer {
    with_key(&bedrock.plain_endpoint(), request).await
}

/// The same to the mantle host.
pub async fn direct_to_mantle(bedrock: &Simulator, request: Request) -> Answer {
    with_key(&bedrock.mantle_plain_endpoint(), request).await
}

async fn with_key(endpoint: &str, mut request: Request) -> Answer {
    let key = format!("Bearer {}", simulator::DEFAULT_BEARER_TOKEN);
    request.headers_mut().insert("authorization", key.parse().unwrap());
    send(endpoint.trim_start_matches("http://").parse().unwrap(), request).await
}

/// Asserts that an answer through the daemon is the direct one: status, headers and body, save what is different at every
/// call and what the daemon adds.
#[track_caller]
pub fn same(through: &Answer, direct: &Answer) {
    let plain = |answer: &Answer| {
        let mut headers: Vec<(String, String)> = answer
            .headers
            .iter()
            .map(|(name, value)| (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
            .filter(|(name, _)| !name.starts_with("x-bedrock-sidecar-"))
            .filter(|(name, _)| {
                !matches!(name.as_str(), "date" | "x-amzn-requestid" | "connection" | "transfer-encoding")
            })
            .collect();
        headers.sort();
        headers
    };
    assert_eq!(through.status, direct.status, "{through:?}");
    assert_eq!(plain(through), plain(direct), "{through:?}");
    assert!(through.body == direct.body, "bodies differ:\n{}\n{}", through.text(), direct.text());
    assert!(through.header("x-amzn-requestid").is_some(), "the upstream's request id is kept");
    assert!(through.header("x-bedrock-sidecar-request-id").is_some(), "and ours stands beside it");
}

/// JSON made so many bytes long by spaces before it, which change nothing.
pub fn padded(json: &str, length: usize) -> String {
    format!("{}{json}", " ".repeat(length - json.len()))
}
