//! Why SQLite cannot be used.

use rusqlite::ErrorCode;

/// The SQLite index cannot be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// SQLite refuses.
    #[error("{0}")]
    Sqlite(#[from] rusqlite::Error),
    /// The file has a schema that this version does not know; its number.
    #[error("it was written by a newer bedrock-sidecar (schema {0}); install that version, or move the file away")]
    Newer(i64),
    /// The journal, from which the index is filled, cannot be read.
    #[error("the journal cannot be read: {0}")]
    Journal(String),
    /// An end in the journal does not hold a hash and an item.
    #[error("it holds a record that is no item")]
    NotAnItem,
    /// A damaged file was being replaced when the daemon ended.
    #[error("the daemon ended while it was being rebuilt")]
    RebuildInterrupted,
    /// A file cannot be copied, moved or flushed.
    #[error("its file cannot be replaced: {0}")]
    File(#[from] std::io::Error),
}

impl IndexError {
    /// The file itself is damaged, so that trying again is of no use.
    pub(crate) fn is_corrupt(&self) -> bool {
        matches!(
            self,
            IndexError::Sqlite(rusqlite::Error::SqliteFailure(error, _))
                if matches!(error.code, ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
        )
    }
}
