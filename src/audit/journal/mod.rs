//! The journal: the ledger's truth. A request's opening and its end are appended to numbered files by plain writes, which
//! is all that a killed process needs; SQLite is filled from here and can be rebuilt.
//!
//! A file's room is reserved when it is begun, and an opening is refused unless there is room for the end of every open
//! request too: a full disk turns requests away, it does not lose the ends of those under way.
//! A new file repeats the openings that have no end yet, so old files can be deleted from the front.

pub mod frame;
pub mod read;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::{FallocateFlags, fallocate};
use serde::{Deserialize, Serialize};

use super::chain::{Chain, link};
use super::item::Draft;
use frame::Kind;
use read::{Position, segment_path};

/// Room kept for the end of each open request, in bytes: more than most items have.
const ROOM_FOR_END: u64 = 2048;
/// Digits of a chain hash at the start of a closing payload.
pub const HASH_DIGITS: usize = 64;

/// The first payload of every file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Header {
    /// Of the format; 1.
    pub version: u32,
    #[serde(flatten)]
    pub chain: Chain,
}

/// Appends; the one writer of the journal.
#[derive(Debug)]
pub struct Journal {
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
    /// Bytes appended in this process's life: what waits for a flush waits for a value of this.
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
    pub fn new(directory: PathBuf, segment_bytes: u64, flush: bool, next_number: u64, chain: Chain) -> Journal {
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

    pub fn chain(&self) -> &Chain {
        &self.chain
    }

    /// Up to where the journal can be read.
    pub fn end(&self) -> Position {
        match &self.segment {
            Some(segment) => Position { segment: segment.number, offset: segment.length },
            None => Position { segment: self.next_number, offset: 0 },
        }
    }

    /// The file that is being written, and the count of bytes that are in it or in files before it.
    pub fn to_flush(&self) -> (Option<Arc<File>>, u64) {
        (self.segment.as_ref().map(|segment| segment.file.clone()), self.appended)
    }

    pub fn open_count(&self) -> usize {
        self.open.len() - self.free.len()
    }

    /// Appends an opening; the slot names it until its end. The count is what a flush must reach to have it on disk.
    pub fn open(&mut self, record: &[u8]) -> io::Result<(usize, u64)> {
        self.make_room((frame::HEADER + record.len()) as u64 + ROOM_FOR_END)?;
        self.append(Kind::Open, &[record])?;
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

    /// Takes an opening of a former life into account without writing it again.
    pub fn adopt(&mut self, record: &[u8]) -> usize {
        self.open.push(Some(Box::from(record)));
        self.open.len() - 1
    }

    /// Appends the end of an open request, using the room that was kept for it. Its item's length in bytes is returned.
    pub fn close(&mut self, slot: usize, draft: &Draft) -> io::Result<usize> {
        let length = self.finish(draft, true)?;
        if let Some(opening) = self.open.get_mut(slot)
            && opening.take().is_some()
        {
            self.free.push(slot);
        }
        Ok(length)
    }

    /// Appends the end of a request that never was open.
    pub fn note(&mut self, draft: &Draft) -> io::Result<usize> {
        self.finish(draft, false)
    }

    /// Whether another request could be opened now.
    pub fn probe(&mut self) -> io::Result<()> {
        self.make_room(2 * ROOM_FOR_END)
    }

    fn finish(&mut self, draft: &Draft, has_room: bool) -> io::Result<usize> {
        let seq = self.chain.seq + 1;
        let digits = seq.to_string();
        let parts = [&draft.before_seq[..], digits.as_bytes(), &draft.after_seq];
        let hash = link(&self.chain.hash, &parts);
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let needed = (frame::HEADER + HASH_DIGITS + length) as u64;
        let room = self.make_room(needed);
        if !has_room {
            room?;
        }
        self.append(Kind::Close, &[hash.as_bytes(), parts[0], parts[1], parts[2]])?;
        self.chain.seq = seq;
        self.chain.hash = hash;
        Ok(length)
    }

    /// Sees to it that `needed` bytes and the ends of all open requests fit into the file, beginning a new one if not.
    fn make_room(&mut self, needed: u64) -> io::Result<()> {
        let ends = self.open_count() as u64 * ROOM_FOR_END;
        match &self.segment {
            Some(segment) if segment.length + needed + ends <= segment.reserved => Ok(()),
            _ => self.rotate(needed),
        }
    }

    fn rotate(&mut self, needed: u64) -> io::Result<()> {
        self.buffer.clear();
        let header = Header { version: 1, chain: self.chain.clone() };
        frame::encode(&mut self.buffer, Kind::Header, &[&serde_json::to_vec(&header)?]);
        for opening in self.open.iter().flatten() {
            frame::encode(&mut self.buffer, Kind::Open, &[opening]);
        }
        let length = self.buffer.len() as u64;
        let ends = self.open_count() as u64 * ROOM_FOR_END;
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
    pub fn abandon_segment(&mut self) {
        self.segment = None;
    }

    fn append(&mut self, kind: Kind, parts: &[&[u8]]) -> io::Result<()> {
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

fn reserve(file: &File, bytes: u64) -> io::Result<()> {
    match fallocate(file, FallocateFlags::KEEP_SIZE, 0, bytes) {
        Ok(()) | Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
