//! A flood of refused requests: it fills neither the ledger nor the auditor's list, and an admitted caller notices
//! nothing.

use std::path::Path;

use bedrock_sidecar::ledger::Ledger;
use bedrock_sidecar::record::{Outcome, Record};
use bedrock_sidecar::settings;
use serde_json::Value;

use super::child;
use super::kit::{self, items, record, serve, start};

const DENIED: &str = "AccessDeniedException";

fn refused(number: u64, uid: u32) -> Record {
    Record {
        outcome: Outcome::Refused,
        status_code: 403,
        caller_uid: Some(uid),
        error_message: Some("bedrock-sidecar: no".into()),
        ..record(number)
    }
}

fn refusals_of(directory: &Path, uid: u32) -> Vec<Value> {
    items(directory).into_iter().filter(|item| item["outcome"] == "refused" && item["callerUid"] == uid).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_refusals_is_thirty_records_and_one_that_counts_the_rest() {
    let directory = tempfile::tempdir().unwrap();
    let audit = start(&kit::settings(directory.path())).await;
    let (mut first, mut last, mut told) = (0, 0, 0);
    for number in 0..20_000 {
        let refusal = refused(number, 4000);
        if number == 30 {
            first = refusal.started_ms;
        }
        last = refusal.started_ms;
        told += u32::from(audit.note_unsent(&refusal, DENIED));
    }
    assert_eq!(told, 31, "the log has no more lines of them than the ledger has records");
    audit.note_unsent(&refused(1, 4001), DENIED);
    serve(&audit, &record(1)).await;
    assert_eq!(audit.status().coalesced_total, 20_000 - 31);
    audit.stop(kit::far()).await;
    drop(audit);

    let flood = refusals_of(directory.path(), 4000);
    assert_eq!(flood.len(), 31);
    assert!(flood[..30].iter().all(|item| item.get("repeated").is_none() && item.get("lastTimestamp").is_none()));
    assert_eq!(flood[30]["repeated"], 20_000 - 31);
    let ms = |name: &str| flood[30][name].as_str().unwrap().parse::<jiff::Timestamp>().unwrap().as_millisecond();
    assert_eq!((ms("timestamp"), ms("lastTimestamp")), (first, last));
    assert_eq!(refusals_of(directory.path(), 4001).len(), 1);
    assert_eq!(items(directory.path()).len(), 33);

    let (_, list) = child::audit(directory.path(), None, "list --limit 100");
    let counting: Vec<&str> = list.lines().filter(|line| line.contains("refused x19970 ")).collect();
    assert_eq!(counting.len(), 1, "{list}");
    assert!(child::audit(directory.path(), None, "verify").0);
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_leave_room_for_admitted_requests() {
    let directory = tempfile::tempdir().unwrap();
    let settings = settings::Audit { max_ledger_bytes: 400_000, ..kit::settings(directory.path()) };
    let audit = start(&settings).await;
    // Many callers: each may have its thirty records, as long as there is room.
    for number in 0..50_000u64 {
        audit.note_unsent(&refused(number, 4000 + (number % 200) as u32), DENIED);
    }
    audit.flush().await;
    let bytes = audit.status().bytes;
    assert!((350_000..=361_000).contains(&bytes), "{bytes}");
    for number in 0..30 {
        serve(&audit, &record(number)).await;
    }
    assert_eq!(audit.status().unrecorded_total, 0);
    audit.stop(kit::far()).await;
    drop(audit);
    let items = items(directory.path());
    assert_eq!(items.iter().filter(|item| item["outcome"] == "completed").count(), 30);
    let refused = items.iter().filter(|item| item["outcome"] == "refused");
    let told: u64 = refused.map(|item| 1 + item.get("repeated").and_then(Value::as_u64).unwrap_or(0)).sum();
    assert_eq!(told, 50_000, "each refusal is in exactly one record");
    assert!(child::audit(directory.path(), None, "verify").0);
}

/// Requests that were refused after their opening, and those that other outcomes end, stay records of their own.
#[tokio::test(flavor = "multi_thread")]
async fn opened_requests_are_never_counted_together() {
    let directory = tempfile::tempdir().unwrap();
    let audit: std::sync::Arc<Ledger> = start(&kit::settings(directory.path())).await;
    for number in 0..100 {
        let refusal = refused(number, 4000);
        let opened = audit.open(&refusal).await.unwrap();
        audit.close(opened, &refusal);
    }
    audit.stop(kit::far()).await;
    drop(audit);
    assert_eq!(refusals_of(directory.path(), 4000).len(), 100);
}
