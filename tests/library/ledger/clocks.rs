//! A clock that jumped deletes no records, and records with impossible dates do not keep others from being deleted.

use std::path::Path;

use bedrock_sidecar::ledger::{Ledger, LedgerError};
use bedrock_sidecar::limits::PastUse;
use bedrock_sidecar::record::{Record, Usage};

use super::child;
use super::kit::{self, items, record, serve, start};

const DAY_MS: i64 = 86_400_000;
const PAUSE: std::time::Duration = std::time::Duration::from_millis(50);

/// Starts a ledger, in which old records are deleted at once, serves requests that began so many days from now, and
/// stops it.
async fn serve_at(directory: &Path, days: &[i64]) {
    let settings = kit::settings(directory);
    // A process that another test is just forking holds the lock of the ledger before until it has become its command.
    let mut tries = 0..100;
    let audit = loop {
        match Ledger::start(&settings).await {
            Err(LedgerError::InUse { .. }) if tries.next().is_some() => tokio::time::sleep(PAUSE).await,
            started => break started.unwrap(),
        }
    };
    audit.flush().await;
    for (number, days) in days.iter().enumerate() {
        let record = record(number as u64);
        serve(&audit, &Record { started_ms: record.started_ms + days * DAY_MS, ..record }).await;
    }
    audit.stop(kit::far()).await;
}

/// What is left, by request size.
fn kept(directory: &Path) -> Vec<u64> {
    assert!(child::audit(directory, None, "verify").0);
    items(directory).iter().map(|item| item["requestSize"].as_u64().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn records_with_impossible_dates_are_as_old_as_the_next_that_has_one() {
    let directory = tempfile::tempdir().unwrap();
    // 0 and 1 cannot be true, and are older than 2, whose retention has passed. 4 is as new as 5.
    serve_at(directory.path(), &[400, -20_000, -40, -40, 400, -1, 500]).await;
    serve_at(directory.path(), &[]).await;
    assert_eq!(kept(directory.path()), [4, 5, 6]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_suddenly_forty_days_ahead_deletes_nothing() {
    // As the daemon sees it: the records and what it knows of the clock are of forty days ago.
    for knows_the_clock in [true, false] {
        let directory = tempfile::tempdir().unwrap();
        serve_at(directory.path(), &[-40; 10]).await;
        let file = directory.path().join("clock.json");
        let now = jiff::Timestamp::now().as_millisecond();
        if knows_the_clock {
            let known = serde_json::json!({ "goodMs": now - 40 * DAY_MS, "doubt": null });
            std::fs::write(&file, known.to_string()).unwrap();
        } else {
            std::fs::remove_file(&file).unwrap();
        }
        for _ in 0..3 {
            serve_at(directory.path(), &[0]).await;
        }
        assert_eq!(kept(directory.path()).len(), 13, "{knows_the_clock}");
        // Once the clock has gone on evenly for a day, it is believed.
        let known = serde_json::json!({ "goodMs": now, "doubt": null });
        std::fs::write(&file, known.to_string()).unwrap();
        serve_at(directory.path(), &[0]).await;
        assert_eq!(kept(directory.path()).len(), 4, "{knows_the_clock}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ledger_tells_what_was_used_of_which_model_by_whom_on_which_day() {
    let directory = tempfile::tempdir().unwrap();
    let audit = start(&kit::settings(directory.path())).await;
    let usage = Usage {
        input_tokens: Some(5),
        output_tokens: Some(3),
        cache_read_tokens: Some(100),
        cache_write_tokens: Some(2),
        ..Usage::default()
    };
    for _ in 0..3 {
        let opened = audit.open(&record(0)).await.unwrap();
        audit.close(opened, &Record { usage, cost_nano_usd: Some(7), ..kit::completed(&record(0)) });
    }
    let old = record(1);
    let opened = audit.open(&old).await.unwrap();
    audit.close(opened, &Record { started_ms: old.started_ms - 40 * DAY_MS, usage, ..kit::completed(&old) });
    let used = audit.past_use(None).await.unwrap();
    let total = used.iter().fold((0, 0), |sum, used| (sum.0 + used.tokens, sum.1 + used.nano_usd));
    assert_eq!(total, (30, 21));
    // More than one row only if midnight has just passed.
    let PastUse { caller, model, .. } = &used[0];
    assert_eq!((caller.as_deref(), model), (Some("billing"), &record(0).model_id));
}
