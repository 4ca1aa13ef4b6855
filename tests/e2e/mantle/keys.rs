//! Bearer keys and signatures of the service `bedrock-mantle`.

use serde_json::json;
use simulator::{DEFAULT_ACCESS_KEY_ID, DEFAULT_SECRET_ACCESS_KEY, ROTATED_BEARER_TOKEN};
use test_support::*;

use super::{GPT, assert_record, chat};

#[tokio::test]
async fn requests_are_signed_for_the_host_s_own_service() {
    let bedrock = bedrock().await;
    let keys = format!("{DEFAULT_ACCESS_KEY_ID}:{DEFAULT_SECRET_ACCESS_KEY}");
    let daemon = Setup::mantle(&bedrock).secret(&keys).ready().await;
    let answer = daemon.post("/v1/chat/completions", chat(GPT, json!({}))).await;
    assert_eq!(answer.status, 200, "the stand-in takes no other service: {answer:?}");
    let sent = &received(&bedrock, "MantleChatCompletions")[0];
    assert!(sent.header("authorization").unwrap().contains("/us-east-1/bedrock-mantle/aws4_request"), "{sent:?}");
    daemon.record_of(&answer).await;
    let answer = daemon.post(&converse_path(ON_DEMAND), converse("x")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let sent = &received(&bedrock, "Converse")[0];
    assert!(sent.header("authorization").unwrap().contains("/us-east-1/bedrock/aws4_request"), "{sent:?}");
}

/// The host says so in words of its own.
#[tokio::test]
async fn a_key_that_it_does_not_know_any_more_is_read_anew() {
    let bedrock = bedrock().await;
    let setup = Setup::mantle(&bedrock);
    let secret = setup.secret_path();
    let daemon = setup.ready().await;
    bedrock.set_bearer_tokens(vec![ROTATED_BEARER_TOKEN.to_owned()]);
    std::fs::write(&secret, ROTATED_BEARER_TOKEN).unwrap();
    let answer = daemon.post("/v1/chat/completions", chat(GPT, json!({}))).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_record(&daemon.record_of(&answer).await, &[("outcome", json!("completed"))]);
}
