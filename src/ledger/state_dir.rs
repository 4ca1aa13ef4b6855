//! The state directory: where it is, that only its user may read it, and that only one daemon writes in it.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest;
use rustix::fs::{FlockOperation, flock};

use super::error::LedgerError;
use crate::hexadecimal::hexadecimal;
use crate::settings;

/// Damaged files that are kept, and their bytes, at most. What was found last is always kept.
const MAX_KEPT: usize = 20;
const MAX_KEPT_BYTES: u64 = 1 << 30;

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

    /// While this file is there, records that were set aside are to be sent again.
    pub(crate) fn retry_mark(&self) -> PathBuf {
        self.root.join("retry-set-aside")
    }

    /// Where damaged files are kept.
    pub(crate) fn corrupt(&self) -> PathBuf {
        self.root.join("corrupt")
    }

    /// Moves a damaged file out of the way (with `keep`, copies it). What is there already is not kept twice: the name
    /// says whose bytes these are, and an earlier copy that the new one goes on from makes room for it.
    pub(crate) fn set_aside(&self, path: &Path, keep: bool) -> io::Result<PathBuf> {
        private_directory(&self.corrupt())?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let bytes = std::fs::read(path)?;
        let hash = hexadecimal(&digest::digest(&digest::SHA256, &bytes).as_ref()[..8]);
        let to = self.corrupt().join(format!("{name}.{hash}"));
        if !to.exists() {
            let partial = self.corrupt().join(format!("{name}.partial"));
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&partial)?;
            file.write_all(&bytes)?;
            std::fs::rename(&partial, &to)?;
            self.remove_earlier_copies(&name, &to, &bytes);
        }
        if !keep {
            std::fs::remove_file(path)?;
        }
        self.bound_corrupt(&to);
        Ok(to)
    }

    /// Moves the database with its companions into a directory of their own under their names, and returns where the
    /// database is. However often that is interrupted, the directory is the same as long as `reason` is the same file.
    pub(crate) fn set_aside_database(&self, reason: &Path) -> io::Result<PathBuf> {
        let since_1970 = reason.metadata()?.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
        let database = self.database();
        let name = database.file_name().unwrap_or_default().to_string_lossy();
        let directory = self.corrupt().join(format!("{name}.{}", since_1970.as_millis()));
        private_directory(&directory)?;
        for suffix in ["", "-wal", "-shm"] {
            let from = database.with_file_name(format!("{name}{suffix}"));
            match std::fs::rename(&from, directory.join(format!("{name}{suffix}"))) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        File::open(&directory)?.sync_all()?;
        self.bound_corrupt(&directory);
        Ok(directory.join(name.as_ref()))
    }

    /// A journal file that is written to may be found damaged again and again.
    fn remove_earlier_copies(&self, name: &str, newest: &Path, bytes: &[u8]) {
        for copy in kept(&self.corrupt()).into_iter().filter(|copy| copy.path != newest && copy.path.is_file()) {
            let is_of_same_file = copy.path.file_stem().is_some_and(|stem| stem == name);
            if is_of_same_file && std::fs::read(&copy.path).is_ok_and(|earlier| bytes.starts_with(&earlier)) {
                let _ = std::fs::remove_file(&copy.path);
            }
        }
    }

    /// Removes the oldest of what is kept, except `newest`, until there is little enough.
    fn bound_corrupt(&self, newest: &Path) {
        let mut kept = kept(&self.corrupt());
        kept.sort_by_key(|one| (one.path == newest, one.since));
        let (mut count, mut bytes) = (kept.len(), kept.iter().map(|one| one.bytes).sum::<u64>());
        for one in kept.into_iter().filter(|one| one.path != newest) {
            if count <= MAX_KEPT && bytes <= MAX_KEPT_BYTES {
                return;
            }
            let removed =
                if one.path.is_dir() { std::fs::remove_dir_all(&one.path) } else { std::fs::remove_file(&one.path) };
            match removed {
                Ok(()) => {
                    (count, bytes) = (count - 1, bytes.saturating_sub(one.bytes));
                    tracing::warn!(path = %one.path.display(), "audit: too many damaged files are kept; the oldest was removed");
                }
                Err(error) => {
                    tracing::warn!(path = %one.path.display(), %error, "audit: too many damaged files are kept, and the oldest cannot be removed");
                }
            }
        }
    }

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

fn from_environment(name: &str) -> Option<std::ffi::OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
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

/// A damaged file, or a directory of some that belong together.
struct Kept {
    path: PathBuf,
    bytes: u64,
    since: Option<SystemTime>,
}

fn kept(corrupt: &Path) -> Vec<Kept> {
    let entries = corrupt.read_dir().into_iter().flatten().flatten();
    let kept = entries.filter_map(|entry| {
        let (path, metadata) = (entry.path(), entry.metadata().ok()?);
        let bytes = if metadata.is_dir() { kept(&path).iter().map(|one| one.bytes).sum() } else { metadata.len() };
        Some(Kept { path, bytes, since: metadata.modified().ok() })
    });
    kept.collect()
}

fn create_private(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn private_directory(path: &Path) -> io::Result<()> {
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

    #[test]
    fn the_same_damage_is_kept_once_and_all_of_it_within_bounds() {
        let directory = tempfile::tempdir().unwrap();
        let state_dir = StateDir { root: directory.path().to_owned() };
        let names = || {
            let mut names: Vec<String> = kept(&state_dir.corrupt())
                .into_iter()
                .map(|one| one.path.file_name().unwrap().to_string_lossy().into_owned())
                .collect();
            names.sort();
            names
        };
        let damaged = directory.path().join("0000000001.journal");
        std::fs::write(&damaged, "abc").unwrap();
        let first = state_dir.set_aside(&damaged, true).unwrap();
        assert_eq!(state_dir.set_aside(&damaged, true).unwrap(), first);
        assert_eq!(names().len(), 1);
        // The file was written to; the new copy has what the old one had.
        std::fs::write(&damaged, "abcd").unwrap();
        let second = state_dir.set_aside(&damaged, true).unwrap();
        assert_eq!(std::fs::read(second).unwrap(), b"abcd");
        assert_eq!(names().len(), 1);
        std::fs::write(&damaged, "xbcd").unwrap();
        state_dir.set_aside(&damaged, true).unwrap();
        assert_eq!(names().len(), 2, "other damage is kept too");
        for number in 2..100 {
            let damaged = directory.path().join(format!("{number:010}.journal"));
            std::fs::write(&damaged, "abc").unwrap();
            let copy = state_dir.set_aside(&damaged, true).unwrap();
            assert!(copy.exists());
            assert!(names().len() <= MAX_KEPT);
        }
    }

    #[test]
    fn a_database_is_kept_whole_however_often_its_moving_is_interrupted() {
        let directory = tempfile::tempdir().unwrap();
        let state_dir = StateDir { root: directory.path().to_owned() };
        let reason = directory.path().join("ledger.db.ready");
        std::fs::write(&reason, "").unwrap();
        for name in ["ledger.db", "ledger.db-wal"] {
            std::fs::write(directory.path().join(name), name).unwrap();
            assert!(state_dir.set_aside_database(&reason).unwrap().exists());
        }
        let kept = kept(&state_dir.corrupt());
        assert_eq!((kept.len(), kept[0].bytes), (1, 22));
    }

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
