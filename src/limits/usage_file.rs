//! What was used in this minute, today and this month, kept in a small file so that a restart does not forget it.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::calendar::Period;
use super::limit::ScopeId;
use super::past_use::{self, ChainHead, Names, OpenRequest, PastUse, UseAfter, UseRecords, WeighedUse};
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

/// Reads once more what the ledger could not tell at the start, and counts it. True when that is done.
type CatchUp = Box<dyn Fn() -> Pin<Box<dyn Future<Output = bool> + Send>> + Send + Sync>;

/// What the ledger is to tell beyond the file.
#[derive(Debug)]
struct Missing {
    /// What was recorded after this; everything, if there is no file.
    covers: Option<ChainHead>,
    /// Up to here; what comes later is counted as it comes.
    until: Option<ChainHead>,
    /// The requests that were open when the file was written, and its date.
    open: Vec<OpenRequest>,
    written: Option<Period>,
}

impl Missing {
    async fn read(&self, records: &impl UseRecords) -> io::Result<UseAfter> {
        let Some(head) = self.covers.clone() else {
            let used = records.all(self.until.clone()).await?;
            return Ok(UseAfter { used, known: HashMap::new() });
        };
        let open = self.open.iter().map(|request| request.request_id.clone()).collect();
        records.after(head, self.until.clone(), open).await
    }
}

impl UsageFile {
    /// Without a ledger.
    pub(super) fn open(shared: &Arc<Shared>, path: PathBuf) -> io::Result<UsageFile> {
        if let Some(contents) = load(&path)? {
            restore(shared, contents, &[], &HashMap::new());
        }
        UsageFile::keep(shared, path, Box::new(|| None), None)
    }

    /// With a ledger, which tells what the file does not know.
    pub(super) async fn open_with<R: UseRecords>(
        shared: &Arc<Shared>,
        path: PathBuf,
        records: Arc<R>,
        names: Arc<Names>,
    ) -> io::Result<UsageFile> {
        let contents = load(&path)?;
        let until = records.head();
        let missing = match &contents {
            Some(Contents { covers: None, .. }) => None,
            Some(Contents { covers, open, scopes, .. }) => {
                let written = scopes.get(&SavedUse::key(&ScopeId::Host)).map(SavedUse::period);
                Some(Missing { covers: covers.clone(), until, open: open.clone(), written })
            }
            None => Some(Missing { covers: None, until, open: Vec::new(), written: None }),
        };
        let mut catch_up = None;
        let mut after = UseAfter::default();
        if let Some(missing) = missing {
            match missing.read(&*records).await {
                Ok(told) => after = told,
                Err(error) => {
                    tracing::error!(%error, "what was used today and this month cannot be read from the ledger; trying again");
                    catch_up = Some(later(shared, missing, &records, &names));
                }
            }
        }
        let used = weighed(shared, after.used, &*names);
        match contents {
            Some(contents) => restore(shared, contents, &used, &after.known),
            None => restore_all(shared, &used),
        }
        UsageFile::keep(shared, path, Box::new(move || records.head()), catch_up)
    }

    /// Until the ledger has told what the file lacks, the file stays as it is: it and the ledger together know everything.
    fn keep(shared: &Arc<Shared>, path: PathBuf, head: Head, catch_up: Option<CatchUp>) -> io::Result<UsageFile> {
        let mut failing = false;
        if catch_up.is_none()
            && let Err(error) = save(&path, &snapshot(shared, &head))
        {
            // Room may come back by itself. What else is wrong is for the admin to mend first.
            if !matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
                return Err(error);
            }
            tell(&path, &error);
            failing = true;
        }
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(keep(shared.clone(), path, head, catch_up, failing, stopped));
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

fn weighed(shared: &Shared, used: Vec<PastUse>, names: &Names) -> Vec<WeighedUse> {
    let plan = shared.plan.load();
    used.into_iter().map(|used| WeighedUse::new(used, names, &plan)).collect()
}

/// Without a place up to which to read, what is missing cannot be told from what is counted: the next start reads it.
fn later<R: UseRecords>(shared: &Arc<Shared>, missing: Missing, records: &Arc<R>, names: &Arc<Names>) -> CatchUp {
    let (shared, records, names, missing) = (shared.clone(), records.clone(), names.clone(), Arc::new(missing));
    Box::new(move || {
        let (shared, records, names, missing) = (shared.clone(), records.clone(), names.clone(), missing.clone());
        Box::pin(async move {
            if missing.until.is_none() {
                return false;
            }
            match missing.read(&*records).await {
                Ok(UseAfter { used, known }) => {
                    add_late(&shared, &missing, &weighed(&shared, used, &*names), &known);
                    true
                }
                Err(error) => {
                    tracing::debug!(%error, "what was used today and this month cannot be read from the ledger");
                    false
                }
            }
        })
    })
}

/// Counts what the ledger tells while requests are being served. The buckets of the minute have filled up meanwhile.
fn add_late(shared: &Shared, missing: &Missing, used: &[WeighedUse], known: &HashMap<String, (u64, Option<u64>)>) {
    let now = shared.clock.now();
    let mut state = shared.lock();
    let present = state.current_period();
    state.amend_spent(&*shared.clock, past_use::callers(used), now, |id, spent| {
        let key = SavedUse::key(id);
        for request in missing.open.iter().filter(|request| request.scopes.contains(&key)) {
            if let Some((counted, actual, admitted)) = request.replacement(known) {
                spent.replace(counted, actual, admitted);
            }
        }
        match (&missing.covers, missing.written) {
            (Some(_), written) => past_use::add_between(id, spent, used, written.unwrap_or(present), present),
            (None, _) => past_use::add_dated(id, spent, used, present),
        }
    });
    tracing::info!("limits: what could not be read at the start is taken from the ledger");
}

async fn keep(
    shared: Arc<Shared>,
    path: PathBuf,
    head: Head,
    mut catch_up: Option<CatchUp>,
    mut failing: bool,
    mut stopped: oneshot::Receiver<()>,
) -> io::Result<()> {
    loop {
        let last = tokio::select! {
            _ = &mut stopped => true,
            () = tokio::time::sleep(PERIOD) => false,
        };
        if let Some(try_again) = &catch_up {
            if !try_again().await {
                if last {
                    return Ok(());
                }
                continue;
            }
            catch_up = None;
        }
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
            tell(&path, error);
        }
        failing = written.is_err();
        if last {
            return written;
        }
    }
}

fn tell(path: &Path, error: &io::Error) {
    tracing::error!(path = %path.display(), %error, "the use of daily limits and budgets cannot be kept; a restart would forget it");
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
fn restore_all(shared: &Shared, used: &[WeighedUse]) {
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
fn restore(shared: &Shared, contents: Contents, used: &[WeighedUse], known: &HashMap<String, (u64, Option<u64>)>) {
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
    past_use::settle(&mut scopes, &open, known, now);
    if !used.is_empty() {
        let requests: u64 = used.iter().fold(0, |sum, used| sum.saturating_add(used.requests));
        tracing::info!(requests, "limits: what was used after the last save is taken from the ledger");
        let mut ids: Vec<ScopeId> = state.scopes(&*shared.clock, now).iter().map(|scope| scope.id.clone()).collect();
        ids.extend(past_use::callers(used));
        let present = state.current_period();
        for key in ids.iter().map(SavedUse::key) {
            scopes.entry(key).or_insert_with(|| SavedUse::none(present));
        }
        for (key, saved) in &mut scopes {
            if let Some(id) = SavedUse::scope(key) {
                past_use::add_after(&id, saved, used, present, written_at, now);
            }
        }
    }
    state.restore(&*shared.clock, scopes, now);
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

    use super::*;
    use crate::limits::{Behind, Limits, SystemClock};
    use crate::record::Usage;
    use crate::settings::limits as settings;

    #[derive(Debug, Default)]
    struct Records {
        can_be_read: AtomicBool,
    }

    impl Records {
        fn used(&self) -> io::Result<Vec<PastUse>> {
            if !self.can_be_read.load(Relaxed) {
                return Err(io::Error::other("not now"));
            }
            let (caller, model) = (Some("billing".to_owned()), "meta.llama".to_owned());
            let unpriced = Usage::default();
            Ok(vec![PastUse {
                day: u64::MAX / 86_400,
                caller,
                model,
                profile: None,
                requests: 1,
                tokens: 10,
                nano_usd: 7,
                unpriced,
            }])
        }
    }

    impl UseRecords for Records {
        fn head(&self) -> Option<ChainHead> {
            Some(ChainHead { chain_id: "b".to_owned(), seq: 0 })
        }

        async fn all(&self, _until: Option<ChainHead>) -> io::Result<Vec<PastUse>> {
            self.used()
        }

        async fn after(&self, head: ChainHead, until: Option<ChainHead>, _open: Vec<String>) -> io::Result<UseAfter> {
            assert_eq!((head.seq, until), (3, self.head()));
            Ok(UseAfter { used: self.used()?, known: HashMap::new() })
        }
    }

    #[tokio::test]
    async fn what_the_ledger_cannot_tell_at_the_start_is_counted_later_and_the_file_waits_for_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("limits.json");
        let limits = Limits::new(&settings::Limits::default(), SystemClock);
        let covers = Some(ChainHead { chain_id: "a".to_owned(), seq: 3 });
        save(&path, &Contents { version: 1, covers, ..snapshot(&limits.shared, &(Box::new(|| None) as Head)) })
            .unwrap();
        let before = std::fs::read(&path).unwrap();

        let records = Arc::new(Records::default());
        let names: Arc<Names> = Arc::new(|asked, _| (asked.to_owned(), Behind::Itself));
        let file = limits.persist_with(&path, records.clone(), names).await.unwrap();
        limits.shared.lock().changed = true;
        tokio::time::sleep(PERIOD + Duration::from_millis(300)).await;
        assert_eq!(std::fs::read(&path).unwrap(), before, "the file still says what it covers");

        records.can_be_read.store(true, Relaxed);
        file.stop().await.unwrap();
        let contents = load(&path).unwrap().unwrap();
        assert_eq!(contents.covers, records.head());
        for key in ["host", "caller:billing"] {
            let saved = serde_json::to_value(&contents.scopes[key]).unwrap();
            assert_eq!((&saved["tokensToday"], &saved["nanoUsdToday"]), (&10.into(), &7.into()), "{key}: {saved}");
        }
    }
}
