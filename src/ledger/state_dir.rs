//! The state directory: where it is, that only its user may read it, and that only one daemon writes in it.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::error::LedgerError;
use crate::settings;

/// The paths below a state directory.
#[derive(Debug, Clone)]
pub struct StateDir {
    /// The directory itself.
    pub root: PathBuf,
}

impl StateDir {
    /// Where the settings, systemd's `StateDirectory=` or the user's state folder put the ledger. Nothing is created.
    pub fn find(settings: &settings::Audit) -> StateDir {
        let from_environment = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let root = settings
            .state_dir
            .clone()
            .or_else(|| {
                // systemd separates several state directories by colons; ours is the first.
                let listed = from_environment("STATE_DIRECTORY")?;
                std::env::split_paths(&listed).next()
            })
            .or_else(|| Some(PathBuf::from(from_environment("XDG_STATE_HOME")?).join("bedrock-sidecar")))
            .or_else(|| Some(PathBuf::from(from_environment("HOME")?).join(".local/state/bedrock-sidecar")))
            .unwrap_or_else(|| PathBuf::from("/var/lib/bedrock-sidecar"));
        StateDir { root }
    }

    /// The directory of the journal files.
    pub(crate) fn journal(&self) -> PathBuf {
        self.root.join("journal")
    }

    /// What is known of the host's clock.
    pub(crate) fn clock(&self) -> PathBuf {
        self.root.join("clock.json")
    }

    /// What the chain does not say yet of its beginning.
    pub(crate) fn genesis(&self) -> PathBuf {
        self.root.join("genesis.json")
    }

    /// The SQLite file of ended records.
    pub fn database(&self) -> PathBuf {
        self.root.join("ledger.db")
    }

    /// While this file is there, records that were set aside are to be sent again.
    pub(crate) fn retry_mark(&self) -> PathBuf {
        self.root.join("retry-set-aside")
    }

    /// Where damaged files are kept.
    pub(crate) fn corrupt(&self) -> PathBuf {
        self.root.join("corrupt")
    }

    /// Moves a damaged file out of the way (with `keep`, copies it), under a name that says when.
    pub(crate) fn set_aside(&self, path: &Path, keep: bool) -> io::Result<PathBuf> {
        private_directory(&self.corrupt())?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let to = self.corrupt().join(format!("{name}.{}", uuid::Uuid::now_v7().simple()));
        if keep {
            std::fs::copy(path, &to).map(drop)?
        } else {
            std::fs::rename(path, &to)?
        }
        Ok(to)
    }

    /// Moves a file with its companions, whose names are its own and a suffix, into a directory of their own under
    /// their names. Returns where the file is.
    pub(crate) fn set_aside_together(&self, path: &Path, suffixes: &[&str]) -> io::Result<PathBuf> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let directory = self.corrupt().join(format!("{name}.{}", uuid::Uuid::now_v7().simple()));
        private_directory(&directory)?;
        for suffix in suffixes {
            let from = path.with_file_name(format!("{name}{suffix}"));
            if from.exists() {
                std::fs::rename(&from, directory.join(format!("{name}{suffix}")))?;
            }
        }
        Ok(directory.join(name.as_ref()))
    }

    /// Creates the directories, for this user only, and takes the lock that makes this process the only writer.
    pub(crate) fn occupy(&self) -> Result<Lock, LedgerError> {
        let broken = |source| LedgerError::Directory { path: self.root.clone(), source };
        private_directory(&self.root).map_err(broken)?;
        private_directory(&self.journal()).map_err(broken)?;
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(self.root.join("lock"))
            .map_err(broken)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut pid = String::new();
                let _ = file.read_to_string(&mut pid);
                return Err(LedgerError::InUse { path: self.root.clone(), pid: pid.trim().to_owned() });
            }
            Err(error) => return Err(broken(error.into())),
        }
        // The number is for people; a full disk must not keep the daemon from starting.
        let _ = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id()));
        Ok(Lock { _file: file })
    }
}

/// Held as long as this process may write in the state directory; the kernel frees it however the process ends.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

fn private_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    let mode = path.metadata()?.permissions().mode();
    if mode & 0o077 != 0 {
        std::fs::set_permissions(path, Permissions::from_mode(0o700))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_is_private_and_has_one_writer() {
        let directory = tempfile::tempdir().unwrap();
        let state_dir = StateDir { root: directory.path().join("state") };
        let lock = state_dir.occupy().unwrap();
        assert_eq!(state_dir.root.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        let refused = state_dir.occupy().unwrap_err().to_string();
        let expected = format!(
            "another bedrock-sidecar (pid {}) uses the state directory {}; stop it, or give this one its own audit.state_dir",
            std::process::id(),
            state_dir.root.display()
        );
        assert_eq!(refused, expected);
        drop(lock);
        state_dir.occupy().unwrap();
    }
}
