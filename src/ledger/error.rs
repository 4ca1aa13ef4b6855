//! Why the ledger cannot be used at all.

use std::path::PathBuf;

/// The ledger cannot be opened. Each message is a sentence for the admin.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// Another process holds the lock of the state directory.
    #[error(
        "another bedrock-sidecar (pid {pid}) uses the state directory {}; stop it, or give this one its own audit.state_dir and its own audit.table",
        path.display()
    )]
    InUse {
        /// The state directory.
        path: PathBuf,
        /// As the other process wrote it into the lock file; may be empty.
        pid: String,
    },
    /// The state directory cannot be created, made private or locked.
    #[error(
        "the state directory {} cannot be used: {source}; run the daemon as the user that it belongs to, give it and all that is in it to this user (chown -R), or set audit.state_dir to a directory that this user may write to",
        path.display()
    )]
    Directory {
        /// The state directory.
        path: PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// The journal or the index cannot be read, or a thread cannot be started.
    #[error("the ledger {} cannot be used: {reason}", path.display())]
    Unusable {
        /// The file or directory, or the name of the thread.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}
