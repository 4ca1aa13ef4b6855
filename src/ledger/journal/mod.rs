//! The journal: the ledger's truth. A request's opening and its end are appended to numbered files by plain writes,
//! which outlive a killed process; the SQLite index is filled from here and can be rebuilt.
//!
//! A file's room is reserved when it is begun, and an opening is refused unless there is room for the end of every open
//! request too: a full disk turns requests away, it does not lose the ends of those under way.
//! A new file repeats the openings that have no end yet, so old files can be deleted from the front.

pub(crate) mod disk;
pub mod frame;
pub(crate) mod read;
mod segment;

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::chain::{Chain, chain_hash};
use super::item::Draft;
use disk::Disk;
use frame::{Frame, FrameKind};
use read::{Position, segment_path};
use segment::{Mark, Segment};

/// Room kept for the end of each open request, in bytes: more than most items have.
const END_RESERVE_BYTES: u64 = 2048;
/// Room that there has to be before requests are taken again: for an opening of the greatest length, and its end.
const PROBE_BYTES: u64 = 40 << 10;
/// How file systems say that they cannot reserve room.
const UNSUPPORTED: [i32; 2] = [rustix::io::Errno::OPNOTSUPP.raw_os_error(), rustix::io::Errno::NOSYS.raw_os_error()];
/// The format that this version writes, and the newest that it reads.
pub(crate) const JOURNAL_VERSION: u32 = 1;
/// Digits of a chain hash at the start of an end's payload.
pub(crate) const HASH_DIGITS: usize = 64;

/// The first payload of every file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Header {
    /// Of the format: [`JOURNAL_VERSION`].
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
    disk: Arc<dyn Disk>,
    current: Option<Written>,
    /// Finished files that are not on the disk as a whole.
    finished: Vec<Written>,
    next_number: u64,
    chain: Chain,
    /// Openings without an end, by slot.
    open: Vec<Option<Frame>>,
    free: Vec<usize>,
    buffer: Vec<u8>,
    /// Bytes appended since this process started: who waits for a flush waits for a value of this.
    appended: u64,
    /// What went wrong without making a request fail.
    complaints: Vec<String>,
    /// That it was told.
    cannot_reserve: bool,
}

/// A file as far as it was written.
#[derive(Debug)]
struct Written {
    segment: Arc<Segment>,
    length: u64,
    reserved: u64,
    /// Where the chain stood when it was finished.
    chain: Chain,
}

impl Written {
    fn is_durable(&self) -> bool {
        self.segment.durable() >= self.length
    }
}

/// What is not on the disk.
#[derive(Debug)]
pub(crate) struct Unsynced {
    files: Vec<(Arc<Segment>, Mark)>,
    /// The count of bytes that are on the disk when these files are.
    pub(crate) bytes: u64,
}

impl Unsynced {
    /// Flushes the files, in their order.
    pub(crate) fn sync(self) -> io::Result<u64> {
        self.files.into_iter().try_for_each(|(segment, mark)| segment.sync(mark))?;
        Ok(self.bytes)
    }
}

impl Journal {
    /// A journal that goes on with `chain` in a file numbered `next_number`, begun by the first append.
    pub(crate) fn new(
        directory: PathBuf,
        segment_bytes: u64,
        flush: bool,
        disk: Arc<dyn Disk>,
        next_number: u64,
        chain: Chain,
    ) -> Journal {
        Journal {
            directory,
            segment_bytes,
            flush,
            disk,
            current: None,
            finished: Vec::new(),
            complaints: Vec::new(),
            cannot_reserve: false,
            next_number,
            chain,
            open: Vec::new(),
            free: Vec::new(),
            buffer: Vec::new(),
            appended: 0,
        }
    }

    /// The file system that it is on.
    pub(crate) fn disk(&self) -> Arc<dyn Disk> {
        self.disk.clone()
    }

    pub(crate) fn chain(&self) -> &Chain {
        &self.chain
    }

    /// Up to here the journal can be read.
    pub(crate) fn end(&self) -> Position {
        match &self.current {
            Some(current) => Position { segment: current.segment.number, offset: current.length },
            None => Position { segment: self.next_number, offset: 0 },
        }
    }

    /// Up to here the journal is on the disk.
    pub(crate) fn durable_end(&self) -> Position {
        let partly = self.finished.iter().chain(&self.current).find(|written| !written.is_durable());
        partly.map_or(self.end(), |written| Position {
            segment: written.segment.number,
            offset: written.segment.durable(),
        })
    }

    /// What has to be flushed to have everything on the disk that was appended by now.
    pub(crate) fn unsynced(&mut self) -> Unsynced {
        self.finished.retain(|written| !written.is_durable());
        let mark = |written: &Written, chain: &Chain| Mark { length: written.length, chain: chain.clone() };
        let finished = self.finished.iter().map(|written| (written.segment.clone(), mark(written, &written.chain)));
        let current = self.current.iter().map(|current| (current.segment.clone(), mark(current, &self.chain)));
        Unsynced { files: finished.chain(current).collect(), bytes: self.appended }
    }

    /// What went wrong since the last call, in sentences.
    pub(crate) fn take_complaints(&mut self) -> Vec<String> {
        std::mem::take(&mut self.complaints)
    }

    /// Whether this process has written a file.
    pub(crate) fn is_begun(&self) -> bool {
        self.current.is_some()
    }

    pub(crate) fn open_count(&self) -> usize {
        self.open.len() - self.free.len()
    }

    /// Appends an opening; the slot names it until its end. The count is what a flush must reach to have it on disk.
    pub(crate) fn open(&mut self, opening: Frame) -> io::Result<(usize, u64)> {
        self.ensure_room(opening.bytes().len() as u64 + END_RESERVE_BYTES)?;
        self.append(opening.bytes())?;
        let kept = Some(opening);
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

    /// Writes an opening once more, as it is by now. Who reads the journal takes the last one.
    pub(crate) fn amend(&mut self, slot: usize, opening: Frame) -> io::Result<()> {
        if !matches!(self.open.get(slot), Some(Some(_))) {
            return Ok(());
        }
        let needed = opening.bytes().len() as u64;
        // Even if it cannot be written now: a new file repeats it.
        self.open[slot] = Some(opening);
        self.ensure_room(needed)?;
        let opening = self.open[slot].take();
        let amended = opening.iter().try_for_each(|opening| self.append(opening.bytes()));
        self.open[slot] = opening;
        amended
    }

    /// Counts an opening that an earlier process wrote among the open requests, without writing it again.
    pub(crate) fn adopt(&mut self, opening: Frame) -> usize {
        self.open.push(Some(opening));
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
        self.ensure_room(PROBE_BYTES)
    }

    fn append_end(&mut self, draft: &Draft, is_reserved: bool) -> io::Result<usize> {
        let seq = self.chain.seq + 1;
        let digits = seq.to_string();
        let parts = draft.with_seq(digits.as_bytes());
        let hash = chain_hash(&self.chain.hash, &parts);
        let length = draft.bytes.len() + digits.len();
        let needed = (frame::HEADER_BYTES + HASH_DIGITS + length) as u64;
        let room = self.ensure_room(needed);
        if !is_reserved {
            room?;
        }
        let mut end = std::mem::take(&mut self.buffer);
        end.clear();
        frame::encode(&mut end, FrameKind::Close, &[hash.as_bytes(), parts[0], parts[1], parts[2]]);
        let appended = self.append(&end);
        self.buffer = end;
        appended?;
        self.chain.seq = seq;
        self.chain.hash = hash;
        Ok(length)
    }

    /// Begins a new file unless `needed` bytes and the ends of all open requests fit into this one, and it can be
    /// flushed.
    fn ensure_room(&mut self, needed: u64) -> io::Result<()> {
        let ends = self.open_count() as u64 * END_RESERVE_BYTES;
        let has_failed = self.finished.iter().chain(&self.current).any(|written| written.segment.has_failed());
        match &self.current {
            Some(current) if !has_failed && current.length + needed + ends <= current.reserved => Ok(()),
            _ => self.rotate(needed),
        }
    }

    /// Begins a new file with what the files before it cannot be trusted to have: openings that have no end yet, and
    /// ends that could not be flushed.
    fn rotate(&mut self, needed: u64) -> io::Result<()> {
        if self.flush
            && let Err(error) = self.unsynced().sync()
        {
            self.complaints.push(format!("a file of the journal cannot be flushed to the disk: {error}"));
        }
        let mut ends_at_risk = Vec::new();
        let mut lost_bytes = 0;
        let mut chain = None;
        for written in self.finished.iter().chain(&self.current).filter(|written| written.segment.has_failed()) {
            chain.get_or_insert_with(|| written.segment.durable_chain());
            lost_bytes += written.segment.append_ends_at_risk(written.length, &mut ends_at_risk);
        }
        if lost_bytes > 0 {
            self.complaints.push(format!(
                "{lost_bytes} bytes of the journal could be neither flushed to the disk nor read again; requests whose ends they were may be recorded as interrupted"
            ));
        }
        let chain = chain.unwrap_or_else(|| self.chain.clone());

        self.buffer.clear();
        let header = Header { version: JOURNAL_VERSION, chain: chain.clone() };
        frame::encode(&mut self.buffer, FrameKind::Header, &[&serde_json::to_vec(&header)?]);
        for opening in self.open.iter().flatten() {
            self.buffer.extend_from_slice(opening.bytes());
        }
        self.buffer.append(&mut ends_at_risk);
        let length = self.buffer.len() as u64;
        let ends = self.open_count() as u64 * END_RESERVE_BYTES;
        let reserved = self.segment_bytes.max(2 * (length + ends + needed));

        // A number is used once, whatever comes of it.
        let number = self.next_number;
        self.next_number += 1;
        let path = segment_path(&self.directory, number);
        let file = self.disk.create(&path)?;
        let begun = self.reserve(&file, reserved).and_then(|()| self.disk.write(&file, &self.buffer, 0));
        let segment = Segment::new(number, file, self.directory.clone(), self.disk.clone(), chain);
        let mark = Mark { length, chain: self.chain.clone() };
        let begun = begun.and_then(|()| if self.flush { segment.sync(mark) } else { Ok(()) });
        if let Err(error) = begun {
            segment.cut(0);
            let _ = self.disk.remove(&path);
            return Err(error);
        }
        let written = Written { segment: Arc::new(segment), length, reserved, chain: self.chain.clone() };
        if let Some(old) = self.current.replace(written) {
            self.finished.push(Written { chain: self.chain.clone(), ..old });
        }
        for old in &self.finished {
            // What could not be flushed is in the new file.
            old.segment.cut(if old.segment.has_failed() { old.segment.durable() } else { old.length });
        }
        self.finished.retain(|written| !written.segment.has_failed() && !written.is_durable());
        Ok(())
    }

    /// Reserves room, if the file system can.
    fn reserve(&mut self, file: &File, bytes: u64) -> io::Result<()> {
        match self.disk.reserve(file, bytes) {
            Err(error) if UNSUPPORTED.contains(&error.raw_os_error().unwrap_or_default()) => {
                if !std::mem::replace(&mut self.cannot_reserve, true) {
                    self.complaints.push(format!(
                        "the file system of {} cannot reserve room for a file ({error}): when it is full, the ends of requests under way have to wait in memory",
                        self.directory.display()
                    ));
                }
                Ok(())
            }
            reserved => reserved,
        }
    }

    /// Appends a frame.
    fn append(&mut self, frame: &[u8]) -> io::Result<()> {
        let Some(current) = &mut self.current else {
            return Err(io::Error::other("the journal has no file to write to"));
        };
        if frame.len() > frame::HEADER_BYTES + frame::MAX_PAYLOAD {
            return Err(io::Error::other("the record is too long for the journal"));
        }
        // A write that fails half-way is written over by the next one, or skipped by its checksum.
        current.segment.write(frame, current.length)?;
        current.length += frame.len() as u64;
        self.appended += frame.len() as u64;
        Ok(())
    }
}

/// The chain hash and the item of an end's payload; none when it is not made of the two.
pub(crate) fn split_end(payload: &[u8]) -> Option<(&str, &str)> {
    let (hash, item) = payload.split_at_checked(HASH_DIGITS)?;
    Some((std::str::from_utf8(hash).ok()?, std::str::from_utf8(item).ok()?))
}
