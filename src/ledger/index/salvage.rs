//! Copying what can be read of a damaged database into a new one. What cannot be read is counted and told; what fails for
//! another reason, such as a full disk, ends the attempt.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, Row, params};

use super::columns::ItemColumns;
use super::{Index, IndexError, IndexState, read_state, recount, write};
use crate::ledger::integer::{to_signed, to_unsigned};
use crate::ledger::journal::frame::FrameKind;
use crate::ledger::journal::{HASH_DIGITS, split_end};

/// A chain's id and a sequence number in it.
pub(super) type Link = (String, u64);

/// Records that are read at a time; if that fails, one by one.
const STEP_RECORDS: i64 = 200;
/// So many ids in a row without a readable record are taken for the end.
const MAX_EMPTY_IDS: i64 = 1_000_000;

/// What was copied from a damaged database, and what could not be.
#[derive(Debug, Default)]
pub(super) struct Salvaged {
    pub(super) records: u64,
    pub(super) set_aside: u64,
    pub(super) conflicts: u64,
    /// Records that cannot be read; the journal may have some of them.
    pub(super) unreadable: u64,
    /// What else could not be read, in sentences.
    problems: Vec<String>,
}

impl Salvaged {
    /// What was lost, in sentences.
    pub(super) fn incidents(&self) -> Vec<String> {
        let mut incidents = self.problems.clone();
        if self.unreadable > 0 {
            incidents.push(format!(
                "{} records of the damaged database could not be read; those of them that the journal does not have are LOST",
                self.unreadable
            ));
        }
        incidents
    }

    fn note(&mut self, what: &str, error: &rusqlite::Error) {
        self.problems.push(format!("{what} of the damaged database could not be read: {error}"));
    }
}

/// A row of the table of records.
struct OldRecord {
    id: i64,
    /// As the journal had it.
    payload: Vec<u8>,
}

impl Index {
    /// Copies what `damaged` has, except for the records that the journal still has. `at_step` is called now and then.
    pub(super) fn salvage(
        &mut self,
        damaged: &Path,
        journal: &HashSet<Link>,
        at_step: &mut dyn FnMut(),
    ) -> Result<Salvaged, IndexError> {
        let mut salvaged = Salvaged::default();
        let old = match open(damaged) {
            Ok(old) => old,
            Err(error) => {
                salvaged.note("nothing", &unless_passing(error)?);
                return Ok(salvaged);
            }
        };
        let state = match read_state(&old) {
            Ok(state) => state,
            Err(IndexError::Sqlite(error)) => {
                salvaged.note("how far records were shipped", &unless_passing(error)?);
                IndexState::default()
            }
            Err(error) => return Err(error),
        };
        let chains = self.copy_chains(&old, journal, &mut salvaged)?;
        let reasons = read_all(&old, "SELECT id, reason FROM set_aside", |row| Ok((row.get(0)?, row.get(1)?)));
        let reasons = tolerated(reasons, "the list of records that were set aside", &mut salvaged)?;
        at_step();
        self.copy_records(&old, &state, &reasons.into_iter().collect(), journal, &mut salvaged, at_step)?;
        self.copy_conflicts(&old, &chains, &mut salvaged)?;
        at_step();

        self.state.shipped_total = state.shipped_total;
        let transaction = self.db.transaction()?;
        let state = recount::recount(&transaction, self.state)?;
        write::write_state(&transaction, &state)?;
        transaction.commit()?;
        self.state = state;
        Ok(salvaged)
    }

    /// Where chains begin and end. Returns their rows in the new file by those in the old one.
    fn copy_chains(
        &mut self,
        old: &Connection,
        journal: &HashSet<Link>,
        salvaged: &mut Salvaged,
    ) -> Result<HashMap<i64, i64>, IndexError> {
        let found = read_all(
            old,
            "SELECT id, chain_id, host_id, anchor_seq, anchor_hash, head_seq, head_hash FROM chains ORDER BY id",
            |row| {
                let ends: (i64, String, i64, String) = (row.get(3)?, row.get(4)?, row.get(5)?, row.get(6)?);
                Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?, row.get::<_, String>(2)?, ends))
            },
        );
        let mut rows = HashMap::new();
        let transaction = self.db.transaction()?;
        for (id, chain_id, host_id, ends) in tolerated(found, "the list of chains", salvaged)? {
            let (mut anchor_seq, mut anchor_hash, head_seq, head_hash) = ends;
            // Records that were pruned and are in the journal still come back.
            let first = journal.iter().filter(|(chain, _)| *chain == chain_id).map(|(_, seq)| to_signed(*seq)).min();
            if let Some(first) = first.filter(|first| *first <= anchor_seq) {
                (anchor_seq, anchor_hash) = (first - 1, String::new());
            }
            transaction.execute(
                "INSERT OR IGNORE INTO chains (chain_id, host_id, anchor_seq, anchor_hash, head_seq, head_hash)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                params![chain_id, host_id, anchor_seq, anchor_hash, head_seq, head_hash],
            )?;
            rows.insert(id, transaction.last_insert_rowid());
        }
        transaction.commit()?;
        Ok(rows)
    }

    fn copy_records(
        &mut self,
        old: &Connection,
        state: &IndexState,
        reasons: &BTreeMap<i64, String>,
        journal: &HashSet<Link>,
        salvaged: &mut Salvaged,
        at_step: &mut dyn FnMut(),
    ) -> Result<(), IndexError> {
        let bound = |sql: &str| match old.query_row(sql, [], |row| row.get::<_, Option<i64>>(0)) {
            Ok(bound) => Ok(bound),
            Err(error) => unless_passing(error).map(|_| None),
        };
        let first = bound("SELECT min(id) FROM records")?;
        let last = bound("SELECT max(id) FROM records")?.max(Some(state.last_id).filter(|last| *last > 0));
        let max_empty = if last.is_some() { 100 * MAX_EMPTY_IDS } else { MAX_EMPTY_IDS };
        let mut from = first.unwrap_or(1);
        let (mut newest, mut sound, mut failed) = (from, 0, 0);
        while last.is_none_or(|last| from <= last) && from - newest < max_empty {
            let step = readable_records(old, from)?;
            newest = step.records.last().map_or(newest, |record| record.id);
            failed += step.failed;
            sound += self.copy_step(&step.records, state.shipped_id, reasons, journal, salvaged)?;
            if self.wants_checkpoint() {
                self.checkpoint()?;
            }
            at_step();
            from += STEP_RECORDS;
        }
        // Ids have no gaps.
        salvaged.unreadable = match (first, last) {
            (Some(first), Some(last)) => to_unsigned(last - first + 1).saturating_sub(sound),
            _ => failed,
        };
        Ok(())
    }

    /// Copies the records of a step, unless the journal has them. Returns how many of them are sound.
    fn copy_step(
        &mut self,
        records: &[OldRecord],
        shipped_id: i64,
        reasons: &BTreeMap<i64, String>,
        journal: &HashSet<Link>,
        salvaged: &mut Salvaged,
    ) -> Result<u64, IndexError> {
        let (mut sound, mut shipped) = (0, false);
        let mut batch: Vec<(FrameKind, &[u8])> = Vec::new();
        for record in records {
            let Some(link) = link(&record.payload) else { continue };
            sound += 1;
            if journal.contains(&link) {
                continue;
            }
            if record.id > shipped_id && shipped {
                self.copy_batch(&mut batch, shipped, salvaged)?;
            }
            shipped = record.id <= shipped_id;
            batch.push((FrameKind::Close, &record.payload));
            let Some(reason) = reasons.get(&record.id) else { continue };
            let before = self.state.last_id;
            self.copy_batch(&mut batch, shipped, salvaged)?;
            if self.state.last_id > before {
                self.db.execute(
                    "INSERT OR REPLACE INTO set_aside (id, reason) VALUES (?1, ?2)",
                    params![self.state.last_id, reason],
                )?;
                salvaged.set_aside += 1;
            }
        }
        self.copy_batch(&mut batch, shipped, salvaged)?;
        Ok(sound)
    }

    fn copy_batch(
        &mut self,
        batch: &mut Vec<(FrameKind, &[u8])>,
        shipped: bool,
        salvaged: &mut Salvaged,
    ) -> Result<(), IndexError> {
        if batch.is_empty() {
            return Ok(());
        }
        let before = self.state.last_id;
        self.insert(batch, self.state.position)?;
        batch.clear();
        salvaged.records += to_unsigned(self.state.last_id - before);
        if shipped {
            self.state.shipped_id = self.state.last_id;
        }
        Ok(())
    }

    fn copy_conflicts(
        &mut self,
        old: &Connection,
        chains: &HashMap<i64, i64>,
        salvaged: &mut Salvaged,
    ) -> Result<(), IndexError> {
        let found = read_all(old, "SELECT chain, seq, hash, item FROM conflicts", |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, String>(2)?, row.get::<_, String>(3)?))
        });
        let transaction = self.db.transaction()?;
        let what = "the list of records that claim another's place";
        for (chain, seq, hash, item) in tolerated(found, what, salvaged)? {
            let started_ms = ItemColumns::read(&item).map_or(0, |columns| columns.started_ms());
            let Some(chain) = chains.get(&chain) else {
                salvaged.unreadable += 1;
                continue;
            };
            let copied = transaction.execute(
                "INSERT OR IGNORE INTO conflicts (chain, seq, hash, item, started_ms) VALUES (?1, ?2, ?3, ?4, ?5)",
                params![chain, seq, hash, item, started_ms],
            )?;
            salvaged.conflicts += copied as u64;
        }
        Ok(transaction.commit()?)
    }
}

/// Closing it again leaves its write-ahead log as it is.
fn open(damaged: &Path) -> rusqlite::Result<Connection> {
    // To read what is in the log, SQLite has to write beside it.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let old = Connection::open_with_flags(damaged, flags)?;
    old.busy_timeout(Duration::from_secs(5))?;
    old.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    old.execute_batch("PRAGMA trusted_schema = OFF;")?;
    old.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
    Ok(old)
}

/// The error again, unless it says nothing of the file and may be gone in a moment.
fn unless_passing(error: rusqlite::Error) -> Result<rusqlite::Error, IndexError> {
    let passing = matches!(
        &error,
        rusqlite::Error::SqliteFailure(failure, _) if matches!(
            failure.code,
            ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::OutOfMemory | ErrorCode::DiskFull
                | ErrorCode::CannotOpen | ErrorCode::PermissionDenied | ErrorCode::ReadOnly
        )
    );
    if passing { Err(error.into()) } else { Ok(error) }
}

/// The rows of a small table up to what cannot be read, and why that cannot.
fn read_all<T>(
    old: &Connection,
    sql: &str,
    read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> (Vec<T>, Option<rusqlite::Error>) {
    let mut found = Vec::new();
    let result = old.prepare(sql).and_then(|mut select| {
        for row in select.query_map([], read)? {
            found.push(row?);
        }
        Ok(())
    });
    (found, result.err())
}

/// What was read; an error is noted. A table that an older version did not have holds nothing.
fn tolerated<T>(
    (found, error): (Vec<T>, Option<rusqlite::Error>),
    what: &str,
    salvaged: &mut Salvaged,
) -> Result<Vec<T>, IndexError> {
    if let Some(error) = error.map(unless_passing).transpose()?
        && !error.to_string().starts_with("no such table")
    {
        salvaged.note(what, &error);
    }
    Ok(found)
}

/// What can be read of a step.
#[derive(Default)]
struct ReadStep {
    records: Vec<OldRecord>,
    /// Records whose reading failed.
    failed: u64,
}

fn readable_records(old: &Connection, from: i64) -> Result<ReadStep, IndexError> {
    let mut select =
        match old.prepare_cached("SELECT id, hash, item FROM records WHERE id BETWEEN ?1 AND ?2 ORDER BY id") {
            Ok(select) => select,
            Err(error) => {
                unless_passing(error)?;
                return Ok(ReadStep { failed: to_unsigned(STEP_RECORDS), ..ReadStep::default() });
            }
        };
    let mut read = |first: i64, last: i64| -> rusqlite::Result<Vec<OldRecord>> {
        let rows = select.query_map([first, last], |row| {
            let (hash, item): (String, String) = (row.get(1)?, row.get(2)?);
            Ok(OldRecord { id: row.get(0)?, payload: [hash.into_bytes(), item.into_bytes()].concat() })
        })?;
        rows.collect()
    };
    let last = from + STEP_RECORDS - 1;
    let mut step = ReadStep::default();
    match read(from, last) {
        Ok(records) => step.records = records,
        Err(error) => {
            unless_passing(error)?;
            for id in from..=last {
                match read(id, id) {
                    Ok(records) => step.records.extend(records),
                    Err(error) => {
                        unless_passing(error)?;
                        step.failed += 1;
                    }
                }
            }
        }
    }
    Ok(step)
}

/// Where a record stands, if it is sound.
fn link(payload: &[u8]) -> Option<Link> {
    let (hash, item) = split_end(payload)?;
    let columns = ItemColumns::read(item).ok()?;
    let is_hash = hash.len() == HASH_DIGITS && hash.bytes().all(|digit| digit.is_ascii_hexdigit());
    is_hash.then(|| (columns.chain_id.into_owned(), columns.chain_seq))
}
