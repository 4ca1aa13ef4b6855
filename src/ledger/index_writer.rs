//! The one thread that writes the SQLite index: it copies ended records there from the journal, marks what was shipped,
//! deletes journal files that are no longer needed, and prunes old records.

mod pruning;
mod reports;

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
use super::index::write::ShippingProgress;
use super::index::{Index, IndexError, IndexState};
use super::integer::to_signed;
use super::journal::disk::Disk;
use super::journal::frame::FrameKind;
use super::journal::read::{Position, Reader, segment_path, segments};
use super::last_stop;
use super::recovery::{ends_between, recover};
use super::task::{IndexProgress, Task};
use super::wall_clock::WallClock;
use crate::config::Durability;
use pruning::Pruning;
use reports::{report_conflicts, report_incidents, report_undecodable};

/// How long what wakes the writer waits for more, to share one transaction: records that have ended, and those that were
/// shipped.
const BATCHING_DELAY: Duration = Duration::from_millis(20);
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

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
    /// Where the journal was read last, with its file open.
    reader: Option<Reader>,
    /// Journal files before this number are deleted.
    first_segment: u64,
    /// The state of the index with which the records that wait were counted, while there is none.
    counted: IndexState,
    /// Progress of shipping that is not marked in the index yet.
    unmarked: Vec<ShippingProgress>,
    next_prune: Instant,
    /// Old records are being deleted, a step each turn.
    pruning: Option<Pruning>,
    clock: Arc<dyn Clock>,
    wall_clock: WallClock,
    /// The file system of the journal.
    disk: Arc<dyn Disk>,
    /// Journal files of earlier processes that were not flushed yet.
    found_files: Vec<PathBuf>,
    in_use: InUse,
}

/// Whether the state directory says that this process is using it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum InUse {
    Unsaid,
    /// It could not be written down, which was logged.
    Failed,
    Said,
}

/// What one round of messages asks for, beside writing what there is.
#[derive(Debug, Default)]
struct Round {
    flushes: Vec<oneshot::Sender<()>>,
    damage: Option<IndexError>,
    recording_fails: bool,
    stop: bool,
}

impl Round {
    /// It cannot wait for the next attempt.
    fn is_urgent(&self) -> bool {
        !self.flushes.is_empty() || self.damage.is_some() || self.recording_fails || self.stop
    }
}

impl IndexWriter {
    /// A writer, and where its progress can be watched. Without an index it opens one, or rebuilds it if that is damaged.
    /// `state` is the one with which the records were counted.
    pub(crate) fn new(
        core: Arc<Core>,
        (mut index, damage): (Option<Index>, Option<IndexError>),
        state: IndexState,
        inbox: mpsc::Receiver<Task>,
        clock: Arc<dyn Clock>,
    ) -> (IndexWriter, watch::Receiver<IndexProgress>) {
        if let Some(index) = &mut index {
            report_incidents(&core, index);
        }
        let generation = 1;
        let directory = core.state_dir.journal();
        let found = segments(&directory).unwrap_or_default().into_iter();
        let found_files: Vec<PathBuf> = found.map(|number| segment_path(&directory, number)).collect();
        core.found_files_at_risk.store(!found_files.is_empty(), Relaxed);
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
            damage,
            reader: None,
            first_segment: 0,
            counted: state,
            unmarked: Vec::new(),
            pruning: None,
            found_files,
            in_use: InUse::Unsaid,
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
            self.note_in_use();
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

    /// Sets the mark by which the next start knows how this process ended. It is needed from the journal's first file on;
    /// before that, the mark of the process before tells more.
    pub(crate) fn note_in_use(&mut self) {
        if self.in_use == InUse::Said || !self.core.journal().is_begun() {
            return;
        }
        match last_stop::mark(&self.core.state_dir) {
            Ok(()) => self.in_use = InUse::Said,
            Err(error) => {
                if self.in_use == InUse::Unsaid {
                    tracing::warn!(%error, "it cannot be noted that the ledger is in use, and is tried again; should the daemon be killed, the next start may not know");
                }
                self.in_use = InUse::Failed;
            }
        }
    }

    /// Waits for messages, or until there is something to try again or to prune.
    fn receive(&mut self, failed: bool) -> Round {
        let begun = Instant::now();
        let retries = failed || self.core.has_deferred_ends() || self.core.health.recording_fails();
        let timeout = if retries || self.core.readers.are_held_back() {
            RETRY_INTERVAL
        } else if self.pruning.is_some() {
            Duration::ZERO
        } else {
            self.next_prune.saturating_duration_since(self.clock.instant()).min(self.core.until_refusals_are_due())
        };
        let mut round = Round::default();
        loop {
            match self.inbox.recv_timeout(timeout.saturating_sub(begun.elapsed())) {
                Ok(first) => {
                    self.take(first, &mut round);
                    let delay = if failed { Duration::ZERO } else { BATCHING_DELAY };
                    let until = Instant::now() + delay;
                    while !round.is_urgent()
                        && let Ok(next) = self.inbox.recv_timeout(until.saturating_duration_since(Instant::now()))
                    {
                        self.take(next, &mut round);
                    }
                    while let Ok(next) = self.inbox.try_recv() {
                        self.take(next, &mut round);
                    }
                }
                Err(RecvTimeoutError::Timeout) => return round,
                Err(RecvTimeoutError::Disconnected) => round.stop = true,
            }
            // What has just failed is not tried again for each record that ends.
            if !failed || round.is_urgent() {
                return round;
            }
        }
    }

    fn take(&mut self, task: Task, round: &mut Round) {
        match task {
            Task::RecordsEnded => {}
            Task::RecordingFails => round.recording_fails = true,
            Task::Shipped(generation, progress) if generation == self.generation => self.unmarked.extend(progress),
            Task::Shipped(..) => {}
            // A report that comes after the repair is not told apart; it costs another rebuild.
            Task::IndexDamaged(error) => round.damage = Some(error),
            Task::Flush(done) => round.flushes.push(done),
            Task::Stop => round.stop = true,
        }
    }

    fn work(&mut self) -> Result<(), IndexError> {
        self.ensure_open()?;
        self.index_journal()?;
        self.mark_shipped()?;
        if self.index.as_ref().is_some_and(Index::wants_checkpoint) {
            self.checkpoint()?;
        }
        self.delete_indexed_segments()?;
        let must_prune = self.core.must_prune();
        if self.pruning.is_none() && (must_prune || self.clock.instant() >= self.next_prune) {
            self.begin_pruning(must_prune)?;
        }
        // One step: new records, and what was shipped, do not wait for the last one.
        self.prune_step()
    }

    /// Opens an index that failed or was damaged anew, and puts the counts right.
    fn ensure_open(&mut self) -> Result<(), IndexError> {
        if self.index.is_some() {
            return Ok(());
        }
        let durability = self.core.settings.load().durability;
        let mut index = match &self.damage {
            Some(why) => Index::rebuild(&self.core.state_dir, durability, why)?,
            None => Index::open(&self.core.state_dir, durability)?,
        };
        self.damage = None;
        report_incidents(&self.core, &mut index);
        self.adjust_counts(&index)?;
        // Ids that came in meanwhile are those of the index before.
        self.unmarked.clear();
        self.pruning = None;
        self.generation += 1;
        publish(&self.progress, self.generation, &index);
        self.index = Some(index);
        Ok(())
    }

    /// Counts by what this index holds. Only the part of the journal counts that the one has and the other has not, and
    /// nothing is written there any more; what ends meanwhile is counted by whoever ends it.
    fn adjust_counts(&mut self, index: &Index) -> Result<(), IndexError> {
        let (before, now) = (self.counted, index.state);
        let (from, to) = (before.position.min(now.position), before.position.max(now.position));
        let (ends, bytes) = ends_between(&self.core.state_dir, from, to).map_err(journal_error)?;
        let (ends, bytes) = (to_signed(ends), to_signed(bytes));
        let is_behind = now.position < before.position;
        let (ends, bytes) = if is_behind { (ends, bytes) } else { (-ends, -bytes) };
        self.core.recount_index(before, now, ends, bytes);
        self.counted = now;
        Ok(())
    }

    /// Copies the records that have ended since the last time from the journal into the index.
    fn index_journal(&mut self) -> Result<(), IndexError> {
        let limit = self.limit()?;
        let Some(index) = &mut self.index else { return Ok(()) };
        if index.state.position >= limit {
            return Ok(());
        }
        let kept = self.reader.take().filter(|reader| reader.position == index.state.position);
        let mut reader = kept.unwrap_or_else(|| Reader::new(self.core.state_dir.journal(), index.state.position));
        let mut passed_over_any = false;
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
                passed_over_any |= !passed_over.conflicts.is_empty() || passed_over.repeated > 0;
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
                // Some of them were counted when they ended, and some were not.
                if passed_over_any {
                    recount(&self.core, index);
                }
                self.reader = Some(reader);
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
        if self.found_files.is_empty() {
            return;
        }
        let mut at_risk = false;
        for path in std::mem::take(&mut self.found_files) {
            let synced = match File::open(&path) {
                Ok(file) => self.disk.sync(&file),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
                Err(error) => Err(error),
            };
            if let Err(error) = synced {
                let sentence = format!("the journal file {} cannot be flushed to the disk: {error}", path.display());
                self.core.health.report_failure(Component::Index, &sentence);
                at_risk = true;
            }
        }
        self.core.found_files_at_risk.store(at_risk, Relaxed);
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
        let first = index.state.position.segment;
        if first == self.first_segment {
            return Ok(());
        }
        let directory = self.core.state_dir.journal();
        let indexed: Vec<u64> =
            segments(&directory).map_err(journal_error)?.into_iter().filter(|number| *number < first).collect();
        if indexed.is_empty() {
            self.first_segment = first;
            return Ok(());
        }
        let checkpointed = self.checkpoint();
        self.core.readers.checkpointed(!matches!(checkpointed, Ok(false)));
        if !checkpointed? {
            return Ok(());
        }
        for number in indexed {
            self.disk.remove(&segment_path(&directory, number)).map_err(journal_error)?;
            // From the front, also on the disk: an opening must not come back without the end in a later file, whose
            // record may have been pruned by then.
            self.disk.sync_directory(&directory).map_err(journal_error)?;
        }
        self.first_segment = first;
        Ok(())
    }

    fn handle_failure(&mut self, error: IndexError) {
        self.core.readers.checkpointed(true);
        let database = self.core.state_dir.database();
        self.core.health.report_failure(Component::Index, &format!("the database {}: {error}", database.display()));
        if error.is_corrupt() {
            if let Some(index) = &self.index {
                self.counted = index.state;
            }
            // Closed before the file is moved: the last connection to close tidies up the file it has open.
            self.index = None;
            self.damage = Some(error);
        }
    }
}

/// Counts anew what is in the index, and in the journal behind it.
fn recount(core: &Core, index: &Index) {
    // Requests wait meanwhile, so that none ends between reading the journal and setting the counts.
    let journal = core.journal();
    if let Ok(found) = recover(&core.state_dir, index.state.position) {
        core.recount(index.state, found.ends, found.end_bytes);
    }
    drop(journal);
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

#[cfg(test)]
mod tests;
