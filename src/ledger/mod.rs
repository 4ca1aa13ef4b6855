//! The ledger: what is known of each request, kept so that nothing that was served goes unrecorded and no record is
//! lost.
//!
//! A request's opening is in the [`journal`] before its first byte goes upstream, its end when its body has ended. The
//! `index_writer` copies ended records from there into the SQLite [`index`], from which they are shipped to DynamoDB
//! and an auditor's queries are answered. The journal is the truth; everything behind it can be rebuilt from it.

mod anchor;
mod anchoring;
pub(crate) mod chain;
pub(crate) mod clients;
pub(crate) mod clock;
mod core;
mod counts;
pub mod dynamo;
mod error;
mod flat;
mod flush;
mod former;
mod genesis;
mod health;
pub(crate) mod host_id;
pub mod index;
mod index_writer;
pub(crate) mod integer;
pub(crate) mod item;
pub mod journal;
mod last_stop;
pub(crate) mod readers;
mod recovery;
mod refusals;
pub(crate) mod rollups;
mod ship;
mod start;
mod state_dir;
mod status;
mod task;
#[cfg(test)]
mod tests;
pub(crate) mod time_shard;
pub(crate) mod timestamp;
mod wall_clock;

use std::io;
use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

pub use error::LedgerError;
pub use state_dir::StateDir;
pub use status::Status;

use self::core::Core;
use crate::config::{OnFailure, OnFull};
use crate::error::{Refusal, RefusalKind};
use crate::limits::{ChainHead, PastUse, UseAfter, UseRecords};
use crate::record::{Outcome, Record};
use crate::settings;
use clients::Clients;
use clock::{Clock, RealClock};
use flush::Flusher;
use genesis::Genesis;
use index::IndexError;
use journal::disk::{Disk, RealDisk};
use readers::Readers;
use refusals::Place;
use rollups::Rollups;
use task::{IndexProgress, Task};

/// The ledger of this host. Shared by `Arc`; records are written by whoever calls.
#[derive(Debug)]
pub struct Ledger {
    core: Arc<Core>,
    progress: watch::Receiver<IndexProgress>,
    /// For an auditor's queries to the table; shipping has its own.
    clients: Arc<Clients>,
    flusher: Option<Arc<Flusher>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// What the chain does not say yet of its beginning.
    genesis: Mutex<Option<Genesis>>,
    rollups: Arc<Rollups>,
    _lock: state_dir::Lock,
}

/// A request whose opening is in the ledger. Dropped without [`Ledger::close`], it becomes `interrupted` at the next
/// start.
#[derive(Debug)]
#[must_use = "a request that was opened has to be closed"]
pub struct Opened {
    /// None when the request is served unrecorded.
    slot: Option<usize>,
    /// The count of bytes that a flush has to reach to have it on the disk.
    bytes: u64,
}

impl UseRecords for Ledger {
    fn head(&self) -> Option<ChainHead> {
        self.core.head()
    }

    async fn all(&self, until: Option<ChainHead>) -> io::Result<Vec<PastUse>> {
        self.past_use(until).await
    }

    async fn after(&self, head: ChainHead, until: Option<ChainHead>, open: Vec<String>) -> io::Result<UseAfter> {
        self.use_after(head, until, open).await
    }
}

impl Ledger {
    /// Opens the ledger in the settings' state directory, records what a crash left open as interrupted, and starts
    /// shipping.
    ///
    /// # Errors
    /// When another daemon uses the state directory, or it or what is in it cannot be used.
    pub async fn start(settings: &settings::Audit) -> Result<Arc<Ledger>, LedgerError> {
        Ledger::start_with(settings, None).await
    }

    /// The same, with a client for DynamoDB instead of the one that the environment describes.
    ///
    /// # Errors
    /// As [`Ledger::start`].
    pub async fn start_with(
        settings: &settings::Audit,
        client: Option<aws_sdk_dynamodb::Client>,
    ) -> Result<Arc<Ledger>, LedgerError> {
        Ledger::start_on(settings, client, Arc::new(RealDisk), Arc::new(RealClock)).await
    }

    /// The same, with the journal on a file system of the caller's choice, and a clock by which records are old.
    pub(crate) async fn start_on(
        settings: &settings::Audit,
        client: Option<aws_sdk_dynamodb::Client>,
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<Ledger>, LedgerError> {
        let clients = Arc::new(Clients::new(&settings.region, client.clone()));
        let settings = settings.clone();
        let started = tokio::task::spawn_blocking(move || start::start(&settings, client, disk, clock))
            .await
            .unwrap_or_else(|error| {
                let reason = format!("its start failed: {error}");
                Err(LedgerError::Unusable { path: PathBuf::from("ledger"), reason })
            })?;
        if started.core.settings.load().on_full == OnFull::Prune {
            tracing::info!(
                max_ledger_bytes = started.core.settings.load().max_ledger_bytes,
                "audit: when the ledger is nine tenths full, its oldest records are deleted (audit.on_full)"
            );
        }
        tokio::spawn(anchoring::write_every_minute(started.core.clone()));
        let rollups = Arc::new(Rollups::new(&started.core.state_dir));
        let (core, progress) = (started.core.clone(), started.progress.clone());
        tokio::spawn(rollups::follow(core, rollups.clone(), progress, rollups::INTERVAL));
        Ok(Arc::new(Ledger {
            core: started.core,
            progress: started.progress,
            clients,
            flusher: started.flusher,
            threads: Mutex::new(started.threads),
            genesis: Mutex::new(started.genesis),
            rollups,
            _lock: started.lock,
        }))
    }

    /// Says what a new chain begins behind, in a record of the daemon's own: `own` has what such records have in common.
    /// What has to be looked up in the table is said later. A chain whose beginning is told is left as it is.
    pub fn begin_chain(&self, own: &Record) {
        let genesis = self.genesis.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut genesis) = genesis else { return };
        if genesis.begin(&self.core, own) {
            self.request_flush();
        } else {
            tokio::spawn(genesis.finish(self.core.clone(), self.clients.clone(), own.clone()));
        }
    }

    /// Writes the opening of a request. [`Ledger::wait_until_durable`] has to return before the request's first byte
    /// goes upstream. Whoever has the [`Opened`] closes it, also when that fails: one request, one record.
    ///
    /// # Errors
    /// With `audit.on_failure = "deny"`, a refusal (503) when the opening cannot be written. With `"allow"` there is no
    /// error: the request is served unrecorded.
    pub fn begin(&self, record: &Record) -> Result<Opened, Refusal> {
        match self.core.open(record) {
            Ok((slot, bytes)) => Ok(Opened { slot: Some(slot), bytes }),
            Err(error) => self.cannot_record(&error.to_string()).map(|()| Opened { slot: None, bytes: 0 }),
        }
    }

    /// Waits until an opening is durable in the sense of `audit.durability`.
    ///
    /// # Errors
    /// With `audit.on_failure = "deny"`, a refusal (503) when it cannot be made so. The opening is still to be closed.
    pub async fn wait_until_durable(&self, opened: &Opened) -> Result<(), Refusal> {
        let (Some(flusher), Some(_)) = (&self.flusher, opened.slot) else { return Ok(()) };
        match flusher.wait_for(opened.bytes).await {
            Ok(()) => Ok(()),
            // It is in the journal, though perhaps not on the disk: that is as good as can be had.
            Err(_) if self.core.settings.load().on_failure == OnFailure::Allow => Ok(()),
            Err(error) => self.cannot_record(&error.to_string()),
        }
    }

    /// [`Ledger::begin`] and [`Ledger::wait_until_durable`], for who does not go away meanwhile.
    ///
    /// # Errors
    /// As these.
    pub async fn open(&self, record: &Record) -> Result<Opened, Refusal> {
        let opened = self.begin(record)?;
        match self.wait_until_durable(&opened).await {
            Ok(()) => Ok(opened),
            Err(refusal) => {
                let (outcome, status_code) = (Outcome::Refused, refusal.kind.status().as_u16());
                let error_message = Some(refusal.text());
                self.close(opened, &Record { outcome, success: false, status_code, error_message, ..record.clone() });
                Err(refusal)
            }
        }
    }

    /// Writes again what is known of a request under way, because it is tried once more: elsewhere, or as something else.
    /// It is not waited for, and no request fails by it.
    pub(crate) fn amend(&self, opened: &Opened, record: &Record) {
        if let Some(slot) = opened.slot {
            self.core.amend(slot, record);
        }
    }

    /// Writes the end of a request. Neither network nor disk are waited for.
    pub fn close(&self, opened: Opened, record: &Record) {
        match opened.slot {
            Some(slot) => {
                self.core.close(slot, record);
                self.request_flush();
            }
            // Served although its opening could not be written. By now there may be room for all of it.
            None => self.note(record),
        }
    }

    /// Writes a request that never went upstream. Of those that were refused, that the daemon answered itself, or whose
    /// client left early, each caller and reason has a bounded number of records a minute; beyond it they become one.
    /// `error_type` is the reason. Returns whether the request is told by itself; of the others, the ledger logs how many
    /// they are.
    pub fn note_unsent(&self, record: &Record, error_type: &'static str) -> bool {
        let may_repeat = matches!(record.outcome, Outcome::Refused | Outcome::ClientDisconnected | Outcome::Completed);
        let place = if may_repeat { self.core.admit_refusal(record, error_type) } else { Place::Own };
        if place == Place::Own {
            self.note(record);
        }
        place != Place::Shared
    }

    /// Writes a request that never went upstream, as a record of its own.
    pub fn note(&self, record: &Record) {
        match self.core.note(record) {
            Ok(()) => self.request_flush(),
            Err(error) => self.count_unrecorded(&error.to_string()),
        }
    }

    fn request_flush(&self) {
        if let Some(flusher) = &self.flusher {
            flusher.request_flush();
        }
    }

    /// What `audit.on_failure` says about a request that cannot be recorded.
    fn cannot_record(&self, reason: &str) -> Result<(), Refusal> {
        match self.core.settings.load().on_failure {
            OnFailure::Allow => {
                let sentence = format!("requests are served whose opening cannot be recorded: {reason}");
                self.core.recording_failed(&sentence);
                Ok(())
            }
            OnFailure::Deny => {
                self.core.recording_failed(&format!("requests are refused: {reason}"));
                let message = format!("the request cannot be recorded, and unrecorded requests are refused: {reason}.");
                Err(Refusal::new(RefusalKind::ServiceUnavailable, message).retry_after(Duration::from_secs(5)))
            }
        }
    }

    fn count_unrecorded(&self, reason: &str) {
        self.core.counts.unrecorded.fetch_add(1, Relaxed);
        self.core.recording_failed(&format!("requests are answered UNRECORDED: {reason}"));
    }

    /// What records and the fleet's table call this host.
    pub fn host_id(&self) -> &str {
        &self.core.host_id
    }

    /// Takes over what can change while the daemon runs: retention, on_failure, max_ledger_bytes, on_full. Directory,
    /// durability, table and region change at the next restart, which is logged.
    pub fn apply(&self, settings: &settings::Audit) {
        let current = self.core.settings.load();
        let applied = settings::Audit {
            state_dir: current.state_dir.clone(),
            durability: current.durability,
            table: current.table.clone(),
            region: current.region.clone(),
            ..settings.clone()
        };
        let needs_restart = settings.state_dir != current.state_dir
            || settings.durability != current.durability
            || settings.table != current.table
            || settings.region != current.region;
        if needs_restart {
            tracing::warn!(
                "audit.state_dir, audit.durability, audit.table and audit.region change at the next restart"
            );
        }
        self.core.settings.store(Arc::new(applied));
        self.core.check_recording();
    }

    /// What was used in the last 31 days, as far as records up to `until` tell.
    ///
    /// # Errors
    /// When they cannot be read.
    pub async fn past_use(&self, until: Option<ChainHead>) -> io::Result<Vec<PastUse>> {
        let since_ms = clock::now_ms().saturating_sub(31 * 86_400_000);
        self.read_use(move |db| index::past_use::past_use(db, since_ms, until.as_ref())).await
    }

    /// What was used by requests whose end was recorded after `head`, up to `until`; those in `open` one by one.
    ///
    /// # Errors
    /// When that cannot be read.
    pub async fn use_after(
        &self,
        head: ChainHead,
        until: Option<ChainHead>,
        open: Vec<String>,
    ) -> io::Result<UseAfter> {
        self.read_use(move |db| index::past_use::use_after(db, &head, until.as_ref(), &open)).await
    }

    async fn read_use<T: Send + 'static>(
        &self,
        read: impl FnOnce(&rusqlite::Connection) -> Result<T, IndexError> + Send + 'static,
    ) -> io::Result<T> {
        self.flush().await;
        let database = self.database();
        let read = move || read(&index::open_to_read(&database)?);
        tokio::task::spawn_blocking(read).await.map_err(io::Error::other)?.map_err(io::Error::other)
    }

    /// Waits until every record that has ended by now is in the index, where queries find it.
    pub async fn flush(&self) {
        let (done, waits) = tokio::sync::oneshot::channel();
        self.core.send(Task::Flush(done));
        let _ = waits.await;
    }

    /// Writes everything into the index, gives shipping until `deadline`, and ends the threads.
    pub async fn stop(&self, deadline: impl Into<Instant>) {
        let deadline = deadline.into();
        self.core.write_held_refusals();
        let _ = tokio::time::timeout_at(deadline, async {
            self.flush().await;
            while self.core.settings.load().table.is_some() && self.core.counts.pending.load(Relaxed) > 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        self.stop_threads();
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        let _ = tokio::task::spawn_blocking(move || threads.into_iter().for_each(|thread| drop(thread.join()))).await;
        // The threads may have written last records.
        anchoring::write_at_stop(&self.core).await;
        self.note_orderly_stop();
    }

    /// Once the threads have ended. A stop is orderly only if nothing can be lost after it: the journal is on the disk.
    fn note_orderly_stop(&self) {
        match self.core.sync_journal() {
            Ok(_) if !self.core.found_files_at_risk.load(Relaxed) => {
                last_stop::settle(&self.core.state_dir, self.core.after_unclean_stop.load(Relaxed));
            }
            _ => tracing::warn!(
                "the journal could not be flushed to the disk at the end; the next start takes this for a stop that was not in order"
            ),
        }
    }

    fn stop_threads(&self) {
        self.core.write_held_refusals();
        self.core.stopping.send_replace(true);
        self.core.send(Task::Stop);
        if let Some(flusher) = &self.flusher {
            flusher.stop();
        }
    }
}

/// For an auditor.
impl Ledger {
    /// The SQLite file of ended records.
    pub(crate) fn database(&self) -> PathBuf {
        self.core.state_dir.database()
    }

    /// Those who read the index, and may take long.
    pub(crate) fn readers(&self) -> &Arc<Readers> {
        &self.core.readers
    }

    /// How far the index is, for who follows it.
    pub(crate) fn progress(&self) -> watch::Receiver<IndexProgress> {
        self.progress.clone()
    }

    /// What the dashboard's figures are added up from.
    pub(crate) fn rollups(&self) -> &Arc<Rollups> {
        &self.rollups
    }

    /// The DynamoDB table that records are shipped to.
    pub(crate) fn table(&self) -> Option<String> {
        self.core.settings.load().table.clone()
    }

    pub(crate) fn clients(&self) -> &Clients {
        &self.clients
    }

    /// Has the index rebuilt that a reader found damaged.
    pub(crate) fn report_damage(&self, error: IndexError) {
        self.core.send(Task::IndexDamaged(error));
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.stop_threads();
        for thread in std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner)) {
            let _ = thread.join();
        }
        self.note_orderly_stop();
    }
}
