//! Ended records in SQLite: what questions are asked of and shipping reads. One connection writes, and belongs to the
//! keeper; others read.

pub mod prune;
pub mod read;
mod salvage;
pub mod select;
pub mod write;

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::chain::Chain;
use super::home::Home;
use super::journal::Header;
use super::journal::frame::Kind;
use super::journal::read::{Position, Reader};
use crate::config::Durability;

/// The schema this version reads and writes.
const VERSION: i64 = 1;

/// Why SQLite cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{0}")]
    Sqlite(#[from] rusqlite::Error),
    #[error("it was written by a newer bedrock-sidecar (schema {0}); install that version, or move the file away")]
    Newer(i64),
    #[error("the journal cannot be read: {0}")]
    Journal(String),
    #[error("it holds a record that is no item")]
    NoItem,
}

impl StoreError {
    /// The file itself is damaged, so that trying again is of no use.
    pub fn is_corrupt(&self) -> bool {
        matches!(
            self,
            StoreError::Sqlite(rusqlite::Error::SqliteFailure(error, _))
                if matches!(error.code, ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
        )
    }
}

/// Counts that are kept beside the records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct State {
    /// Up to where the journal is stored.
    pub position: Position,
    pub last_id: i64,
    pub shipped_id: i64,
    pub shipped_total: u64,
    /// Bytes of items that are in no table yet.
    pub unshipped_bytes: u64,
    /// Bytes of all items that are stored.
    pub kept_bytes: u64,
}

/// The connection that writes.
#[derive(Debug)]
pub struct Store {
    db: Connection,
    pub state: State,
    /// Row number of the chain that the journal's current file continues.
    chain: Option<(String, i64)>,
}

impl Store {
    /// Opens the file, creating or migrating it. A damaged one is moved aside, said loudly, and a new one begun.
    pub fn open(home: &Home, durability: Durability) -> Result<Store, StoreError> {
        match Store::open_as_it_is(&home.database(), durability) {
            Err(error) if error.is_corrupt() => Store::rebuild(home, durability, &error),
            opened => opened,
        }
    }

    /// Moves a damaged file and its companions to where damaged files are kept, and begins a new one with what can be read
    /// of it; the journal is read into it anew.
    pub fn rebuild(home: &Home, durability: Durability, why: &StoreError) -> Result<Store, StoreError> {
        let database = home.database();
        let aside = match home.set_aside_together(&database, &["", "-wal", "-shm"]) {
            Ok(aside) => aside,
            Err(error) => {
                tracing::error!(file = %database.display(), %why, %error, "the ledger's database is damaged and cannot be moved aside");
                return Err(StoreError::Journal(error.to_string()));
            }
        };
        let mut store = Store::open_as_it_is(&database, durability)?;
        let journal = first_chain(home);
        let saved = store.salvage(&aside, journal.as_ref()).unwrap_or(0);
        tracing::error!(
            file = %database.display(), %why, aside = %aside.display(), saved,
            "the ledger's database was damaged: it was moved aside, and a new one is filled from what could be read of it and from the journal; `bedrock-sidecar audit verify` names the records that are missing"
        );
        Ok(store)
    }

    fn open_as_it_is(path: &Path, durability: Durability) -> Result<Store, StoreError> {
        let mut db = Connection::open(path)?;
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        let _ = std::fs::set_permissions(path, mode);
        db.busy_timeout(Duration::from_secs(5))?;
        let synchronous = match durability {
            Durability::Process => "NORMAL",
            Durability::Disk => "FULL",
        };
        // auto_vacuum works only when it is set before the first table; the page cache is what bounds memory.
        db.execute_batch(&format!(
            "PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL; PRAGMA synchronous = {synchronous};
             PRAGMA cache_size = -4096; PRAGMA journal_size_limit = 16777216; PRAGMA trusted_schema = OFF;"
        ))?;
        migrate(&mut db)?;
        db.set_prepared_statement_cache_capacity(32);
        let state = read_state(&db)?;
        Ok(Store { db, state, chain: None })
    }
}

/// Opens the ledger to read it beside the daemon that writes it.
pub fn open_to_read(path: &Path) -> Result<Connection, StoreError> {
    let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    db.busy_timeout(Duration::from_secs(5))?;
    db.execute_batch("PRAGMA query_only = ON; PRAGMA cache_size = -2048; PRAGMA trusted_schema = OFF;")?;
    let version: i64 = db.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if version > VERSION { Err(StoreError::Newer(version)) } else { Ok(db) }
}

fn migrate(db: &mut Connection) -> Result<(), StoreError> {
    let version: i64 = db.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if version > VERSION {
        return Err(StoreError::Newer(version));
    }
    if version < 1 {
        let step = db.transaction()?;
        step.execute_batch(include_str!("schema.sql"))?;
        step.pragma_update(None, "user_version", 1)?;
        step.commit()?;
    }
    Ok(())
}

/// The counts, as the last transaction left them.
pub fn read_state(db: &Connection) -> Result<State, StoreError> {
    let state = db.query_row(
        "SELECT segment, offset, last_id, shipped_id, shipped_total, unshipped_bytes, kept_bytes FROM state",
        [],
        |row| {
            Ok(State {
                position: Position { segment: unsigned(row.get(0)?), offset: unsigned(row.get(1)?) },
                last_id: row.get(2)?,
                shipped_id: row.get(3)?,
                shipped_total: unsigned(row.get(4)?),
                unshipped_bytes: unsigned(row.get(5)?),
                kept_bytes: unsigned(row.get(6)?),
            })
        },
    )?;
    Ok(state)
}

/// SQLite has signed numbers only; ours are counts.
pub fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// See [`unsigned`].
pub fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Where the chain stood when the journal's first file was begun.
fn first_chain(home: &Home) -> Option<Chain> {
    let mut reader = Reader::new(home.journal(), Position::default());
    let step = reader.step(None).ok()?;
    let (kind, range) = step.frames.into_iter().next()?;
    if kind != Kind::Header {
        return None;
    }
    serde_json::from_slice::<Header>(&reader.piece[range]).ok().map(|header| header.chain)
}
