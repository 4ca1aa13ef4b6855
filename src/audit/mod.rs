//! What is known of each request, and where it is kept: nothing that was served goes unrecorded, and no record is lost.
//!
//! A request's opening is in the [`journal`] before its first byte goes upstream, its end when its body has ended. The
//! [`keeper`] carries ended records from there into SQLite, from where they are shipped to DynamoDB and questions are
//! answered. The journal is the truth; everything behind it can be rebuilt from it.

pub mod chain;
pub mod check;
pub mod cli;
mod core;
mod fleet;
mod flush;
pub mod home;
mod host;
pub mod item;
pub mod journal;
mod keeper;
pub mod questions;
mod reading;
mod recovery;
pub mod ship;
mod start;
pub mod store;
mod verify;

use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::time::Instant;

pub use questions::{Query, Scope};

use self::core::{Part, Shared};
use crate::config::OnFailure;
use crate::error::{Kind, Refusal};
use crate::record::{Outcome, Record};
use crate::settings;
use flush::Flusher;
use keeper::Task;
use ship::source::Clients;

/// The ledger of this host. Shared by `Arc`; records are written by whoever calls.
#[derive(Debug)]
pub struct Audit {
    core: Shared,
    /// For questions to the table; shipping has its own.
    clients: Clients,
    flusher: Option<Arc<Flusher>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    _lock: home::Lock,
}

/// A request whose opening is in the ledger. Dropped without [`Audit::close`], it becomes `interrupted` at the next start.
#[derive(Debug)]
#[must_use = "a request that was opened has to be closed"]
pub struct Opened {
    /// None when the request is served unrecorded.
    slot: Option<usize>,
}

/// How the ledger is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Ended records that DynamoDB has not confirmed; 0 without a table.
    pub pending: u64,
    /// Bytes of the records that are in no table, against `audit.max_ledger_bytes`.
    pub bytes: u64,
    /// Requests under way.
    pub open: u64,
    /// Since the daemon's start.
    pub shipped_total: u64,
    /// Failed attempts to write or to ship, since the daemon's start.
    pub failures_total: u64,
    /// Requests that were answered and could not be recorded, since the daemon's start.
    pub unrecorded_total: u64,
    /// Records that the table refuses for what they are.
    pub set_aside: u64,
    /// What does not work at the moment, in a sentence.
    pub last_error: Option<String>,
    /// Whether the ledger takes records.
    pub ledger_writable: bool,
    /// None without a table, or as long as nothing was tried.
    pub table_reachable: Option<bool>,
}

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
    #[error("the ledger {} cannot be used: {reason}", path.display())]
    Ledger { path: PathBuf, reason: String },
}

impl Audit {
    /// Opens the ledger in the settings' state directory, closes what a former life left open, and starts shipping.
    pub async fn start(settings: &settings::Audit) -> Result<Arc<Audit>, AuditError> {
        Audit::start_with(settings, None).await
    }

    /// The same, with a client for DynamoDB instead of the one that the environment describes.
    pub async fn start_with(
        settings: &settings::Audit,
        client: Option<aws_sdk_dynamodb::Client>,
    ) -> Result<Arc<Audit>, AuditError> {
        let settings = settings.clone();
        tokio::task::spawn_blocking(move || start::start(&settings, client)).await.unwrap_or_else(|error| {
            Err(AuditError::Ledger { path: PathBuf::from("ledger"), reason: format!("its start failed: {error}") })
        })
    }

    /// Writes the opening of a request, durably in the sense of `audit.durability`, before its first byte goes upstream.
    /// When that cannot be done, `audit.on_failure` decides: a refusal (503), or serving it unrecorded.
    pub async fn open(&self, record: &Record) -> Result<Opened, Refusal> {
        let (slot, mark) = match self.core.open(record) {
            Ok(opened) => opened,
            Err(error) => return self.cannot_record(&error.to_string()),
        };
        let Some(flusher) = &self.flusher else {
            return Ok(Opened { slot: Some(slot) });
        };
        let waiting = Waiting { core: &self.core, record, slot: Some(slot) };
        let flushed = flusher.reach(mark).await;
        let slot = waiting.over();
        match flushed {
            Ok(()) => Ok(Opened { slot }),
            // It is in the journal, though perhaps not on the disk: that is as good as can be had.
            Err(_) if self.core.settings.load().on_failure == OnFailure::Allow => Ok(Opened { slot }),
            Err(reason) => {
                let refused = self.cannot_record(&reason);
                if let (Some(slot), Err(refusal)) = (slot, &refused) {
                    self.core.close(slot, &ended(record, Outcome::Refused, 503, refusal.text()));
                }
                refused
            }
        }
    }

    /// Writes the end of a request. Neither network nor disk are waited for.
    pub fn close(&self, opened: Opened, record: &Record) {
        if let Some(slot) = opened.slot {
            self.core.close(slot, record);
            if let Some(flusher) = &self.flusher {
                flusher.want(false);
            }
        }
    }

    /// Writes a request that never went upstream.
    pub fn note(&self, record: &Record) {
        match self.core.note(record) {
            Ok(()) => {
                if let Some(flusher) = &self.flusher {
                    flusher.want(false);
                }
            }
            Err(error) => self.unrecorded(&error.to_string()),
        }
    }

    fn cannot_record(&self, reason: &str) -> Result<Opened, Refusal> {
        match self.core.settings.load().on_failure {
            OnFailure::Allow => {
                self.unrecorded(reason);
                Ok(Opened { slot: None })
            }
            OnFailure::Deny => {
                self.core.trouble(Part::Recording, &format!("requests are refused: {reason}"));
                let message = format!("the request cannot be recorded, and unrecorded requests are refused: {reason}.");
                Err(Refusal::new(Kind::ServiceUnavailable, message).retry_after(Duration::from_secs(5)))
            }
        }
    }

    fn unrecorded(&self, reason: &str) {
        self.core.counts.unrecorded.fetch_add(1, Relaxed);
        self.core.trouble(Part::Recording, &format!("requests are answered UNRECORDED: {reason}"));
    }

    /// What records and the fleet call this host.
    pub fn host_id(&self) -> &str {
        &self.core.host_id
    }

    pub fn status(&self) -> Status {
        let counts = &self.core.counts;
        let has_table = self.core.settings.load().table.is_some();
        Status {
            pending: if has_table { counts.pending.load(Relaxed).max(0).cast_unsigned() } else { 0 },
            bytes: counts.bytes.load(Relaxed).max(0).cast_unsigned(),
            open: self.core.journal().open_count() as u64,
            shipped_total: counts.shipped.load(Relaxed),
            failures_total: counts.failures.load(Relaxed),
            unrecorded_total: counts.unrecorded.load(Relaxed),
            set_aside: counts.set_aside.load(Relaxed),
            last_error: self.core.last_error(),
            ledger_writable: !self.core.refusing(),
            table_reachable: match counts.table_reachable.load(Relaxed) {
                1 if has_table => Some(true),
                2 if has_table => Some(false),
                _ => None,
            },
        }
    }

    /// Takes over what can change while the daemon runs: retention, on_failure, max_ledger_bytes. Directory, durability,
    /// table and region need a restart, which is said.
    pub fn apply(&self, settings: &settings::Audit) {
        let now = self.core.settings.load();
        let stays = settings::Audit {
            state_dir: now.state_dir.clone(),
            durability: now.durability,
            table: now.table.clone(),
            region: now.region.clone(),
            ..settings.clone()
        };
        let differs = settings.state_dir != now.state_dir
            || settings.durability != now.durability
            || settings.table != now.table
            || settings.region != now.region;
        if differs {
            tracing::warn!(
                "audit.state_dir, audit.durability, audit.table and audit.region change at the next restart"
            );
        }
        self.core.settings.store(Arc::new(stays));
    }

    /// Waits until every record that has ended by now can be asked for.
    pub async fn flush(&self) {
        let (done, waits) = tokio::sync::oneshot::channel();
        self.core.tell(Task::Flush(done));
        let _ = waits.await;
    }

    /// Stores everything, gives shipping until `deadline`, and ends the threads.
    pub async fn stop(&self, deadline: impl Into<Instant>) {
        let deadline = deadline.into();
        self.flush().await;
        let _ = tokio::time::timeout_at(deadline, async {
            while self.core.settings.load().table.is_some() && self.core.counts.pending.load(Relaxed) > 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        self.end_threads();
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        let _ = tokio::task::spawn_blocking(move || threads.into_iter().for_each(|thread| drop(thread.join()))).await;
    }

    fn end_threads(&self) {
        self.core.stopping.send_replace(true);
        self.core.tell(Task::Stop);
        if let Some(flusher) = &self.flusher {
            flusher.want(true);
        }
    }
}

impl Drop for Audit {
    fn drop(&mut self) {
        self.end_threads();
        for thread in std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner)) {
            let _ = thread.join();
        }
    }
}

/// An opening that waits for its flush. When the client leaves meanwhile, the waiting is dropped, and the request ended.
struct Waiting<'a> {
    core: &'a Shared,
    record: &'a Record,
    slot: Option<usize>,
}

impl Waiting<'_> {
    fn over(mut self) -> Option<usize> {
        self.slot.take()
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(slot) = self.slot {
            let why = "bedrock-sidecar: the client left before the request was sent".to_owned();
            self.core.close(slot, &ended(self.record, Outcome::ClientDisconnected, 499, why));
        }
    }
}

fn ended(record: &Record, outcome: Outcome, status_code: u16, message: String) -> Record {
    Record { outcome, success: false, status_code, error_message: Some(message), ..record.clone() }
}

/// Milliseconds since 1970, by a clock that may jump.
fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}
