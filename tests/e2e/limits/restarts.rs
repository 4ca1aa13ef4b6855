//! What a killed daemon had not written into limits.json any more, the next one finds in the ledger, and counts it once.

use std::path::Path;

use test_support::*;

use super::{bounded, held, host, throttled};

/// Slow enough that nothing refills while a test runs.
async fn start(bedrock: &simulator::Simulator, state: &Path) -> Daemon {
    let more = format!(
        "[audit]\nstate_dir = \"{}\"\ntable = \"\"\n[limits]\ntokens_per_day = 100000\nrequests_per_minute = 1\n\
         request_burst = 20\n",
        state.display()
    );
    Setup::plain(bedrock).with(&more).ready().await
}

async fn used(daemon: &Daemon) -> (u64, i64) {
    let host = host(daemon).await;
    (host["tokensToday"].as_u64().unwrap(), host["requestsLeft"].as_i64().unwrap())
}

/// The file, once it says what is awaited.
async fn file(state: &Path, awaited: impl Fn(&serde_json::Value) -> bool) -> String {
    until("limits.json", || {
        let text = std::fs::read_to_string(state.join("limits.json")).ok()?;
        serde_json::from_str(&text).ok().filter(|contents| awaited(contents)).map(|_| text)
    })
    .await
}

#[tokio::test]
async fn a_kill_forgets_nothing_that_was_recorded_and_counts_nothing_twice() {
    let bedrock = bedrock().await;
    let state = tempfile::tempdir().unwrap();
    let path = converse_path(ON_DEMAND);
    let daemon = start(&bedrock, state.path()).await;
    assert_eq!(daemon.post(&path, bounded("events 400", 400)).await.status, 200);
    let early = file(state.path(), |contents| contents["scopes"]["host"]["tokensToday"] == 402).await;
    for _ in 0..3 {
        assert_eq!(daemon.post(&path, bounded("events 100", 100)).await.status, 200);
    }
    assert_eq!(used(&daemon).await, (708, 16));
    daemon.record("the third of them", |record| record["outputTokens"] == 100).await;
    drop(daemon);

    // Whether the file was written before these three, or is as new as it was when the daemon was killed.
    for contents in [None, Some(&early), Some(&early)] {
        if let Some(contents) = contents {
            std::fs::write(state.path().join("limits.json"), contents).unwrap();
        }
        let daemon = start(&bedrock, state.path()).await;
        assert_eq!(used(&daemon).await, (708, 16), "{contents:?}");
        drop(daemon);
    }
    // Without the file, the buckets are full, and the day's use is known all the same.
    std::fs::remove_file(state.path().join("limits.json")).unwrap();
    let daemon = start(&bedrock, state.path()).await;
    assert_eq!(used(&daemon).await.0, 708);
    drop(daemon);
    std::fs::write(state.path().join("limits.json"), "{").unwrap();
    assert_eq!(used(&start(&bedrock, state.path()).await).await.0, 708);
}

#[tokio::test]
async fn a_request_that_was_under_way_counts_with_what_it_used_or_had_reserved() {
    let bedrock = bedrock().await;
    let state = tempfile::tempdir().unwrap();
    let daemon = start(&bedrock, state.path()).await;
    let (_connection, mut reader) = held(&bedrock, &daemon, bounded("events 100", 1_000)).await;
    let under_way =
        file(state.path(), |contents| contents["open"].as_array().is_some_and(|open| open.len() == 1)).await;
    let reserved = used(&daemon).await.0;
    assert!(reserved >= 1_000, "{reserved}");
    bedrock.gate().open();
    reader.end().await.unwrap();
    until_counted(&daemon, 102).await;
    drop(daemon);

    std::fs::write(state.path().join("limits.json"), &under_way).unwrap();
    let daemon = start(&bedrock, state.path()).await;
    assert_eq!(used(&daemon).await, (102, 19), "it had ended before the kill");

    // Killed under way: nobody knows what it used.
    let (_connection, _reader) = held(&bedrock, &daemon, bounded("events 100", 1_000)).await;
    file(state.path(), |contents| contents["open"].as_array().is_some_and(|open| open.len() == 1)).await;
    drop(daemon);
    let daemon = start(&bedrock, state.path()).await;
    assert_eq!(used(&daemon).await, (102 + reserved, 18));
    bedrock.gate().open();
}

async fn until_counted(daemon: &Daemon, tokens: u64) {
    for _ in 0..200 {
        if used(daemon).await.0 == tokens {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("{:?} tokens instead of {tokens}", used(daemon).await);
}

/// Restarting is no way around a limit of a minute, and neither is `kill -9`.
#[tokio::test]
async fn a_restart_fills_no_bucket() {
    let bedrock = bedrock().await;
    let state = tempfile::tempdir().unwrap();
    let path = converse_path(ON_DEMAND);
    let mut daemon = start(&bedrock, state.path()).await;
    for _ in 0..10 {
        assert_eq!(daemon.post(&path, bounded("events 1", 1)).await.status, 200);
    }
    daemon.signal("TERM");
    assert!(daemon.ended().await.success());
    let daemon = start(&bedrock, state.path()).await;
    assert_eq!(used(&daemon).await.1, 10);
    for _ in 0..10 {
        assert_eq!(daemon.post(&path, bounded("events 1", 1)).await.status, 200);
    }
    throttled(&daemon.post(&path, bounded("events 1", 1)).await);
    drop(daemon);
    let daemon = start(&bedrock, state.path()).await;
    throttled(&daemon.post(&path, bounded("events 1", 1)).await);
}
