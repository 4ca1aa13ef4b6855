//! What was used today and this month, kept in a small file so that a restart does not forget it.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::limit::ScopeId;
use super::past_use::{self, PastUse};
use super::saved_use::SavedUse;
use super::scope::Scope;
use super::shared::Shared;
use crate::settings::limits::Rates;

/// At most this often is the file written; as much is lost when the process is killed.
const PERIOD: Duration = Duration::from_secs(1);

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Contents {
    version: u32,
    scopes: BTreeMap<String, SavedUse>,
    /// How many hosts were last seen in the fleet's table.
    #[serde(default = "one")]
    fleet_hosts: u64,
}

fn one() -> u64 {
    1
}

/// Keeps the file up to date while it lives. [`UsageFile::stop`] writes it a last time.
#[derive(Debug)]
pub struct UsageFile {
    stop: oneshot::Sender<()>,
    task: JoinHandle<io::Result<()>>,
}

impl UsageFile {
    pub(super) fn open(shared: &Arc<Shared>, path: PathBuf, past: Vec<PastUse>) -> io::Result<UsageFile> {
        match load(&path)? {
            Some(contents) => restore(shared, contents),
            None => restore_past(shared, past),
        }
        save(&path, &snapshot(shared))?;
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(keep(shared.clone(), path, stopped));
        Ok(UsageFile { stop, task })
    }

    /// Writes what is not written yet, and ends.
    ///
    /// # Errors
    /// The file cannot be written.
    pub async fn stop(self) -> io::Result<()> {
        drop(self.stop);
        self.task.await.unwrap_or_else(|error| Err(io::Error::other(error)))
    }
}

async fn keep(shared: Arc<Shared>, path: PathBuf, mut stopped: oneshot::Receiver<()>) -> io::Result<()> {
    let mut failing = false;
    loop {
        let last = tokio::select! {
            _ = &mut stopped => true,
            () = tokio::time::sleep(PERIOD) => false,
        };
        if !std::mem::take(&mut shared.lock().changed) && !failing {
            if last {
                return Ok(());
            }
            continue;
        }
        let (to, contents) = (path.clone(), snapshot(&shared));
        let written = tokio::task::spawn_blocking(move || save(&to, &contents)).await.unwrap_or_else(|error| {
            // The pool only fails when the runtime is being taken down.
            Err(io::Error::other(error))
        });
        if let Err(error) = &written
            && !failing
        {
            tracing::error!(path = %path.display(), %error, "the use of daily limits and budgets cannot be kept; a restart would forget it");
        }
        failing = written.is_err();
        if last {
            return written;
        }
    }
}

fn load(path: &Path) -> io::Result<Option<Contents>> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    match serde_json::from_slice::<Contents>(&text) {
        Ok(file) if file.version == 1 => Ok(Some(file)),
        other => {
            let aside = path.with_extension("unreadable");
            let why = other.err().map_or("it is of another version".to_owned(), |error| error.to_string());
            tracing::error!(path = %path.display(), aside = %aside.display(), why, "the use of daily limits and budgets cannot be read; it counts from nothing");
            std::fs::rename(path, aside)?;
            Ok(None)
        }
    }
}

/// Written beside and renamed, so that a reader and a crash see the old file or the new one.
fn save(path: &Path, contents: &Contents) -> io::Result<()> {
    use std::io::Write;
    let beside = path.with_extension("new");
    let mut out = std::fs::File::create(&beside)?;
    out.write_all(&serde_json::to_vec(contents)?)?;
    out.sync_data()?;
    std::fs::rename(&beside, path)
}

fn snapshot(shared: &Shared) -> Contents {
    let now = shared.clock.now();
    let mut state = shared.lock();
    // Those who have not been seen since the start are not forgotten either.
    let mut scopes: BTreeMap<String, SavedUse> = state.saved.iter().map(|(key, saved)| (key.clone(), *saved)).collect();
    let fleet_hosts = state.fleet_hosts;
    let used = state.scopes(&*shared.clock, now);
    scopes.extend(used.iter().map(|scope| (SavedUse::key(&scope.id), SavedUse::of(&scope.spent))));
    Contents { version: 1, scopes, fleet_hosts }
}

/// Adds what the ledger says was used. Scopes of callers that are not known yet take theirs when they come.
fn restore_past(shared: &Shared, past: Vec<PastUse>) {
    if past.is_empty() {
        return;
    }
    tracing::info!("limits: what was used today and this month is taken from the ledger");
    let now = shared.clock.now();
    let mut state = shared.lock();
    let mut period = None;
    for scope in state.scopes(&*shared.clock, now) {
        past_use::restore(&past, scope);
        period = Some(scope.spent.period);
    }
    let Some(period) = period else { return };
    for name in past.iter().filter_map(|used| used.caller.as_deref()) {
        let id = ScopeId::Caller(name.into());
        let key = SavedUse::key(&id);
        let mut scope = Scope::new(id, Rates::default(), period, now);
        if !state.knows_caller(name) && !state.saved.contains_key(&key) {
            past_use::restore(&past, &mut scope);
            state.saved.insert(key, SavedUse::of(&scope.spent));
        }
    }
}

fn restore(shared: &Shared, contents: Contents) {
    let now = shared.clock.now();
    let mut state = shared.lock();
    state.fleet_hosts = contents.fleet_hosts.max(1);
    let mut remaining: HashMap<String, SavedUse> = contents.scopes.into_iter().collect();
    for scope in state.scopes(&*shared.clock, now) {
        if let Some(saved) = remaining.remove(&SavedUse::key(&scope.id)) {
            saved.restore(scope);
        }
    }
    state.saved = remaining;
}
