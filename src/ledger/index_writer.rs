//! The one thread that writes the SQLite index: it copies ended records there from the journal, marks what was shipped,
//! deletes journal files that are no longer needed, and prunes old records.

use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};

use super::clock::Clock;
use super::core::Core;
use super::health::Component;
use super::index::prune::PruneRule;
use super::index::write::{Conflict, ShippingProgress};
use super::index::{Index, IndexError};
use super::integer::to_signed;
use super::journal::disk::Disk;
use super::journal::frame::FrameKind;
use super::journal::read::{Position, Reader, segment_path, segments};
use super::recovery::recover;
use super::task::{IndexProgress, Task};
use super::wall_clock::WallClock;
use crate::config::Durability;

/// How long the first record that wakes the writer waits for others, to share one transaction.
const BATCHING_DELAY: Duration = Duration::from_millis(20);
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
const PRUNE_INTERVAL: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(crate) struct IndexWriter {
    core: Arc<Core>,
    /// None while it cannot be opened.
    index: Option<Index>,
    inbox: Receiver<Task>,
    progress: watch::Sender<IndexProgress>,
    generation: u64,
    /// Why the index has to be rebuilt.
    damage: Option<IndexError>,
    /// Progress of shipping that is not marked in the index yet.
    unmarked: Vec<ShippingProgress>,
    next_prune: Instant,
    clock: Arc<dyn Clock>,
    wall_clock: WallClock,
    /// The file system of the journal.
    disk: Arc<dyn Disk>,
    /// Journal files of earlier processes that were not flushed yet.
    found_files: Vec<PathBuf>,
}

/// What one round of messages asks for, beside writing what there is.
#[derive(Debug, Default)]
struct Round {
    flushes: Vec<oneshot::Sender<()>>,
    damage: Option<IndexError>,
    stop: bool,
}

impl IndexWriter {
    /// A writer, and where its progress can be watched. Without an index it opens one.
    pub(crate) fn new(
        core: Arc<Core>,
        index: Option<Index>,
        inbox: mpsc::Receiver<Task>,
        clock: Arc<dyn Clock>,
    ) -> (IndexWriter, watch::Receiver<IndexProgress>) {
        let state = index.as_ref().map(|index| index.state).unwrap_or_default();
        let generation = 1;
        let directory = core.state_dir.journal();
        let found = segments(&directory).unwrap_or_default().into_iter();
        let found_files = found.map(|number| segment_path(&directory, number)).collect();
        let (progress, watched) =
            watch::channel(IndexProgress { generation, last_id: state.last_id, shipped_id: state.shipped_id });
        let mut wall_clock = WallClock::load(core.state_dir.clock(), clock.instant());
        // Before new records are in the index: they are dated by the very clock that is in question.
        if let Some(newest) = index.as_ref().and_then(|index| index.newest_started_ms().ok()) {
            wall_clock.observe(clock.now_ms(), clock.instant(), newest);
        }
        let disk = core.journal().disk();
        let writer = IndexWriter {
            next_prune: clock.instant(),
            clock,
            wall_clock,
            disk,
            core,
            index,
            inbox,
            progress,
            generation,
            damage: None,
            unmarked: Vec::new(),
            found_files,
        };
        (writer, watched)
    }

    /// Runs until it is told to stop.
    pub(crate) fn run(mut self) {
        let mut failed = false;
        loop {
            let round = self.receive(failed);
            if let Some(error) = round.damage {
                self.handle_failure(error);
            }
            self.core.rearm_wakeup();
            self.core.write_deferred_ends();
            self.core.write_due_refusals();
            self.core.report_complaints();
            self.core.probe_recording();
            let result = self.work();
            failed = result.is_err();
            match result {
                Ok(()) => self.core.health.report_success(Component::Index),
                Err(error) => self.handle_failure(error),
            }
            // Even when it failed: whoever waits must not wait for a disk to be emptied.
            for done in round.flushes {
                let _ = done.send(());
            }
            if round.stop {
                if !self.checkpoint().unwrap_or(false)
                    && let Some(index) = &self.index
                {
                    index.close_without_checkpoint();
                }
                return;
            }
        }
    }

    /// Waits for messages, or until there is something to try again or to prune.
    fn receive(&mut self, failed: bool) -> Round {
        let timeout = if failed || self.core.has_deferred_ends() || self.core.health.recording_fails() {
            RETRY_INTERVAL
        } else {
            self.next_prune.saturating_duration_since(self.clock.instant()).min(self.core.until_refusals_are_due())
        };
        let mut round = Round::default();
        let first = match self.inbox.recv_timeout(timeout) {
            Ok(first) => first,
            Err(RecvTimeoutError::Timeout) => return round,
            Err(RecvTimeoutError::Disconnected) => {
                round.stop = true;
                return round;
            }
        };
        let batches = matches!(first, Task::RecordsEnded) && !failed;
        let next = if batches { self.inbox.recv_timeout(BATCHING_DELAY).ok() } else { None };
        for task in std::iter::once(first).chain(next).chain(self.inbox.try_iter()) {
            match task {
                Task::RecordsEnded => {}
                Task::Shipped(generation, progress) if generation == self.generation => {
                    self.unmarked.extend(progress);
                }
                Task::Shipped(..) => {}
                // A report that comes after the repair is not told apart; it costs another rebuild.
                Task::IndexDamaged(error) => round.damage = Some(error),
                Task::Flush(done) => round.flushes.push(done),
                Task::Stop => round.stop = true,
            }
        }
        round
    }

    fn work(&mut self) -> Result<(), IndexError> {
        self.ensure_open()?;
        self.index_journal()?;
        self.mark_shipped()?;
        if self.index.as_ref().is_some_and(Index::wants_checkpoint) {
            self.checkpoint()?;
        }
        self.delete_indexed_segments()?;
        if self.clock.instant() >= self.next_prune || self.core.must_prune() {
            self.prune()?;
            self.next_prune = self.clock.instant() + PRUNE_INTERVAL;
        }
        Ok(())
    }

    /// Opens an index that failed or was damaged anew, and counts everything again.
    fn ensure_open(&mut self) -> Result<(), IndexError> {
        if self.index.is_some() {
            return Ok(());
        }
        let durability = self.core.settings.load().durability;
        let index = match &self.damage {
            Some(why) => Index::rebuild(&self.core.state_dir, durability, why)?,
            None => Index::open(&self.core.state_dir, durability)?,
        };
        self.damage = None;
        // Requests wait meanwhile, so that none ends between reading the journal and setting the counts.
        let journal = self.core.journal();
        if let Ok(found) = recover(&self.core.state_dir, index.state.position) {
            self.core.recount(index.state, found.ends, found.end_bytes);
        }
        drop(journal);
        self.generation += 1;
        publish(&self.progress, self.generation, &index);
        self.index = Some(index);
        Ok(())
    }

    /// Copies the records that have ended since the last time from the journal into the index.
    fn index_journal(&mut self) -> Result<(), IndexError> {
        let limit = self.limit()?;
        let Some(index) = &mut self.index else { return Ok(()) };
        if index.state.position >= limit {
            return Ok(());
        }
        let mut reader = Reader::new(self.core.state_dir.journal(), index.state.position);
        loop {
            let chunk = reader.next_chunk(Some(limit)).map_err(journal_error)?;
            if chunk.skipped_bytes > 0 {
                tracing::warn!(
                    segment = chunk.segment,
                    bytes = chunk.skipped_bytes,
                    "the journal holds bytes that make no entry; they are skipped"
                );
            }
            let entries: Vec<(FrameKind, &[u8])> =
                chunk.frames.into_iter().map(|(kind, range)| (kind, &reader.bytes[range])).collect();
            if !entries.is_empty() {
                let passed_over = index.insert(&entries, reader.position)?;
                report_conflicts(&self.core, index, &passed_over.conflicts);
                if passed_over.undecodable > 0 {
                    report_undecodable(&self.core, chunk.segment, passed_over.undecodable);
                }
                publish(&self.progress, self.generation, index);
                if index.wants_checkpoint() {
                    checkpoint(&self.core, index)?;
                }
            }
            if chunk.at_end {
                return Ok(());
            }
        }
    }

    /// Up to where the journal may be copied: with `durability = "disk"` no record is in the index, and shipped, that
    /// the journal could lose.
    fn limit(&mut self) -> Result<Position, IndexError> {
        if self.core.settings.load().durability == Durability::Process {
            return Ok(self.core.journal().end());
        }
        self.sync_found_files();
        // What could not be flushed was told; the rest goes on.
        let _ = self.core.sync_journal();
        Ok(self.core.journal().durable_end())
    }

    /// Flushes the journal files that an earlier process has left, once.
    fn sync_found_files(&mut self) {
        for path in std::mem::take(&mut self.found_files) {
            let synced = match File::open(&path) {
                Ok(file) => self.disk.sync(&file),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
                Err(error) => Err(error),
            };
            if let Err(error) = synced {
                let sentence = format!("the journal file {} cannot be flushed to the disk: {error}", path.display());
                self.core.health.report_failure(Component::Index, &sentence);
            }
        }
    }

    /// Makes durable what is in the index. False when a reader prevents part of it, or the journal would stay behind.
    fn checkpoint(&mut self) -> Result<bool, IndexError> {
        self.sync_found_files();
        match &mut self.index {
            Some(index) => checkpoint(&self.core, index),
            None => Ok(false),
        }
    }

    fn mark_shipped(&mut self) -> Result<(), IndexError> {
        let Some(index) = self.index.as_mut().filter(|_| !self.unmarked.is_empty()) else { return Ok(()) };
        let before = index.state;
        index.mark_shipped(&self.unmarked)?;
        self.unmarked.clear();
        let counts = &self.core.counts;
        counts.pending.fetch_sub(index.state.shipped_id - before.shipped_id, Relaxed);
        counts.bytes.fetch_sub(to_signed(before.unshipped_bytes - index.state.unshipped_bytes), Relaxed);
        counts.set_aside.store(index.set_aside_count()?, Relaxed);
        publish(&self.progress, self.generation, index);
        Ok(())
    }

    /// Deletes the journal files whose records are all in the index, and durably so.
    fn delete_indexed_segments(&mut self) -> Result<(), IndexError> {
        let Some(index) = &self.index else { return Ok(()) };
        let directory = self.core.state_dir.journal();
        let indexed: Vec<u64> = segments(&directory)
            .map_err(journal_error)?
            .into_iter()
            .filter(|number| *number < index.state.position.segment)
            .collect();
        if indexed.is_empty() || !self.checkpoint()? {
            return Ok(());
        }
        for number in indexed {
            self.disk.remove(&segment_path(&directory, number)).map_err(journal_error)?;
            // From the front, also on the disk: an opening must not come back without the end in a later file, whose
            // record may have been pruned by then.
            self.disk.sync_directory(&directory).map_err(journal_error)?;
        }
        Ok(())
    }

    fn prune(&mut self) -> Result<(), IndexError> {
        let newest = self.index.as_ref().map(Index::newest_started_ms).transpose()?.flatten();
        let known = self.wall_clock.observe(self.clock.now_ms(), self.clock.instant(), newest);
        self.core.good_ms.store(known.good_ms, Relaxed);
        // Decided once: a ledger that is too full is emptied down to the goal, not just below the point where it began.
        let must_prune = self.core.must_prune();
        loop {
            let Some(index) = &mut self.index else { return Ok(()) };
            let settings = self.core.settings.load();
            let retention = i64::try_from(settings.retention.as_millis()).unwrap_or(i64::MAX);
            let rule = PruneRule {
                // Not the careful time: records that a clock has dated rightly would be from the future by it, and as old
                // as those that a slow clock has dated.
                now_ms: known.latest_ms(),
                before_ms: known.careful_ms().saturating_sub(retention),
                max_bytes: settings.max_ledger_bytes,
                local_only: settings.table.is_none(),
                max_unshipped_bytes: must_prune.then_some(settings.max_ledger_bytes / 100 * 85),
            };
            let pruned = index.prune(rule)?;
            if pruned.unshipped > 0 && settings.table.is_some() {
                tracing::warn!(
                    records = pruned.unshipped,
                    "audit: the ledger is full; the oldest records were deleted before they had reached the table"
                );
            }
            self.core.counts.pending.fetch_sub(to_signed(pruned.unshipped), Relaxed);
            self.core.counts.bytes.fetch_sub(to_signed(pruned.unshipped_bytes), Relaxed);
            if pruned.records > 0 {
                self.checkpoint()?;
            }
            if !pruned.more {
                return Ok(());
            }
            // Records that ended meanwhile do not wait for the pruning to end.
            self.index_journal()?;
        }
    }

    fn handle_failure(&mut self, error: IndexError) {
        let database = self.core.state_dir.database();
        self.core.health.report_failure(Component::Index, &format!("the database {}: {error}", database.display()));
        if error.is_corrupt() {
            // Closed before the file is moved: the last connection to close tidies up the file it has open.
            self.index = None;
            self.damage = Some(error);
            self.unmarked.clear();
        }
    }
}

/// The file is deleted some day, so a copy is kept.
fn report_undecodable(core: &Core, segment: u64, entries: u64) {
    let path = segment_path(&core.state_dir.journal(), segment);
    let copy = match core.state_dir.set_aside(&path, true) {
        Ok(copy) => format!("a copy is {}", copy.display()),
        Err(error) => format!("it cannot be copied: {error}"),
    };
    core.health.report_incident(&format!(
        "{entries} entries of the journal file {} are no records and are passed over; {copy}",
        path.display()
    ));
}

/// Records that are kept aside do not wait for a table, and cannot pass unnoticed.
fn report_conflicts(core: &Core, index: &Index, conflicts: &[Conflict]) {
    let Some(first) = conflicts.first() else { return };
    let bytes: u64 = conflicts.iter().map(|conflict| conflict.bytes).sum();
    core.counts.pending.fetch_sub(to_signed(conflicts.len() as u64), Relaxed);
    core.counts.bytes.fetch_sub(to_signed(bytes), Relaxed);
    core.counts.set_aside.store(index.set_aside_count().unwrap_or(0), Relaxed);
    core.health.report_failure(
        Component::Index,
        &format!(
            "{} records claim a place in the chain that another record has, the first of them record {}; they are kept aside, in the table `conflicts` of the ledger's database",
            conflicts.len(),
            first.seq
        ),
    );
}

/// The index is made durable only behind the journal: a loss of power must not leave it ahead of its source.
fn checkpoint(core: &Core, index: &mut Index) -> Result<bool, IndexError> {
    let synced = core.sync_journal();
    let durable = core.journal().durable_end();
    if let Err(error) = synced.map_err(journal_error)
        && index.state.position > durable
    {
        return Err(error);
    }
    index.checkpoint()
}

fn journal_error(error: std::io::Error) -> IndexError {
    IndexError::Journal(error.to_string())
}

fn publish(progress: &watch::Sender<IndexProgress>, generation: u64, index: &Index) {
    let (last_id, shipped_id) = (index.state.last_id, index.state.shipped_id);
    progress.send_replace(IndexProgress { generation, last_id, shipped_id });
}
