//! The journal: the ledger's truth. A request's opening and its end are appended to numbered files by plain writes,
//! which outlive a killed process; the SQLite index is filled from here and can be rebuilt.
//!
//! A file's room is reserved when it is begun, and an opening is refused unless there is room for the end of every open
//! request too: a full disk turns requests away, it does not lose the ends of those under way.
//! A new file repeats the openings that have no end yet, so old files can be deleted from the front.

pub mod frame;
pub(crate) mod read;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::{FallocateFlags, fallocate};
use serde::{Deserialize, Serialize};

use super::chain::{Chain, chain_hash};
use super::item::Draft;
use frame::FrameKind;
use read::{Position, segment_path};

/// Room kept for the end of each open request, in bytes: more than most items have.
const END_RESERVE_BYTES: u64 = 2048;
/// Digits of a chain hash at the start of an end's payload.
pub(crate) const HASH_DIGITS: usize = 64;

/// The first payload of every file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Header {
    /// Of the format; 1.
    pub(crate) version: u32,
    #[serde(flatten)]
    pub(crate) chain: Chain,
}

/// The one writer of the journal.
#[derive(Debug)]
pub(crate) struct Journal {
    directory: PathBuf,
    /// Bytes reserved for a file.
    segment_bytes: u64,
    /// Whether finished files are flushed to the disk before the next one is begun.
    flush: bool,
    segment: Option<Segment>,
    next_number: u64,
    chain: Chain,
    /// Openings without an end, by slot.
    open: Vec<Option<Box<[u8]>>>,
    free: Vec<usize>,
    buffer: Vec<u8>,
    /// Bytes appended since this process started: who waits for a flush waits for a value of this.
    appended: u64,
}

#[derive(Debug)]
struct Segment {
    file: Arc<File>,
    number: u64,
    length: u64,
    reserved: u64,
}

impl Journal {
    /// A journal that goes on with `chain` in a file numbered `next_number`, begun by the first append.
    pub(crate) fn new(directory: PathBuf, segment_bytes: u64, flush: bool, next_number: u64, chain: Chain) -> Journal {
        Journal {
            directory,
            segment_bytes,
            flush,
            segment: None,
            next_number,
            chain,
            open: Vec::new(),
            free: Vec::new(),
            buffer: Vec::new(),
            appended: 0,
        }
    }

    pub(crate) fn chain(&self) -> &Chain {
        &self.chain
    }

    /// Up to here the journal can be read.
    pub(crate) fn end(&self) -> Position {
        match &self.segment {
            Some(segment) => Position { segment: segment.number, offset: segment.length },
            None => Position { segment: self.next_number, offset: 0 },
        }
    }

    /// The file that has to be flushed, and the count of bytes that are on the disk when that is done.
    pub(crate) fn unflushed(&self) -> (Option<Arc<File>>, u64) {
        (self.segment.as_ref().map(|segment| segment.file.clone()), self.appended)
    }

    pub(crate) fn open_count(&self) -> usize {
        self.open.len() - self.free.len()
    }

    /// Appends an opening; the slot names it until its end. The count is what a flush must reach to have it on disk.
    pub(crate) fn open(&mut self, record: &[u8]) -> io::Result<(usize, u64)> {
        self.ensure_room((frame::HEADER_BYTES + record.len()) as u64 + END_RESERVE_BYTES)?;
        self.append(FrameKind::Open, &[record])?;
        let kept = Some(Box::from(record));
        let slot = match self.free.pop() {
            Some(slot) => {
                self.open[slot] = kept;
                slot
            }
            None => {
                self.open.push(kept);
                self.open.len() - 1
            }
        };
        Ok((slot, self.appended))
    }

    /// Counts an opening that an earlier process wrote among the open requests, without writing it again.
    pub(crate) fn adopt(&mut self, record: &[u8]) -> usize {
        self.open.push(Some(Box::from(record)));
        self.open.len() - 1
    }

    /// Appends the end of an open request, using the room that was kept for it. Its item's length in bytes is returned.
    pub(crate) fn close(&mut self, slot: usize, draft: &Draft) -> io::Result<usize> {
        let length = self.append_end(draft, true)?;
        if let Some(opening) = self.open.get_mut(slot)
            && opening.take().is_some()
        {
            self.free.push(slot);
        }
        Ok(length)
    }

    /// Appends the end of a request that never was open.
    pub(crate) fn note(&mut self, draft: &Draft) -> io::Result<usize> {
        self.append_end(draft, false)
    }

    /// Whether another request could be opened now.
    pub(crate) fn check_room(&mut self) -> io::Result<()> {
        self.ensure_room(2 * END_RESERVE_BYTES)
    }

    fn append_end(&mut self, draft: &Draft, is_reserved: bool) -> io::Result<usize> {
        let seq = self.chain.seq + 1;
        let digits = seq.to_string();
        let parts = [&draft.before_seq[..], digits.as_bytes(), &draft.after_seq];
        let hash = chain_hash(&self.chain.hash, &parts);
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let needed = (frame::HEADER_BYTES + HASH_DIGITS + length) as u64;
        let room = self.ensure_room(needed);
        if !is_reserved {
            room?;
        }
        self.append(FrameKind::Close, &[hash.as_bytes(), parts[0], parts[1], parts[2]])?;
        self.chain.seq = seq;
        self.chain.hash = hash;
        Ok(length)
    }

    /// Begins a new file unless `needed` bytes and the ends of all open requests fit into this one.
    fn ensure_room(&mut self, needed: u64) -> io::Result<()> {
        let ends = self.open_count() as u64 * END_RESERVE_BYTES;
        match &self.segment {
            Some(segment) if segment.length + needed + ends <= segment.reserved => Ok(()),
            _ => self.rotate(needed),
        }
    }

    fn rotate(&mut self, needed: u64) -> io::Result<()> {
        self.buffer.clear();
        let header = Header { version: 1, chain: self.chain.clone() };
        frame::encode(&mut self.buffer, FrameKind::Header, &[&serde_json::to_vec(&header)?]);
        for opening in self.open.iter().flatten() {
            frame::encode(&mut self.buffer, FrameKind::Open, &[opening]);
        }
        let length = self.buffer.len() as u64;
        let ends = self.open_count() as u64 * END_RESERVE_BYTES;
        let reserved = self.segment_bytes.max(2 * (length + ends + needed));

        // A number is used once, whatever comes of it.
        let number = self.next_number;
        self.next_number += 1;
        let path = segment_path(&self.directory, number);
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        let begun = reserve(&file, reserved).and_then(|()| file.write_all_at(&self.buffer, 0));
        let begun = begun.and_then(|()| match &self.segment {
            Some(old) if self.flush => old.file.sync_data(),
            _ => Ok(()),
        });
        let begun = begun.and_then(|()| {
            if self.flush {
                file.sync_all()?;
                File::open(&self.directory)?.sync_all()?;
            }
            Ok(())
        });
        if let Err(error) = begun {
            let _ = std::fs::remove_file(&path);
            return Err(error);
        }
        if let Some(old) = self.segment.take() {
            // Gives back what was reserved and not used.
            let _ = old.file.set_len(old.length);
        }
        self.segment = Some(Segment { file: Arc::new(file), number, length, reserved });
        Ok(())
    }

    /// Begins a new file at the next append: what was written to this one can no longer be trusted to be there.
    pub(crate) fn abandon_segment(&mut self) {
        self.segment = None;
    }

    fn append(&mut self, kind: FrameKind, parts: &[&[u8]]) -> io::Result<()> {
        let Some(segment) = &mut self.segment else {
            return Err(io::Error::other("the journal has no file to write to"));
        };
        if parts.iter().map(|part| part.len()).sum::<usize>() > frame::MAX_PAYLOAD {
            return Err(io::Error::other("the record is too long for the journal"));
        }
        self.buffer.clear();
        frame::encode(&mut self.buffer, kind, parts);
        // A write that fails half-way is written over by the next one, or skipped by its checksum.
        segment.file.write_all_at(&self.buffer, segment.length)?;
        segment.length += self.buffer.len() as u64;
        self.appended += self.buffer.len() as u64;
        Ok(())
    }
}

/// The chain hash and the item of an end's payload; none when it is not made of the two.
pub(crate) fn split_end(payload: &[u8]) -> Option<(&str, &str)> {
    let (hash, item) = payload.split_at_checked(HASH_DIGITS)?;
    Some((std::str::from_utf8(hash).ok()?, std::str::from_utf8(item).ok()?))
}

fn reserve(file: &File, bytes: u64) -> io::Result<()> {
    match fallocate(file, FallocateFlags::KEEP_SIZE, 0, bytes) {
        Ok(()) | Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
