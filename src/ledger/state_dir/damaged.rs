//! Damaged files: kept within bounds, so that somebody may look at them.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest;

use super::StateDir;
use super::occupied::private_directory;
use crate::hexadecimal::hexadecimal;

/// Damaged files that are kept, and their bytes, at most. What was found last is always kept.
const MAX_KEPT: usize = 20;
const MAX_KEPT_BYTES: u64 = 1 << 30;

impl StateDir {
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
