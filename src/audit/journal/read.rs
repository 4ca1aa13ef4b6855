//! Reading a journal: by the start after a crash, by the keeper that fills SQLite, and by `audit` commands beside a
//! running daemon. All three walk the same way.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::frame::{self, Kind};

/// Bytes read at a time; more than the longest frame.
const PIECE: usize = 2 * frame::MAX_PAYLOAD;

/// A place in the journal: a file's number and a byte in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Position {
    pub segment: u64,
    pub offset: u64,
}

/// The path of a journal file.
pub fn segment_path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{number:010}.journal"))
}

/// The numbers of the journal's files, ascending.
pub fn segments(directory: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in directory.read_dir()? {
        let name = entry?.file_name();
        let number: Option<u64> = name.to_str().and_then(|name| name.strip_suffix(".journal")?.parse().ok());
        numbers.extend(number);
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Walks the journal from a position to its end, or to a limit up to which it is known to be written.
#[derive(Debug)]
pub struct Reader {
    directory: PathBuf,
    pub position: Position,
    file: Option<(u64, File)>,
    /// Bytes of the last piece, and the frames in it.
    pub piece: Vec<u8>,
}

/// What one step found. Payloads are ranges of [`Reader::piece`].
#[derive(Debug, Default)]
pub struct Step {
    pub frames: Vec<(Kind, std::ops::Range<usize>)>,
    /// The file the frames are from.
    pub segment: u64,
    /// Bytes that make no frame, and whether frames follow them (damage, not a torn end).
    pub garbage: usize,
    pub damaged: bool,
    /// Nothing lies behind this, now.
    pub end: bool,
}

impl Reader {
    pub fn new(directory: PathBuf, position: Position) -> Reader {
        Reader { directory, position, file: None, piece: Vec::new() }
    }

    /// Reads on, at most [`PIECE`] bytes, and moves the position behind what it returns. With a limit, the file it names is
    /// alive and is read up to there; files before it are complete. Without one, every file is read to its end.
    pub fn step(&mut self, limit: Option<Position>) -> io::Result<Step> {
        let Some(number) = self.locate()? else {
            return Ok(Step { end: true, segment: self.position.segment, ..Step::default() });
        };
        if limit.is_some_and(|limit| self.position >= limit) {
            return Ok(Step { end: true, segment: number, ..Step::default() });
        }
        let alive = limit.filter(|limit| limit.segment == number);
        let Some((_, file)) = &self.file else { return Err(io::Error::other("no journal file is open")) };
        let size = match alive {
            Some(limit) => limit.offset,
            None => file.metadata()?.len(),
        };
        let length = size.saturating_sub(self.position.offset).min(PIECE as u64);
        self.piece.resize(length as usize, 0);
        file.read_exact_at(&mut self.piece, self.position.offset)?;
        let last = self.position.offset + length >= size;
        let found = frame::decode(&self.piece, last);
        self.position.offset += found.consumed as u64;
        let mut step = Step {
            frames: found.frames,
            segment: number,
            garbage: found.garbage,
            damaged: found.damaged,
            end: alive.is_some() && last,
        };
        if last && alive.is_none() {
            match self.after(number)? {
                Some(next) => self.position = Position { segment: next, offset: 0 },
                None => step.end = true,
            }
        }
        Ok(step)
    }

    /// Opens the file of the position, or the next one if that is gone.
    fn locate(&mut self) -> io::Result<Option<u64>> {
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

    fn after(&self, number: u64) -> io::Result<Option<u64>> {
        Ok(segments(&self.directory)?.into_iter().find(|other| *other > number))
    }
}
