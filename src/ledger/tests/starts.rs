//! What a start makes of the way the last process has ended: the chain goes on where that is certain to be right, and the
//! next record says what happened.

use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use tempfile::TempDir;

use super::disk::TestDisk;
use super::{completed, items, record, settings, start_on};
use crate::config::Durability;
use crate::ledger::Ledger;
use crate::ledger::clock::RealClock;
use crate::ledger::state_dir::StateDir;
use crate::record::Record;

async fn start(directory: &Path) -> Arc<Ledger> {
    start_on(directory, Arc::new(TestDisk::default())).await
}

async fn serve(ledger: &Ledger, number: u64) {
    let record = record(number);
    let opened = ledger.open(&record).await.unwrap();
    ledger.close(opened, &completed(&record));
}

/// What a kill at this moment would leave.
async fn killed(ledger: &Ledger, directory: &Path) -> TempDir {
    ledger.flush().await;
    let copy = tempfile::tempdir().unwrap();
    std::fs::create_dir(copy.path().join("journal")).unwrap();
    for folder in ["", "journal"] {
        for entry in directory.join(folder).read_dir().unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_file() && entry.file_name() != "ledger.db-shm" {
                std::fs::copy(entry.path(), copy.path().join(folder).join(entry.file_name())).unwrap();
            }
        }
    }
    copy
}

fn says_unclean(items: &[Value]) -> Vec<bool> {
    items.iter().map(|item| item.get("afterUncleanStop") == Some(&Value::Bool(true))).collect()
}

/// Cuts the newest journal file so that its last ends are lost and its last entry is torn.
fn tear_journal(directory: &Path) {
    let mut files: Vec<_> = directory.join("journal").read_dir().unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    let file = files.pop().unwrap();
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() - 5_001]).unwrap();
}

#[tokio::test]
async fn no_place_in_the_chain_is_given_twice_when_journal_and_database_are_both_faulty() {
    for damage in ["the whole database", "its chains"] {
        let directory = tempfile::tempdir().unwrap();
        let ledger = start(directory.path()).await;
        for number in 0..50 {
            serve(&ledger, number).await;
        }
        let chain_id = ledger.core.chain_id.clone();
        let left = killed(&ledger, directory.path()).await;
        tear_journal(left.path());
        let database = left.path().join("ledger.db");
        if damage == "its chains" {
            let db = rusqlite::Connection::open(&database).unwrap();
            db.execute_batch("PRAGMA foreign_keys = OFF; DROP TABLE chains").unwrap();
        } else {
            std::fs::write(&database, vec![0x5A; 100_000]).unwrap();
            std::fs::remove_file(left.path().join("ledger.db-wal")).unwrap();
        }
        let again = start(left.path()).await;
        let new_chain = again.core.chain_id.clone();
        assert_ne!(new_chain, chain_id, "{damage}");
        // Nothing was recorded yet; the next start goes on with the new chain all the same.
        drop(again);
        assert_eq!(start(left.path()).await.core.chain_id, new_chain, "{damage}");
    }
}

#[tokio::test]
async fn a_sound_journal_goes_on_with_its_chain_though_the_database_is_lost() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = start(directory.path()).await;
    for number in 0..5 {
        serve(&ledger, number).await;
    }
    let left = killed(&ledger, directory.path()).await;
    std::fs::write(left.path().join("ledger.db"), vec![0x5A; 100_000]).unwrap();
    let again = start(left.path()).await;
    assert_eq!(again.core.chain_id, ledger.core.chain_id);
}

#[tokio::test]
async fn after_the_host_went_down_the_chain_is_a_new_one() {
    for (durability, goes_on) in [(Durability::Process, false), (Durability::Disk, true)] {
        let directory = tempfile::tempdir().unwrap();
        let settings = settings(directory.path(), durability);
        let ledger = Ledger::start(&settings).await.unwrap();
        serve(&ledger, 0).await;
        let chain_id = ledger.core.chain_id.clone();
        drop(ledger);
        let mark = StateDir { root: directory.path().to_owned() }.running_mark();
        assert!(!mark.exists(), "an orderly stop");
        std::fs::write(&mark, "another boot\n").unwrap();
        let ledger = Ledger::start(&settings).await.unwrap();
        assert_eq!(ledger.core.chain_id == chain_id, goes_on, "{durability:?}");
        serve(&ledger, 1).await;
        ledger.flush().await;
        assert_eq!(says_unclean(&items(directory.path())), [false, true]);
    }
}

#[tokio::test]
async fn after_a_second_loss_of_power_the_end_of_the_chain_with_records_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let settings = settings(directory.path(), Durability::Process);
    let mark = StateDir { root: directory.path().to_owned() }.running_mark();
    let ledger = Ledger::start(&settings).await.unwrap();
    serve(&ledger, 0).await;
    let chain_id = ledger.core.chain_id.clone();
    drop(ledger);
    for _ in 0..2 {
        std::fs::write(&mark, "another boot\n").unwrap();
        let ledger = Ledger::start(&settings).await.unwrap();
        assert_ne!(ledger.core.chain_id, chain_id);
    }
    std::fs::write(&mark, "another boot\n").unwrap();
    let ledger = Ledger::start(&settings).await.unwrap();
    ledger.begin_chain(&record(1));
    ledger.flush().await;
    let start = &items(directory.path())[1];
    assert_eq!((&start["formerChainId"], &start["formerChainSeq"]), (&chain_id.into(), &1.into()), "{start}");
}

#[tokio::test]
async fn a_stop_whose_last_flush_fails_is_not_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let mark = StateDir { root: directory.path().to_owned() }.running_mark();
    for (failing, is_marked) in [(1_000, true), (0, false)] {
        let disk = Arc::new(TestDisk::default());
        let settings = settings(directory.path(), Durability::Process);
        let ledger = Ledger::start_on(&settings, None, disk.clone(), Arc::new(RealClock)).await.unwrap();
        serve(&ledger, failing).await;
        disk.state().failing_syncs = u32::try_from(failing).unwrap();
        drop(ledger);
        assert_eq!(mark.exists(), is_marked);
    }
}

#[tokio::test]
async fn an_orderly_stop_settles_that_the_one_before_was_a_kill() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = start(directory.path()).await;
    serve(&ledger, 0).await;
    let left = killed(&ledger, directory.path()).await;
    drop(start(left.path()).await);
    let mark = std::fs::read_to_string(StateDir { root: left.path().to_owned() }.running_mark()).unwrap();
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    assert_ne!(mark, boot, "the boot is no matter after an orderly stop");
    let again = start(left.path()).await;
    assert_eq!(again.core.chain_id, ledger.core.chain_id);
    serve(&again, 1).await;
    again.flush().await;
    assert_eq!(says_unclean(&items(left.path())), [false, true]);
}

#[tokio::test]
async fn the_first_record_after_a_kill_says_so_and_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = start(directory.path()).await;
    serve(&ledger, 0).await;
    let left = killed(&ledger, directory.path()).await;

    // Nobody asks anything, so that no record can say it; the start after the next has to.
    let again = start(left.path()).await;
    drop(again);
    let again = start(left.path()).await;
    serve(&again, 1).await;
    serve(&again, 2).await;
    drop(again);
    let again = start(left.path()).await;
    serve(&again, 3).await;
    again.flush().await;
    assert_eq!(says_unclean(&items(left.path())), [false, true, false, false]);
}

#[tokio::test]
async fn of_interrupted_requests_the_first_says_that_the_stop_was_not_orderly() {
    let directory = tempfile::tempdir().unwrap();
    let disk = Arc::new(TestDisk::default());
    let ledger = start_on(directory.path(), disk.clone()).await;
    let _open = [ledger.open(&record(1)).await.unwrap(), ledger.open(&record(2)).await.unwrap()];
    let left = killed(&ledger, directory.path()).await;
    let again = start(left.path()).await;
    serve(&again, 3).await;
    again.flush().await;
    let items = items(left.path());
    assert_eq!((&items[0]["outcome"], &items[2]["outcome"]), (&"interrupted".into(), &"completed".into()));
    assert_eq!(says_unclean(&items), [true, false, false]);

    // If that record cannot be written, it is the next that says it.
    let left = killed(&ledger, directory.path()).await;
    let disk = Arc::new(TestDisk::default());
    disk.state().failing_writes = 1;
    let again = start_on(left.path(), disk.clone()).await;
    again.flush().await;
    again.flush().await;
    let items = super::items(left.path());
    assert_eq!(says_unclean(&items).iter().filter(|says| **says).count(), 1, "{items:?}");
}

#[tokio::test]
async fn interrupted_records_say_how_far_their_requests_had_come() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = start(directory.path()).await;
    let first = Record { attempts: 1, destination_region: "us-east-1".into(), ..record(1) };
    let second = Record {
        attempts: 3,
        destination_region: "us-west-2".into(),
        inference_profile_used: Some("us.anthropic.claude-sonnet-4".into()),
        ..first.clone()
    };
    let opened = ledger.open(&first).await.unwrap();
    ledger.amend(&opened, &second);
    let ended = ledger.open(&Record { attempts: 1, ..record(2) }).await.unwrap();
    ledger.amend(&ended, &Record { attempts: 2, ..record(2) });
    ledger.close(ended, &Record { attempts: 2, ..completed(&record(2)) });
    // A new file of the journal repeats what is open, as it is by then.
    for number in 10..20_000 {
        serve(&ledger, number).await;
    }
    let left = killed(&ledger, directory.path()).await;
    let again = start(left.path()).await;
    again.flush().await;
    let items: Vec<_> = items(left.path()).into_iter().filter(|item| item["outcome"] == "interrupted").collect();
    assert_eq!(items.len(), 1, "{items:?}");
    assert_eq!(items[0]["attempts"], 3);
    assert_eq!(items[0]["destinationRegion"], "us-west-2");
    assert_eq!(items[0]["inferenceProfileUsed"], "us.anthropic.claude-sonnet-4");
}
