//! Every kind of end has its item, with every attribute.

mod attributes;

use aws_credential_types::Credentials;
use aws_sdk_bedrockruntime::primitives::Blob;
use http::Method;
use serde_json::{Value, json};
use simulator::{Effect, Ending, Fault, Simulator};
use test_support::users::own_uid;
use test_support::*;

use super::{DENIED, Scene, id_of, says, shipped};
use crate::app::app;

const RETENTION_DAYS: i64 = 7;
const SECRET: &str = "local-secret-of-billing-0123456789";

/// A daemon with callers, limits and a policy, and what its items have to say.
struct Case {
    bedrock: Simulator,
    scene: Scene,
    daemon: Daemon,
    expected: Vec<(String, Value)>,
}

impl Case {
    async fn start(table: &'static str) -> Case {
        let bedrock = bedrock().await;
        let scene = Scene::new(table).await;
        let keys = tempfile::tempdir().unwrap();
        let key = keys.path().join("key");
        std::fs::write(&key, SECRET).unwrap();
        let more = format!(
            r#"
[models]
deny = ["cohere.*"]
[limits]
max_body_bytes = 5000
[limits.models."meta.*"]
requests_per_minute = 1
request_burst = 1
[[callers]]
name = "billing"
access_key_id = "LOCALBILLING"
secret_access_key_file = "{}"
data_classification = "internal"
[[callers]]
name = "here"
users = ["{}"]
data_classification = "internal"
"#,
            key.display(),
            own_uid()
        );
        let audit = format!("retention = \"{RETENTION_DAYS}d\"");
        let daemon = scene.setup(&bedrock, &audit, &more).ready().await;
        Case { bedrock, scene, daemon, expected: Vec::new() }
    }

    /// The item of this answer has to say so.
    fn expect(&mut self, answer: &Answer, item: Value) {
        self.expect_of(id_of(answer), item);
    }

    fn expect_of(&mut self, id: String, item: Value) {
        self.expected.push((id, item));
    }

    /// The item of a refusal of ours, in AWS's shape, has to say so, and `more`.
    fn expect_refusal(&mut self, answer: &Answer, status: u16, error_type: &str, more: Value) {
        let sentence = refused(answer, status, error_type);
        self.expect(
            answer,
            json!({
                "statusCode": status, "outcome": "refused", "success": false, "attempts": 0, "upstreamRequestId": null,
                "inputTokens": null, "outputTokens": null, "responseSize": answer.body.len(), "firstByteLatency": null,
                "errorMessage": sentence,
            }),
        );
        self.expect(answer, more);
    }

    /// The table has exactly the items that are expected, and each has what every item has.
    async fn verify(self) {
        shipped(&self.daemon).await;
        let items = self.scene.items().await;
        for (id, wanted) in &self.expected {
            says(items.get(id).unwrap_or_else(|| panic!("no item for {wanted}")), wanted.clone());
        }
        let mut requests: Vec<&String> = self.expected.iter().map(|(id, _)| id).collect();
        requests.sort();
        requests.dedup();
        assert_eq!(items.len(), requests.len(), "one item a request");
        for item in items.values() {
            let timestamp = item["timestamp"].as_str().unwrap();
            let started: jiff::Timestamp = timestamp.parse().unwrap();
            assert!(timestamp.len() == 24 && timestamp.ends_with('Z'), "{timestamp}");
            assert_eq!(item["ttl"], started.as_second() + RETENTION_DAYS * 86_400);
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
        attributes::assert_types(self.scene.table).await;
    }
}

fn upstream_id(answer: &Answer) -> &str {
    answer.header("x-amzn-requestid").unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_completed_request_has_its_caller_profile_sizes_and_tokens() {
    let mut case = Case::start("e2e-items-completed").await;
    let body = converse("one two three");
    let answer = case.daemon.post(&converse_path(PROFILE_ONLY), body.clone()).await;
    case.expect(
        &answer,
        json!({
            "sourcePartition": "govcloud", "destinationPartition": "commercial", "modelId": PROFILE_ONLY,
            "sourceIP": "127.0.0.1", "requestSize": body.len(), "responseSize": answer.body.len(), "success": true,
            "statusCode": 200, "errorMessage": null, "operation": "Converse",
            "inferenceProfileUsed": format!("us.{PROFILE_ONLY}"), "destinationRegion": "us-east-1",
            "upstreamRequestId": upstream_id(&answer), "inputTokens": 3, "outputTokens": 4, "cacheReadTokens": null,
            "streaming": false, "caller": "here", "callerUid": own_uid(), "accessKeyId": null,
            "dataClassification": "internal", "attempts": 1, "outcome": "completed",
        }),
    );
    case.verify().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prompt_cache_has_its_tokens_apart() {
    let mut case = Case::start("e2e-items-cache").await;
    let cached = json!({
        "system": [{ "text": "be very brief" }, { "cachePoint": { "type": "default" } }],
        "messages": [{ "role": "user", "content": [{ "text": "hello" }] }],
    })
    .to_string();
    let answer = case.daemon.post(&converse_path("anthropic.claude-3-haiku-20240307-v1:0"), cached).await;
    let usage = answer.json()["usage"].clone();
    assert!(usage["cacheReadInputTokens"].as_u64().unwrap() > 0, "{usage}");
    case.expect(
        &answer,
        json!({
            "inputTokens": usage["inputTokens"], "outputTokens": usage["outputTokens"],
            "cacheReadTokens": usage["cacheReadInputTokens"], "cacheWriteTokens": usage["cacheWriteInputTokens"],
        }),
    );
    case.verify().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_marked_as_one_and_has_the_tokens_of_its_last_event() {
    let mut case = Case::start("e2e-items-stream").await;
    let answer = case.daemon.post(&stream_path(ON_DEMAND), converse("events 5")).await;
    case.expect(
        &answer,
        json!({
            "operation": "ConverseStream", "streaming": true, "outcome": "completed", "success": true, "attempts": 1,
            "responseSize": answer.body.len(), "outputTokens": 5, "inferenceProfileUsed": null, "statusCode": 200,
        }),
    );
    case.verify().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_signed_with_a_local_key_names_the_key_and_its_caller() {
    let mut case = Case::start("e2e-items-key").await;
    let app = app(&case.daemon, Credentials::new("LOCALBILLING", SECRET, None, None, "test"));
    let body = converse("signed");
    let blob = Blob::new(body.clone());
    app.invoke_model().model_id(ON_DEMAND).content_type("application/json").body(blob).send().await.unwrap();
    let signed = case.daemon.record("the signed request", |record| record["accessKeyId"] == "LOCALBILLING").await;
    case.expect_of(
        signed["requestId"].as_str().unwrap().to_owned(),
        json!({
            "operation": "InvokeModel", "caller": "billing", "accessKeyId": "LOCALBILLING", "identityVerified": true,
            "dataClassification": "internal", "requestSize": body.len(), "outcome": "completed",
        }),
    );
    case.verify().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_without_a_model_has_no_model_and_no_tokens() {
    let mut case = Case::start("e2e-items-no-model").await;
    let answer = case.daemon.get("/foundation-models").await;
    case.expect(
        &answer,
        json!({
            "operation": "ListFoundationModels", "modelId": null, "inputTokens": null, "outputTokens": null,
            "outcome": "completed", "requestSize": 0,
        }),
    );
    case.verify().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_is_denied_is_a_refusal_with_its_sentence() {
    let mut case = Case::start("e2e-items-denied").await;
    let answer = case.daemon.post(&converse_path(DENIED), converse("denied")).await;
    let more = json!({ "modelId": DENIED, "requestSize": converse("denied").len() });
    case.expect_refusal(&answer, 403, "AccessDeniedException", more);
    case.verify().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_path_is_a_refusal_of_an_unknown_operation() {
    let mut case = Case::start("e2e-items-unknown").await;
    let answer = case.daemon.get("/no/such/path").await;
    assert_eq!(answer.status, 404, "{answer:?}");
    case.expect(&answer, json!({ "statusCode": 404, "outcome": "refused", "operation": "Unknown", "attempts": 0 }));
    case.verify().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_too_large_is_a_refusal_of_its_operation_and_model() {
    let mut case = Case::start("e2e-items-large").await;
    let answer = case.daemon.post(&converse_path(ON_DEMAND), padded(&converse("large"), 5001)).await;
    assert_eq!(answer.status, 413, "{answer:?}");
    case.expect(
        &answer,
        json!({ "statusCode": 413, "outcome": "refused", "operation": "Converse", "modelId": ON_DEMAND, "attempts": 0 }),
    );
    case.verify().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_beyond_a_limit_is_a_refusal_and_the_one_before_it_is_not() {
    let mut case = Case::start("e2e-items-limited").await;
    let llama = "meta.llama3-8b-instruct-v1:0";
    let first = case.daemon.post(&converse_path(llama), converse("first")).await;
    assert_eq!(first.status, 200, "{first:?}");
    case.expect(&first, json!({ "outcome": "completed", "modelId": llama }));
    let answer = case.daemon.post(&converse_path(llama), converse("second")).await;
    case.expect_refusal(&answer, 429, "ThrottlingException", json!({ "modelId": llama }));
    case.verify().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_of_the_upstream_is_its_error_with_its_request_id() {
    let mut case = Case::start("e2e-items-upstream-error").await;
    case.bedrock.inject(Fault::once(Effect::Throttle { text: simulator::ThrottleText::Tokens }));
    let answer = case.daemon.post(&converse_path(ON_DEMAND), converse("throttled")).await;
    assert_eq!(answer.status, 429, "{answer:?}");
    case.expect(
        &answer,
        json!({
            "statusCode": 429, "outcome": "upstream_error", "success": false, "attempts": 1,
            "upstreamRequestId": upstream_id(&answer), "responseSize": answer.body.len(), "inputTokens": null,
        }),
    );
    case.verify().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exception_in_a_stream_is_an_error_of_the_upstream_behind_status_200() {
    let mut case = Case::start("e2e-items-exception").await;
    case.bedrock.inject(Fault::once(Effect::StreamException {
        after_events: 2,
        exception: "modelStreamErrorException".into(),
        message: "the model broke".into(),
    }));
    let answer = case.daemon.post(&stream_path(ON_DEMAND), converse("events 9")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    case.expect(
        &answer,
        json!({ "statusCode": 200, "outcome": "upstream_error", "success": false, "responseSize": answer.body.len() }),
    );
    case.verify().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_the_upstream_cuts_off_is_broken_by_it() {
    let mut case = Case::start("e2e-items-cut").await;
    case.bedrock.inject(Fault::once(Effect::Cut { after_bytes: None, after_events: Some(2), how: Ending::Rst }));
    let mut client = Http1::to(case.daemon.address()).await;
    let response = client.start(request(Method::POST, &stream_path(ON_DEMAND), converse("events 9"))).await.unwrap();
    let broken = response.headers()["x-bedrock-sidecar-request-id"].to_str().unwrap().to_owned();
    assert!(Answer::of(response).await.is_err());
    case.expect_of(
        broken,
        json!({ "statusCode": 200, "outcome": "upstream_broke", "success": false, "streaming": true }),
    );
    case.verify().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_breaks_before_it_answers_has_no_request_id() {
    let mut case = Case::start("e2e-items-no-answer").await;
    case.bedrock.inject(Fault::once(Effect::BreakBeforeHeaders { how: Ending::Rst }).times(0));
    let answer = case.daemon.post(&converse_path(ON_DEMAND), converse("broken")).await;
    assert_eq!(answer.status, 503, "{answer:?}");
    case.bedrock.clear_faults();
    case.expect(
        &answer,
        json!({
            "statusCode": 503, "outcome": "upstream_broke", "success": false, "upstreamRequestId": null,
            "inputTokens": null,
        }),
    );
    case.verify().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_has_the_bytes_that_it_saw() {
    let mut case = Case::start("e2e-items-left").await;
    case.bedrock.gate().close();
    case.bedrock.gate().release(1);
    let mut client = Http1::to(case.daemon.address()).await;
    let response = client.start(request(Method::POST, &stream_path(ON_DEMAND), converse("events 9"))).await.unwrap();
    let left = response.headers()["x-bedrock-sidecar-request-id"].to_str().unwrap().to_owned();
    let mut reader = Reader::new(response);
    reader.until(1).await.unwrap();
    let seen = reader.bytes.len();
    drop((reader, client));
    case.daemon.record("the client that left", |record| record["requestId"] == left.as_str()).await;
    case.bedrock.gate().open();
    case.expect_of(
        left,
        json!({
            "statusCode": 499, "outcome": "client_disconnected", "success": false, "responseSize": seen, "attempts": 1,
            "inputTokens": null, "outputTokens": null,
        }),
    );
    case.verify().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_legacy_rest_api_has_items_like_those_of_bedrock() {
    const INVOKE: &str = "/v1/bedrock/invoke-model";
    let mut case = Case::start("e2e-items-legacy").await;
    let body = json!({ "modelId": ON_DEMAND, "body": converse("legacy") }).to_string();
    let answer = case.daemon.post(INVOKE, body.clone()).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    case.expect(
        &answer,
        json!({
            "operation": "InvokeModel", "modelId": ON_DEMAND, "requestSize": body.len(), "statusCode": 200,
            "outcome": "completed", "success": true, "caller": "here",
        }),
    );
    let answer = case.daemon.post(INVOKE, json!({ "modelId": DENIED, "body": "{}" }).to_string()).await;
    assert_eq!(answer.status, 403, "{answer:?}");
    case.expect(&answer, json!({ "statusCode": 403, "outcome": "refused", "modelId": DENIED }));
    case.verify().await;
}
