//! The index: ended records in SQLite, where queries and shipping read them. One connection writes, and belongs to the
//! index writer; others read.

pub(crate) mod columns;
mod error;
pub(crate) mod past_use;
pub(crate) mod prune;
pub(crate) mod read;
mod rebuild;
mod recount;
mod salvage;
#[cfg(test)]
mod tests;
pub(crate) mod write;

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

pub use error::IndexError;

use super::integer::to_unsigned;
use super::journal::read::Position;
use crate::config::Durability;

/// The schema that this version reads and writes.
const SCHEMA_VERSION: i64 = 3;

/// Counts that are kept beside the records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct IndexState {
    /// Up to here the journal is in the index.
    pub(crate) position: Position,
    pub(crate) last_id: i64,
    pub(crate) shipped_id: i64,
    pub(crate) shipped_total: u64,
    /// Bytes of the items that are in no table yet, and of those kept aside for a conflict, which never will be.
    pub(crate) unshipped_bytes: u64,
    /// Bytes of all items in the index, those kept aside among them.
    pub(crate) kept_bytes: u64,
}

/// The connection that writes.
#[derive(Debug)]
pub(crate) struct Index {
    db: Connection,
    pub(crate) state: IndexState,
    /// Row number of the chain that the journal's current file continues.
    chain: Option<(String, i64)>,
    /// About how many bytes SQLite's write-ahead log has since the last checkpoint.
    uncheckpointed: u64,
    /// What was lost when it was opened, in sentences; for whoever counts failures.
    incidents: Vec<String>,
}

impl Index {
    /// What was lost when it was opened, in sentences.
    pub(crate) fn take_incidents(&mut self) -> Vec<String> {
        std::mem::take(&mut self.incidents)
    }

    /// Opens the file, creating or migrating it.
    fn connect(path: &Path, durability: Durability) -> Result<Index, IndexError> {
        let mut db = Connection::open(path)?;
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        let _ = std::fs::set_permissions(path, mode);
        db.busy_timeout(Duration::from_secs(5))?;
        let synchronous = match durability {
            Durability::Process => "NORMAL",
            Durability::Disk => "FULL",
        };
        // Checkpoints wait for the journal, see index_writer.rs. auto_vacuum works only when it is set before the first table; the page cache is what bounds memory.
        db.execute_batch(&format!(
            "PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL; PRAGMA synchronous = {synchronous};
             PRAGMA wal_autocheckpoint = 0; PRAGMA cache_size = -4096; PRAGMA journal_size_limit = 16777216; PRAGMA trusted_schema = OFF;"
        ))?;
        migrate(&mut db)?;
        db.set_prepared_statement_cache_capacity(32);
        let state = read_state(&db)?;
        Ok(Index { db, state, chain: None, uncheckpointed: 0, incidents: Vec::new() })
    }
}

/// Opens the index to read it beside the daemon that writes it.
///
/// # Errors
/// When SQLite refuses, or a newer version wrote the file.
pub fn open_to_read(path: &Path) -> Result<Connection, IndexError> {
    let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    db.busy_timeout(Duration::from_secs(5))?;
    db.execute_batch("PRAGMA query_only = ON; PRAGMA cache_size = -2048; PRAGMA trusted_schema = OFF;")?;
    let version: i64 = db.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if version > SCHEMA_VERSION { Err(IndexError::Newer(version)) } else { Ok(db) }
}

fn migrate(db: &mut Connection) -> Result<(), IndexError> {
    let version: i64 = db.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if version > SCHEMA_VERSION {
        return Err(IndexError::Newer(version));
    }
    if version < 1 {
        let step = db.transaction()?;
        step.execute_batch(include_str!("schema.sql"))?;
        step.pragma_update(None, "user_version", 1)?;
        step.commit()?;
    }
    if version < 2 {
        let step = db.transaction()?;
        step.execute_batch(include_str!("schema-2.sql"))?;
        let conflicts: i64 = step.query_row("SELECT count(*) FROM conflicts", [], |row| row.get(0))?;
        step.pragma_update(None, "user_version", 2)?;
        step.commit()?;
        if conflicts > 0 {
            tracing::error!(
                records = conflicts,
                "records in the ledger's database claimed a place in the chain that another has; they are kept aside, and `bedrock-sidecar audit list --set-aside` shows them"
            );
        }
    }
    if version < 3 {
        let step = db.transaction()?;
        step.execute_batch(include_str!("schema-3.sql"))?;
        // The step before has deleted records.
        let state = recount::close_gaps(&step, read_state(&step)?)?;
        write::write_state(&step, &recount::recount(&step, state)?)?;
        step.pragma_update(None, "user_version", 3)?;
        step.commit()?;
    }
    Ok(())
}

/// The counts, as the last transaction left them.
pub(crate) fn read_state(db: &Connection) -> Result<IndexState, IndexError> {
    let state = db.query_row(
        "SELECT segment, offset, last_id, shipped_id, shipped_total, unshipped_bytes, kept_bytes FROM state",
        [],
        |row| {
            Ok(IndexState {
                position: Position { segment: to_unsigned(row.get(0)?), offset: to_unsigned(row.get(1)?) },
                last_id: row.get(2)?,
                shipped_id: row.get(3)?,
                shipped_total: to_unsigned(row.get(4)?),
                unshipped_bytes: to_unsigned(row.get(5)?),
                kept_bytes: to_unsigned(row.get(6)?),
            })
        },
    )?;
    Ok(state)
}
