//! The file of roll-ups: one connection writes it, under a lock; others read it.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension, Transaction, params};

use super::RollupError;

/// The schema that this version reads and writes.
const SCHEMA_VERSION: i64 = 2;

/// The last record that is counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Marker {
    pub(super) chain_id: String,
    pub(super) seq: i64,
    /// In the index, as long as that is not rebuilt.
    pub(super) id: i64,
    /// Counting began behind this one.
    pub(super) first_id: i64,
}

/// By what clock the sums were made, in seconds since 1970; 0 where there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Clock {
    /// The minute in which what is too old was last deleted.
    pub(super) swept: i64,
    /// The latest date of a record that was passed over, because it lay in the future.
    pub(super) ahead: i64,
}

/// The connection that writes.
#[derive(Debug)]
pub(super) struct File {
    pub(super) db: Connection,
    path: PathBuf,
    /// Device and number of the file that is open.
    identity: Option<(u64, u64)>,
}

impl File {
    /// Opens the file. One that is damaged, or that another version wrote, is deleted and made anew.
    pub(super) fn open(path: &Path) -> Result<File, RollupError> {
        match File::connect(path) {
            Err(error) if error.asks_for_another_file() => File::replace(path, &error),
            opened => opened,
        }
    }

    /// Deletes the file, and makes a new one that has counted nothing.
    pub(super) fn replace(path: &Path, why: &RollupError) -> Result<File, RollupError> {
        tracing::warn!(file = %path.display(), %why, "the roll-ups of the dashboard cannot be used; they are counted anew from the records");
        delete(path)?;
        File::connect(path)
    }

    fn connect(path: &Path) -> Result<File, RollupError> {
        OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
        let identity = identity(path);
        let db =
            Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        db.busy_timeout(Duration::from_secs(5))?;
        // The page cache is what bounds memory. After a loss of power the file may lack its end, and the marker says so.
        db.execute_batch(
            "PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;
             PRAGMA cache_size = -512; PRAGMA journal_size_limit = 1048576; PRAGMA trusted_schema = OFF;",
        )?;
        let file = File { db, path: path.to_owned(), identity };
        match version(&file.db)? {
            0 => {
                let step = file.db.unchecked_transaction()?;
                step.execute_batch(include_str!("schema.sql"))?;
                step.pragma_update(None, "user_version", SCHEMA_VERSION)?;
                step.commit()?;
            }
            SCHEMA_VERSION => {}
            other => return Err(RollupError::Version(other)),
        }
        Ok(file)
    }

    /// Whether the file that is open is the one that has the name: an admin may delete it at any time.
    pub(super) fn is_in_place(&self) -> bool {
        self.identity.is_some() && identity(&self.path) == self.identity
    }

    pub(super) fn marker(&self) -> Result<Option<Marker>, RollupError> {
        let select = "SELECT chain_id, seq, id, first_id FROM marker";
        let marker = self.db.prepare_cached(select)?.query_row([], |row| {
            Ok(Marker { chain_id: row.get(0)?, seq: row.get(1)?, id: row.get(2)?, first_id: row.get(3)? })
        });
        Ok(marker.optional()?)
    }

    pub(super) fn clock(&self) -> Result<Clock, RollupError> {
        let clock = self
            .db
            .prepare_cached("SELECT swept, ahead FROM clock")?
            .query_row([], |row| Ok(Clock { swept: row.get(0)?, ahead: row.get(1)? }))?;
        Ok(clock)
    }
}

pub(super) fn write_marker(transaction: &Transaction<'_>, marker: &Marker) -> Result<(), RollupError> {
    transaction
        .prepare_cached("INSERT OR REPLACE INTO marker (one, chain_id, seq, id, first_id) VALUES (1, ?1, ?2, ?3, ?4)")?
        .execute(params![marker.chain_id, marker.seq, marker.id, marker.first_id])?;
    Ok(())
}

/// Opens the file to read it beside the connection that writes.
pub(super) fn open_to_read(path: &Path) -> Result<Connection, RollupError> {
    let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    db.busy_timeout(Duration::from_secs(5))?;
    db.execute_batch("PRAGMA query_only = ON; PRAGMA cache_size = -512; PRAGMA trusted_schema = OFF;")?;
    match version(&db)? {
        SCHEMA_VERSION => Ok(db),
        other => Err(RollupError::Version(other)),
    }
}

/// Deletes the file with what SQLite keeps beside it.
fn delete(path: &Path) -> Result<(), RollupError> {
    for suffix in ["", "-wal", "-shm"] {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        match fs::remove_file(&name) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
    }
    Ok(())
}

fn version(db: &Connection) -> Result<i64, RollupError> {
    Ok(db.query_row("PRAGMA user_version", [], |row| row.get(0))?)
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    let found = fs::symlink_metadata(path).ok()?;
    Some((found.dev(), found.ino()))
}
