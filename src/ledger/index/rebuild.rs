//! Opening the index, and replacing a damaged file. The new one is built beside it, as `ledger.db.new`, from what can be
//! read of the damaged one: records that no table has yet may be nowhere else. It becomes `ledger.db.ready` when it is
//! whole and on the disk; then the damaged one is moved aside, and the new one takes its name. Whenever that is
//! interrupted, the next start begins again, or finishes it: until `ledger.db.ready` is there, nothing of the old file
//! was touched. The journal is inserted again afterwards.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::columns::ItemColumns;
use super::salvage::{Link, Salvaged};
use super::{Index, IndexError};
use crate::config::Durability;
use crate::ledger::journal::frame::FrameKind;
use crate::ledger::journal::read::{Position, Reader};
use crate::ledger::journal::split_end;
use crate::ledger::state_dir::StateDir;

impl Index {
    /// Opens the file, creating or migrating it. A damaged one is rebuilt, which is logged as an error; a rebuild that
    /// was interrupted is brought to its end.
    pub(crate) fn open(state_dir: &StateDir, durability: Durability) -> Result<Index, IndexError> {
        Rebuild { state_dir, durability, at_step: &mut |_| {} }.open()
    }

    /// Replaces a damaged file by a new one with what can be read of it. The journal is to be inserted again from its
    /// beginning.
    pub(crate) fn rebuild(state_dir: &StateDir, durability: Durability, why: &IndexError) -> Result<Index, IndexError> {
        Rebuild { state_dir, durability, at_step: &mut |_| {} }.run(why)
    }
}

/// What a rebuild has just done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// The new file is there and holds nothing.
    Begun,
    /// More was copied into it.
    Copied,
    /// It is whole and on the disk.
    Filled,
    /// It has the name that says so.
    Ready,
    /// The damaged file is where damaged files are kept.
    MovedAside,
    /// The new file is the index.
    Replaced,
}

/// A rebuild, and whom it tells of each step.
pub(super) struct Rebuild<'a> {
    pub(super) state_dir: &'a StateDir,
    pub(super) durability: Durability,
    pub(super) at_step: &'a mut dyn FnMut(Step),
}

impl Rebuild<'_> {
    pub(super) fn open(mut self) -> Result<Index, IndexError> {
        let database = self.state_dir.database();
        if self.ready().exists() {
            tracing::warn!(file = %database.display(), "the ledger's database was being replaced when the daemon ended; that is finished now");
            self.replace()?;
        } else if self.new_file().exists() && database.exists() {
            return self.run(&IndexError::RebuildInterrupted);
        }
        match Index::connect(&database, self.durability) {
            Err(error) if error.is_corrupt() => self.run(&error),
            opened => opened,
        }
    }

    pub(super) fn run(mut self, why: &IndexError) -> Result<Index, IndexError> {
        let mut incidents = Vec::new();
        // One that could not take its place a moment ago is there already.
        if !self.ready().exists() {
            let salvaged = match self.build() {
                Ok(salvaged) => salvaged,
                Err(error) => {
                    // It needs room, and may be what fills the disk. The empty file says that this is not done yet.
                    self.remove_new()?;
                    File::create(self.new_file())?;
                    return Err(error);
                }
            };
            tracing::error!(
                file = %self.state_dir.database().display(), %why,
                records = salvaged.records, set_aside = salvaged.set_aside, conflicts = salvaged.conflicts,
                unreadable = salvaged.unreadable,
                "the ledger's database is damaged: it is replaced by a new one, with what could be read of it and with the journal"
            );
            incidents = salvaged.incidents();
        }
        let aside = self.replace()?;
        if !incidents.is_empty() {
            incidents.push(format!(
                "the damaged database is kept as {}; `bedrock-sidecar audit verify` names the records that are missing",
                aside.display()
            ));
        }
        let mut index = Index::connect(&self.state_dir.database(), self.durability)?;
        index.incidents = incidents;
        Ok(index)
    }

    /// Fills a new file, brings it to the disk, and gives it the name that says that it is whole.
    fn build(&mut self) -> Result<Salvaged, IndexError> {
        self.remove_new()?;
        let new = self.new_file();
        let journal = journal_links(self.state_dir)?;
        let mut index = Index::connect(&new, self.durability)?;
        (self.at_step)(Step::Begun);
        let salvaged = index.salvage(&self.state_dir.database(), &journal, &mut || (self.at_step)(Step::Copied))?;
        index.close_whole()?;
        File::open(&new)?.sync_all()?;
        (self.at_step)(Step::Filled);
        std::fs::rename(&new, self.ready())?;
        sync_directory(&self.state_dir.root)?;
        (self.at_step)(Step::Ready);
        Ok(salvaged)
    }

    /// Puts the new file in the place of the damaged one. Returns where that is now.
    fn replace(&mut self) -> Result<PathBuf, IndexError> {
        // Until all of it is gone, nothing takes its name: SQLite would take its log for the new file's.
        let aside = self.state_dir.set_aside_database(&self.ready())?;
        sync_directory(&self.state_dir.root)?;
        (self.at_step)(Step::MovedAside);
        std::fs::rename(self.ready(), self.state_dir.database())?;
        sync_directory(&self.state_dir.root)?;
        (self.at_step)(Step::Replaced);
        Ok(aside)
    }

    fn new_file(&self) -> PathBuf {
        self.state_dir.database().with_extension("db.new")
    }

    fn ready(&self) -> PathBuf {
        self.state_dir.database().with_extension("db.ready")
    }

    fn remove_new(&self) -> io::Result<()> {
        for suffix in ["new", "new-wal", "new-shm", "new-journal"] {
            match std::fs::remove_file(self.state_dir.database().with_extension(format!("db.{suffix}"))) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// The places in chains whose records the journal has.
fn journal_links(state_dir: &StateDir) -> Result<HashSet<Link>, IndexError> {
    let mut links = HashSet::new();
    let mut reader = Reader::new(state_dir.journal(), Position::default());
    loop {
        let chunk = reader.next_chunk(None).map_err(|error| IndexError::Journal(error.to_string()))?;
        for (_, range) in chunk.frames.into_iter().filter(|(kind, _)| *kind == FrameKind::Close) {
            let item = split_end(&reader.bytes[range]).map(|(_, item)| item).unwrap_or_default();
            let columns = ItemColumns::read(item);
            links.extend(columns.map(|columns| (columns.chain_id.into_owned(), columns.chain_seq)));
        }
        if chunk.at_end {
            return Ok(links);
        }
    }
}
