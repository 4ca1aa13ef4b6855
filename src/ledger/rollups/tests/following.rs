//! The task that follows a ledger's index.

use std::sync::Arc;

use super::super::follow;
use super::*;
use crate::ledger::Ledger;
use crate::ledger::clock::now_ms;
use crate::record::{Outcome, Record};
use crate::settings;

fn settings(directory: &Path) -> settings::Audit {
    let mut settings = settings::Settings::built_in().unwrap().audit;
    settings.state_dir = Some(directory.to_owned());
    settings.table = None;
    settings
}

fn note(ledger: &Ledger) {
    ledger.note(&Record {
        request_id: "r".to_owned(),
        started_ms: now_ms(),
        operation: "Converse".into(),
        outcome: Outcome::Completed,
        ..Record::default()
    });
}

/// Waits until so many requests are counted.
async fn counts(path: &Path, expected: i64) {
    let requests = || -> Option<i64> {
        let db = Connection::open_with_flags(path, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY).ok()?;
        db.query_row("SELECT sum(requests) FROM sums WHERE step = 3600", [], |row| row.get(0)).ok()
    };
    let begun = std::time::Instant::now();
    while requests() != Some(expected) {
        assert!(begun.elapsed() < Duration::from_secs(30), "{expected} are not counted");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_fill_a_part_of_the_ledger_are_counted_before_they_may_be_deleted() {
    let directory = tempfile::tempdir().unwrap();
    let mut settings = settings(directory.path());
    settings.max_ledger_bytes = 128 << 10;
    let ledger = Ledger::start(&settings).await.unwrap();
    let rollups = Arc::new(Rollups::new(&ledger.core.state_dir));
    let hour = Duration::from_secs(3_600);
    let following = tokio::spawn(follow(ledger.core.clone(), rollups, ledger.progress(), hour));
    (0..17).for_each(|_| note(&ledger));
    counts(&directory.path().join("rollups.db"), 17).await;
    drop(ledger);
    tokio::time::timeout(Duration::from_secs(30), following).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn new_records_are_counted_by_themselves_and_nothing_wakes_where_there_are_none() {
    const INTERVAL: Duration = Duration::from_millis(50);
    let directory = tempfile::tempdir().unwrap();
    let ledger = Ledger::start(&settings(directory.path())).await.unwrap();
    let rollups = Arc::new(Rollups::new(&ledger.core.state_dir));
    let following = tokio::spawn(follow(ledger.core.clone(), rollups, ledger.progress(), INTERVAL));
    let path = directory.path().join("rollups.db");
    let counts = async |expected| counts(&path, expected).await;
    note(&ledger);
    counts(1).await;
    // It may just have begun with what the flush tells.
    ledger.flush().await;
    tokio::time::sleep(10 * INTERVAL).await;

    // Whatever counts makes the file anew.
    std::fs::remove_file(&path).unwrap();
    tokio::time::sleep(20 * INTERVAL).await;
    assert!(!path.exists(), "nothing was new");
    note(&ledger);
    counts(2).await;
    drop(ledger);
    tokio::time::timeout(Duration::from_secs(30), following).await.unwrap().unwrap();
}
