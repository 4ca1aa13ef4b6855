//! Anchors in the daemon's log, and the ledger held against that log; a bucket that nobody answers for.

use serde_json::Value;
use test_support::*;
use tokio::net::TcpListener;

use super::{Scene, shipped};

#[tokio::test(flavor = "multi_thread")]
async fn the_log_of_the_daemon_proves_its_ledger() {
    let bedrock = bedrock().await;
    let scene = Scene::new("e2e-anchors").await;
    let more = "[audit.anchor]\nto = \"log\"";
    let mut daemon = scene.setup(&bedrock, "", more).ready().await;
    for _ in 0..12 {
        daemon.post(&converse_path(ON_DEMAND), converse("hello")).await;
    }
    // A second record of the chain's beginning may come any time, if the search for a former chain has taken a while.
    let records = until_async("what was found of a former chain", || async {
        shipped(&daemon).await;
        let items = scene.all_items().await;
        let is_found = |item: &Value| item["formerChain"].as_str().is_some_and(|former| former != "searching");
        items.values().any(is_found).then_some(items.len())
    })
    .await;
    daemon.signal("TERM");
    assert_eq!(daemon.ended().await.code(), Some(0), "{}", daemon.log_text());
    let lines = daemon.log_text();
    assert!(lines.contains(&format!("\"chainSeq\":{records},")), "{records}: {lines}");

    let commands = scene.setup(&bedrock, "", more);
    let file = commands.path().join("log");
    std::fs::write(&file, lines).unwrap();
    let verdict = commands.command(&["audit", "verify", "--anchors", file.to_str().unwrap()]).await;
    let report = super::text(&verdict);
    assert!(verdict.status.success(), "{report}");
    assert!(report.contains(&format!("proven by anchors: records 1 to {records} of chain ")), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_does_not_answer_holds_up_neither_requests_nor_the_stop() {
    let bedrock = bedrock().await;
    let scene = Scene::new("e2e-silent-bucket").await;
    // Connections wait in its queue for ever.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    let more = format!("[audit.anchor]\nto = \"s3\"\nbucket = \"audit-anchors\"\nendpoint = \"{endpoint}\"");
    let setup = || scene.setup(&bedrock, "", &more);
    let failed = |daemon: &Daemon| {
        let lines = daemon.lines();
        let failed = lines.iter().filter(|line| line["message"].as_str().unwrap_or("").contains("cannot be anchored"));
        failed.map(|line| line["message"].as_str().unwrap().to_owned()).collect::<Vec<String>>()
    };
    let mut daemon = setup().ready().await;
    assert_eq!(daemon.post(&converse_path(ON_DEMAND), converse("hello")).await.status, 200);
    shipped(&daemon).await;
    daemon.signal("TERM");
    assert_eq!(daemon.ended().await.code(), Some(0), "{}", daemon.log_text());
    let told = failed(&daemon);
    assert!(told.len() == 1 && told[0].ends_with("has not taken it within 5 s"), "{told:?}");

    // The chain has an end when the daemon starts again, and the anchor of the start waits.
    let mut daemon = setup().ready().await;
    for _ in 0..12 {
        assert_eq!(daemon.post(&converse_path(ON_DEMAND), converse("hello")).await.status, 200);
    }
    shipped(&daemon).await;
    assert_eq!(metric(&daemon.metrics().await, "bedrock_sidecar_audit_anchor_last_timestamp_seconds"), Some(0.0));
    daemon.signal("TERM");
    assert_eq!(daemon.ended().await.code(), Some(0), "{}", daemon.log_text());
    assert_eq!(failed(&daemon).len(), 1, "{:?}", failed(&daemon));
}
