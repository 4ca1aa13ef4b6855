//! Anchors in the daemon's log, and the ledger held against that log.

use test_support::*;

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
    shipped(&daemon).await;
    daemon.signal("TERM");
    assert_eq!(daemon.ended().await.code(), Some(0), "{}", daemon.log_text());
    let lines = daemon.log_text();
    assert!(lines.contains("\"chainSeq\":14"), "{lines}");

    let commands = scene.setup(&bedrock, "", more);
    let file = commands.path().join("log");
    std::fs::write(&file, lines).unwrap();
    let verdict = commands.command(&["audit", "verify", "--anchors", file.to_str().unwrap()]).await;
    let report = super::text(&verdict);
    assert!(verdict.status.success(), "{report}");
    assert!(report.contains("proven by anchors: records 1 to 14 of chain "), "{report}");
}
