//! The state directory: where it is, and what is where in it.

mod damaged;
mod occupied;

use std::io;
use std::path::{Path, PathBuf};

pub(crate) use occupied::Lock;

use crate::settings;

/// The `StateDirectory=` of the packages' unit.
const OF_SERVICE: &str = "/var/lib/bedrock-sidecar";

/// The paths below a state directory.
#[derive(Debug, Clone)]
pub struct StateDir {
    /// The directory itself.
    pub root: PathBuf,
}

impl StateDir {
    /// Where the settings, systemd's `StateDirectory=` or the user's state folder put the ledger. Nothing is created.
    pub fn find(settings: &settings::Audit) -> StateDir {
        let root = StateDir::told(settings).or_else(StateDir::of_user).unwrap_or_else(|| PathBuf::from(OF_SERVICE));
        StateDir { root }
    }

    /// Where a ledger is to be read: the same, but that of the service if none is written where this user's would be.
    pub(crate) fn find_written(settings: &settings::Audit) -> StateDir {
        StateDir::find_written_or(settings, Path::new(OF_SERVICE))
    }

    fn find_written_or(settings: &settings::Audit, of_service: &Path) -> StateDir {
        let (found, of_service) = (StateDir::find(settings), StateDir { root: of_service.to_owned() });
        // One that this user may not look into is there all the same.
        let is_there = |directory: &StateDir| directory.has_ledger().unwrap_or(true);
        if StateDir::told(settings).is_none() && !is_there(&found) && is_there(&of_service) {
            return of_service;
        }
        found
    }

    /// The folder of root's own state, in which the ledger of a daemon ends up that is run without a user or a directory of
    /// its own.
    pub(crate) fn is_in_roots_home(settings: &settings::Audit) -> bool {
        rustix::process::geteuid().is_root() && StateDir::told(settings).is_none() && StateDir::of_user().is_some()
    }

    /// What the settings or the environment name.
    pub(crate) fn told(settings: &settings::Audit) -> Option<PathBuf> {
        // systemd separates several state directories by colons; ours is the first.
        let listed = || std::env::split_paths(&from_environment("STATE_DIRECTORY")?).next();
        settings.state_dir.clone().or_else(listed)
    }

    fn of_user() -> Option<PathBuf> {
        let state = from_environment("XDG_STATE_HOME").map(PathBuf::from);
        let home = || Some(PathBuf::from(from_environment("HOME")?).join(".local/state"));
        Some(state.or_else(home)?.join("bedrock-sidecar"))
    }

    /// Whether a daemon has recorded anything here.
    ///
    /// # Errors
    /// This user may not look.
    pub(crate) fn has_ledger(&self) -> io::Result<bool> {
        Ok(self.journal().try_exists()? || self.database().try_exists()?)
    }

    /// The directory of the journal files.
    pub(crate) fn journal(&self) -> PathBuf {
        self.root.join("journal")
    }

    /// What is known of the host's clock.
    pub(crate) fn clock(&self) -> PathBuf {
        self.root.join("clock.json")
    }

    /// There from a start to an orderly stop.
    pub(crate) fn running_mark(&self) -> PathBuf {
        self.root.join("running")
    }

    /// What the chain does not say yet of its beginning.
    pub(crate) fn genesis(&self) -> PathBuf {
        self.root.join("genesis.json")
    }

    /// The SQLite file of ended records.
    pub fn database(&self) -> PathBuf {
        self.root.join("ledger.db")
    }

    /// The SQLite file of what the dashboard's figures are added up from.
    pub(crate) fn rollups(&self) -> PathBuf {
        self.root.join("rollups.db")
    }

    /// While this file is there, records that were set aside are to be sent again.
    pub(crate) fn retry_mark(&self) -> PathBuf {
        self.root.join("retry-set-aside")
    }

    /// Where damaged files are kept.
    pub(crate) fn corrupt(&self) -> PathBuf {
        self.root.join("corrupt")
    }
}

fn from_environment(name: &str) -> Option<std::ffi::OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_for_records_without_a_directory_is_shown_those_of_the_service() {
        // No folder of the environment's that runs the tests has a ledger, unless it names one.
        let (service, own) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut settings = settings::Settings::built_in().unwrap().audit;
        let found = |settings: &_| StateDir::find_written_or(settings, service.path()).root;
        assert_eq!(found(&settings), StateDir::find(&settings).root, "nobody has written a ledger yet");
        std::fs::create_dir(service.path().join("journal")).unwrap();
        if StateDir::told(&settings).is_none() && !StateDir::find(&settings).has_ledger().unwrap() {
            assert_eq!(found(&settings), service.path());
        }
        settings.state_dir = Some(own.path().to_owned());
        assert_eq!(found(&settings), own.path(), "what the configuration names is not replaced");
    }
}
