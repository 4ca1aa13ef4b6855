//! A disk that remembers what was flushed, fails when it is told to, and can lose its power.

use std::collections::HashMap;
use std::fs::File;
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
    pub(super) syncs: u64,
    /// So many flushes fail from now on; the next one succeeds, as with Linux.
    pub(super) failing_syncs: u32,
    /// So many writes stop half-way.
    pub(super) failing_writes: u32,
    pub(super) reserve_error: Option<i32>,
}

impl TestDisk {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Bytes of a journal file that a loss of power leaves.
    pub(super) fn synced(&self, path: &Path) -> u64 {
        self.state().synced.get(&path.metadata().unwrap().ino()).copied().unwrap_or(0)
    }

    /// What a loss of power leaves of a journal: of each file what was flushed, and as much of the rest as `more`
    /// says, given how much there is.
    pub(super) fn after_power_loss(&self, root: &Path, mut more: impl FnMut(u64) -> u64) -> Vec<(PathBuf, Vec<u8>)> {
        let directory = root.join("journal");
        let mut files = Vec::new();
        for number in segments(&directory).unwrap() {
            let path = segment_path(&directory, number);
            let mut bytes = std::fs::read(&path).unwrap();
            let synced = self.synced(&path).min(bytes.len() as u64);
            let kept = synced + more(bytes.len() as u64 - synced);
            bytes.truncate(usize::try_from(kept).unwrap());
            files.push((path, bytes));
        }
        files
    }

    /// The journal files that are there have outlived a crash already.
    pub(super) fn found(&self, root: &Path) {
        let directory = root.join("journal");
        for number in segments(&directory).unwrap() {
            let metadata = segment_path(&directory, number).metadata().unwrap();
            self.state().synced.insert(metadata.ino(), metadata.len());
        }
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
        drop(state);
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

    fn sync_directory(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }
}
