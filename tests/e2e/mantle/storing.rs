//! `"store"`: a response is kept unless its request says no, and policy may forbid that.

use serde_json::{Value, json};
use test_support::*;

use super::{CLAUDE, GPT, assert_record, chat, response};

#[tokio::test]
async fn what_is_stored_is_recorded() {
    let bedrock = bedrock().await;
    let daemon = Setup::mantle(&bedrock).ready().await;
    let runtime = "openai.gpt-oss-20b-1:0";
    for (path, body, stored) in [
        ("/v1/responses", response(GPT, json!({ "store": true })), true),
        ("/v1/responses", json!({ "model": GPT, "input": "x" }).to_string(), true),
        ("/v1/responses", response(GPT, json!({})), false),
        ("/v1/responses", response(GPT, json!({ "background": true })), true),
        ("/v1/chat/completions", chat(GPT, json!({ "store": true })), true),
        ("/v1/chat/completions", chat(GPT, json!({})), false),
        ("/openai/v1/responses", json!({ "model": runtime, "input": "x" }).to_string(), true),
        ("/openai/v1/responses", response(runtime, json!({})), false),
    ] {
        let answer = daemon.post(path, body.clone()).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let record = daemon.record_of(&answer).await;
        let expected = if stored { json!(true) } else { Value::Null };
        assert_record(&record, &[("stored", expected), ("outcome", json!("completed"))]);
    }
}

#[tokio::test]
async fn where_nothing_may_be_kept_storing_is_refused() {
    let bedrock = bedrock().await;
    bedrock.set_data_retention("none");
    let none = "[policy]\nrequire_data_retention = [\"none\"]";
    let daemon = Setup::mantle(&bedrock).with(none).ready().await;
    bedrock.clear();
    for (path, body) in [
        ("/v1/responses", response(GPT, json!({ "store": true, "input": "CANARY" }))),
        ("/v1/responses", response(GPT, json!({ "background": true, "input": "CANARY" }))),
        ("/v1/responses", format!("{{\"model\":\"{GPT}\",\"store\":false,\"store\":true}}")),
        ("/v1/chat/completions", chat(GPT, json!({ "store": true }))),
        ("/openai/v1/responses", response("openai.gpt-oss-20b-1:0", json!({ "store": true, "input": "CANARY" }))),
    ] {
        let answer = daemon.post(path, body.clone()).await;
        let sentence = refused(&answer, 403, "AccessDeniedException");
        assert!(sentence.contains("send \"store\": false"), "{sentence}");
        assert_eq!(answer.json()["error"]["message"], json!(sentence));
        let record = daemon.record_of(&answer).await;
        assert_record(&record, &[("outcome", json!("refused")), ("attempts", json!(0)), ("stored", Value::Null)]);
    }
    assert_eq!(bedrock.requests().iter().filter(|sent| sent.method == "POST").count(), 0);
    // In this mode nothing is kept unless that is asked for, which Bedrock refuses.
    for (path, body) in [
        ("/v1/responses", response(GPT, json!({}))),
        ("/v1/responses", json!({ "model": GPT, "input": "CANARY" }).to_string()),
        ("/v1/chat/completions", chat(GPT, json!({}))),
        ("/openai/v1/responses", json!({ "model": "openai.gpt-oss-20b-1:0", "input": "x" }).to_string()),
    ] {
        let answer = daemon.post(path, body).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_record(&daemon.record_of(&answer).await, &[("stored", Value::Null)]);
    }
    assert!(!daemon.log_text().contains("CANARY"));
    // A project may keep what the account does not.
    bedrock.clear();
    for name in ["openai-project", "anthropic-workspace", "anthropic-workspace-id"] {
        let mut asked = request(http::Method::POST, "/v1/responses", response(GPT, json!({})));
        asked.headers_mut().insert(name, "proj_1".parse().unwrap());
        let answer = send(daemon.address(), asked).await;
        assert!(refused(&answer, 403, "AccessDeniedException").contains("names a project"));
        assert_record(&daemon.record_of(&answer).await, &[("outcome", json!("refused")), ("attempts", json!(0))]);
    }
    assert!(received(&bedrock, "MantleResponses").is_empty());
    // So may one that a count names, which the mantle host may be asked for.
    let body = json!({ "input": { "converse": { "messages": [] } } }).to_string();
    let mut asked = request(http::Method::POST, &format!("/model/{CLAUDE}/count-tokens"), body);
    asked.headers_mut().insert("anthropic-workspace", "proj_1".parse().unwrap());
    let answer = send(daemon.address(), asked).await;
    assert!(refused(&answer, 403, "AccessDeniedException").contains("names a project"));
    assert_record(&daemon.record_of(&answer).await, &[("outcome", json!("refused")), ("attempts", json!(0))]);
    assert!(received(&bedrock, "CountTokens").is_empty());

    let either = "[policy]\nrequire_data_retention = [\"none\", \"default\"]";
    let daemon = Setup::mantle(&bedrock).with(either).ready().await;
    let answer = daemon.post("/v1/responses", response(GPT, json!({ "store": true }))).await;
    assert_eq!(answer.status, 400, "Bedrock refuses it itself: {answer:?}");
    assert_record(&daemon.record_of(&answer).await, &[("stored", json!(true)), ("outcome", json!("upstream_error"))]);
}

/// Where the account keeps what it is not told not to keep, saying nothing is asking for it.
#[tokio::test]
async fn a_response_that_says_nothing_is_kept_in_any_other_mode() {
    let bedrock = bedrock().await;
    bedrock.set_data_retention("default");
    let daemon = Setup::mantle(&bedrock).with("[policy]\nrequire_data_retention = [\"none\"]").start().await;
    bedrock.clear();
    let answer = daemon.post("/v1/responses", json!({ "model": GPT, "input": "x" }).to_string()).await;
    assert!(refused(&answer, 403, "AccessDeniedException").contains("send \"store\": false"), "{answer:?}");
    assert_record(&daemon.record_of(&answer).await, &[("outcome", json!("refused")), ("stored", Value::Null)]);
    assert!(received(&bedrock, "MantleResponses").is_empty());
}
