//! Roll-ups: what the dashboard's figures are added up from, so that no question has to read every record of a week.
//!
//! They follow the index as shipping does, a step at a time, and are derived from it: a file that is lost, damaged or of
//! another version is deleted and filled anew. Neither requests nor the index writer wait for them.

mod counted;
mod file;
mod follow;
mod histogram;
mod key;
pub(crate) mod read;
mod resolution;
mod step;
mod sums;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode};

pub(super) use follow::{INTERVAL, follow};
pub(crate) use key::bounded;
pub(crate) use resolution::Resolution;
pub(crate) use sums::Sums;

use self::file::File;
use super::index::{self, IndexError};
use super::state_dir::StateDir;

/// Why there are no roll-ups.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RollupError {
    /// The records cannot be read.
    #[error("{0}")]
    Ledger(#[from] IndexError),
    /// The file of roll-ups cannot be used.
    #[error("{0}")]
    Sqlite(#[from] rusqlite::Error),
    /// It cannot be created or deleted.
    #[error("its file cannot be used: {0}")]
    File(#[from] std::io::Error),
    /// It has a schema of another version; its number.
    #[error("another version of bedrock-sidecar wrote them (schema {0})")]
    Version(i64),
}

impl RollupError {
    /// The file is of no use: it is to be deleted and made anew.
    fn asks_for_another_file(&self) -> bool {
        match self {
            RollupError::Version(_) => true,
            // The statements are ours: one that SQLite does not understand has met other tables.
            RollupError::Sqlite(rusqlite::Error::SqliteFailure(error, _)) => {
                matches!(error.code, ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::Unknown)
            }
            RollupError::Sqlite(error) => !matches!(error, rusqlite::Error::SqliteFailure(..)),
            _ => false,
        }
    }
}

/// How far the records are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Of a thousand.
    pub(crate) thousandths: u16,
    /// There was nothing more to count.
    pub(crate) is_done: bool,
}

/// The roll-ups of this host's records.
#[derive(Debug)]
pub(crate) struct Rollups {
    path: PathBuf,
    ledger: PathBuf,
    /// Locked for one step at a time. None until it is opened.
    file: Mutex<Option<File>>,
    /// Locked while a question is answered: memory is that of one, however many ask.
    asking: Mutex<()>,
}

impl Rollups {
    pub(super) fn new(state_dir: &StateDir) -> Rollups {
        Rollups {
            path: state_dir.rollups(),
            ledger: state_dir.database(),
            file: Mutex::default(),
            asking: Mutex::default(),
        }
    }

    /// Counts records that are not counted yet, for about as long as `patience`. Blocks.
    ///
    /// # Errors
    /// The records cannot be read, or the roll-ups cannot be written.
    pub(crate) fn catch_up(&self, patience: Duration, now_ms: i64) -> Result<Progress, RollupError> {
        let begun = Instant::now();
        let mut ledger = index::open_to_read(&self.ledger)?;
        // Records are read once, in their order.
        ledger.pragma_update(None, "cache_size", -256).map_err(IndexError::from)?;
        loop {
            let progress = self.step(&mut ledger, now_ms)?;
            if progress.is_done || begun.elapsed() >= patience {
                return Ok(progress);
            }
        }
    }

    /// Counts for about as long as `patience`, and reads what is counted by then. Blocks.
    ///
    /// # Errors
    /// As [`Rollups::catch_up`], or the roll-ups cannot be read.
    pub(crate) fn ask<T>(
        &self,
        patience: Duration,
        now_ms: i64,
        read: impl Fn(&Connection) -> Result<T, rusqlite::Error>,
    ) -> Result<(T, Progress), RollupError> {
        let _turn = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        let ask = || {
            let progress = self.catch_up(patience, now_ms)?;
            // In a transaction, so that all of an answer is of the same moment.
            let mut db = file::open_to_read(&self.path)?;
            let db = db.transaction()?;
            Ok((read(&db)?, progress))
        };
        match ask() {
            Err(error) if RollupError::asks_for_another_file(&error) => {
                self.discard(&error)?;
                ask()
            }
            answered => answered,
        }
    }

    /// The id of the last record that is counted, if the file is there and tells it. Blocks.
    fn counted_until(&self) -> Option<i64> {
        file::open_to_read(&self.path).ok()?.query_row("SELECT id FROM marker", [], |row| row.get(0)).ok()
    }

    fn step(&self, ledger: &mut Connection, now_ms: i64) -> Result<Progress, RollupError> {
        let mut kept = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let mut file = match kept.take().filter(File::is_in_place) {
            Some(file) => file,
            None => File::open(&self.path)?,
        };
        let stepped = match file.step(ledger, now_ms) {
            Err(error) if error.asks_for_another_file() => {
                drop(file);
                file = File::replace(&self.path, &error)?;
                file.step(ledger, now_ms)
            }
            stepped => stepped,
        };
        // One that fails is opened anew.
        *kept = stepped.is_ok().then_some(file);
        stepped
    }

    fn discard(&self, why: &RollupError) -> Result<(), RollupError> {
        let mut kept = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        drop(kept.take());
        *kept = Some(File::replace(&self.path, why)?);
        Ok(())
    }
}
