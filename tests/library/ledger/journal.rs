//! Openings and ends, clean stops and crashes of the process's half.

use std::collections::BTreeMap;

use bedrock_sidecar::config::Durability;
use bedrock_sidecar::ledger::Ledger;

use super::kit::{self, completed, record, serve, settings, start};

#[tokio::test]
async fn what_was_closed_is_there_and_what_was_not_is_interrupted() {
    let directory = tempfile::tempdir().unwrap();
    for durability in [Durability::Process, Durability::Disk] {
        let settings = settings(&directory.path().join(format!("{durability:?}")));
        let settings = bedrock_sidecar::settings::Audit { durability, ..settings };
        let state = settings.state_dir.clone().unwrap();
        let audit = start(&settings).await;
        let records: Vec<_> = (0..500).map(record).collect();
        let left_open = record(9999);
        let _never_closed = audit.open(&left_open).await.unwrap();
        for record in &records {
            serve(&audit, record).await;
        }
        audit.note(&completed(&record(7)));
        assert_eq!(audit.status().open, 1);
        audit.stop(kit::far()).await;
        drop(audit);
        assert_eq!(kit::items(&state).len(), 501);

        let audit = start(&settings).await;
        audit.flush().await;
        let items = kit::items(&state);
        assert_eq!(items.len(), 502);
        let interrupted = items.last().unwrap();
        assert_eq!(interrupted["requestId"], left_open.request_id);
        assert_eq!(interrupted["outcome"], "interrupted");
        assert_eq!(interrupted["success"], false);
        assert_eq!(audit.status().open, 0);
        for (seq, item) in items.iter().enumerate() {
            assert_eq!(item["chainSeq"], seq + 1);
        }
        let by_id: BTreeMap<&str, _> = items.iter().map(|item| (item["requestId"].as_str().unwrap(), item)).collect();
        for record in &records {
            assert_eq!(by_id[record.request_id.as_str()]["requestSize"], record.request_size);
        }
        audit.stop(kit::far()).await;
        drop(audit);
        // A third life finds nothing to close.
        let audit = start(&settings).await;
        audit.flush().await;
        assert_eq!(kit::items(&state).len(), 502);
    }
}

#[tokio::test]
async fn a_second_daemon_is_refused_with_a_sentence() {
    let directory = tempfile::tempdir().unwrap();
    let settings = settings(directory.path());
    let first = start(&settings).await;
    let refused = Ledger::start(&settings).await.unwrap_err().to_string();
    assert!(refused.starts_with(&format!("another bedrock-sidecar (pid {}) uses", std::process::id())), "{refused}");
    drop(first);
    start(&settings).await;
}

#[tokio::test]
async fn journal_files_go_once_sqlite_has_them() {
    let directory = tempfile::tempdir().unwrap();
    let mut settings = settings(directory.path());
    settings.max_ledger_bytes = 1 << 20; // files of 256 KiB
    settings.on_failure = bedrock_sidecar::config::OnFailure::Allow;
    settings.retention = std::time::Duration::from_secs(86_400);
    let audit = start(&settings).await;
    let long = record(1);
    let opened = audit.open(&long).await.unwrap();
    for number in 0..900 {
        serve(&audit, &record(number)).await;
    }
    audit.flush().await;
    audit.flush().await;
    let files: Vec<_> = directory.path().join("journal").read_dir().unwrap().collect();
    assert_eq!(files.len(), 1, "{files:?}");
    // The long request's opening is in the file that is left.
    let bytes = std::fs::read(files[0].as_ref().unwrap().path()).unwrap();
    assert!(memchr::memmem::find(&bytes, long.request_id.as_bytes()).is_some());
    audit.close(opened, &completed(&long));
    audit.flush().await;
    let items = kit::items(directory.path());
    assert_eq!(items.last().unwrap()["requestId"], long.request_id);
}
