//! Whatever happens to records, the counts are what a recount says.

use std::sync::{Arc, mpsc};

use super::pruning::PRUNE_INTERVAL;
use super::*;
use crate::config::OnFull;
use crate::ledger::chain::Chain;
use crate::ledger::clock::{RealClock, now_ms};
use crate::ledger::index::open_to_read;
use crate::ledger::index::read::{records_after, set_aside_after};
use crate::ledger::journal::Journal;
use crate::ledger::journal::disk::RealDisk;
use crate::ledger::journal::frame::encode;
use crate::ledger::state_dir::StateDir;
use crate::ledger::tests::Random;
use crate::record::{Outcome, Record};
use crate::settings::{Audit, Settings};

const RETENTION_MS: i64 = 30 * 86_400_000;

struct Scene {
    random: Random,
    settings: Audit,
    core: Arc<Core>,
    writer: IndexWriter,
    directory: tempfile::TempDir,
    next_id: u64,
    /// Records are sent up to this one.
    sent: i64,
    /// Batches under way, by their last record.
    in_flight: Vec<(i64, u64)>,
}

fn start(settings: &Audit, root: &std::path::Path) -> (Arc<Core>, IndexWriter) {
    let state_dir = StateDir { root: root.to_owned() };
    std::fs::create_dir_all(state_dir.journal()).unwrap();
    let index = Index::open(&state_dir, Durability::Process).unwrap();
    let found = recover(&state_dir, index.state.position).unwrap();
    let chain = found.chain.or_else(|| index.last_chain().unwrap()).unwrap_or_else(|| Chain::new("h"));
    let journal = Journal::new(state_dir.journal(), 1 << 18, false, Arc::new(RealDisk), found.next_number, chain);
    let (tasks, inbox) = mpsc::channel();
    let core = Arc::new(Core::new(state_dir, "h".to_owned(), settings.clone(), journal, tasks));
    core.recount(index.state, found.ends, found.end_bytes);
    let state = index.state;
    (core.clone(), IndexWriter::new(core, (Some(index), None), state, inbox, Arc::new(RealClock)).0)
}

impl Scene {
    fn begin(seed: u64) -> Scene {
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let directory = tempfile::tempdir().unwrap();
        let has_table = random.below(3) > 0;
        let settings = Audit {
            table: has_table.then(|| "t".into()),
            on_full: if random.below(2) == 0 { OnFull::Prune } else { OnFull::Deny },
            max_ledger_bytes: 10_000 + random.below(60_000),
            retention: Duration::from_millis(RETENTION_MS.cast_unsigned()),
            ..Settings::built_in().unwrap().audit
        };
        let (core, writer) = start(&settings, directory.path());
        Scene { random, settings, core, writer, directory, next_id: 0, sent: 0, in_flight: Vec::new() }
    }

    /// What the writer's thread does each time.
    fn turn(&mut self) {
        // Not a record that has ended: others that end are waited for.
        self.core.send(Task::RecordingFails);
        let round = self.writer.receive(true);
        if let Some(error) = round.damage {
            self.writer.handle_failure(error);
        }
        self.core.rearm_wakeup();
        self.writer.work().unwrap();
    }

    fn step(&mut self) {
        match self.random.below(24) {
            0..8 => {
                for _ in 0..self.random.below(12) {
                    let age = if self.random.below(3) == 0 { 2 * RETENTION_MS } else { 0 };
                    let record = Record {
                        request_id: format!("r{}", self.next_id),
                        started_ms: now_ms() - age,
                        operation: "Converse".into(),
                        outcome: Outcome::Completed,
                        error_message: Some("x".repeat(usize::try_from(self.random.below(500)).unwrap())),
                        ..Record::default()
                    };
                    self.next_id += 1;
                    // A full ledger refuses.
                    let _ = self.core.note(&record);
                }
            }
            8..11 if self.settings.table.is_some() => {
                let db = open_to_read(&self.core.state_dir.database()).unwrap();
                let records = records_after(&db, self.sent, 25).unwrap();
                if let Some(last) = records.last() {
                    self.sent = last.id;
                    self.in_flight.push((last.id, records.len() as u64));
                }
            }
            11..14 if !self.in_flight.is_empty() => {
                let (id, count) = self.in_flight.remove(0);
                let mut progress = vec![ShippingProgress::Until { id, count }];
                if self.random.below(3) == 0 {
                    progress.insert(0, ShippingProgress::SetAside { id, reason: "too large".to_owned() });
                }
                self.core.send(Task::Shipped(self.writer.generation, progress));
            }
            14 | 15 => {
                let db = open_to_read(&self.core.state_dir.database()).unwrap();
                let aside = set_aside_after(&db, 0, 2).unwrap();
                let taken = aside.into_iter().map(|(record, _)| ShippingProgress::TakenAfterAll { id: record.id });
                self.core.send(Task::Shipped(self.writer.generation, taken.collect()));
            }
            16 => self.writer.next_prune = Instant::now(),
            17 => {
                let damage = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
                let error = IndexError::Sqlite(rusqlite::Error::SqliteFailure(damage, None));
                // A batch is confirmed between the damage and its repair: its ids are those of the old file.
                self.core.send(Task::IndexDamaged(error));
                let progress = vec![ShippingProgress::Until { id: self.sent, count: 0 }];
                self.core.send(Task::Shipped(self.writer.generation, progress));
                self.turn();
                self.restart_shipping();
            }
            18 => self.restart(&[]),
            19 => self.restart_with_rival(),
            20 | 21 => self.turn(),
            _ => self.check(),
        }
    }

    fn restart_shipping(&mut self) {
        self.in_flight.clear();
        self.sent = self.writer.index.as_ref().unwrap().state.shipped_id;
    }

    fn restart(&mut self, journal: &[u8]) {
        if let Some(index) = &self.writer.index {
            index.close_without_checkpoint();
        }
        if !journal.is_empty() {
            let end = self.core.journal().end();
            std::fs::write(segment_path(&self.core.state_dir.journal(), end.segment + 1), journal).unwrap();
        }
        self.writer.index = None;
        (self.core, self.writer) = start(&self.settings, self.directory.path());
        self.restart_shipping();
    }

    /// A journal file turns up with another record for a place in the chain, once or twice, and with one that is there.
    fn restart_with_rival(&mut self) {
        self.turn();
        let db = open_to_read(&self.core.state_dir.database()).unwrap();
        let skip = self.random.below(20);
        let row = db.query_row("SELECT hash, item FROM records LIMIT 1 OFFSET ?1", [to_signed(skip)], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))
        });
        let Ok((hash, item)) = row else { return };
        let mut journal = Vec::new();
        let rival = format!("{:064x}", self.random.below(u64::MAX));
        for hash in [&rival, &hash, &rival] {
            encode(&mut journal, FrameKind::Close, &[hash.as_bytes(), item.as_bytes()]);
        }
        drop(db);
        // The chain goes on behind its last record, whatever that file says.
        let head = self.core.journal().chain().clone();
        self.restart(&journal);
        let path = self.core.state_dir.journal();
        let next = self.core.journal().end().segment.max(segments(&path).unwrap().last().copied().unwrap_or(0)) + 1;
        let journal = Journal::new(path, 1 << 18, false, Arc::new(RealDisk), next, head);
        *self.core.journal() = journal;
        self.turn();
    }

    /// The counts against the rows.
    fn check(&mut self) {
        self.turn();
        let db = open_to_read(&self.core.state_dir.database()).unwrap();
        let one = |sql: &str| db.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
        let state = self.writer.index.as_ref().unwrap().state;
        assert_eq!(crate::ledger::index::read_state(&db).unwrap(), state);
        let all = one("SELECT coalesce(sum(length(CAST(item AS BLOB))), 0) FROM records");
        let conflicts = one("SELECT coalesce(sum(length(CAST(item AS BLOB))), 0) FROM conflicts");
        let unshipped = one(
            "SELECT coalesce(sum(length(CAST(item AS BLOB))), 0) FROM records WHERE id > (SELECT shipped_id FROM state)",
        );
        let waiting = one("SELECT count(*) FROM records WHERE id > (SELECT shipped_id FROM state)");
        let aside = one("SELECT (SELECT count(*) FROM set_aside) + (SELECT count(*) FROM conflicts)");
        assert_eq!(to_signed(state.kept_bytes), all + conflicts, "kept");
        assert_eq!(to_signed(state.unshipped_bytes), unshipped + conflicts, "unshipped");
        let counts = &self.core.counts;
        assert_eq!(counts.pending.load(Relaxed), waiting, "pending");
        assert_eq!(counts.bytes.load(Relaxed), unshipped + conflicts, "bytes");
        assert_eq!(to_signed(counts.set_aside.load(Relaxed)), aside, "set aside");
    }
}

#[test]
fn after_any_history_the_counts_are_what_a_recount_says() {
    let seeds =
        std::env::var("LEDGER_SEED").ok().and_then(|seed| seed.parse().ok()).map_or(0..150, |seed: u64| seed..seed + 1);
    for seed in seeds {
        let history = std::panic::AssertUnwindSafe(|| {
            let mut scene = Scene::begin(seed);
            for _ in 0..60 {
                scene.step();
            }
            scene.check();
        });
        if let Err(panic) = std::panic::catch_unwind(history) {
            eprintln!("the history with LEDGER_SEED={seed} failed");
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn a_long_pruning_lets_others_have_their_turn() {
    let directory = tempfile::tempdir().unwrap();
    let settings = Audit { table: None, max_ledger_bytes: 1 << 30, ..Settings::built_in().unwrap().audit };
    let (core, mut writer) = start(&settings, directory.path());
    let record = |number: u64| Record {
        request_id: format!("r{number}"),
        started_ms: now_ms() - 400 * 86_400_000,
        ..Record::default()
    };
    let old = (0..9_000).map(record);
    old.for_each(|record| core.note(&record).unwrap());
    writer.next_prune = Instant::now() + PRUNE_INTERVAL;
    writer.work().unwrap();
    writer.next_prune = Instant::now();
    let (mut turns, mut left) = (0, 9_000);
    while left > 0 {
        let new = Record { started_ms: now_ms(), ..record(100_000 + turns) };
        core.note(&new).unwrap();
        writer.work().unwrap();
        turns += 1;
        let db = open_to_read(&core.state_dir.database()).unwrap();
        let before = left;
        let count = |sql: &str| db.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
        left = count("SELECT count(*) FROM records WHERE seq <= 9000");
        assert!(before - left <= 2_000, "{}", before - left);
        // What ended before a turn is in the index after it.
        assert_eq!(count("SELECT max(seq) FROM records"), 9_000 + to_signed(turns));
    }
    assert!(turns >= 5, "{turns}");
}

/// One that begins before the other has ended would always read what is older than the last record.
#[tokio::test]
async fn readers_that_overlap_do_not_keep_the_journal() {
    let directory = tempfile::tempdir().unwrap();
    let settings = Audit { table: None, max_ledger_bytes: 1 << 30, ..Settings::built_in().unwrap().audit };
    let (core, mut writer) = start(&settings, directory.path());
    let note = |numbers: std::ops::Range<u64>| {
        for number in numbers {
            let record = Record { request_id: format!("r{number}"), started_ms: now_ms(), ..Record::default() };
            core.note(&record).unwrap();
        }
    };
    let files = || segments(&core.state_dir.journal()).unwrap().len();
    note(0..2_000);
    writer.work().unwrap();
    assert_eq!(files(), 1, "the others are in the index");
    let reading = core.readers.enter().await;
    let mut db = open_to_read(&core.state_dir.database()).unwrap();
    let transaction = db.transaction().unwrap();
    transaction.query_row("SELECT count(*) FROM records", [], |row| row.get::<_, i64>(0)).unwrap();
    note(2_000..4_000);
    writer.work().unwrap();
    assert!(files() > 1 && core.readers.are_held_back(), "{} files", files());
    drop(transaction);
    drop((db, reading));
    writer.work().unwrap();
    assert!(files() == 1 && !core.readers.are_held_back(), "{} files", files());
}
