//! What no version of ours writes, and what a file system may refuse: told, counted, and in nobody's way.

use std::path::Path;
use std::sync::Arc;

use super::disk::TestDisk;
use super::{completed, items, record, settings};
use crate::config::{Durability, OnFailure};
use crate::ledger::Ledger;
use crate::ledger::clock::RealClock;
use crate::ledger::journal::frame::{FrameKind, encode};

async fn start(directory: &Path, disk: &Arc<TestDisk>) -> Arc<Ledger> {
    Ledger::start_on(&settings(directory, Durability::Process), None, disk.clone(), Arc::new(RealClock)).await.unwrap()
}

fn write_journal(directory: &Path, frames: &[(FrameKind, &str)]) {
    let mut bytes = Vec::new();
    for (kind, payload) in frames {
        encode(&mut bytes, *kind, &[payload.as_bytes()]);
    }
    std::fs::create_dir_all(directory.join("journal")).unwrap();
    std::fs::write(directory.join("journal/0000000001.journal"), bytes).unwrap();
}

const HEADER: &str = r#"{"version":1,"hostId":"h","chainId":"c","seq":0,"hash":""}"#;

#[tokio::test]
async fn entries_that_cannot_be_understood_are_told_and_hold_nothing_up() {
    let directory = tempfile::tempdir().unwrap();
    let now = jiff::Timestamp::now().as_millisecond();
    write_journal(
        directory.path(),
        &[
            (FrameKind::Header, HEADER),
            (FrameKind::Open, &format!(r#"{{"requestId":"strange","startedMs":{now},"attempts":"many"}}"#)),
            (FrameKind::Open, "no JSON"),
            (FrameKind::Close, "too short"),
            (FrameKind::Close, &format!("{}no JSON", "0".repeat(64))),
            (FrameKind::Header, "no header"),
        ],
    );
    let ledger = start(directory.path(), &Arc::default()).await;
    let opened = ledger.open(&record(1)).await.unwrap();
    ledger.close(opened, &completed(&record(1)));
    ledger.flush().await;
    let items = items(directory.path());
    assert_eq!(items.len(), 2, "{items:?} {:?}", ledger.status());
    assert_eq!((&items[0]["requestId"], &items[0]["outcome"]), (&"strange".into(), &"interrupted".into()));
    assert_eq!(items[0]["timestamp"], crate::ledger::timestamp::timestamp(now));
    assert!(ledger.status().failures_total >= 2, "{:?}", ledger.status());
    assert_eq!(directory.path().join("corrupt").read_dir().unwrap().count(), 1, "a copy is kept");
}

#[tokio::test]
async fn a_journal_of_a_newer_version_is_refused_with_a_sentence() {
    let directory = tempfile::tempdir().unwrap();
    write_journal(directory.path(), &[(FrameKind::Header, r#"{"version":7,"links":[]}"#)]);
    let refused = Ledger::start(&settings(directory.path(), Durability::Process)).await.unwrap_err().to_string();
    assert!(
        refused.contains("0000000001.journal was written by a newer bedrock-sidecar (journal version 7)"),
        "{refused}"
    );
}

#[tokio::test]
async fn a_file_system_that_reserves_nothing_is_told_once_and_used() {
    let directory = tempfile::tempdir().unwrap();
    let disk = Arc::new(TestDisk::default());
    disk.state().reserve_error = Some(rustix::io::Errno::OPNOTSUPP.raw_os_error());
    let ledger = start(directory.path(), &disk).await;
    for number in 0..10 {
        let opened = ledger.open(&record(number)).await.unwrap();
        ledger.close(opened, &completed(&record(number)));
    }
    ledger.flush().await;
    assert_eq!(items(directory.path()).len(), 10);
    let status = ledger.status();
    assert_eq!((status.failures_total, status.ledger_writable), (1, true), "{status:?}");
}

#[tokio::test]
async fn with_allow_a_record_is_written_at_its_end_when_its_opening_could_not_be() {
    let directory = tempfile::tempdir().unwrap();
    let disk = Arc::new(TestDisk::default());
    let settings =
        crate::settings::Audit { on_failure: OnFailure::Allow, ..settings(directory.path(), Durability::Process) };
    let ledger = Ledger::start_on(&settings, None, disk.clone(), Arc::new(RealClock)).await.unwrap();
    disk.state().failing_writes = 1;
    let opened = ledger.open(&record(1)).await.unwrap();
    ledger.close(opened, &completed(&record(1)));
    disk.state().failing_writes = 1;
    let opened = ledger.open(&record(2)).await.unwrap();
    disk.state().failing_writes = 1;
    ledger.close(opened, &completed(&record(2)));
    ledger.flush().await;
    let items = items(directory.path());
    assert_eq!((items.len(), &items[0]["outcome"]), (1, &"completed".into()));
    assert_eq!(ledger.status().unrecorded_total, 1);
}

#[tokio::test]
async fn ends_beyond_those_that_are_kept_in_memory_are_counted() {
    let directory = tempfile::tempdir().unwrap();
    let disk = Arc::new(TestDisk::default());
    let ledger = start(directory.path(), &disk).await;
    let mut opened = Vec::new();
    for number in 0..8200 {
        opened.push((ledger.open(&record(number)).await.unwrap(), record(number)));
    }
    disk.state().failing_writes = u32::MAX;
    for (opened, record) in opened {
        ledger.close(opened, &completed(&record));
    }
    let lost = ledger.status().unrecorded_total;
    assert!((1..=8).contains(&lost), "{lost}");
    disk.state().failing_writes = 0;
    ledger.flush().await;
    ledger.flush().await;
    assert_eq!(items(directory.path()).len() as u64, 8200 - lost);
}
