//! The one thread that writes SQLite: it carries ended records there from the journal, marks what was shipped, deletes
//! journal files that are no longer needed, and forgets old records.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};

use super::core::{Part, Shared};
use super::journal::frame::Kind;
use super::journal::read::{Reader, segment_path, segments};
use super::recovery::recover;
use super::store::prune::Rule;
use super::store::write::Shipped;
use super::store::{Store, StoreError};

/// After the first record that wakes the keeper, others may join it.
const GATHER: Duration = Duration::from_millis(20);
const RETRY: Duration = Duration::from_secs(1);
const PRUNE: Duration = Duration::from_secs(60);

/// What the keeper is asked to do.
#[derive(Debug)]
pub enum Task {
    /// Records have ended.
    Wake,
    /// Records have reached the table, or never will; of which generation of the store.
    Shipped(u64, Vec<Shipped>),
    /// A reader found the store damaged.
    Damaged(StoreError),
    /// Say when everything that has ended by now is in SQLite.
    Flush(oneshot::Sender<()>),
    /// Carry over what there is and end.
    Stop,
}

#[derive(Debug)]
pub struct Keeper {
    pub core: Shared,
    pub store: Option<Store>,
    pub inbox: Receiver<Task>,
    pub progress: watch::Sender<Progress>,
    /// Counts the stores that were opened: ids of one mean nothing in the next.
    pub generation: u64,
    /// Why the store has to be rebuilt.
    pub damage: Option<StoreError>,
}

/// How far the store is, for the shipper.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    pub generation: u64,
    pub last_id: i64,
    pub shipped_id: i64,
}

impl Keeper {
    /// Runs until it is told to stop.
    pub fn run(mut self) {
        let mut marks: Vec<Shipped> = Vec::new();
        let mut failed = false;
        let mut next_prune = Instant::now();
        loop {
            let patience = if failed || self.core.owes() || self.core.refusing() {
                RETRY
            } else {
                next_prune.saturating_duration_since(Instant::now())
            };
            let mut stop = false;
            let mut flushes = Vec::new();
            let mut damaged = None;
            match self.inbox.recv_timeout(patience) {
                Ok(first) => {
                    let gathers = matches!(first, Task::Wake) && !failed;
                    let next = if gathers { self.inbox.recv_timeout(GATHER).ok() } else { None };
                    for task in std::iter::once(first).chain(next).chain(self.inbox.try_iter()) {
                        match task {
                            Task::Wake => {}
                            Task::Shipped(generation, progress) if generation == self.generation => {
                                marks.extend(progress);
                            }
                            Task::Shipped(..) => {}
                            // A second report of what is mended by then is not told apart; it costs another rebuilding.
                            Task::Damaged(error) => damaged = Some(error),
                            Task::Flush(done) => flushes.push(done),
                            Task::Stop => stop = true,
                        }
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => stop = true,
            }
            if let Some(error) = damaged {
                self.stumble(&mut marks, error);
            }
            self.core.listen_again();
            self.core.pay();
            self.core.probe();
            let result = self.work(&mut marks, &mut next_prune);
            failed = result.is_err();
            match result {
                Ok(()) => self.core.works(Part::Database),
                Err(error) => self.stumble(&mut marks, error),
            }
            // Even when it failed: whoever waits must not wait for a disk to be emptied.
            for done in flushes {
                let _ = done.send(());
            }
            if stop {
                if let Some(store) = &self.store {
                    let _ = store.settle();
                }
                return;
            }
        }
    }

    fn work(&mut self, marks: &mut Vec<Shipped>, next_prune: &mut Instant) -> Result<(), StoreError> {
        self.reopen()?;
        self.carry()?;
        self.mark(marks)?;
        self.drop_segments()?;
        if Instant::now() >= *next_prune {
            self.prune()?;
            *next_prune = Instant::now() + PRUNE;
        }
        Ok(())
    }

    /// A store that failed or was damaged is opened anew, and everything is counted again.
    fn reopen(&mut self) -> Result<(), StoreError> {
        if self.store.is_some() {
            return Ok(());
        }
        let durability = self.core.settings.load().durability;
        let store = match &self.damage {
            Some(why) => Store::rebuild(&self.core.home, durability, why)?,
            None => Store::open(&self.core.home, durability)?,
        };
        self.damage = None;
        // The road waits meanwhile, so that nothing ends between counting and the count.
        let journal = self.core.journal();
        if let Ok(found) = recover(&self.core.home, store.state.position) {
            self.core.recount(store.state, found.ends, found.end_bytes);
        }
        drop(journal);
        self.generation += 1;
        publish(&self.progress, self.generation, &store);
        self.store = Some(store);
        Ok(())
    }

    fn carry(&mut self) -> Result<(), StoreError> {
        let Some(store) = &mut self.store else { return Ok(()) };
        let limit = self.core.journal().end();
        if store.state.position >= limit {
            return Ok(());
        }
        let mut reader = Reader::new(self.core.home.journal(), store.state.position);
        loop {
            let step = reader.step(Some(limit)).map_err(|error| StoreError::Journal(error.to_string()))?;
            if step.garbage > 0 {
                tracing::warn!(
                    segment = step.segment,
                    bytes = step.garbage,
                    "the journal holds bytes that make no entry; they are skipped"
                );
            }
            let entries: Vec<(Kind, &[u8])> =
                step.frames.into_iter().map(|(kind, range)| (kind, &reader.piece[range])).collect();
            if !entries.is_empty() {
                store.store(&entries, reader.position)?;
                publish(&self.progress, self.generation, store);
            }
            if step.end {
                return Ok(());
            }
        }
    }

    fn mark(&mut self, marks: &mut Vec<Shipped>) -> Result<(), StoreError> {
        let Some(store) = self.store.as_mut().filter(|_| !marks.is_empty()) else { return Ok(()) };
        let before = store.state;
        store.mark(marks)?;
        marks.clear();
        let counts = &self.core.counts;
        let relaxed = std::sync::atomic::Ordering::Relaxed;
        counts.pending.fetch_sub(store.state.shipped_id - before.shipped_id, relaxed);
        counts.bytes.fetch_sub((before.unshipped_bytes - store.state.unshipped_bytes) as i64, relaxed);
        counts.set_aside.store(store.set_aside_count()?, relaxed);
        publish(&self.progress, self.generation, store);
        Ok(())
    }

    /// Deletes the files in front of the one that is being carried.
    fn drop_segments(&mut self) -> Result<(), StoreError> {
        let Some(store) = &self.store else { return Ok(()) };
        let directory = self.core.home.journal();
        let io = |error: std::io::Error| StoreError::Journal(error.to_string());
        let done: Vec<u64> = segments(&directory)
            .map_err(io)?
            .into_iter()
            .filter(|number| *number < store.state.position.segment)
            .collect();
        if done.is_empty() || !store.settle()? {
            return Ok(());
        }
        for number in done {
            std::fs::remove_file(segment_path(&directory, number)).map_err(io)?;
        }
        Ok(())
    }

    fn prune(&mut self) -> Result<(), StoreError> {
        loop {
            let Some(store) = &mut self.store else { return Ok(()) };
            let settings = self.core.settings.load();
            let retention = i64::try_from(settings.retention.as_millis()).unwrap_or(i64::MAX);
            let rule = Rule {
                before_ms: super::now_ms().saturating_sub(retention),
                max_bytes: settings.max_ledger_bytes,
                local_only: settings.table.is_none(),
            };
            let pruned = store.prune(rule)?;
            let relaxed = std::sync::atomic::Ordering::Relaxed;
            self.core.counts.pending.fetch_sub(pruned.unshipped as i64, relaxed);
            self.core.counts.bytes.fetch_sub(pruned.unshipped_bytes as i64, relaxed);
            if !pruned.more {
                return Ok(());
            }
            self.carry()?;
        }
    }

    fn stumble(&mut self, marks: &mut Vec<Shipped>, error: StoreError) {
        self.core.trouble(Part::Database, &format!("the database {}: {error}", self.core.home.database().display()));
        if error.is_corrupt() {
            // Dropped before it is moved: the last connection tidies up the file it has open.
            self.store = None;
            self.damage = Some(error);
            marks.clear();
        }
    }
}

fn publish(progress: &watch::Sender<Progress>, generation: u64, store: &Store) {
    let (last_id, shipped_id) = (store.state.last_id, store.state.shipped_id);
    progress.send_replace(Progress { generation, last_id, shipped_id });
}
