//! CountTokens for models that bedrock-runtime does not count for.

use base64::Engine;
use serde_json::{Value, json};
use simulator::{Effect, Fault, Simulator};
use test_support::*;

use super::{CLAUDE, assert_record};

const REFUSAL: &str = "The provided model doesn't support counting tokens.";

fn path(model: &str) -> String {
    format!("/model/{}/count-tokens", encoded(model))
}

fn by_converse() -> String {
    let messages = json!([{ "role": "user", "content": [{ "text": "one two three" }] }]);
    json!({ "input": { "converse": { "messages": messages } } }).to_string()
}

fn by_invocation() -> String {
    let body = json!({ "anthropic_version": "bedrock-2023-05-31", "max_tokens": 9,
        "messages": [{ "role": "user", "content": "one two three" }] });
    let body = base64::engine::general_purpose::STANDARD.encode(body.to_string());
    json!({ "input": { "invokeModel": { "body": body } } }).to_string()
}

fn refuse_to_count(bedrock: &Simulator) {
    let effect = Effect::Error {
        status: 400,
        error_type: "ValidationException".into(),
        message: REFUSAL.into(),
        capital: false,
        headers: Default::default(),
    };
    bedrock.inject(Fault::once(effect).times(0).on("CountTokens"));
}

#[tokio::test]
async fn what_bedrock_runtime_does_not_count_the_mantle_host_counts() {
    let bedrock = bedrock().await;
    let daemon = Setup::mantle(&bedrock).ready().await;
    refuse_to_count(&bedrock);
    for (asked, body) in [
        (CLAUDE.to_owned(), by_converse()),
        (format!("us.{CLAUDE}"), by_converse()),
        (format!("us-gov.{CLAUDE}"), by_invocation()),
    ] {
        bedrock.clear();
        let answer = daemon.post(&path(&asked), body.clone()).await;
        assert_eq!((answer.status, answer.json()), (200, json!({ "inputTokens": 3 })), "{answer:?}");
        assert_eq!(received(&bedrock, "CountTokens").len(), 1, "bedrock-runtime is asked first");
        let sent = &received(&bedrock, "MantleMessagesCountTokens")[0];
        assert_eq!((sent.model.as_deref(), sent.header("anthropic-version")), (Some(CLAUDE), Some("2023-06-01")));
        let record = daemon.record_of(&answer).await;
        assert_record(
            &record,
            &[
                ("operation", json!("CountTokens")),
                ("modelId", json!(asked)),
                ("endpoint", json!("bedrock-mantle")),
                ("attempts", json!(2)),
                ("outcome", json!("completed")),
                ("statusCode", json!(200)),
                ("requestSize", json!(body.len())),
                ("responseSize", json!(answer.body.len())),
                ("inputTokens", Value::Null),
            ],
        );
    }
}

#[tokio::test]
async fn what_nobody_counts_is_refused_in_bedrock_runtime_s_words() {
    let bedrock = bedrock().await;
    refuse_to_count(&bedrock);
    let enabled = Setup::mantle(&bedrock).ready().await;
    let video = json!({ "input": { "converse": { "messages": [
        { "role": "user", "content": [{ "video": { "format": "mp4", "source": { "bytes": "" } } }] }] } } });
    for (daemon, model, body, asks) in [
        (&enabled, "anthropic.claude-3-haiku-20240307-v1:0", by_converse(), 1),
        (&enabled, ON_DEMAND, by_converse(), 0),
        (&enabled, CLAUDE, video.to_string(), 0),
        (&Setup::tls(&bedrock).ready().await, CLAUDE, by_converse(), 0),
    ] {
        bedrock.clear();
        let answer = daemon.post(&path(model), body).await;
        assert_eq!((answer.status, message(&answer).as_str()), (400, REFUSAL), "{model}: {answer:?}");
        assert_eq!(received(&bedrock, "MantleMessagesCountTokens").len(), asks, "{model}");
        let record = daemon.record_of(&answer).await;
        assert_record(
            &record,
            &[
                ("outcome", json!("upstream_error")),
                ("statusCode", json!(400)),
                ("endpoint", Value::Null),
                ("attempts", json!(1 + asks)),
            ],
        );
    }
}

/// AWS's SDKs read no error of Anthropic's.
#[tokio::test]
async fn an_error_of_the_mantle_host_is_no_answer_to_count_tokens() {
    let bedrock = bedrock().await;
    let daemon = Setup::mantle(&bedrock).ready().await;
    refuse_to_count(&bedrock);
    for status in [400, 429, 500, 529] {
        let effect = Effect::Error {
            status,
            error_type: "trouble".into(),
            message: "CANARY".into(),
            capital: false,
            headers: Default::default(),
        };
        bedrock.inject(Fault::once(effect).on("MantleMessagesCountTokens"));
        let answer = daemon.post(&path(CLAUDE), by_converse()).await;
        assert_eq!((answer.status, message(&answer).as_str()), (400, REFUSAL), "{status}: {answer:?}");
        let record = daemon.record_of(&answer).await;
        assert_record(
            &record,
            &[
                ("outcome", json!("upstream_error")),
                ("statusCode", json!(400)),
                ("errorMessage", json!("ValidationException")),
                ("endpoint", Value::Null),
                ("attempts", json!(2)),
            ],
        );
    }
    assert!(!daemon.log_text().contains("CANARY"));
}

/// The betas and the tools that are counted are those that are asked for.
#[tokio::test]
async fn betas_of_an_invocation_go_into_the_header() {
    let bedrock = bedrock().await;
    let daemon = Setup::mantle(&bedrock).ready().await;
    refuse_to_count(&bedrock);
    let body = json!({ "anthropic_version": "bedrock-2023-05-31", "anthropic_beta": ["beta-1", "beta-2"], "max_tokens": 9,
        "messages": [{ "role": "user", "content": "one two three" }] });
    let body = base64::engine::general_purpose::STANDARD.encode(body.to_string());
    let answer = daemon.post(&path(CLAUDE), json!({ "input": { "invokeModel": { "body": body } } }).to_string()).await;
    assert_eq!((answer.status, answer.json()), (200, json!({ "inputTokens": 3 })), "{answer:?}");
    let sent = &received(&bedrock, "MantleMessagesCountTokens")[0];
    assert_eq!(sent.header("anthropic-beta"), Some("beta-1,beta-2"));
    assert_record(&daemon.record_of(&answer).await, &[("outcome", json!("completed")), ("statusCode", json!(200))]);
}
