//! Only the daemon's user may read the state directory, and only one daemon writes in it.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use super::StateDir;
use crate::ledger::error::LedgerError;

impl StateDir {
    /// Creates the directories, for this user only, and takes the lock that makes this process the only writer.
    pub(crate) fn occupy(&self) -> Result<Lock, LedgerError> {
        let broken = |source| LedgerError::Directory { path: self.root.clone(), source };
        for directory in [&self.root, &self.journal()] {
            create_private(directory).and_then(|()| own_directory(directory)).map_err(broken)?;
            private_directory(directory).map_err(broken)?;
            own_entries(directory).map_err(broken)?;
        }
        let mut file = OpenOptions::new()
            .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
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
        Ok(Lock { file })
    }
}

/// Held as long as this process may write in the state directory; the kernel frees it however the process ends.
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
}

impl Drop for Lock {
    /// Closing the file is not enough: a process that is being spawned at this moment has it open too, until its exec.
    fn drop(&mut self) {
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}

fn create_private(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

pub(super) fn private_directory(path: &Path) -> io::Result<()> {
    create_private(path)?;
    let mode = path.metadata()?.permissions().mode();
    if mode & 0o077 != 0 {
        std::fs::set_permissions(path, Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// Refuses a directory that belongs to somebody else: its owner could read and change what is written there. So could
/// whoever made a link in its place; root may, as systemd does for a unit with `DynamicUser=`.
fn own_directory(path: &Path) -> io::Result<()> {
    let own = rustix::process::geteuid().as_raw();
    let link = path.symlink_metadata()?;
    if link.is_symlink() && link.uid() != own && link.uid() != 0 {
        let sentence = format!("it is a symbolic link that user {} has made", link.uid());
        return Err(io::Error::other(sentence));
    }
    let owner = path.metadata()?.uid();
    if owner == own {
        return Ok(());
    }
    Err(io::Error::other(format!("{} belongs to user {owner}, and the daemon runs as user {own}", path.display())))
}

/// Refuses what somebody else has put there while the directory was open to others: a link that leads elsewhere, or a file
/// that its owner can still write to. From now on nobody but this user and root can add any, so that files are opened by
/// their names.
fn own_entries(directory: &Path) -> io::Result<()> {
    let own = rustix::process::geteuid().as_raw();
    for entry in directory.read_dir()? {
        let entry = entry?;
        let owner = match entry.metadata() {
            Ok(metadata) => metadata.uid(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        if owner != own && owner != 0 {
            let path = entry.path();
            return Err(io::Error::other(format!(
                "{} belongs to user {owner}, and the daemon runs as user {own}; unless a daemon of that user wrote it, find out why it is there, and remove it",
                path.display()
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_of_somebody_else_is_refused() {
        if rustix::process::geteuid().as_raw() != 0 {
            return println!("NOT RUN: a_directory_of_somebody_else_is_refused (needs root)");
        }
        let directory = tempfile::tempdir().unwrap();
        let state_dir = StateDir { root: directory.path().join("state") };
        std::fs::create_dir(&state_dir.root).unwrap();
        std::os::unix::fs::chown(&state_dir.root, Some(61_001), None).unwrap();
        let refused = state_dir.occupy().unwrap_err();
        let text = format!("{refused}");
        let root = state_dir.root.display();
        assert!(text.contains(&format!("{root} belongs to user 61001, and the daemon runs as user 0")), "{text}");
        // As after `chown` without -R: the one that is to be mended is named.
        std::os::unix::fs::chown(&state_dir.root, Some(0), None).unwrap();
        std::fs::create_dir(state_dir.journal()).unwrap();
        std::os::unix::fs::chown(state_dir.journal(), Some(61_001), None).unwrap();
        let text = state_dir.occupy().unwrap_err().to_string();
        assert!(text.contains(&format!("{root}/journal belongs to user 61001")), "{text}");

        let own = directory.path().join("own");
        std::fs::create_dir(&own).unwrap();
        let linked = StateDir { root: directory.path().join("link") };
        std::os::unix::fs::symlink(&own, &linked.root).unwrap();
        linked.occupy().unwrap();
        std::os::unix::fs::lchown(&linked.root, Some(61_001), None).unwrap();
        let text = linked.occupy().unwrap_err().to_string();
        assert!(text.contains("a symbolic link that user 61001 has made"), "{text}");
    }

    #[test]
    fn what_somebody_else_has_put_into_the_directory_is_refused() {
        if rustix::process::geteuid().as_raw() != 0 {
            return println!("NOT RUN: what_somebody_else_has_put_into_the_directory_is_refused (needs root)");
        }
        let directory = tempfile::tempdir().unwrap();
        let state_dir = StateDir { root: directory.path().join("state") };
        let elsewhere = directory.path().join("elsewhere");
        std::fs::write(&elsewhere, "precious").unwrap();
        for name in ["limits.json", "limits.new", "ledger.db", "clock.json", "journal/0000000001.journal"] {
            std::fs::create_dir_all(state_dir.journal()).unwrap();
            let planted = state_dir.root.join(name);
            for is_link in [true, false] {
                if is_link {
                    std::os::unix::fs::symlink(&elsewhere, &planted).unwrap();
                } else {
                    std::fs::write(&planted, "").unwrap();
                }
                std::os::unix::fs::lchown(&planted, Some(61_001), None).unwrap();
                let refused = state_dir.occupy().unwrap_err().to_string();
                let expected = format!("{} belongs to user 61001, and the daemon runs as user 0", planted.display());
                assert!(refused.contains(&expected) && refused.contains("unless a daemon of that user"), "{refused}");
                std::fs::remove_file(&planted).unwrap();
                state_dir.occupy().unwrap();
            }
        }
        assert_eq!(std::fs::read_to_string(elsewhere).unwrap(), "precious");
    }

    /// Once the directory is occupied, nobody else can put anything there: this is why its files are opened without
    /// looking for links.
    #[test]
    fn nobody_else_can_put_a_link_into_an_occupied_directory() {
        use std::process::Command;
        let can_be_others = rustix::process::geteuid().as_raw() == 0
            && Command::new("setpriv").arg("--version").output().is_ok_and(|output| output.status.success());
        if !can_be_others {
            return println!("NOT RUN: nobody_else_can_put_a_link_into_an_occupied_directory (needs root and setpriv)");
        }
        let directory = tempfile::tempdir().unwrap();
        std::fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
        let state_dir = StateDir { root: directory.path().join("state") };
        for part in [state_dir.root.clone(), state_dir.journal()] {
            std::fs::create_dir_all(&part).unwrap();
            std::fs::set_permissions(&part, Permissions::from_mode(0o777)).unwrap();
        }
        let plant = |path: &Path| {
            let mut command = Command::new("setpriv");
            command.args(["--reuid", "61001", "--regid", "61001", "--clear-groups", "ln", "-s", "/etc/passwd"]);
            command.arg(path).output().unwrap().status.success()
        };
        let (outer, inner) = (state_dir.root.join("limits.json"), state_dir.journal().join("0000000001.journal"));
        for path in [&outer, &inner] {
            assert!(plant(path), "as long as it is open to all");
            std::fs::remove_file(path).unwrap();
        }
        let _lock = state_dir.occupy().unwrap();
        for path in [&outer, &inner] {
            assert!(!plant(path), "{}", path.display());
            assert!(path.symlink_metadata().is_err());
        }
    }

    #[test]
    fn no_link_leads_the_lock_elsewhere() {
        let directory = tempfile::tempdir().unwrap();
        let state_dir = StateDir { root: directory.path().join("state") };
        std::fs::create_dir(&state_dir.root).unwrap();
        let elsewhere = directory.path().join("elsewhere");
        std::fs::write(&elsewhere, "precious").unwrap();
        std::os::unix::fs::symlink(&elsewhere, state_dir.root.join("lock")).unwrap();
        assert!(state_dir.occupy().is_err());
        assert_eq!(std::fs::read_to_string(elsewhere).unwrap(), "precious");
    }

    #[test]
    fn the_directory_is_private_and_has_one_writer() {
        let directory = tempfile::tempdir().unwrap();
        let state_dir = StateDir { root: directory.path().join("state") };
        let lock = state_dir.occupy().unwrap();
        assert_eq!(state_dir.root.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        let refused = state_dir.occupy().unwrap_err().to_string();
        let expected = format!(
            "another bedrock-sidecar (pid {}) uses the state directory {}; stop it, or give this one its own audit.state_dir and its own audit.table",
            std::process::id(),
            state_dir.root.display()
        );
        assert_eq!(refused, expected);
        drop(lock);
        // One that others could read is made private, and what is created on the way to it is so from the beginning.
        std::fs::set_permissions(&state_dir.root, Permissions::from_mode(0o755)).unwrap();
        state_dir.occupy().unwrap();
        assert_eq!(state_dir.root.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        let below = StateDir { root: directory.path().join("new/state") };
        below.occupy().unwrap();
        assert_eq!(directory.path().join("new").metadata().unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_lock_that_is_dropped_is_free_though_a_child_may_still_have_its_file() {
        let directory = tempfile::tempdir().unwrap();
        let state_dir = StateDir { root: directory.path().to_owned() };
        let lock = state_dir.occupy().unwrap();
        // What a fork has until its exec: the same open file.
        let _of_child = lock.file.try_clone().unwrap();
        drop(lock);
        state_dir.occupy().unwrap();
    }
}
