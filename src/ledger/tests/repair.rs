//! How the ledger gets over what fails while it runs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::disk::TestDisk;
use super::{completed, items, record, settings, start_on};
use crate::config::Durability;
use crate::ledger::Ledger;
use crate::ledger::index::IndexError;

#[tokio::test]
async fn whether_requests_can_be_recorded_again_is_known_within_a_second() {
    let directory = tempfile::tempdir().unwrap();
    let disk = Arc::new(TestDisk::default());
    let ledger = start_on(directory.path(), disk.clone()).await;
    // The writer has nothing to do now for a minute.
    ledger.flush().await;
    disk.state().failing_writes = 1;
    assert!(ledger.open(&record(1)).await.is_err());
    let begun = Instant::now();
    while !ledger.status().ledger_writable {
        assert!(begun.elapsed() < Duration::from_secs(5), "nobody has tried again");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_database_that_fails_is_tried_once_a_second_however_many_requests_end() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = Ledger::start(&settings(directory.path(), Durability::Process)).await.unwrap();
    ledger.flush().await;
    let db = rusqlite::Connection::open(directory.path().join("ledger.db")).unwrap();
    db.execute_batch("ALTER TABLE records RENAME TO hidden").unwrap();
    let begun = Instant::now();
    for number in 0..200 {
        let opened = ledger.open(&record(number)).await.unwrap();
        ledger.close(opened, &completed(&record(number)));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let failures = ledger.status().failures_total;
    assert!(failures > 0, "the test makes nothing fail");
    assert!(failures <= 2 + begun.elapsed().as_secs(), "{failures} attempts in {:?}", begun.elapsed());
    db.execute_batch("ALTER TABLE hidden RENAME TO records").unwrap();
    ledger.flush().await;
    ledger.flush().await;
    assert_eq!(items(directory.path()).len(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_is_counted_once_though_the_database_is_rebuilt_meanwhile() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = Ledger::start(&settings(directory.path(), Durability::Process)).await.unwrap();
    let load: Vec<_> = (0..4)
        .map(|worker| {
            let ledger = ledger.clone();
            std::thread::spawn(move || {
                for number in 0..1_000 {
                    let record = record(worker * 1_000 + number);
                    let opened = ledger.begin(&record).unwrap();
                    ledger.close(opened, &completed(&record));
                }
            })
        })
        .collect();
    for _ in 0..5 {
        let corrupt = rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT), None);
        ledger.report_damage(IndexError::Sqlite(corrupt));
        ledger.flush().await;
    }
    for worker in load {
        worker.join().unwrap();
    }
    ledger.flush().await;
    let items = items(directory.path());
    assert_eq!(items.len(), 4_000);
    let bytes: u64 = items.iter().map(|item| item.to_string().len() as u64).sum();
    assert_eq!(ledger.status().bytes, bytes);
    assert_eq!(ledger.core.counts.pending.load(std::sync::atomic::Ordering::Relaxed), 4_000);
}

#[tokio::test]
async fn nobody_waits_for_a_flush_that_will_not_come() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = Ledger::start(&settings(directory.path(), Durability::Disk)).await.unwrap();
    ledger.stop(Instant::now() + Duration::from_secs(10)).await;
    let opened = ledger.begin(&record(1)).unwrap();
    let waited = tokio::time::timeout(Duration::from_secs(10), ledger.wait_until_durable(&opened)).await;
    let refusal = waited.expect("it waits for ever").unwrap_err();
    assert!(refusal.message.contains("has ended"), "{}", refusal.message);
    ledger.close(opened, &record(1));
}
