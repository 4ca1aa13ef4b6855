//! A start with a ledger that can take nothing: on a full disk, or at its bound.

use std::sync::Arc;
use std::time::Duration;

use super::disk::TestDisk;
use super::{completed, record, settings, start_on};
use crate::config::{Durability, OnFull};
use crate::ledger::Ledger;
use crate::ledger::state_dir::StateDir;

const NO_SPACE: i32 = rustix::io::Errno::NOSPC.raw_os_error();

async fn serve(ledger: &Ledger, number: u64) {
    let record = record(number);
    let opened = ledger.open(&record).await.unwrap();
    ledger.close(opened, &completed(&record));
}

/// Until the ledger finds out by itself.
async fn until_writable(ledger: &Ledger) {
    let waited = tokio::time::timeout(Duration::from_secs(60), async {
        while !ledger.status().ledger_writable {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    waited.await.expect("it takes records again");
}

#[tokio::test]
async fn a_start_on_a_full_disk_says_so_before_the_first_request() {
    let directory = tempfile::tempdir().unwrap();
    let disk = Arc::new(TestDisk::default());
    disk.state().reserve_error = Some(NO_SPACE);
    let ledger = start_on(directory.path(), disk.clone()).await;
    let status = ledger.status();
    assert!(!status.ledger_writable);
    assert!(status.last_error.as_ref().is_some_and(|error| error.contains("No space left")), "{status:?}");
    assert_eq!((status.failures_total, status.unrecorded_total), (1, 0));

    disk.state().reserve_error = None;
    until_writable(&ledger).await;
    serve(&ledger, 1).await;
    assert_eq!(ledger.status().last_error, None);
}

#[tokio::test]
async fn a_start_with_a_ledger_at_its_bound_says_so_before_the_first_request() {
    let directory = tempfile::tempdir().unwrap();
    let wide = settings(directory.path(), Durability::Process);
    let ledger = Ledger::start(&wide).await.unwrap();
    assert_eq!((ledger.status().ledger_writable, ledger.status().failures_total), (true, 0));
    for number in 0..10 {
        serve(&ledger, number).await;
    }
    drop(ledger);
    let bytes = 1_000;
    for (on_full, takes) in [(OnFull::Deny, false), (OnFull::Prune, true)] {
        let narrow = settings::Audit { max_ledger_bytes: bytes, on_full, ..wide.clone() };
        let ledger = Ledger::start(&narrow).await.unwrap();
        let status = ledger.status();
        assert_eq!(status.ledger_writable, takes, "{on_full:?}: {status:?}");
        let says = status.last_error.is_some_and(|error| error.contains("audit.max_ledger_bytes is 1000"));
        assert_eq!(says, !takes);
        if !takes {
            ledger.apply(&wide);
            until_writable(&ledger).await;
        }
    }
}

#[tokio::test]
async fn a_reload_below_what_is_kept_says_so_before_the_next_request() {
    let directory = tempfile::tempdir().unwrap();
    let wide = settings(directory.path(), Durability::Process);
    let ledger = Ledger::start(&wide).await.unwrap();
    for number in 0..10 {
        serve(&ledger, number).await;
    }
    ledger.apply(&settings::Audit { max_ledger_bytes: 1_000, ..wide.clone() });
    assert!(!ledger.status().ledger_writable);
    ledger.apply(&wide);
    until_writable(&ledger).await;
}

#[tokio::test]
async fn starts_that_serve_nobody_leave_one_journal_file() {
    for durability in [Durability::Process, Durability::Disk] {
        let directory = tempfile::tempdir().unwrap();
        let settings = settings(directory.path(), durability);
        for number in 0..5 {
            let ledger = Ledger::start(&settings).await.unwrap();
            if number == 0 {
                serve(&ledger, number).await;
            }
            ledger.flush().await;
            drop(ledger);
            assert_eq!(directory.path().join("journal").read_dir().unwrap().count(), 1, "{durability:?}, {number}");
        }
    }
}

/// The next start has to know that the ledger was in use, once records may be lost that nobody has flushed.
#[tokio::test]
async fn a_mark_that_could_not_be_set_at_the_start_is_set_with_the_first_record() {
    let directory = tempfile::tempdir().unwrap();
    let state_dir = StateDir { root: directory.path().to_owned() };
    let beside = state_dir.running_mark().with_extension("new");
    std::fs::create_dir(&beside).unwrap();
    let ledger = Ledger::start(&settings(directory.path(), Durability::Process)).await.unwrap();
    ledger.flush().await;
    assert!(!state_dir.running_mark().exists());
    std::fs::remove_dir(&beside).unwrap();
    serve(&ledger, 1).await;
    ledger.flush().await;
    assert!(state_dir.running_mark().exists());
}
