//! Ready means that the last thing known of the credential and the upstream is good.

use serde_json::json;
use simulator::{AwsKey, DEFAULT_BEARER_TOKEN, Options, ROTATED_BEARER_TOKEN, short_term_key};
use test_support::*;

use super::{ask, now};

/// The one reason why the daemon is not ready, on both pages that tell it.
async fn reason(daemon: &Daemon) -> Option<String> {
    let (ready, status) = (daemon.admin_get("/ready").await, daemon.admin_get("/status").await.json());
    let reasons = ready.json()["reasons"].as_array().unwrap().clone();
    assert_eq!(ready.status, if reasons.is_empty() { 200 } else { 503 });
    assert!(reasons.len() <= 1, "{reasons:?}");
    let reason = reasons.first().map(|one| one.as_str().unwrap().to_owned());
    // It may have changed between the two.
    (status["ready"] == json!(reason.is_none())).then_some(reason).flatten()
}

async fn until_not_ready(daemon: &Daemon, says: &str) {
    until_async(says, || async { reason(daemon).await.filter(|one| one.contains(says)) }).await;
}

#[tokio::test]
async fn a_revoked_key_is_told_and_so_is_that_it_works_again() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).ready().await;
    bedrock.set_bearer_tokens(vec![ROTATED_BEARER_TOKEN.into()]);
    let answer = ask(&daemon).await;
    assert_eq!(answer.status, 403, "{answer:?}");
    assert_eq!(daemon.record_of(&answer).await["outcome"], "upstream_error");
    let told = reason(&daemon).await.unwrap();
    assert!(told.contains("the upstream us-east-1 refuses the commercial Bedrock API key ("), "{told}");
    // No request comes, and the daemon finds out.
    bedrock.set_bearer_tokens(vec![DEFAULT_BEARER_TOKEN.into()]);
    daemon.until_ready().await;
    // With a new key in the source too.
    bedrock.set_bearer_tokens(vec![ROTATED_BEARER_TOKEN.into()]);
    assert_eq!(ask(&daemon).await.status, 403);
    until_not_ready(&daemon, "refuses the commercial Bedrock API key").await;
    std::fs::write(daemon.secret_path(), ROTATED_BEARER_TOKEN).unwrap();
    daemon.until_ready().await;
    assert_eq!(ask(&daemon).await.status, 200);
}

#[tokio::test]
async fn a_key_that_was_never_good_is_told_before_the_first_request() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).secret(ROTATED_BEARER_TOKEN).start().await;
    until_not_ready(&daemon, "refuses the commercial Bedrock API key").await;
    bedrock.set_bearer_tokens(vec![ROTATED_BEARER_TOKEN.into()]);
    daemon.until_ready().await;
}

#[tokio::test]
async fn a_key_of_another_region_is_told() {
    let bedrock = bedrock().await;
    let key = short_term_key(&AwsKey::default_long_lived(), "us-west-2", now(), 3600);
    let daemon = Setup::plain(&bedrock).secret(&key).start().await;
    until_not_ready(&daemon, "is valid in us-west-2 only, and the upstream is us-east-1").await;
}

#[tokio::test]
async fn an_upstream_that_cannot_be_reached_is_told_and_so_is_that_it_is_back() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).ready().await;
    bedrock.refuse_connections(true);
    until_async("a request that fails", || async {
        let answer = ask(&daemon).await;
        let is_refused = answer.status == 503;
        assert_eq!(daemon.record_of(&answer).await["statusCode"], answer.status);
        is_refused.then_some(())
    })
    .await;
    until_not_ready(&daemon, "the upstream us-east-1 cannot be reached: no connection to ").await;
    bedrock.refuse_connections(false);
    daemon.until_ready().await;
    assert_eq!(ask(&daemon).await.status, 200);
}

#[tokio::test]
async fn a_start_without_a_way_to_the_upstream_is_told() {
    let daemon = Setup::alone().start().await;
    until_not_ready(&daemon, "the upstream us-east-1 cannot be reached").await;
}

#[tokio::test]
async fn one_upstream_that_works_is_enough() {
    let (east, west) =
        (bedrock().await, bedrock_with(Options { region: "us-west-2".into(), ..Options::default() }).await);
    let keys = format!("{}:{}", simulator::DEFAULT_ACCESS_KEY_ID, simulator::DEFAULT_SECRET_ACCESS_KEY);
    let daemon = Setup::several(&[(&east, "us-east-1"), (&west, "us-west-2")]).secret(&keys).ready().await;
    east.refuse_connections(true);
    until_async("the other upstream's answer", || async {
        (ask(&daemon).await.header("x-bedrock-sidecar-region") == Some("us-west-2")).then_some(())
    })
    .await;
    until_async("the objection to the first", || async {
        let status = daemon.admin_get("/status").await.json();
        assert_eq!(status["ready"], true, "{status}");
        status["upstreams"][0]["objection"].as_str().filter(|text| text.contains("cannot be reached")).map(|_| ())
    })
    .await;
    west.refuse_connections(true);
    until_async("both are gone", || async {
        ask(&daemon).await;
        (daemon.admin_get("/ready").await.status == 503).then_some(())
    })
    .await;
}
