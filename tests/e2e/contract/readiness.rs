//! When the daemon calls itself ready, and where it says so.

use serde_json::json;
use simulator::{Effect, Fault, ROTATED_BEARER_TOKEN};
use test_support::*;

/// Readiness follows the account: at start, at a reload and when the account is changed.
#[tokio::test]
async fn the_daemon_is_ready_only_in_a_mode_of_data_retention_that_the_policy_names() {
    let bedrock = bedrock().await;
    bedrock.set_data_retention("default");
    let daemon = Setup::plain(&bedrock).with("[policy]\nrequire_data_retention = [\"none\"]").start().await;
    let ready = daemon.admin_get("/ready").await;
    assert_eq!(ready.status, 503, "{}", ready.text());
    let reason = "the account's data retention in us-east-1 is \"default\", and policy.require_data_retention allows \"none\" only.";
    assert_eq!(ready.json()["reasons"], serde_json::json!([reason]));
    let status = daemon.admin_get("/status").await.json();
    assert_eq!(status["upstreams"][0]["dataRetention"], "default", "{status}");
    let answer = daemon.post(&converse_path(ON_DEMAND), converse("hello")).await;
    assert_eq!(answer.status, 200, "requests are not refused for it");
    assert_eq!(daemon.record_of(&answer).await["outcome"], "completed");

    bedrock.set_data_retention("none");
    daemon.reload("[\"none\"]", "[\"none\", \"default\"]").await;
    daemon.until_ready().await;
    assert_eq!(daemon.admin_get("/status").await.json()["upstreams"][0]["dataRetention"], "none");

    let unasked = Setup::plain(&bedrock);
    bedrock.clear();
    let unasked = unasked.ready().await;
    assert!(received(&bedrock, "GetAccountDataRetention").is_empty(), "nobody demands a mode");
    assert!(unasked.admin_get("/status").await.json()["upstreams"][0]["dataRetention"].is_null());
}

/// Without a right to ask, nobody can say that the account is as it must be.
#[tokio::test]
async fn a_mode_that_cannot_be_read_is_none_that_the_policy_names() {
    let bedrock = bedrock().await;
    bedrock.set_data_retention("none");
    let denied = Fault::once(Effect::Error {
        status: 403,
        error_type: "AccessDeniedException".into(),
        message: "not authorized".into(),
        capital: false,
        headers: Default::default(),
    });
    bedrock.inject(denied.times(0).on("GetAccountDataRetention"));
    let daemon = Setup::plain(&bedrock).with("[policy]\nrequire_data_retention = [\"none\"]").start().await;
    let ready = daemon.admin_get("/ready").await;
    assert_eq!(ready.status, 503);
    assert!(ready.text().contains("allow bedrock:GetAccountDataRetention"), "{}", ready.text());
    bedrock.clear_faults();
    daemon.until_ready().await;
}

/// A new key may be refused for seconds, until every part of AWS knows it.
#[tokio::test]
async fn readiness_that_a_new_key_has_taken_comes_back_soon() {
    let bedrock = bedrock().await;
    bedrock.set_data_retention("none");
    let daemon = Setup::plain(&bedrock).with("[policy]\nrequire_data_retention = [\"none\"]").ready().await;
    bedrock.inject(
        Fault::once(Effect::Error {
            status: 403,
            error_type: "AccessDeniedException".into(),
            message: "not authorized".into(),
            capital: false,
            headers: Default::default(),
        })
        .on("GetAccountDataRetention"),
    );
    bedrock.clear();
    std::fs::write(daemon.secret_path(), ROTATED_BEARER_TOKEN).unwrap();
    bedrock.set_bearer_tokens(vec![ROTATED_BEARER_TOKEN.into()]);
    let answer = daemon.post(&converse_path(ON_DEMAND), converse("hello")).await;
    assert_eq!(answer.status, 200);
    assert_eq!(daemon.record_of(&answer).await["outcome"], "completed");
    let asked = || received(&bedrock, "GetAccountDataRetention").into_iter().filter_map(|one| one.status).collect();
    let asked: Vec<u16> = until("a second question", || Some(asked()).filter(|asked: &Vec<u16>| asked.len() > 1)).await;
    assert_eq!(asked, [403, 200]);
    daemon.until_ready().await;
}

#[tokio::test]
async fn the_admin_address_serves_health_readiness_and_metrics_and_nothing_else() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).ready().await;
    let health = daemon.admin_get("/health").await;
    assert_eq!((health.status, &health.json()["status"]), (200, &json!("healthy")));
    let ready = daemon.admin_get("/ready").await;
    assert_eq!((ready.status, ready.json()), (200, json!({ "ready": true, "reasons": [] })));
    assert_eq!(daemon.admin_get("/metrics").await.status, 200);
    bedrock.clear();
    let answer = post(daemon.admin, &converse_path(ON_DEMAND), converse("x")).await;
    refused(&answer, 404, "UnknownOperationException");
    assert_eq!(daemon.get("/metrics").await.status, 404, "not where apps call");
    assert_eq!(bedrock.requests().len(), 0);
}
