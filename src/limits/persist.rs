//! What was used today and this month, kept in a small file so that a restart does not forget it.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::scope::{Scope, Spent, Whose};
use super::{Inner, Limits};

/// At most this often is the file written; as much is lost when the process is killed.
const PERIOD: Duration = Duration::from_secs(1);

/// A scope's use as the file has it. Days count from 1970-01-01, months from January of the year 0, both UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Kept {
    day: u64,
    month: u64,
    tokens_today: u64,
    nano_usd_today: u64,
    nano_usd_this_month: u64,
    #[serde(default)]
    warned_today: bool,
    #[serde(default)]
    warned_this_month: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct File {
    version: u32,
    scopes: BTreeMap<String, Kept>,
}

/// Writes the file while it lives. [`Keeper::stop`] writes it a last time.
#[derive(Debug)]
pub struct Keeper {
    stop: oneshot::Sender<()>,
    task: JoinHandle<io::Result<()>>,
}

impl Limits {
    /// Takes up what the file says was used, and keeps the file up to date from now on, from a task of the current
    /// runtime. To be called once, before the first request. A file that cannot be understood is set aside as
    /// `NAME.unreadable` and counts start at nothing.
    ///
    /// Errors: the file exists and cannot be read, or its directory cannot be written.
    pub fn persist_to(&self, path: impl Into<PathBuf>) -> io::Result<Keeper> {
        let path = path.into();
        self.take_up(load(&path)?);
        save(&path, &self.inner.snapshot())?;
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(keep(self.inner.clone(), path, stopped));
        Ok(Keeper { stop, task })
    }

    fn take_up(&self, kept: HashMap<String, Kept>) {
        let now = self.inner.clock.now();
        let mut state = self.inner.lock();
        state.kept = kept;
        let mut remaining = std::mem::take(&mut state.kept);
        let (scopes, _) = state.scopes(&*self.inner.clock, now);
        for scope in scopes {
            if let Some(kept) = remaining.remove(&Kept::name(&scope.whose)) {
                kept.restore(scope);
            }
        }
        state.kept = remaining;
    }
}

impl Keeper {
    /// Writes what is not written yet, and ends.
    pub async fn stop(self) -> io::Result<()> {
        drop(self.stop);
        self.task.await.unwrap_or_else(|error| Err(io::Error::other(error)))
    }
}

async fn keep(inner: Arc<Inner>, path: PathBuf, mut stopped: oneshot::Receiver<()>) -> io::Result<()> {
    let mut failing = false;
    loop {
        let last = tokio::select! {
            _ = &mut stopped => true,
            () = tokio::time::sleep(PERIOD) => false,
        };
        if !std::mem::take(&mut inner.lock().changed) && !failing {
            if last {
                return Ok(());
            }
            continue;
        }
        let (to, file) = (path.clone(), inner.snapshot());
        let written = tokio::task::spawn_blocking(move || save(&to, &file)).await.unwrap_or_else(|error| {
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

fn load(path: &Path) -> io::Result<HashMap<String, Kept>> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(HashMap::new()),
        Err(error) => return Err(error),
    };
    match serde_json::from_slice::<File>(&text) {
        Ok(file) if file.version == 1 => Ok(file.scopes.into_iter().collect()),
        other => {
            let aside = path.with_extension("unreadable");
            let why = other.err().map_or("it is of another version".to_owned(), |error| error.to_string());
            tracing::error!(path = %path.display(), aside = %aside.display(), why, "the use of daily limits and budgets cannot be read; it counts from nothing");
            std::fs::rename(path, aside)?;
            Ok(HashMap::new())
        }
    }
}

/// Written beside and renamed, so that a reader and a crash see the old file or the new one.
fn save(path: &Path, file: &File) -> io::Result<()> {
    use std::io::Write;
    let beside = path.with_extension("new");
    let mut out = std::fs::File::create(&beside)?;
    out.write_all(&serde_json::to_vec(file)?)?;
    out.sync_data()?;
    std::fs::rename(&beside, path)
}

impl Inner {
    fn snapshot(&self) -> File {
        let now = self.clock.now();
        let mut state = self.lock();
        // Those who have not been seen since the start are not forgotten either.
        let mut scopes: BTreeMap<String, Kept> = state.kept.iter().map(|(name, kept)| (name.clone(), *kept)).collect();
        let (used, _) = state.scopes(&*self.clock, now);
        scopes.extend(used.iter().map(|scope| (Kept::name(&scope.whose), Kept::of(&scope.spent))));
        File { version: 1, scopes }
    }
}

impl Kept {
    pub fn name(whose: &Whose) -> String {
        match whose {
            Whose::Host => "host".to_owned(),
            Whose::Caller(name) => format!("caller:{name}"),
            Whose::Model(pattern) => format!("model:{pattern}"),
            Whose::Fleet => "fleet".to_owned(),
        }
    }

    fn of(spent: &Spent) -> Kept {
        Kept {
            day: spent.period.day,
            month: spent.period.month,
            tokens_today: spent.tokens_today,
            nano_usd_today: spent.nano_usd_today,
            nano_usd_this_month: spent.nano_usd_this_month,
            warned_today: spent.warned_today,
            warned_this_month: spent.warned_this_month,
        }
    }

    /// Adds what was used in the same day and month.
    pub fn restore(self, scope: &mut Scope) {
        let spent = &mut scope.spent;
        if self.day == spent.period.day {
            spent.tokens_today = spent.tokens_today.saturating_add(self.tokens_today);
            spent.nano_usd_today = spent.nano_usd_today.saturating_add(self.nano_usd_today);
            spent.warned_today |= self.warned_today;
        }
        if self.month == spent.period.month {
            spent.nano_usd_this_month = spent.nano_usd_this_month.saturating_add(self.nano_usd_this_month);
            spent.warned_this_month |= self.warned_this_month;
        }
    }
}
