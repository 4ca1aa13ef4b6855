//! Opening the index. A damaged file is moved aside, and a new one filled with what can be read of it and with the
//! journal: records that no table has yet may be nowhere else.

use std::collections::HashSet;
use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use super::columns::ItemColumns;
use super::{Index, IndexError, read_state};
use crate::config::Durability;
use crate::ledger::journal::frame::FrameKind;
use crate::ledger::journal::read::{Position, Reader};
use crate::ledger::journal::{HASH_DIGITS, split_end};
use crate::ledger::state_dir::StateDir;

/// A chain's id and a sequence number in it.
type Link = (String, u64);

/// Records that are read at a time: damage costs no more than so many at each place.
const STEP_RECORDS: i64 = 20;
/// Steps without a record after which the end is taken to be reached, when the last id cannot be read.
const MAX_EMPTY_STEPS: u32 = 5_000;

impl Index {
    /// Opens the file, creating or migrating it. A damaged one is rebuilt, which is logged as an error.
    pub(crate) fn open(state_dir: &StateDir, durability: Durability) -> Result<Index, IndexError> {
        match Index::connect(&state_dir.database(), durability) {
            Err(error) if error.is_corrupt() => Index::rebuild(state_dir, durability, &error),
            opened => opened,
        }
    }

    /// Moves a damaged file and its companions to where damaged files are kept, and begins a new one with what can be
    /// read of it. The journal is to be inserted again from its beginning.
    pub(crate) fn rebuild(state_dir: &StateDir, durability: Durability, why: &IndexError) -> Result<Index, IndexError> {
        let database = state_dir.database();
        let aside = match state_dir.set_aside_together(&database, &["", "-wal", "-shm"]) {
            Ok(aside) => aside,
            Err(error) => {
                tracing::error!(file = %database.display(), %why, %error, "the ledger's database is damaged and cannot be moved aside");
                return Err(IndexError::Journal(error.to_string()));
            }
        };
        let mut index = Index::connect(&database, durability)?;
        let saved = index.salvage(&aside, &journal_links(state_dir)).unwrap_or(0);
        tracing::error!(
            file = %database.display(), %why, aside = %aside.display(), saved,
            "the ledger's database was damaged: it was moved aside, and a new one is filled from what could be read of it and from the journal; `bedrock-sidecar audit verify` names the records that are missing"
        );
        Ok(index)
    }

    /// Copies records from `damaged`, except those that the journal still has. Returns how many were copied.
    fn salvage(&mut self, damaged: &Path, journal: &HashSet<Link>) -> Result<u64, IndexError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let old = Connection::open_with_flags(damaged, flags)?;
        let state = read_state(&old).unwrap_or_default();
        let last: Option<i64> = old.query_row("SELECT max(id) FROM records", [], |row| row.get(0)).unwrap_or(None);
        let first: i64 = old.query_row("SELECT min(id) FROM records", [], |row| row.get(0)).unwrap_or(1);
        let (mut from, mut empty, mut saved) = (first, 0, 0);
        while last.map_or(empty < MAX_EMPTY_STEPS, |last| from <= last) {
            let rows = readable_rows(&old, from);
            empty = if rows.is_empty() { empty + 1 } else { 0 };
            for (id, payload) in rows {
                if !is_missing(&payload, journal) {
                    continue;
                }
                self.insert(&[(FrameKind::Close, &payload)], self.state.position)?;
                saved += 1;
                if self.wants_checkpoint() {
                    self.checkpoint()?;
                }
                if id <= state.shipped_id {
                    self.state.shipped_id = self.state.last_id;
                    self.state.unshipped_bytes = 0;
                }
            }
            from += STEP_RECORDS;
        }
        self.mark_shipped(&[])?;
        Ok(saved)
    }
}

/// The records of a step that can be read: ids, and the payloads that the journal had for them.
fn readable_rows(old: &Connection, from: i64) -> Vec<(i64, Vec<u8>)> {
    let found = old
        .prepare_cached("SELECT id, hash, item FROM records WHERE id >= ?1 AND id < ?2 ORDER BY id")
        .and_then(|mut select| {
            let rows = select.query_map((from, from + STEP_RECORDS), |row| {
                let (hash, item): (String, String) = (row.get(1)?, row.get(2)?);
                Ok((row.get(0)?, [hash.into_bytes(), item.into_bytes()].concat()))
            })?;
            // What lies before the damage in this step counts.
            Ok(rows.map_while(Result::ok).collect())
        });
    found.unwrap_or_default()
}

/// Whether a record is sound and not in the journal, from which it would be inserted anyway.
fn is_missing(payload: &[u8], journal: &HashSet<Link>) -> bool {
    let Some((hash, item)) = split_end(payload) else { return false };
    let Ok(columns) = serde_json::from_str::<ItemColumns<'_>>(item) else { return false };
    let is_hash = hash.len() == HASH_DIGITS && hash.bytes().all(|digit| digit.is_ascii_hexdigit());
    is_hash && !journal.contains(&(columns.chain_id.into_owned(), columns.chain_seq))
}

/// The places in chains whose records the journal has.
fn journal_links(state_dir: &StateDir) -> HashSet<Link> {
    let mut links = HashSet::new();
    let mut reader = Reader::new(state_dir.journal(), Position::default());
    while let Ok(chunk) = reader.next_chunk(None) {
        for (_, range) in chunk.frames.into_iter().filter(|(kind, _)| *kind == FrameKind::Close) {
            let item = split_end(&reader.bytes[range]).map(|(_, item)| item).unwrap_or_default();
            let columns = serde_json::from_str::<ItemColumns<'_>>(item);
            links.extend(columns.map(|columns| (columns.chain_id.into_owned(), columns.chain_seq)));
        }
        if chunk.at_end {
            break;
        }
    }
    links
}
