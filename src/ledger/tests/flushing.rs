//! What is promised to be on the disk is there, also when a flush fails.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::disk::{Files, TestDisk};
use super::{completed, items, record, settings};
use crate::config::Durability;
use crate::ledger::Ledger;
use crate::ledger::chain::Chain;
use crate::ledger::clock::RealClock;
use crate::ledger::item::Draft;
use crate::ledger::journal::Journal;
use crate::ledger::journal::disk::Disk;
use crate::ledger::journal::frame::{Frame, FrameKind};
use crate::ledger::journal::read::Position;
use crate::ledger::recovery::recover;
use crate::ledger::state_dir::StateDir;
use crate::record::{Outcome, Record};

async fn start(directory: &Path, durability: Durability, disk: &Arc<TestDisk>) -> Arc<Ledger> {
    Ledger::start_on(&settings(directory, durability), None, disk.clone(), Arc::new(RealClock)).await.unwrap()
}

/// What a ledger says that starts on these journal files and the database of `root`.
async fn restarted(root: &Path, files: &Files) -> Vec<serde_json::Value> {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("journal")).unwrap();
    for name in ["ledger.db", "ledger.db-wal"] {
        std::fs::copy(root.join(name), directory.path().join(name)).unwrap();
    }
    for (path, bytes) in files {
        std::fs::write(directory.path().join("journal").join(path.file_name().unwrap()), bytes).unwrap();
    }
    let ledger = Ledger::start(&settings(directory.path(), Durability::Process)).await.unwrap();
    ledger.flush().await;
    items(directory.path())
}

#[tokio::test]
async fn with_disk_an_opening_outlives_a_loss_of_power() {
    let directory = tempfile::tempdir().unwrap();
    let disk = Arc::new(TestDisk::default());
    let ledger = start(directory.path(), Durability::Disk, &disk).await;
    for number in 0..20 {
        let record = record(number);
        let opened = ledger.open(&record).await.unwrap();
        let left = disk.after_power_loss(directory.path(), |_| 0);
        let bytes: Vec<u8> = left.into_values().flatten().collect();
        assert!(memchr::memmem::find(&bytes, format!("\"request-{number}\"").as_bytes()).is_some());
        ledger.close(opened, &completed(&record));
    }
}

#[tokio::test]
async fn the_index_is_never_ahead_of_what_is_on_the_disk() {
    for durability in [Durability::Process, Durability::Disk] {
        let directory = tempfile::tempdir().unwrap();
        let disk = Arc::new(TestDisk::default());
        let ledger = start(directory.path(), durability, &disk).await;
        let mut checkpointed = false;
        for number in 0..6000 {
            let record = record(number);
            let opened = ledger.begin(&record).unwrap();
            ledger.close(opened, &completed(&record));
            if number % 500 != 499 {
                continue;
            }
            ledger.flush().await;
            // The write-ahead log itself is flushed at each commit only with "disk".
            let copy = tempfile::tempdir().unwrap();
            let suffixes: &[&str] = if durability == Durability::Disk { &["", "-wal"] } else { &[""] };
            for suffix in suffixes {
                let name = format!("ledger.db{suffix}");
                std::fs::copy(directory.path().join(&name), copy.path().join(&name)).unwrap();
            }
            let db = rusqlite::Connection::open(copy.path().join("ledger.db")).unwrap();
            let position: rusqlite::Result<(i64, i64)> =
                db.query_row("SELECT segment, offset FROM state", [], |row| Ok((row.get(0)?, row.get(1)?)));
            let Ok((segment, offset)) = position else { continue };
            let position = Position { segment: segment.cast_unsigned(), offset: offset.cast_unsigned() };
            checkpointed |= segment > 0;
            assert!(disk.has_up_to(directory.path(), position), "{durability:?}, after {number}");
        }
        assert!(checkpointed, "{durability:?}: the write-ahead log grows for ever");
    }
}

/// Notes how many records the index had whenever a file of the journal was flushed that was found at the start.
#[derive(Debug)]
struct Watching {
    root: PathBuf,
    /// By inode.
    found: Vec<u64>,
    indexed: Mutex<Vec<usize>>,
}

impl Disk for Watching {
    fn sync(&self, file: &File) -> io::Result<()> {
        if self.found.contains(&file.metadata()?.ino()) {
            self.indexed.lock().unwrap().push(items(&self.root).len());
        }
        Ok(())
    }
}

#[tokio::test]
async fn what_an_earlier_process_has_left_is_flushed_before_the_index_has_it() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = start(directory.path(), Durability::Process, &Arc::default()).await;
    for number in 0..5 {
        let record = record(number);
        ledger.close(ledger.open(&record).await.unwrap(), &completed(&record));
    }
    // A kill has left the journal, and nobody knows how much of it is on the disk.
    let left = tempfile::tempdir().unwrap();
    std::fs::create_dir(left.path().join("journal")).unwrap();
    let mut found = Vec::new();
    for file in directory.path().join("journal").read_dir().unwrap() {
        let file = file.unwrap();
        let copy = left.path().join("journal").join(file.file_name());
        std::fs::copy(file.path(), &copy).unwrap();
        found.push(copy.metadata().unwrap().ino());
    }
    let disk = Arc::new(Watching { root: left.path().to_owned(), found, indexed: Mutex::default() });
    let settings = settings(left.path(), Durability::Disk);
    let ledger = Ledger::start_on(&settings, None, disk.clone(), Arc::new(RealClock)).await.unwrap();
    ledger.flush().await;
    assert_eq!(items(left.path()).len(), 5);
    assert_eq!(disk.indexed.lock().unwrap().first(), Some(&0));
}

#[tokio::test]
async fn what_a_failed_flush_put_at_risk_is_written_again() {
    for failing in 1..4 {
        let directory = tempfile::tempdir().unwrap();
        let disk = Arc::new(TestDisk::default());
        let ledger = start(directory.path(), Durability::Disk, &disk).await;
        let (mut refused, mut never_begun) = (0, 0);
        for number in 0..30 {
            if number % 10 == 5 {
                disk.state().failing_syncs = failing;
            }
            let record = record(number);
            let Ok(opened) = ledger.begin(&record) else {
                never_begun += 1;
                continue;
            };
            let ended = match ledger.wait_until_durable(&opened).await {
                Ok(()) => completed(&record),
                Err(refusal) => {
                    assert_eq!(refusal.kind.status(), 503);
                    refused += 1;
                    Record { outcome: Outcome::Refused, ..record }
                }
            };
            ledger.close(opened, &ended);
        }
        disk.state().failing_syncs = 0;
        ledger.flush().await;
        assert!(ledger.status().failures_total > 0);
        let ends = restarted(directory.path(), &disk.after_power_loss(directory.path(), |_| 0)).await;
        assert_eq!(ends.len(), 30 - never_begun, "one record for each, {failing} failures at a time");
        assert_eq!(ends.iter().filter(|item| item["outcome"] == "refused").count(), refused);
        assert!(ends.iter().all(|item| item["outcome"] != "interrupted"));
        assert_eq!(items(directory.path()), ends);
    }
}

fn draft(number: usize) -> Draft {
    let before = format!("{{\"chainId\":\"{}\",\"chainSeq\":", "c".repeat(8));
    let bytes = format!("{before},\"hostId\":\"host\",\"requestId\":\"{number}\"}}").into_bytes();
    Draft { bytes, seq_at: before.len() }
}

#[test]
fn a_file_that_was_finished_unflushed_is_flushed_with_the_next() {
    let directory = tempfile::tempdir().unwrap();
    let state_dir = StateDir { root: directory.path().to_owned() };
    std::fs::create_dir(state_dir.journal()).unwrap();
    let disk = Arc::new(TestDisk::default());
    let mut journal = Journal::new(state_dir.journal(), 30_000, false, disk.clone(), 1, Chain::new("host"));
    let first = journal.end();
    for number in 0..500 {
        journal.note(&draft(number)).unwrap();
    }
    assert!(journal.end().segment > first.segment, "no file was finished");
    assert_eq!(journal.durable_end(), first);
    journal.unsynced().sync().unwrap();
    assert_eq!(journal.durable_end(), journal.end());
    assert!(disk.has_up_to(directory.path(), journal.end()));
}

#[test]
fn a_flush_that_fails_when_a_file_is_finished_is_not_forgotten() {
    let directory = tempfile::tempdir().unwrap();
    let state_dir = StateDir { root: directory.path().to_owned() };
    std::fs::create_dir(state_dir.journal()).unwrap();
    let disk = Arc::new(TestDisk::default());
    let mut journal = Journal::new(state_dir.journal(), 30_000, true, disk.clone(), 1, Chain::new("host"));
    let mut complaints = Vec::new();
    for number in 0..500 {
        // Nothing is flushed but a finished file, which fails, and the one that is begun then, which does not.
        disk.state().failing_syncs = u32::from(number > 0);
        let opening = format!("{{\"requestId\":\"{number}\"}}");
        if let Ok((slot, _)) = journal.open(Frame::new(FrameKind::Open, opening.as_bytes())) {
            journal.close(slot, &draft(number)).unwrap();
        }
        complaints.append(&mut journal.take_complaints());
    }
    assert!(!complaints.is_empty(), "no file was finished amid a failure");
    disk.state().failing_syncs = 0;
    journal.unsynced().sync().unwrap();
    let written = recover(&state_dir, Position::default()).unwrap();
    for (path, bytes) in disk.after_power_loss(directory.path(), |_| 0) {
        std::fs::write(path, bytes).unwrap();
    }
    let left = recover(&state_dir, Position::default()).unwrap();
    assert_eq!((left.ends, left.open.len()), (written.ends, 0));
    assert_eq!(left.chain.map(|chain| chain.seq), written.chain.map(|chain| chain.seq));
}

#[tokio::test]
async fn a_write_that_stops_half_way_costs_no_record() {
    let directory = tempfile::tempdir().unwrap();
    let disk = Arc::new(TestDisk::default());
    let ledger = start(directory.path(), Durability::Process, &disk).await;
    for number in 0..20 {
        let record = record(number);
        let opened = ledger.open(&record).await.unwrap();
        disk.state().failing_writes = u32::from(number % 3 == 0);
        ledger.close(opened, &completed(&record));
    }
    ledger.flush().await;
    ledger.flush().await;
    assert_eq!(items(directory.path()).len(), 20);
    assert_eq!(ledger.status().open, 0);
}

#[tokio::test]
async fn whoever_holds_the_opening_writes_the_one_end_whatever_the_flush_says() {
    let directory = tempfile::tempdir().unwrap();
    let disk = Arc::new(TestDisk::default());
    let ledger = start(directory.path(), Durability::Disk, &disk).await;
    let first = record(0);
    ledger.close(ledger.open(&first).await.unwrap(), &completed(&first));
    let record = record(1);
    let opened = ledger.begin(&record).unwrap();
    disk.state().failing_syncs = 1000;
    assert!(ledger.wait_until_durable(&opened).await.is_err());
    ledger.close(opened, &Record { outcome: Outcome::Refused, status_code: 503, ..record });
    disk.state().failing_syncs = 0;
    ledger.flush().await;
    ledger.flush().await;
    let items = items(directory.path());
    assert_eq!(items.len(), 2);
    assert_eq!(items[1]["outcome"], "refused");
}
