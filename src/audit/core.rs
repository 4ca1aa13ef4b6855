//! What the road, the keeper and the shipper share: the journal, the counts, and how failures are told.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::home::Home;
use super::item::{Context, Draft, draft, opening};
use super::journal::Journal;
use super::keeper::Task;
use super::store::State;
use crate::record::Record;
use crate::settings;

/// Ends that could not be written and wait in memory for room; behind them, requests stay open in the journal and are
/// closed as interrupted at the next start.
const MAX_OWED: usize = 8192;
/// Between two log lines about the same trouble.
const QUIET: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub struct Core {
    pub home: Home,
    pub host_id: String,
    pub chain_id: String,
    pub settings: ArcSwap<settings::Audit>,
    pub counts: Counts,
    journal: Mutex<Journal>,
    owed: Mutex<VecDeque<(usize, Record)>>,
    /// The keeper was told that there is something to carry.
    woken: AtomicBool,
    tasks: Sender<Task>,
    /// The last try to record failed.
    refusing: AtomicBool,
    /// Becomes true when shipping has to end.
    pub stopping: watch::Sender<bool>,
}

/// Numbers for status and metrics, and the bound on the ledger.
#[derive(Debug, Default)]
pub struct Counts {
    /// Ended records that are in no table, and the bytes of their items.
    pub pending: AtomicI64,
    pub bytes: AtomicI64,
    pub shipped: AtomicU64,
    pub failures: AtomicU64,
    pub unrecorded: AtomicU64,
    pub set_aside: AtomicU64,
    /// 0 not known, 1 yes, 2 no.
    pub table_reachable: AtomicU64,
    trouble: Mutex<Trouble>,
}

#[derive(Debug, Default)]
struct Trouble {
    /// The last failure of each part, until that works again.
    now: [Option<String>; 3],
    /// When each part's was last logged; kept, so that what comes and goes does not fill the log.
    said: [Option<Instant>; 3],
}

/// Which part failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Requests cannot be written to the journal, or not be flushed, or the ledger is at its bound.
    Recording = 0,
    /// The journal cannot be carried into SQLite.
    Database = 1,
    /// The table does not take records.
    Shipping = 2,
}

impl Core {
    pub fn new(home: Home, host_id: String, settings: settings::Audit, journal: Journal, tasks: Sender<Task>) -> Core {
        Core {
            home,
            host_id,
            chain_id: journal.chain().chain_id.clone(),
            settings: ArcSwap::from_pointee(settings),
            counts: Counts::default(),
            journal: Mutex::new(journal),
            owed: Mutex::default(),
            woken: AtomicBool::new(false),
            tasks,
            refusing: AtomicBool::new(false),
            stopping: watch::Sender::new(false),
        }
    }

    pub fn journal(&self) -> MutexGuard<'_, Journal> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn owed(&self) -> MutexGuard<'_, VecDeque<(usize, Record)>> {
        self.owed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes an opening, unless the ledger is at its bound. Returns its slot and the count to flush to.
    pub fn open(&self, record: &Record) -> io::Result<(usize, u64)> {
        self.within_bound()?;
        let opening = opening(record)?;
        self.journal().open(&opening)
    }

    /// Writes the end of an open request; if there is no room now, later.
    pub fn close(&self, slot: usize, record: &Record) {
        let draft = self.draft(record);
        let result = self.journal().close(slot, &draft);
        match result {
            Ok(bytes) => self.ended(bytes),
            Err(error) => {
                self.trouble(
                    Part::Recording,
                    &format!("the end of a request cannot be written to the journal: {error}"),
                );
                let mut owed = self.owed();
                if owed.len() < MAX_OWED {
                    owed.push_back((slot, record.clone()));
                }
                drop(owed);
                self.tell(Task::Wake);
            }
        }
    }

    /// Writes a request that was answered without an opening.
    pub fn note(&self, record: &Record) -> io::Result<()> {
        self.within_bound()?;
        let draft = self.draft(record);
        let bytes = self.journal().note(&draft)?;
        self.ended(bytes);
        Ok(())
    }

    /// Tries again what [`Core::close`] could not write. True when nothing is left.
    pub fn pay(&self) -> bool {
        loop {
            let Some((slot, record)) = self.owed().pop_front() else { return true };
            let draft = self.draft(&record);
            let result = self.journal().close(slot, &draft);
            match result {
                Ok(bytes) => self.ended(bytes),
                Err(_) => {
                    self.owed().push_front((slot, record));
                    return false;
                }
            }
        }
    }

    pub fn owes(&self) -> bool {
        !self.owed().is_empty()
    }

    fn draft(&self, record: &Record) -> Draft {
        let retention = self.settings.load().retention;
        draft(record, Context { host_id: &self.host_id, chain_id: &self.chain_id, retention })
    }

    fn ended(&self, bytes: usize) {
        self.counts.pending.fetch_add(1, Relaxed);
        self.counts.bytes.fetch_add(bytes as i64, Relaxed);
        if !self.woken.swap(true, SeqCst) {
            self.tell(Task::Wake);
        }
    }

    /// From now on, an ended record wakes the keeper again.
    pub fn listen_again(&self) {
        self.woken.store(false, SeqCst);
    }

    /// Gives the keeper something to do; it is gone only when the daemon stops.
    pub fn tell(&self, task: Task) {
        let _ = self.tasks.send(task);
    }

    fn within_bound(&self) -> io::Result<()> {
        let settings = self.settings.load();
        let bytes = self.counts.bytes.load(Relaxed).max(0) as u64;
        if bytes < settings.max_ledger_bytes {
            return Ok(());
        }
        let why = match &settings.table {
            Some(table) => format!("{bytes} bytes of records wait to be shipped to the table {table}"),
            None => format!("{bytes} bytes of records are kept"),
        };
        Err(io::Error::other(format!("{why}, and audit.max_ledger_bytes is {}", settings.max_ledger_bytes)))
    }

    /// Counts what is in the store and behind it anew.
    pub fn recount(&self, state: State, ends: u64, end_bytes: u64) {
        let stored = state.last_id - state.shipped_id;
        self.counts.pending.store(stored.saturating_add_unsigned(ends), Relaxed);
        self.counts.bytes.store(super::store::signed(state.unshipped_bytes + end_bytes), Relaxed);
    }

    /// Records a failure and says it, again not more often than every ten seconds.
    pub fn trouble(&self, part: Part, sentence: &str) {
        let failures = self.counts.failures.fetch_add(1, Relaxed) + 1;
        let mut trouble = self.counts.trouble();
        trouble.now[part as usize] = Some(sentence.to_owned());
        let said = &mut trouble.said[part as usize];
        let quiet = said.is_some_and(|said| said.elapsed() < QUIET);
        if !quiet {
            *said = Some(Instant::now());
        }
        drop(trouble);
        if part == Part::Recording {
            self.refusing.store(true, Relaxed);
        }
        if !quiet {
            tracing::error!(failures, "audit: {sentence}");
        }
    }

    /// What failed works again.
    pub fn works(&self, part: Part) {
        let mut trouble = self.counts.trouble();
        let before = trouble.now[part as usize].take();
        let lasting = trouble.said[part as usize].is_some_and(|said| said.elapsed() >= Duration::from_secs(1));
        drop(trouble);
        if part == Part::Recording {
            self.refusing.store(false, Relaxed);
        }
        if let Some(before) = before.filter(|_| lasting) {
            tracing::info!("audit: works again, after: {before}");
        }
    }

    /// Whether the last try to record failed.
    pub fn refusing(&self) -> bool {
        self.refusing.load(Relaxed)
    }

    /// Finds out whether requests can be recorded again, without waiting for one.
    pub fn probe(&self) {
        if self.refusing() && self.within_bound().is_ok() && self.journal().probe().is_ok() {
            self.works(Part::Recording);
        }
    }

    /// What does not work, in a sentence, the gravest first.
    pub fn last_error(&self) -> Option<String> {
        self.counts.trouble().now.iter().flatten().next().cloned()
    }
}

impl Counts {
    fn trouble(&self) -> MutexGuard<'_, Trouble> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Shared ownership, as the threads have it.
pub type Shared = Arc<Core>;
