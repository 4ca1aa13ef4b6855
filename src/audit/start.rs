//! The ledger's start, which is also its recovery: there is no other path after a crash than after a clean stop.

use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use aws_sdk_dynamodb::Client;
use tokio::sync::watch;

use super::chain::Chain;
use super::core::Core;
use super::flush::Flusher;
use super::home::Home;
use super::host::host_id;
use super::journal::Journal;
use super::keeper::{Keeper, Progress, Task};
use super::recovery::recover;
use super::ship::{self, source::Clients};
use super::store::{Store, StoreError};
use super::{Audit, AuditError};
use crate::config::Durability;
use crate::record::{Outcome, Record};
use crate::settings;

/// Bytes reserved for a journal file.
const SEGMENT_BYTES: u64 = 16 << 20;
const SMALLEST_SEGMENT_BYTES: u64 = 256 << 10;

pub fn start(settings: &settings::Audit, client: Option<Client>) -> Result<Arc<Audit>, AuditError> {
    let home = Home::find(settings);
    let lock = home.occupy()?;
    let store = match Store::open(&home, settings.durability) {
        Ok(store) => Some(store),
        Err(error @ StoreError::Newer(_)) => {
            return Err(AuditError::Ledger { path: home.database(), reason: error.to_string() });
        }
        // A full disk, say: the journal may still take records, and the keeper tries again.
        Err(error) => {
            tracing::error!(file = %home.database().display(), %error, "the ledger's database cannot be opened; trying again");
            None
        }
    };
    let state = store.as_ref().map(|store| store.state).unwrap_or_default();
    let found = recover(&home, state.position)
        .map_err(|error| AuditError::Ledger { path: home.journal(), reason: error.to_string() })?;

    let host_id = host_id();
    let chain = found
        .chain
        .or_else(|| store.as_ref().and_then(|store| store.last_chain().ok().flatten()))
        .filter(|chain| chain.host_id == host_id)
        .unwrap_or_else(|| Chain::new(&host_id));
    let flush = settings.durability == Durability::Disk;
    let segment_bytes = SEGMENT_BYTES.min(settings.max_ledger_bytes / 4).max(SMALLEST_SEGMENT_BYTES);
    let mut journal = Journal::new(home.journal(), segment_bytes, flush, found.next_number, chain);
    let adopted: Vec<(usize, Record)> = found
        .open
        .values()
        .filter_map(|opening| {
            let record = serde_json::from_slice(opening).ok()?;
            Some((journal.adopt(opening), interrupted(record)))
        })
        .collect();

    let (tasks, inbox) = mpsc::channel();
    let core = Arc::new(Core::new(home, host_id, settings.clone(), journal, tasks));
    core.recount(state, found.ends, found.end_bytes);
    if !adopted.is_empty() {
        tracing::warn!(
            requests = adopted.len(),
            "requests that were under way when the daemon ended are recorded as interrupted"
        );
    }
    for (slot, record) in adopted {
        core.close(slot, &record);
    }

    let set_aside = store.as_ref().and_then(|store| store.set_aside_count().ok()).unwrap_or(0);
    core.counts.set_aside.store(set_aside, std::sync::atomic::Ordering::Relaxed);
    let (progress, watched) =
        watch::channel(Progress { generation: 1, last_id: state.last_id, shipped_id: state.shipped_id });
    let keeper = Keeper { core: core.clone(), store, inbox, progress, generation: 1, damage: None };
    let mut threads = vec![spawn("audit-keeper", move || keeper.run())?];
    if let Some(table) = settings.table.clone() {
        let clients = Clients::new(&settings.region, client.clone());
        let core = core.clone();
        threads.push(spawn("audit-ship", move || ship::run(core, table, clients, watched))?);
    }
    let flusher = flush.then(|| Arc::new(Flusher::new()));
    if let Some(flusher) = flusher.clone() {
        let core = core.clone();
        threads.push(spawn("audit-flush", move || flusher.run(&core))?);
    }
    // What is in the journal and not in SQLite may have waited for this.
    core.tell(Task::Wake);
    Ok(Arc::new(Audit {
        core,
        clients: Clients::new(&settings.region, client),
        flusher,
        threads: Mutex::new(threads),
        _lock: lock,
    }))
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

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<thread::JoinHandle<()>, AuditError> {
    thread::Builder::new().name(name.to_owned()).spawn(run).map_err(|error| AuditError::Ledger {
        path: name.into(),
        reason: format!("a thread cannot be started: {error}"),
    })
}
