//! A file of the journal, and how much of it is on the disk.
//!
//! After a failed fsync the kernel may have dropped what it could not write, and the next fsync of that file succeeds.
//! So one failure is for ever: nothing that the file has got since its last successful fsync counts as durable.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};

use super::disk::Disk;
use super::frame::{self, FrameKind};
use crate::ledger::chain::Chain;

#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) number: u64,
    file: File,
    directory: PathBuf,
    disk: Arc<dyn Disk>,
    /// Bytes from the beginning that are on the disk.
    durable: AtomicU64,
    failed: AtomicBool,
    /// The chain as it is on the disk. Locked during a sync: whoever comes second learns what the first was told.
    chain: Mutex<Chain>,
}

/// A place in a file that a sync has to reach, and the chain there.
#[derive(Debug, Clone)]
pub(crate) struct Mark {
    pub(crate) length: u64,
    pub(crate) chain: Chain,
}

impl Segment {
    /// A file of which nothing is on the disk, nor its name. It continues `chain`.
    pub(crate) fn new(number: u64, file: File, directory: PathBuf, disk: Arc<dyn Disk>, chain: Chain) -> Segment {
        let (durable, failed, chain) = (AtomicU64::new(0), AtomicBool::new(false), Mutex::new(chain));
        Segment { number, file, directory, disk, durable, failed, chain }
    }

    pub(crate) fn write(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.disk.write(&self.file, bytes, offset)
    }

    /// Returns when everything before the mark is on the disk.
    pub(crate) fn sync(&self, mark: Mark) -> io::Result<()> {
        let mut chain = self.chain.lock().unwrap_or_else(PoisonError::into_inner);
        if self.has_failed() {
            return Err(io::Error::other("an earlier flush of this file failed"));
        }
        let durable = self.durable();
        if durable >= mark.length {
            return Ok(());
        }
        let synced = self.disk.sync(&self.file);
        let synced =
            synced.and_then(|()| if durable == 0 { self.disk.sync_directory(&self.directory) } else { Ok(()) });
        match synced {
            Ok(()) => {
                *chain = mark.chain;
                self.durable.store(mark.length, SeqCst);
                Ok(())
            }
            Err(error) => {
                self.failed.store(true, SeqCst);
                Err(error)
            }
        }
    }

    pub(crate) fn durable(&self) -> u64 {
        self.durable.load(SeqCst)
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.failed.load(SeqCst)
    }

    /// The chain where the part that is on the disk ends.
    pub(crate) fn durable_chain(&self) -> Chain {
        self.chain.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Appends to `buffer` the ends that are not on the disk, of the first `length` bytes, as far as the kernel still
    /// has them. Says how many bytes it has not.
    pub(crate) fn append_ends_at_risk(&self, length: u64, buffer: &mut Vec<u8>) -> u64 {
        let from = self.durable();
        let at_risk = length.saturating_sub(from);
        let mut bytes = vec![0; usize::try_from(at_risk).unwrap_or(0)];
        if self.file.read_exact_at(&mut bytes, from).is_err() {
            return at_risk;
        }
        let found = frame::decode(&bytes, true);
        for (_, range) in found.frames.into_iter().filter(|(kind, _)| *kind == FrameKind::Close) {
            frame::encode(buffer, FrameKind::Close, &[&bytes[range]]);
        }
        found.skipped_bytes as u64
    }

    /// Cuts the file off here, which also gives back what was reserved for it.
    pub(crate) fn cut(&self, length: u64) {
        let _ = self.file.set_len(length);
    }
}
