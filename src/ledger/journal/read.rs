//! Reading a journal: by the start after a crash, by the index writer, and by `audit` commands beside a running daemon.
//! All three read the same way.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::frame::{self, FrameKind};

/// Bytes read at a time; more than the longest frame.
const CHUNK_BYTES: usize = 2 * frame::MAX_PAYLOAD;

/// A place in the journal: a file's number and a byte in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub(crate) struct Position {
    pub(crate) segment: u64,
    pub(crate) offset: u64,
}

/// The path of a journal file.
pub(crate) fn segment_path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{number:010}.journal"))
}

/// The numbers of the journal's files, ascending.
pub(crate) fn segments(directory: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    let entries = match directory.read_dir() {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(numbers),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let name = entry?.file_name();
        let number: Option<u64> = name.to_str().and_then(|name| name.strip_suffix(".journal")?.parse().ok());
        numbers.extend(number);
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Walks the journal from a position to its end, or to a limit up to which it is known to be written.
#[derive(Debug)]
pub(crate) struct Reader {
    directory: PathBuf,
    pub(crate) position: Position,
    file: Option<(u64, File)>,
    /// The bytes of the last chunk.
    pub(crate) bytes: Vec<u8>,
}

/// What one read found. Payloads are ranges of [`Reader::bytes`].
#[derive(Debug, Default)]
pub(crate) struct Chunk {
    pub(crate) frames: Vec<(FrameKind, std::ops::Range<usize>)>,
    /// The file the frames are from.
    pub(crate) segment: u64,
    /// Bytes that belong to no valid frame, and whether valid frames follow them (damage, not an incomplete last
    /// write).
    pub(crate) skipped_bytes: usize,
    pub(crate) is_damaged: bool,
    /// There is nothing behind this, now.
    pub(crate) at_end: bool,
}

impl Reader {
    pub(crate) fn new(directory: PathBuf, position: Position) -> Reader {
        Reader { directory, position, file: None, bytes: Vec::new() }
    }

    /// Reads at most [`CHUNK_BYTES`] bytes and moves the position behind what it returns. With a limit, the file it
    /// names is still written to and is read up to there; files before it are complete. Without one, every file is read
    /// to its end.
    pub(crate) fn next_chunk(&mut self, limit: Option<Position>) -> io::Result<Chunk> {
        let Some(number) = self.open_segment()? else {
            return Ok(Chunk { at_end: true, segment: self.position.segment, ..Chunk::default() });
        };
        if limit.is_some_and(|limit| self.position >= limit) {
            return Ok(Chunk { at_end: true, segment: number, ..Chunk::default() });
        }
        let live = limit.filter(|limit| limit.segment == number);
        let Some((_, file)) = &self.file else { return Err(io::Error::other("no journal file is open")) };
        let size = match live {
            Some(limit) => limit.offset,
            None => file.metadata()?.len(),
        };
        let unread = usize::try_from(size.saturating_sub(self.position.offset));
        let length = unread.map_or(CHUNK_BYTES, |unread| unread.min(CHUNK_BYTES));
        self.bytes.resize(length, 0);
        file.read_exact_at(&mut self.bytes, self.position.offset)?;
        let last = self.position.offset + length as u64 >= size;
        let found = frame::decode(&self.bytes, last);
        self.position.offset += found.consumed as u64;
        let mut chunk = Chunk {
            frames: found.frames,
            segment: number,
            skipped_bytes: found.skipped_bytes,
            is_damaged: found.is_damaged,
            at_end: live.is_some() && last,
        };
        if last && live.is_none() {
            match self.next_segment(number)? {
                Some(next) => self.position = Position { segment: next, offset: 0 },
                None => chunk.at_end = true,
            }
        }
        Ok(chunk)
    }

    /// Opens the file of the position, or the next one if that is gone.
    fn open_segment(&mut self) -> io::Result<Option<u64>> {
        if let Some((number, _)) = self.file
            && number == self.position.segment
        {
            return Ok(Some(number));
        }
        loop {
            let Some(number) = segments(&self.directory)?.into_iter().find(|number| *number >= self.position.segment)
            else {
                return Ok(None);
            };
            match File::open(segment_path(&self.directory, number)) {
                Ok(file) => {
                    if number != self.position.segment {
                        self.position = Position { segment: number, offset: 0 };
                    }
                    self.file = Some((number, file));
                    return Ok(Some(number));
                }
                // Deleted between listing and opening: its records are in SQLite by now.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn next_segment(&self, number: u64) -> io::Result<Option<u64>> {
        Ok(segments(&self.directory)?.into_iter().find(|other| *other > number))
    }
}
