//! The ledger's start, which is also its recovery: there is no other path after a crash than after a clean stop.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};

use aws_sdk_dynamodb::Client;
use tokio::sync::watch;

use super::chain::Chain;
use super::clients::Clients;
use super::clock::Clock;
use super::core::Core;
use super::error::LedgerError;
use super::flush::Flusher;
use super::genesis::Genesis;
use super::host_id::host_id;
use super::index::{Index, IndexError};
use super::index_writer::IndexWriter;
use super::journal::Journal;
use super::journal::disk::Disk;
use super::journal::frame::{Frame, FrameKind};
use super::journal::read::Position;
use super::last_stop::LastStop;
use super::recovery::{Recovered, recover};
use super::ship;
use super::state_dir::{Lock, StateDir};
use super::task::{IndexProgress, Task};
use crate::config::Durability;
use crate::record::{Outcome, Record};
use crate::settings;

/// Bytes reserved for a journal file.
const SEGMENT_BYTES: u64 = 16 << 20;
const MIN_SEGMENT_BYTES: u64 = 256 << 10;

/// A ledger whose threads run.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) core: Arc<Core>,
    /// How far the index is.
    pub(crate) progress: watch::Receiver<IndexProgress>,
    /// Present with `durability = "disk"`.
    pub(crate) flusher: Option<Arc<Flusher>>,
    pub(crate) threads: Vec<JoinHandle<()>>,
    pub(crate) lock: Lock,
    /// What the chain does not say yet of its beginning.
    pub(crate) genesis: Option<Genesis>,
}

/// Locks the state directory, reads what is in it, records what a crash left open as interrupted, and starts the
/// threads. With `client`, that one is used for DynamoDB. The journal is written through `disk`; records are old by
/// `clock`.
pub(crate) fn start(
    settings: &settings::Audit,
    client: Option<Client>,
    disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
) -> Result<Started, LedgerError> {
    let state_dir = StateDir::find(settings);
    let lock = state_dir.occupy()?;
    let last_stop = LastStop::find(&state_dir);
    let had_database = state_dir.database().metadata().is_ok_and(|file| file.len() > 0);
    let mut index = match Index::open(&state_dir, settings.durability) {
        Ok(index) => Some(index),
        Err(error @ IndexError::Newer(_)) => {
            return Err(LedgerError::Unusable { path: state_dir.database(), reason: error.to_string() });
        }
        // A full disk, say: the journal may still take records, and the index writer tries again.
        Err(error) => {
            tracing::error!(file = %state_dir.database().display(), %error, "the ledger's database cannot be opened; trying again");
            None
        }
    };
    let state = index.as_ref().map(|index| index.state).unwrap_or_default();
    let mut found = recover(&state_dir, state.position).map_err(|error| match error.kind() {
        std::io::ErrorKind::PermissionDenied => LedgerError::Directory { path: state_dir.root.clone(), source: error },
        _ => LedgerError::Unusable { path: state_dir.journal(), reason: error.to_string() },
    })?;

    let host_id = host_id();
    // One that was rebuilt is to be filled from the journal's beginning, and may lack the newest records.
    let mut index_is_whole = index.as_ref().is_some_and(|_| !had_database || state.position != Position::default());
    let (mut ended, mut link) = (0, found.chain.clone());
    let (mut damage, mut is_unreadable) = (None, false);
    if let Some(opened) = &index {
        let known =
            ended_in_index(opened, &mut found).and_then(|ended| Ok((ended, latest_link(opened, link.clone())?)));
        match known {
            Ok(known) => (ended, link) = known,
            Err(error) => {
                tracing::error!(file = %state_dir.database().display(), %error, "the ledger's database cannot be read; trying again");
                (index_is_whole, is_unreadable) = (false, true);
                damage = Some(error).filter(IndexError::is_corrupt);
            }
        }
    }
    if is_unreadable {
        index = None;
    }
    let doubt = if last_stop == LastStop::HostDown && settings.durability == Durability::Process {
        Some("the host went down while the daemon ran, and may have lost the newest records")
    } else if !index_is_whole && found.is_faulty {
        Some("neither the journal nor the ledger's database can be read as a whole")
    } else {
        None
    };
    let (chain, genesis) = match link {
        Some(chain) if doubt.is_none() && chain.host_id == host_id => {
            let genesis = Genesis::load(state_dir.genesis(), &chain.chain_id);
            (chain, genesis)
        }
        // A place in the chain that may have been given away is not given away again.
        former => {
            let chain = Chain::new(&host_id);
            let genesis = Genesis::new(state_dir.genesis(), &chain.chain_id, former, doubt.is_some());
            (chain, Some(genesis))
        }
    };
    let flush = settings.durability == Durability::Disk;
    let segment_bytes = SEGMENT_BYTES.min(settings.max_ledger_bytes / 4).max(MIN_SEGMENT_BYTES);
    let mut journal = Journal::new(state_dir.journal(), segment_bytes, flush, disk, found.next_number, chain);
    let mut unreadable = 0;
    let unfinished: Vec<(usize, Record)> = found
        .open
        .values()
        .map(|opening| {
            let slot = journal.adopt(Frame::new(FrameKind::Open, opening));
            (slot, interrupted(readable(opening, &mut unreadable)))
        })
        .collect();
    if let Some(doubt) = doubt {
        tracing::warn!(chain = journal.chain().chain_id, "records go on in a new chain: {doubt}");
    }

    let (tasks, inbox) = mpsc::channel();
    let core = Arc::new(Core::new(state_dir, host_id, settings.clone(), journal, tasks));
    core.recount(state, found.ends, found.end_bytes);
    if ended > 0 {
        tracing::warn!(requests = ended, "the journal lacks the ends of requests that the ledger's database has");
    }
    if unreadable + found.undecodable > 0 {
        core.health.report_incident(&format!(
            "{} entries of the journal cannot be understood; of requests that were under way it is recorded that they were interrupted, with what can be read of them",
            unreadable + found.undecodable
        ));
    }
    if last_stop != LastStop::Orderly || !unfinished.is_empty() || ended > 0 {
        tracing::warn!(
            interrupted = unfinished.len(),
            "the daemon was not stopped in order the last time; requests that were under way are recorded as interrupted, and the next record says afterUncleanStop"
        );
        core.after_unclean_stop.store(true, Relaxed);
    }
    for (slot, record) in unfinished {
        core.close(slot, &record);
    }

    let set_aside = index.as_ref().and_then(|index| index.set_aside_count().ok()).unwrap_or(0);
    core.counts.set_aside.store(set_aside, Relaxed);
    let (mut writer, progress) = IndexWriter::new(core.clone(), (index, damage), state, inbox, clock);
    let index_progress = progress.clone();
    // Readiness has to know before the first request is refused. And the next start has to find a new chain, whatever
    // happens until a record is written.
    core.check_recording();
    writer.note_in_use();
    let mut threads = vec![spawn("audit-index", move || writer.run())?];
    if let Some(table) = settings.table.clone() {
        let clients = Clients::new(&settings.region, client);
        let core = core.clone();
        threads.push(spawn("audit-ship", move || ship::run(core, table, clients, progress))?);
    }
    let flusher = flush.then(|| Arc::new(Flusher::new()));
    if let Some(flusher) = flusher.clone() {
        let core = core.clone();
        threads.push(spawn("audit-flush", move || flusher.run(&core))?);
    }
    // What is in the journal and not in the index may have waited for this.
    core.send(Task::RecordsEnded);
    Ok(Started { core, progress: index_progress, flusher, threads, lock, genesis })
}

/// Where the chain goes on: journal and index each may lack what the other has, after a loss of power or a restored
/// copy of one of them. A place in the chain that either knows is never given away again.
fn latest_link(index: &Index, journal: Option<Chain>) -> Result<Option<Chain>, IndexError> {
    let newest = index.last_chain()?;
    let known = journal.as_ref().map(|chain| index.chain(&chain.chain_id)).transpose()?.flatten();
    Ok(match (journal, known) {
        (Some(journal), Some(known)) if newest.as_ref().is_some_and(|newest| newest.chain_id != known.chain_id) => {
            tracing::warn!(chain = journal.chain_id, "the journal is older than the ledger's database");
            newest
        }
        (Some(journal), Some(known)) if known.seq > journal.seq => {
            tracing::warn!(
                journal = journal.seq,
                database = known.seq,
                "the journal lacks records that the ledger's database has, as after a loss of power; the chain goes on behind them"
            );
            Some(known)
        }
        (Some(journal), _) => Some(journal),
        (None, _) => newest,
    })
}

/// Takes out the openings whose ends the journal lost and the index has. Returns how many they are.
fn ended_in_index(index: &Index, found: &mut Recovered) -> Result<usize, IndexError> {
    if found.open.is_empty() {
        return Ok(0);
    }
    let before = found.open.len();
    let ended = index.ended_after(found.first.as_ref())?;
    found.open.retain(|id, _| !ended.contains(id));
    Ok(before - found.open.len())
}

/// A record, or what can be read of it.
fn readable(opening: &[u8], unreadable: &mut u64) -> Record {
    serde_json::from_slice(opening).unwrap_or_else(|_| {
        *unreadable += 1;
        let value: serde_json::Value = serde_json::from_slice(opening).unwrap_or_default();
        Record {
            request_id: value["requestId"].as_str().unwrap_or_default().to_owned(),
            started_ms: value["startedMs"].as_i64().unwrap_or_default(),
            error_message: Some("bedrock-sidecar: what was known of this request cannot be read".to_owned()),
            ..Record::default()
        }
    })
}

fn interrupted(record: Record) -> Record {
    Record {
        outcome: Outcome::Interrupted,
        success: false,
        error_message: record
            .error_message
            .or_else(|| Some("bedrock-sidecar: the daemon ended before the answer did".to_owned())),
        ..record
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, LedgerError> {
    thread::Builder::new().name(name.to_owned()).spawn(run).map_err(|error| LedgerError::Unusable {
        path: name.into(),
        reason: format!("a thread cannot be started: {error}"),
    })
}
