//! Two daemons on one ledger.

use test_support::*;

use super::{Scene, shipped, text};

#[tokio::test(flavor = "multi_thread")]
async fn a_second_daemon_on_the_same_ledger_is_refused_with_a_sentence() {
    let bedrock = bedrock().await;
    let scene = Scene::new("e2e-second").await;
    let daemon = scene.setup(&bedrock, "", "").ready().await;
    let second = scene.setup(&bedrock, "", "");
    let second = within("the second daemon's end", second.command(&["run"])).await;
    let said = text(&second);
    assert_eq!(second.status.code(), Some(1), "{said}");
    let sentence = format!(
        "another bedrock-sidecar (pid {}) uses the state directory {}; stop it, or give this one its own audit.state_dir and its own audit.table",
        daemon.pid(),
        scene.state.path().display()
    );
    assert!(said.contains(&sentence), "{said}");
    assert_eq!(daemon.post(&converse_path(ON_DEMAND), converse("hello")).await.status, 200, "the first goes on");
    shipped(&daemon).await;
    assert_eq!(scene.items().await.len(), 1);
}
