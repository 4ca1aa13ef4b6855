//! The task that follows a ledger's index.

use std::sync::Arc;

use super::*;
use crate::ledger::Ledger;
use crate::ledger::clock::now_ms;
use crate::record::{Outcome, Record};
use crate::settings;

async fn started(directory: &Path) -> Arc<Ledger> {
    let mut settings = settings::Settings::built_in().unwrap().audit;
    settings.state_dir = Some(directory.to_owned());
    settings.table = None;
    Ledger::start(&settings).await.unwrap()
}

fn note(ledger: &Ledger) {
    ledger.note(&Record {
        request_id: "r".to_owned(),
        started_ms: now_ms(),
        operation: "Converse".to_owned(),
        outcome: Outcome::Completed,
        ..Record::default()
    });
}

/// The clock goes on by itself while nothing runs.
async fn minutes(count: u64) {
    tokio::time::sleep(Duration::from_secs(60 * count + 1)).await;
}

#[tokio::test(start_paused = true)]
async fn new_records_are_counted_by_themselves_and_nothing_wakes_where_there_are_none() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = started(directory.path()).await;
    let path = directory.path().join("rollups.db");
    let requests = || sum(&counted(&path, Resolution::HOUR), REQUESTS);
    note(&ledger);
    ledger.flush().await;
    minutes(2).await;
    assert_eq!(requests(), 1);

    // Whatever counts makes the file anew.
    std::fs::remove_file(&path).unwrap();
    minutes(60).await;
    assert!(!path.exists(), "nothing was new");
    note(&ledger);
    ledger.flush().await;
    minutes(2).await;
    assert_eq!(requests(), 2);
}
