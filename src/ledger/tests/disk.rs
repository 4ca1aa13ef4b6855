//! A disk that remembers what was flushed, fails when it is told to, and can lose its power.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use crate::ledger::journal::disk::Disk;
use crate::ledger::journal::read::{Position, segment_path, segments};

#[derive(Debug, Default)]
pub(super) struct TestDisk(Mutex<State>);

#[derive(Debug, Default)]
pub(super) struct State {
    /// Bytes of each file that are on the disk, by inode.
    synced: HashMap<u64, u64>,
    /// The names that are on the disk.
    names: BTreeSet<PathBuf>,
    /// Files whose names are on the disk and that were removed since: what of their bytes is on the disk, and the rest.
    removed: BTreeMap<PathBuf, (Vec<u8>, Vec<u8>)>,
    pub(super) syncs: u64,
    /// So many flushes fail from now on; the next one succeeds, as with Linux.
    pub(super) failing_syncs: u32,
    /// So many writes stop half-way.
    pub(super) failing_writes: u32,
    pub(super) reserve_error: Option<i32>,
}

/// Journal files, ascending.
pub(super) type Files = BTreeMap<PathBuf, Vec<u8>>;

impl State {
    /// A journal file's bytes: those that are on the disk, and the rest.
    fn parts(&self, path: &Path) -> (Vec<u8>, Vec<u8>) {
        let mut bytes = std::fs::read(path).unwrap();
        let synced = self.synced.get(&path.metadata().unwrap().ino()).copied().unwrap_or(0);
        let rest = bytes.split_off(bytes.len().min(usize::try_from(synced).unwrap()));
        (bytes, rest)
    }

    /// What a loss of power leaves of a journal: what was flushed, and as much of the rest as `more` says, given how
    /// much there is. A file that was created or removed and whose directory was not flushed is one of one more.
    pub(super) fn after_power_loss(&self, root: &Path, mut more: impl FnMut(u64) -> u64) -> Files {
        let mut files = Files::new();
        let mut keep = |path: &Path, (mut bytes, rest): (Vec<u8>, Vec<u8>), more: &mut dyn FnMut(u64) -> u64| {
            bytes.extend_from_slice(&rest[..usize::try_from(more(rest.len() as u64)).unwrap()]);
            files.insert(path.to_owned(), bytes);
        };
        for path in journal_files(root) {
            if self.names.contains(&path) || more(1) == 1 {
                keep(&path, self.parts(&path), &mut more);
            }
        }
        for (path, parts) in &self.removed {
            if more(1) == 0 {
                keep(path, parts.clone(), &mut more);
            }
        }
        files
    }
}

fn journal_files(root: &Path) -> impl Iterator<Item = PathBuf> {
    let directory = root.join("journal");
    segments(&directory).unwrap().into_iter().map(move |number| segment_path(&directory, number))
}

/// Whether a loss of power has left entries of a journal file, and not all of those before it.
pub(super) fn is_cut_midst(root: &Path, left: &Files) -> bool {
    let mut is_cut = false;
    journal_files(root).any(|path| {
        let length = left.get(&path).map_or(0, Vec::len);
        let goes_on = is_cut && length > 0;
        is_cut |= (length as u64) < path.metadata().unwrap().len();
        goes_on
    })
}

impl TestDisk {
    /// While this is held, nothing happens on the disk.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Bytes of a journal file that a loss of power leaves.
    pub(super) fn synced(&self, path: &Path) -> u64 {
        self.state().synced.get(&path.metadata().unwrap().ino()).copied().unwrap_or(0)
    }

    /// See [`State::after_power_loss`].
    pub(super) fn after_power_loss(&self, root: &Path, more: impl FnMut(u64) -> u64) -> Files {
        self.state().after_power_loss(root, more)
    }

    /// A disk whose journal files have outlived a loss of power already.
    pub(super) fn found(root: &Path) -> TestDisk {
        let disk = TestDisk::default();
        for path in journal_files(root) {
            let metadata = path.metadata().unwrap();
            disk.state().synced.insert(metadata.ino(), metadata.len());
            disk.state().names.insert(path);
        }
        disk
    }

    /// The same disk after its journal was copied from one root to another: what was not flushed still is not.
    pub(super) fn moved(&self, from: &Path, to: &Path) -> TestDisk {
        let disk = TestDisk::default();
        let (old, mut new) = (self.state(), disk.state());
        let new_path = |path: &Path| to.join(path.strip_prefix(from).unwrap());
        for path in journal_files(from) {
            let path_there = new_path(&path);
            // One that was begun after the copy is not there.
            if let Ok(metadata) = path_there.metadata() {
                let synced = old.synced.get(&path.metadata().unwrap().ino()).copied().unwrap_or(0);
                new.synced.insert(metadata.ino(), synced.min(metadata.len()));
            }
        }
        new.names = old.names.iter().map(|path| new_path(path)).collect();
        new.removed = old.removed.iter().map(|(path, parts)| (new_path(path), parts.clone())).collect();
        drop(new);
        disk
    }

    /// Whether everything before this position would outlive a loss of power.
    pub(super) fn has_up_to(&self, root: &Path, position: Position) -> bool {
        let directory = root.join("journal");
        segments(&directory).unwrap().into_iter().filter(|number| *number <= position.segment).all(|number| {
            let path = segment_path(&directory, number);
            let length = path.metadata().unwrap().len();
            let needed = if number == position.segment { position.offset.min(length) } else { length };
            self.synced(&path) >= needed
        })
    }
}

impl Disk for TestDisk {
    fn create(&self, path: &Path) -> io::Result<File> {
        let mut state = self.state();
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        // The number may be that of a file that was removed.
        state.synced.remove(&file.metadata()?.ino());
        Ok(file)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        if state.names.contains(path) && !state.removed.contains_key(path) {
            let parts = state.parts(path);
            state.removed.insert(path.to_owned(), parts);
        }
        std::fs::remove_file(path)
    }

    fn reserve(&self, _file: &File, _bytes: u64) -> io::Result<()> {
        self.state().reserve_error.map_or(Ok(()), |code| Err(io::Error::from_raw_os_error(code)))
    }

    fn write(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.state();
        if state.failing_writes > 0 {
            state.failing_writes -= 1;
            file.write_all_at(&bytes[..bytes.len() / 2], offset)?;
            return Err(io::Error::from_raw_os_error(5));
        }
        file.write_all_at(bytes, offset)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        let mut state = self.state();
        state.syncs += 1;
        if state.failing_syncs > 0 {
            state.failing_syncs -= 1;
            return Err(io::Error::from_raw_os_error(5));
        }
        let metadata = file.metadata()?;
        state.synced.insert(metadata.ino(), metadata.len());
        Ok(())
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.names = segments(path)?.into_iter().map(|number| segment_path(path, number)).collect();
        state.removed.clear();
        Ok(())
    }
}
