//! What the ledger's threads share: the journal, the counts, the settings, and how a record gets into the journal.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::anchor::Anchors;
use super::chain::Chain;
use super::counts::Counts;
use super::health::{Component, Health};
use super::index::IndexState;
use super::integer::{to_signed, to_unsigned};
use super::item::{Draft, ItemContext, draft_item, encode_opening};
use super::journal::Journal;
use super::readers::Readers;
use super::refusals::{Place, Refusals, Room};
use super::state_dir::StateDir;
use super::task::Task;
use super::wall_clock::WallClock;
use crate::config::OnFull;
use crate::limits::ChainHead;
use crate::record::Record;
use crate::settings;

/// Ends that could not be written and wait in memory for room. Those beyond it stay open in the journal and are
/// recorded as interrupted at the next start.
const MAX_DEFERRED_ENDS: usize = 8192;

/// By so much may the ledger exceed its bound while old records are being deleted.
const PRUNING_LAG: u64 = 64 << 20;

#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) state_dir: StateDir,
    pub(crate) host_id: String,
    pub(crate) chain_id: String,
    pub(crate) settings: ArcSwap<settings::Audit>,
    pub(crate) counts: Counts,
    pub(crate) health: Health,
    pub(crate) anchors: Anchors,
    pub(crate) readers: Arc<Readers>,
    journal: Mutex<Journal>,
    /// Ends that could not be written, by the slot of their opening.
    deferred_ends: Mutex<VecDeque<(usize, Record)>>,
    refusals: Mutex<Refusals>,
    /// The last time that was known to be good, in milliseconds since 1970; 0 when none is.
    pub(crate) good_ms: AtomicI64,
    /// The last process has not stopped in order, and no record says so yet.
    pub(crate) after_unclean_stop: AtomicBool,
    /// Journal files of an earlier process are not known to be on the disk.
    pub(crate) found_files_at_risk: AtomicBool,
    /// The index writer has a [`Task::RecordsEnded`] that it has not acted on.
    wakeup_sent: AtomicBool,
    tasks: Sender<Task>,
    /// Becomes true when shipping has to end.
    pub(crate) stopping: watch::Sender<bool>,
}

impl Core {
    pub(crate) fn new(
        state_dir: StateDir,
        host_id: String,
        settings: settings::Audit,
        journal: Journal,
        tasks: Sender<Task>,
    ) -> Core {
        let good_ms = WallClock::load(state_dir.clock(), Instant::now()).good_ms().unwrap_or(0);
        Core {
            good_ms: good_ms.into(),
            state_dir,
            host_id,
            chain_id: journal.chain().chain_id.clone(),
            settings: ArcSwap::from_pointee(settings),
            counts: Counts::default(),
            health: Health::default(),
            anchors: Anchors::default(),
            readers: Arc::default(),
            journal: Mutex::new(journal),
            deferred_ends: Mutex::default(),
            refusals: Mutex::default(),
            after_unclean_stop: AtomicBool::new(false),
            found_files_at_risk: AtomicBool::new(false),
            wakeup_sent: AtomicBool::new(false),
            tasks,
            stopping: watch::Sender::new(false),
        }
    }

    pub(crate) fn journal(&self) -> MutexGuard<'_, Journal> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn deferred_ends(&self) -> MutexGuard<'_, VecDeque<(usize, Record)>> {
        self.deferred_ends.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes an opening, unless the ledger has reached its bound. Returns its slot and the count of bytes to flush to.
    pub(crate) fn open(&self, record: &Record) -> io::Result<(usize, u64)> {
        self.check_size_bound()?;
        let opening = encode_opening(record);
        self.journal().open(opening)
    }

    /// Writes an opening once more, which a further attempt has changed. It has been recorded, so that a failure is told
    /// and nothing else.
    pub(crate) fn amend(&self, slot: usize, record: &Record) {
        let opening = encode_opening(record);
        let amended = self.journal().amend(slot, opening);
        if let Err(error) = amended {
            self.recording_failed(&format!("a further attempt of a request cannot be written to the journal: {error}"));
        }
    }

    /// Writes the end of an open request. When the journal cannot take it now, it is kept and written later.
    pub(crate) fn close(&self, slot: usize, record: &Record) {
        if let Err(error) = self.write_end(record, |journal, draft| journal.close(slot, draft)) {
            self.recording_failed(&format!("the end of a request cannot be written to the journal: {error}"));
            let mut deferred = self.deferred_ends();
            if deferred.len() < MAX_DEFERRED_ENDS {
                deferred.push_back((slot, record.clone()));
            } else {
                self.counts.unrecorded.fetch_add(1, Relaxed);
                self.recording_failed(&format!("{MAX_DEFERRED_ENDS} ends of requests wait for the journal; others are LOST, and these requests are recorded as interrupted at the next start"));
            }
            drop(deferred);
            self.send(Task::RecordsEnded);
        }
    }

    /// Writes a request that was answered without an opening.
    pub(crate) fn note(&self, record: &Record) -> io::Result<()> {
        self.check_size_bound()?;
        self.write_end(record, Journal::note)
    }

    /// Says of a refusal, or an answer of the daemon's own, whether it is written as a record of its own; otherwise it is
    /// counted, and written with others later.
    pub(crate) fn admit_refusal(&self, record: &Record, error_type: &'static str) -> Place {
        self.write_due_refusals();
        let room = self.room_for_refusals();
        // A full ledger takes nothing. That is said and counted by whoever tries to write.
        let room = if self.check_size_bound().is_err() { Room::Plenty } else { room };
        self.refusals().admit(record, error_type, Instant::now(), room)
    }

    /// Writes the records that stand for several refusals, once their minute has passed.
    pub(crate) fn write_due_refusals(&self) {
        let (records, repeated) = self.refusals().take_due(Instant::now(), self.room_for_refusals());
        self.write_refusals(&records);
        if repeated > 0 {
            tracing::warn!(
                refusals = repeated,
                "audit: many requests are refused, or answered by the daemon itself; beyond the first of a minute, those of one caller and reason are one record and one log line"
            );
        }
    }

    /// The same for those of the running minute, before the threads end.
    pub(crate) fn write_held_refusals(&self) {
        let records = self.refusals().take_held();
        self.write_refusals(&records);
    }

    /// Until the next refusals have to be written.
    pub(crate) fn until_refusals_are_due(&self) -> Duration {
        self.refusals().due().map_or(Duration::MAX, |due| due.saturating_duration_since(Instant::now()))
    }

    pub(crate) fn coalesced_refusals(&self) -> u64 {
        self.refusals().coalesced_total()
    }

    fn refusals(&self) -> MutexGuard<'_, Refusals> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// These are few, so the bound on the ledger's size does not concern them.
    fn write_refusals(&self, records: &[Record]) {
        for record in records {
            if let Err(error) = self.write_end(record, Journal::note) {
                self.counts.unrecorded.fetch_add(1 + record.repeated.unwrap_or(0), Relaxed);
                self.recording_failed(&format!("refused requests cannot be written to the journal: {error}"));
            }
        }
    }

    /// The last tenth of the ledger is for admitted requests, but for the few records that stand for many refusals;
    /// the last twentieth is for admitted requests alone.
    fn room_for_refusals(&self) -> Room {
        let bytes = to_unsigned(self.counts.bytes.load(Relaxed));
        let max = self.settings.load().max_ledger_bytes;
        match max.saturating_sub(bytes) {
            left if left > max / 10 => Room::Plenty,
            left if left > max / 20 => Room::Scarce,
            _ => Room::None,
        }
    }

    /// Writes the ends that [`Core::close`] had to keep, as far as the journal takes them now.
    pub(crate) fn write_deferred_ends(&self) {
        loop {
            // It counts as deferred until it has its place in the chain; see `head`.
            let mut deferred = self.deferred_ends();
            let Some((slot, record)) = deferred.front() else { return };
            if self.write_end(record, |journal, draft| journal.close(*slot, draft)).is_err() {
                return;
            }
            deferred.pop_front();
        }
    }

    /// The last record in the chain; none while ended requests wait for their place in it.
    pub(crate) fn head(&self) -> Option<ChainHead> {
        if self.has_deferred_ends() {
            return None;
        }
        let journal = self.journal();
        let Chain { chain_id, seq, .. } = journal.chain();
        Some(ChainHead { chain_id: chain_id.clone(), seq: *seq })
    }

    /// Flushes the journal to the disk and returns the count of bytes that are there then. If that fails, what was not
    /// there is written again into a new file.
    pub(crate) fn sync_journal(&self) -> io::Result<u64> {
        let unsynced = self.journal().unsynced();
        let error = match unsynced.sync() {
            Ok(bytes) => return Ok(bytes),
            Err(error) => error,
        };
        self.recording_failed(&format!(
            "the journal cannot be flushed to the disk, and is continued in a new file: {error}"
        ));
        let again = {
            let mut journal = self.journal();
            journal.check_room().map(|()| journal.unsynced())
        };
        self.report_complaints();
        again?.sync()
    }

    /// Reports that requests cannot be recorded. When that begins, the index writer is woken to see whether it lasts.
    pub(crate) fn recording_failed(&self, sentence: &str) {
        if self.health.report_failure(Component::Recording, sentence) {
            self.send(Task::RecordingFails);
        }
    }

    /// Tells what went wrong in the journal without making a request fail.
    pub(crate) fn report_complaints(&self) {
        let complaints = self.journal().take_complaints();
        for complaint in complaints {
            self.health.report_incident(&complaint);
        }
    }

    pub(crate) fn has_deferred_ends(&self) -> bool {
        !self.deferred_ends().is_empty()
    }

    /// Writes an end into the journal, and counts it.
    fn write_end(
        &self,
        record: &Record,
        write: impl FnOnce(&mut Journal, &Draft) -> io::Result<usize>,
    ) -> io::Result<()> {
        let after_unclean_stop = self.after_unclean_stop.load(Relaxed) && self.after_unclean_stop.swap(false, SeqCst);
        let context = ItemContext {
            host_id: &self.host_id,
            chain_id: &self.chain_id,
            retention: self.settings.load().retention,
            good_ms: self.good_ms.load(Relaxed),
            after_unclean_stop,
        };
        let draft = draft_item(record, context);
        let written = write(&mut self.journal(), &draft);
        if after_unclean_stop && written.is_err() {
            // The next one says it.
            self.after_unclean_stop.store(true, SeqCst);
        }
        self.count_ended(written?);
        Ok(())
    }

    fn count_ended(&self, bytes: usize) {
        self.counts.pending.fetch_add(1, Relaxed);
        self.counts.bytes.fetch_add(to_signed(bytes as u64), Relaxed);
        if !self.wakeup_sent.swap(true, SeqCst) {
            self.send(Task::RecordsEnded);
        }
    }

    /// From now on, the next record that ends wakes the index writer again.
    pub(crate) fn rearm_wakeup(&self) {
        self.wakeup_sent.store(false, SeqCst);
    }

    /// Gives the index writer something to do. The writer is gone only when the daemon stops.
    pub(crate) fn send(&self, task: Task) {
        let _ = self.tasks.send(task);
    }

    fn check_size_bound(&self) -> io::Result<()> {
        let settings = self.settings.load();
        let bytes = to_unsigned(self.counts.bytes.load(Relaxed));
        let bound = match settings.on_full {
            OnFull::Deny => settings.max_ledger_bytes,
            OnFull::Prune => settings.max_ledger_bytes.saturating_add(PRUNING_LAG),
        };
        if bytes < bound {
            return Ok(());
        }
        let why = match &settings.table {
            Some(table) => format!("{bytes} bytes of records wait to be shipped to the table {table}"),
            None => format!("{bytes} bytes of records are kept"),
        };
        Err(io::Error::other(format!("{why}, and audit.max_ledger_bytes is {}", settings.max_ledger_bytes)))
    }

    /// Whether the oldest records have to go now.
    pub(crate) fn must_prune(&self) -> bool {
        let settings = self.settings.load();
        let bytes = to_unsigned(self.counts.bytes.load(Relaxed));
        settings.on_full == OnFull::Prune && bytes > settings.max_ledger_bytes / 10 * 9
    }

    /// Sets the counts at the start, from what is in the index, and the ends in the journal that are not in it yet.
    pub(crate) fn recount(&self, index: IndexState, ends: u64, end_bytes: u64) {
        let unshipped = index.last_id - index.shipped_id;
        self.counts.pending.store(unshipped.saturating_add_unsigned(ends), Relaxed);
        self.counts.bytes.store(to_signed(index.unshipped_bytes + end_bytes), Relaxed);
    }

    /// The index has another state than the one that the counts were made with. `ends` of the journal, of so many bytes,
    /// are not in it but were in the other; if these are negative, it is the other way round.
    pub(crate) fn recount_index(&self, before: IndexState, now: IndexState, ends: i64, end_bytes: i64) {
        let unshipped = |state: IndexState| state.last_id - state.shipped_id;
        self.counts.pending.fetch_add(unshipped(now) - unshipped(before) + ends, Relaxed);
        let bytes = to_signed(now.unshipped_bytes) - to_signed(before.unshipped_bytes) + end_bytes;
        self.counts.bytes.fetch_add(bytes, Relaxed);
    }

    /// Finds out whether requests can be recorded, before one has to be refused.
    pub(crate) fn check_recording(&self) {
        if let Err(error) = self.check_room() {
            self.recording_failed(&format!("the ledger takes no requests: {error}"));
        }
    }

    /// After a failure, finds out whether requests can be recorded again, without waiting for one.
    pub(crate) fn probe_recording(&self) {
        if self.health.recording_fails() && self.check_room().is_ok() {
            self.health.report_success(Component::Recording);
        }
    }

    fn check_room(&self) -> io::Result<()> {
        self.check_size_bound()?;
        self.journal().check_room()
    }
}
