//! What is known of each request, and where it is kept: nothing that was served goes unrecorded, and no record is lost.
//!
//! A request's opening is in the [`journal`] before its first byte goes upstream, its end when its body has ended. The
//! [`keeper`] carries ended records from there into SQLite, from where they are shipped to DynamoDB and questions are
//! answered. The journal is the truth; everything behind it can be rebuilt from it.

pub mod chain;
pub mod home;
mod host;
pub mod item;
pub mod journal;
mod recovery;
pub mod record;

use std::path::PathBuf;

pub use record::{Outcome, Record, Usage};

/// Why the ledger cannot be used at all; each is a sentence for the admin.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    #[error(
        "another bedrock-sidecar (pid {pid}) uses the state directory {}; stop it, or give this one its own audit.state_dir",
        path.display()
    )]
    InUse { path: PathBuf, pid: String },
    #[error(
        "the state directory {} cannot be used: {source}; set audit.state_dir to a directory that this user may write to",
        path.display()
    )]
    Directory { path: PathBuf, source: std::io::Error },
    #[error("the ledger {} cannot be read: {reason}", path.display())]
    Ledger { path: PathBuf, reason: String },
}
