//! What was used in this minute, today and this month, kept in a small file so that a restart does not forget it.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::limit::ScopeId;
use super::past_use::{self, ChainHead, OpenRequest, PastUse, UseAfter, UseRecords};
use super::saved_use::SavedUse;
use super::shared::Shared;

/// At most this often is the file written. What was used after that, the ledger tells.
const PERIOD: Duration = Duration::from_secs(1);

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Contents {
    version: u32,
    scopes: BTreeMap<String, SavedUse>,
    /// How many hosts were last seen in the fleet's table.
    #[serde(default = "one")]
    fleet_hosts: u64,
    /// The last record whose use is counted here. None: nobody knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    covers: Option<ChainHead>,
    /// Requests without a record yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    open: Vec<OpenRequest>,
    /// The boot of the host, by whose clock the times here are. None: nobody knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    boot: Option<String>,
    /// When this was written, by that clock.
    #[serde(default)]
    at: u64,
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

/// The last record of the ledger, if there is a ledger.
type Head = Box<dyn Fn() -> Option<ChainHead> + Send + Sync>;

impl UsageFile {
    /// Without a ledger.
    pub(super) fn open(shared: &Arc<Shared>, path: PathBuf) -> io::Result<UsageFile> {
        if let Some(contents) = load(&path)? {
            restore(shared, contents, &UseAfter::default());
        }
        UsageFile::keep(shared, path, Box::new(|| None))
    }

    /// With a ledger, which tells what the file does not know.
    pub(super) async fn open_with<R: UseRecords>(
        shared: &Arc<Shared>,
        path: PathBuf,
        records: Arc<R>,
    ) -> io::Result<UsageFile> {
        match load(&path)? {
            Some(contents) => {
                let open: Vec<String> = contents.open.iter().map(|request| request.request_id.clone()).collect();
                let after = match contents.covers.clone() {
                    Some(head) => records.after(head, open).await,
                    None => UseAfter::default(),
                };
                restore(shared, contents, &after);
            }
            None => restore_all(shared, &records.all().await),
        }
        UsageFile::keep(shared, path, Box::new(move || records.head()))
    }

    fn keep(shared: &Arc<Shared>, path: PathBuf, head: Head) -> io::Result<UsageFile> {
        save(&path, &snapshot(shared, &head))?;
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(keep(shared.clone(), path, head, stopped));
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

async fn keep(shared: Arc<Shared>, path: PathBuf, head: Head, mut stopped: oneshot::Receiver<()>) -> io::Result<()> {
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
        let (to, contents) = (path.clone(), snapshot(&shared, &head));
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
            tracing::error!(path = %path.display(), aside = %aside.display(), why, "the use of daily limits and budgets cannot be read; it counts from what the ledger knows");
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

fn snapshot(shared: &Shared, head: &Head) -> Contents {
    // No request is between its settlement and its record now: each is counted here or recorded after `covers`, not both.
    let _none_ends = shared.no_request_ends();
    let covers = head();
    let now = shared.clock.now();
    let mut state = shared.lock();
    // Those who have not been seen since the start are not forgotten either.
    let mut scopes: BTreeMap<String, SavedUse> =
        state.saved.iter().map(|(key, saved)| (key.clone(), saved.clone())).collect();
    let (fleet_hosts, open) = (state.fleet_hosts, state.open_requests());
    let used = state.scopes(&*shared.clock, now);
    scopes.extend(used.iter_mut().map(|scope| (SavedUse::key(&scope.id), SavedUse::of(scope, now))));
    Contents { version: 1, scopes, fleet_hosts, covers, open, boot: shared.clock.boot(), at: now }
}

/// Where there is no file: what the ledger says was used.
fn restore_all(shared: &Shared, used: &[PastUse]) {
    if used.is_empty() {
        return;
    }
    tracing::info!("limits: what was used today and this month is taken from the ledger");
    let now = shared.clock.now();
    let mut state = shared.lock();
    let mut ids: Vec<ScopeId> = state.scopes(&*shared.clock, now).iter().map(|scope| scope.id.clone()).collect();
    ids.extend(past_use::callers(used));
    let present = state.current_period();
    let scopes = ids.iter().map(|id| (SavedUse::key(id), past_use::from_records(id, used, present, now))).collect();
    state.restore(&*shared.clock, scopes, now);
}

/// What the file says, and what the ledger knows beyond it.
fn restore(shared: &Shared, contents: Contents, after: &UseAfter) {
    let now = shared.clock.now();
    let Contents { mut scopes, open, at, boot, .. } = contents;
    // The file's times by the clock of this run. Of an earlier boot is only known that it was before this one.
    let same_boot = boot.is_some() && boot == shared.clock.boot();
    let boot_is_known = boot.is_some() && shared.clock.boot().is_some();
    let time = |then: u64| match (same_boot, boot_is_known) {
        (true, _) => then.min(now),
        (false, true) => 0,
        (false, false) => now,
    };
    let written_at = time(at);
    scopes.values_mut().for_each(|saved| saved.set_times(time));

    let mut state = shared.lock();
    state.fleet_hosts = contents.fleet_hosts.max(1);
    past_use::settle(&mut scopes, &open, &after.known, now);
    if !after.used.is_empty() {
        let requests: u64 = after.used.iter().fold(0, |sum, used| sum.saturating_add(used.requests));
        tracing::info!(requests, "limits: what was used after the last save is taken from the ledger");
        let mut ids: Vec<ScopeId> = state.scopes(&*shared.clock, now).iter().map(|scope| scope.id.clone()).collect();
        ids.extend(past_use::callers(&after.used));
        let present = state.current_period();
        for key in ids.iter().map(SavedUse::key) {
            scopes.entry(key).or_insert_with(|| SavedUse::none(present));
        }
        for (key, saved) in &mut scopes {
            if let Some(id) = SavedUse::scope(key) {
                past_use::add_after(&id, saved, &after.used, present, written_at, now);
            }
        }
    }
    state.restore(&*shared.clock, scopes, now);
}
