//! A start on a disk that is full.

use serde_json::{Value, json};
use test_support::*;

use super::{says, text};

const TEST: &str = "on_a_full_disk_a_start_is_not_ready_and_the_chain_goes_on_behind_it";

/// However the daemon before has ended, and the one that finds the disk full.
#[tokio::test(flavor = "multi_thread")]
async fn on_a_full_disk_a_start_is_not_ready_and_the_chain_goes_on_behind_it() {
    let bedrock = bedrock().await;
    // A kill is told by the next record; one that came when nothing could be recorded has lost nothing.
    for (first_end, end_on_full_disk, is_unclean) in
        [("KILL", "TERM", json!(true)), ("TERM", "KILL", Value::Null), ("KILL", "KILL", json!(true))]
    {
        let directory = tempfile::tempdir().unwrap();
        let Some(disk) = SmallDisk::mount(directory.path().join("small"), "12m") else {
            println!("NOT RUN: {TEST} (no right to mount a tmpfs)");
            return;
        };
        let state = disk.0.join("state");
        let audit = format!("[audit]\ntable = \"\"\nstate_dir = \"{}\"\nmax_ledger_bytes = 4000000\n", state.display());
        let setup = || Setup::plain(&bedrock).with(&audit);
        let ask = async |daemon: &Daemon| {
            let answer = daemon.post(&converse_path(ON_DEMAND), converse("hello")).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            daemon.record_of(&answer).await["requestId"].as_str().unwrap().to_owned()
        };
        let mut daemon = setup().ready().await;
        let first = ask(&daemon).await;
        daemon.signal(first_end);
        daemon.ended().await;

        let ballast = disk.fill();
        let mut daemon = setup().start().await;
        let ready = daemon.admin_get("/ready").await;
        assert_eq!(ready.status, 503, "{ready:?}");
        assert!(ready.text().contains("No space left"), "{ready:?}");
        assert_eq!(metric(&daemon.metrics().await, "bedrock_sidecar_ready"), Some(0.0));
        daemon.signal(end_on_full_disk);
        daemon.ended().await;

        std::fs::remove_file(ballast).unwrap();
        let mut daemon = setup().ready().await;
        let second = ask(&daemon).await;
        daemon.signal("TERM");
        daemon.ended().await;
        assert!(!daemon.log_text().contains("records go on in a new chain"), "{}", daemon.log_text());
        let export = setup().command(&["audit", "export"]).await;
        let items: Vec<Value> = text(&export).lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let of =
            |id: &str| items.iter().find(|item| item["requestId"] == id).unwrap_or_else(|| panic!("{id}: {items:?}"));
        let completed = json!({ "outcome": "completed", "statusCode": 200, "modelId": ON_DEMAND });
        says(of(&first), completed.clone());
        says(of(&second), completed);
        says(of(&first), json!({ "afterUncleanStop": null }));
        says(of(&second), json!({ "afterUncleanStop": is_unclean }));
        assert_eq!(of(&first)["chainId"], of(&second)["chainId"], "{items:?}");
        let verified = setup().command(&["audit", "verify"]).await;
        assert!(verified.status.success(), "{}", text(&verified));
    }
}
