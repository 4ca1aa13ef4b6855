//! `[log]` follows a reload.

use simulator::{Effect, Fault};
use test_support::*;

use super::{ask, count};

/// Writes the configuration with these changes and tells the daemon, which may say nothing of it.
fn change(daemon: &Daemon, changes: &[(&str, &str)]) {
    let mut text = std::fs::read_to_string(daemon.config_path()).unwrap();
    for (old, new) in changes {
        assert!(text.contains(old), "{old}: {text}");
        text = text.replace(old, new);
    }
    std::fs::write(daemon.config_path(), text).unwrap();
    daemon.signal("HUP");
}

fn id(answer: &Answer) -> String {
    answer.header("x-bedrock-sidecar-request-id").unwrap().to_owned()
}

#[tokio::test]
async fn the_format_and_the_level_change_with_the_next_line() {
    let bedrock = bedrock().await;
    let more = "[log]\nformat = \"json\"\nlevel = \"info\"\n[limits]\nconcurrent_requests = 50";
    let daemon = Setup::plain(&bedrock).with(more).ready().await;
    let first = send(daemon.address(), ask("as JSON")).await;
    assert_eq!(daemon.record_of(&first).await["outcome"], "completed");

    change(&daemon, &[("format = \"json\"", "format = \"text\"")]);
    let said = |text: &str| daemon.log_text().lines().find(|line| line.contains(text)).map(str::to_owned);
    let line = until("the reload", || said("configuration reloaded")).await;
    assert!(line.contains(" INFO ") && !line.starts_with('{'), "{line}");
    let second = send(daemon.address(), ask("as text")).await;
    let line = until("its line", || said(&id(&second))).await;
    assert!(!line.starts_with('{') && line.contains("request operation=Converse"), "{line}");
    assert!(line.contains(" status=200 ") && line.contains("completed"), "{line}");

    // Only errors, so the reload itself says nothing. What it has changed is seen in the status.
    let limits = ("concurrent_requests = 50", "concurrent_requests = 49");
    change(&daemon, &[("format = \"text\"", "format = \"json\""), ("level = \"info\"", "level = \"error\""), limits]);
    until_async("the reload", || async {
        daemon.admin_get("/status").await.json()["limits"]
            .to_string()
            .contains("\"concurrentRequests\":49")
            .then_some(())
    })
    .await;
    bedrock.inject(Fault::once(Effect::ServiceUnavailable).on("Converse"));
    let (failed, good) = (send(daemon.address(), ask("fails")).await, send(daemon.address(), ask("silent")).await);
    assert_eq!([failed.status, good.status], [503, 200]);
    let unlogged = [id(&failed), id(&good)];
    for (id, outcome) in unlogged.iter().zip(["upstream_error", "completed"]) {
        until_async("its record", || async {
            let page = daemon.admin_get("/v1/dashboard/requests?limit=10").await.json();
            let records = page["requests"].as_array().unwrap().clone();
            records.into_iter().find(|record| record["requestId"] == **id && record["outcome"] == outcome)
        })
        .await;
    }

    change(&daemon, &[("level = \"error\"", "level = \"warn\"")]);
    until_async("a line of a request that has failed", || async {
        bedrock.inject(Fault::once(Effect::ServiceUnavailable).on("Converse"));
        let failed = send(daemon.address(), ask("fails")).await;
        assert_eq!(failed.status, 503);
        daemon.records().into_iter().find(|record| record["statusCode"] == 503)
    })
    .await;
    change(&daemon, &[("level = \"warn\"", "level = \"info\"")]);
    eventually("the reload that is told", || count(&daemon, "configuration reloaded") == 1).await;
    let last = send(daemon.address(), ask("as JSON again")).await;
    assert_eq!(daemon.record_of(&last).await["outcome"], "completed");
    let log = daemon.log_text();
    assert!(!unlogged.iter().any(|id| log.contains(id)), "level = \"error\" silences requests:\n{log}");
}
