//! Anthropic's path is bedrock-runtime's. The mantle host serves it where bedrock-runtime lacks what is asked for.

use http::Method;
use serde_json::{Value, json};
use test_support::*;

use super::{CLAUDE, assert_record, message_to};

const ON_RUNTIME: &str = "anthropic.claude-3-haiku-20240307-v1:0";

fn to(path: &str, body: &str) -> Request {
    let mut asked = request(Method::POST, path, body.to_owned());
    asked.headers_mut().insert("anthropic-version", "2023-06-01".parse().unwrap());
    asked
}

#[tokio::test]
async fn a_model_that_bedrock_runtime_lacks_is_served_by_the_mantle_host() {
    let bedrock = bedrock().await;
    let daemon = Setup::mantle(&bedrock).ready().await;
    let count = json!({ "model": CLAUDE, "messages": [{ "role": "user", "content": "one two three" }] }).to_string();
    for (path, body, operation, tokens) in [
        ("/anthropic/v1/messages", message_to(CLAUDE, json!({})), "Messages", json!(3)),
        ("/anthropic/v1/messages/count_tokens", count, "MessagesCountTokens", Value::Null),
    ] {
        let expected = direct_to_mantle(&bedrock, to(path, &body)).await;
        assert_eq!(expected.status, 200, "{expected:?}");
        bedrock.clear();
        let answer = send(daemon.address(), to(path, &body)).await;
        same(&answer, &expected);
        assert_eq!(received(&bedrock, operation).len(), 1, "bedrock-runtime is asked first");
        let record = daemon.record_of(&answer).await;
        assert_record(
            &record,
            &[
                ("operation", json!(operation)),
                ("endpoint", json!("bedrock-mantle")),
                ("attempts", json!(2)),
                ("inputTokens", tokens),
                ("outcome", json!("completed")),
                ("responseSize", json!(answer.body.len())),
            ],
        );
    }
}

#[tokio::test]
async fn what_bedrock_runtime_has_it_serves() {
    let bedrock = bedrock().await;
    let daemon = Setup::mantle(&bedrock).ready().await;
    bedrock.clear();
    let answer = send(daemon.address(), to("/anthropic/v1/messages", &message_to(ON_RUNTIME, json!({})))).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(received(&bedrock, "MantleMessages").is_empty());
    assert_record(&daemon.record_of(&answer).await, &[("endpoint", Value::Null), ("attempts", json!(1))]);
}

#[tokio::test]
async fn what_neither_has_is_told_in_bedrock_runtime_s_words() {
    let bedrock = bedrock().await;
    let daemon = Setup::mantle(&bedrock).ready().await;
    let body = message_to("anthropic.claude-none", json!({}));
    let expected = direct(&bedrock, to("/anthropic/v1/messages", &body)).await;
    bedrock.clear();
    let answer = send(daemon.address(), to("/anthropic/v1/messages", &body)).await;
    assert_eq!((answer.status, &answer.json()["error"]), (expected.status, &expected.json()["error"]), "{answer:?}");
    assert_eq!(received(&bedrock, "MantleMessages").len(), 1);
    let record = daemon.record_of(&answer).await;
    assert_record(&record, &[("outcome", json!("upstream_error")), ("endpoint", Value::Null), ("attempts", json!(2))]);
}
