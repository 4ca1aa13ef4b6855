//! Why an `audit` command could not do its work.

use std::io;
use std::path::PathBuf;

use crate::ledger::index::IndexError;

/// Why a command could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The ledger cannot be opened.
    #[error("the ledger in {} cannot be read: {source}", path.display())]
    Ledger {
        /// The state directory.
        path: PathBuf,
        /// What is wrong with it.
        source: IndexError,
    },
    /// The ledger was opened, and cannot be read to its end.
    #[error("the ledger cannot be read: {0}")]
    Read(#[from] IndexError),
    /// Records that were to be exported are gone.
    #[error(
        "the daemon pruned records before they could be exported, so the export is not whole; export again, and read it faster"
    )]
    Pruned,
    /// The state directory, which holds no ledger.
    #[error("there is no ledger in {}; name the configuration of the daemon with --config, and run as its user", .0.display())]
    NoLedger(PathBuf),
    /// This user may not look into the state directory.
    #[error("{} cannot be read: {source}; run the command as root, or as the daemon's user", path.display())]
    Closed {
        /// The state directory.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// The file to verify cannot be read.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// The output cannot be written.
    #[error("the output cannot be written: {0}")]
    Output(#[from] io::Error),
    /// There is no table, or it cannot be read; a sentence.
    #[error("{0}")]
    Table(String),
}
