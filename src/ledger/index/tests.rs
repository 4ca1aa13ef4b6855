//! The index by itself: rebuilds that are interrupted, migrations, conflicts, and its sums.

use std::path::Path;

use rusqlite::Connection;
use tempfile::TempDir;

use super::prune::PruneRule;
use super::read::conflicts;
use super::rebuild::{Rebuild, Step};
use super::write::{PassedOver, ShippingProgress};
use super::{Index, IndexError, IndexState, recount};
use crate::config::Durability;
use crate::ledger::journal::frame::FrameKind;
use crate::ledger::state_dir::StateDir;
use crate::ledger::timestamp::timestamp;

const NOW_MS: i64 = 1_800_000_000_000;
const DAY_MS: i64 = 86_400_000;

fn state_dir(directory: &Path) -> StateDir {
    StateDir { root: directory.to_owned() }
}

fn open(directory: &Path) -> Index {
    Index::open(&state_dir(directory), Durability::Process).unwrap()
}

/// An end as the journal has it. Those of another `fork` have other hashes.
fn end(seq: u64, fork: char, started_ms: i64) -> Vec<u8> {
    let hash = format!("{fork}{seq:063}");
    let padding = "x".repeat(usize::try_from(seq % 700).unwrap());
    let time = timestamp(started_ms);
    format!(
        r#"{hash}{{"chainId":"c","chainSeq":{seq},"errorMessage":"{padding}","hostId":"h","requestId":"r{seq}{fork}","success":true,"timestamp":"{time}"}}"#
    )
    .into_bytes()
}

fn insert(index: &mut Index, payload: &[u8]) -> PassedOver {
    index.insert(&[(FrameKind::Close, payload)], index.state.position).unwrap()
}

/// 1,000 records, of which 400 were shipped and two set aside, and a conflict.
fn filled(directory: &Path) -> Index {
    let mut index = open(directory);
    for seq in 1..=1_000 {
        insert(&mut index, &end(seq, 'a', NOW_MS));
    }
    insert(&mut index, &end(700, 'b', NOW_MS));
    let aside = |id| ShippingProgress::SetAside { id, reason: format!("reason {id}") };
    index.mark_shipped(&[aside(100), aside(333), ShippingProgress::Until { id: 400, count: 398 }]).unwrap();
    index
}

fn recounted(index: &Index) -> IndexState {
    recount::recount(&index.db, index.state).unwrap()
}

/// All that must not be lost.
#[derive(Debug, PartialEq)]
struct Content {
    records: Vec<(i64, String)>,
    set_aside: Vec<(i64, String)>,
    conflicts: Vec<(i64, String)>,
    chains: Vec<(i64, String)>,
    shipped_id: i64,
    shipped_total: u64,
}

fn content(index: &Index) -> Content {
    let rows = |sql: &str| -> Vec<(i64, String)> {
        let mut select = index.db.prepare(sql).unwrap();
        let rows = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        rows.collect::<Result<_, _>>().unwrap()
    };
    assert_eq!(recounted(index), index.state);
    Content {
        records: rows("SELECT id, hash || item FROM records ORDER BY id"),
        set_aside: rows("SELECT id, reason FROM set_aside ORDER BY id"),
        conflicts: rows("SELECT seq, hash || item || started_ms FROM conflicts ORDER BY id"),
        chains: rows("SELECT anchor_seq, anchor_hash || head_seq || head_hash FROM chains ORDER BY id"),
        shipped_id: index.state.shipped_id,
        shipped_total: index.state.shipped_total,
    }
}

fn copy_of(directory: &Path) -> TempDir {
    fn copy(from: &Path, to: &Path) {
        for entry in from.read_dir().unwrap() {
            let (path, to) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
            if path.is_dir() {
                std::fs::create_dir(&to).unwrap();
                copy(&path, &to);
            } else {
                std::fs::copy(&path, &to).unwrap();
            }
        }
    }
    let to = tempfile::tempdir().unwrap();
    copy(directory, to.path());
    to
}

#[test]
fn a_rebuild_that_is_killed_at_any_step_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let index = filled(directory.path());
    let expected = content(&index);
    assert_eq!((expected.set_aside.len(), expected.conflicts.len()), (2, 1));
    // What is in the write-ahead log alone counts too.
    index.close_without_checkpoint();
    drop(index);
    assert!(directory.path().join("ledger.db-wal").metadata().unwrap().len() > 0);

    let mut killed: Vec<(Step, TempDir)> = Vec::new();
    let mut at_step = |step| killed.push((step, copy_of(directory.path())));
    let rebuild =
        Rebuild { state_dir: &state_dir(directory.path()), durability: Durability::Process, at_step: &mut at_step };
    let index = rebuild.run(&IndexError::RebuildInterrupted).unwrap();
    assert_eq!(content(&index), expected);
    drop(index);

    for step in [Step::Begun, Step::Copied, Step::Filled, Step::Ready, Step::MovedAside, Step::Replaced] {
        assert!(killed.iter().any(|(taken, _)| *taken == step), "{step:?}");
    }
    for (step, left) in killed {
        // Killed again while the damaged files are moved: the log is left where the new file would take it for its own.
        let moved_in_part = (step == Step::Ready).then(|| copy_of(left.path()));
        if let Some(left) = &moved_in_part {
            std::fs::remove_file(left.path().join("ledger.db")).unwrap();
        }
        for left in [Some(left), moved_in_part].into_iter().flatten() {
            for start in 1..3 {
                let mut index = open(left.path());
                assert_eq!(content(&index), expected, "{step:?}, start {start}");
                assert_eq!(index.take_incidents(), Vec::<String>::new());
            }
            let names = left.path().read_dir().unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
            let mut names: Vec<String> = names.filter(|name| name.starts_with("ledger.db.")).collect();
            names.sort();
            assert_eq!(names, Vec::<String>::new(), "{step:?}");
        }
    }
}

#[test]
fn a_rebuild_for_which_there_is_no_room_leaves_the_damaged_file_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let index = filled(directory.path());
    let expected = content(&index);
    drop(index);
    let state_dir = state_dir(directory.path());
    // A directory is in the way of the new file's name.
    std::fs::create_dir(directory.path().join("ledger.db.new-wal")).unwrap();
    Index::rebuild(&state_dir, Durability::Process, &IndexError::RebuildInterrupted).unwrap_err();
    std::fs::remove_dir(directory.path().join("ledger.db.new-wal")).unwrap();
    assert!(!state_dir.corrupt().exists());
    assert_eq!(content(&open(directory.path())), expected);
}

#[test]
fn what_cannot_be_read_is_told_and_counted_and_the_rest_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let index = filled(directory.path());
    let before = content(&index);
    drop(index);
    let database = directory.path().join("ledger.db");
    let mut bytes = std::fs::read(&database).unwrap();
    let middle = bytes.len() / 2 / 4096 * 4096;
    // 13 marks a leaf of a table.
    let page = (middle..bytes.len()).step_by(4096).find(|page| bytes[*page] == 13).unwrap();
    bytes[page..page + 4096].fill(0x5A);
    std::fs::write(&database, &bytes).unwrap();
    let mut index =
        Index::rebuild(&state_dir(directory.path()), Durability::Process, &IndexError::RebuildInterrupted).unwrap();
    let after = content(&index);
    let lost = before.records.len() - after.records.len();
    // No more than what was on that page.
    assert!((1..=15).contains(&lost), "{lost}");
    let incidents = index.take_incidents();
    assert!(
        incidents[0].starts_with(&format!("{lost} records of the damaged database could not be read")),
        "{incidents:?}"
    );
    let is_lost = |record: &String| !after.records.iter().any(|(_, other)| other == record);
    let shipped_lost = before.records.iter().filter(|(id, record)| *id <= before.shipped_id && is_lost(record)).count();
    assert_eq!(after.shipped_id, before.shipped_id - i64::try_from(shipped_lost).unwrap());
    assert_eq!(after.chains, before.chains);
    assert_eq!(after.conflicts, before.conflicts);
}

#[test]
fn a_file_that_is_no_database_is_replaced_and_that_is_told() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("ledger.db"), vec![0x5A; 100_000]).unwrap();
    let mut index = open(directory.path());
    assert_eq!(index.state, IndexState::default());
    let incidents = index.take_incidents();
    assert!(incidents[0].contains("file is not a database"), "{incidents:?}");
    assert_eq!(state_dir(directory.path()).corrupt().read_dir().unwrap().count(), 1);
}

/// A database as the first version wrote it, with second records for some places.
fn first_version(directory: &Path) {
    let db = Connection::open(directory.join("ledger.db")).unwrap();
    db.execute_batch(include_str!("schema.sql")).unwrap();
    db.execute_batch("INSERT INTO chains VALUES (1, 'c', 'h', 0, '', 6, 'x')").unwrap();
    let rows: [(i64, i64, char); 10] = [
        (11, 1, 'a'),
        (12, 2, 'a'),
        (13, 2, 'b'),
        (14, 3, 'a'),
        (15, 4, 'a'),
        (16, 4, 'b'),
        (17, 5, 'a'),
        (18, 6, 'a'),
        (19, 6, 'b'),
        (20, 6, 'd'),
    ];
    for (id, seq, fork) in rows {
        let payload = String::from_utf8(end(seq.cast_unsigned(), fork, NOW_MS)).unwrap();
        let (hash, item) = payload.split_at(64);
        db.execute(
            "INSERT INTO records VALUES (?1, 1, ?2, ?3, 1, NULL, NULL, '', ?4, ?5)",
            (id, seq, NOW_MS, hash, item),
        )
        .unwrap();
    }
    db.execute_batch(
        "INSERT INTO set_aside VALUES (13, 'gone'), (14, 'stays');
         UPDATE state SET last_id = 20, shipped_id = 15, unshipped_bytes = 12345, kept_bytes = 1234567;
         PRAGMA user_version = 1;",
    )
    .unwrap();
}

#[test]
fn a_migration_that_takes_records_out_counts_the_rest_anew() {
    let directory = tempfile::tempdir().unwrap();
    first_version(directory.path());
    let index = open(directory.path());
    let content = content(&index);
    assert_eq!(content.records.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [11, 12, 13, 14, 15, 16]);
    assert_eq!((index.state.last_id, index.state.shipped_id), (16, 14));
    assert_eq!(content.set_aside, [(13, "stays".to_owned())]);
    let conflicts: Vec<&str> = content.conflicts.iter().map(|(_, text)| &text[..1]).collect();
    assert_eq!(conflicts, ["b", "b", "b", "d"]);
    assert!(content.conflicts.iter().all(|(_, text)| text.ends_with(&NOW_MS.to_string())), "each has its date");
}

#[test]
fn what_was_pruned_on_its_way_to_the_table_is_not_subtracted_twice() {
    let directory = tempfile::tempdir().unwrap();
    let mut index = open(directory.path());
    for seq in 1..=100 {
        insert(&mut index, &end(seq, 'a', NOW_MS));
    }
    let rule = PruneRule {
        now_ms: NOW_MS,
        before_ms: 0,
        max_bytes: u64::MAX,
        max_unshipped_bytes: Some(index.state.unshipped_bytes / 2),
        local_only: false,
    };
    let pruned = index.prune(rule).unwrap();
    assert!((50..90).contains(&pruned.unshipped), "{pruned:?}");
    // The batch had been sent before.
    index.mark_shipped(&[ShippingProgress::Until { id: 95, count: 95 }]).unwrap();
    index.mark_shipped(&[ShippingProgress::SetAside { id: 1, reason: "late".to_owned() }]).unwrap();
    assert_eq!(recounted(&index), index.state);
    assert!(index.state.unshipped_bytes > 0);
    assert_eq!(index.set_aside_count().unwrap(), 0);
}

#[test]
fn a_conflict_is_counted_and_goes_with_its_time_or_its_place() {
    let rule = |before_ms, max_unshipped_bytes| PruneRule {
        now_ms: NOW_MS,
        before_ms,
        max_bytes: u64::MAX,
        max_unshipped_bytes,
        local_only: true,
    };
    let directory = tempfile::tempdir().unwrap();
    let mut index = open(directory.path());
    for seq in 1..=10 {
        insert(&mut index, &end(seq, 'a', NOW_MS - 5 * DAY_MS));
    }
    let before = index.state.kept_bytes;
    assert_eq!(insert(&mut index, &end(3, 'a', NOW_MS)).repeated, 1, "the hash says that it is the same");
    assert_eq!(index.state.kept_bytes, before);
    for (seq, started_ms) in [(3, NOW_MS - 9 * DAY_MS), (5, NOW_MS), (7, NOW_MS + 90 * DAY_MS)] {
        assert_eq!(insert(&mut index, &end(seq, 'b', started_ms)).conflicts, [seq]);
    }
    assert_eq!((index.set_aside_count().unwrap(), recounted(&index)), (3, index.state));
    assert!(index.state.kept_bytes > before);
    let seqs = |index: &Index| conflicts(&index.db, 9).unwrap().iter().map(|kept| kept.seq).collect::<Vec<_>>();

    index.prune(rule(NOW_MS - 8 * DAY_MS, None)).unwrap();
    assert_eq!(seqs(&index), [5, 7], "its retention is over");
    index.prune(rule(NOW_MS - 4 * DAY_MS, None)).unwrap();
    assert_eq!(seqs(&index), [5], "the record has gone whose place the one with the impossible date claims");
    assert_eq!(conflicts(&index.db, 9).unwrap()[0].rival, None);
    index.prune(rule(0, Some(0))).unwrap();
    assert_eq!(seqs(&index), [0; 0], "there is no room");
    assert_eq!((recounted(&index), index.state.kept_bytes), (index.state, 0));
}
