//! Opening the index. A damaged file is moved aside, and a new one filled with what can be read of it and with the
//! journal: records that no table has yet may be nowhere else.

use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use super::columns::ItemColumns;
use super::{Index, IndexError, read_state};
use crate::config::Durability;
use crate::ledger::chain::Chain;
use crate::ledger::journal::frame::FrameKind;
use crate::ledger::journal::read::{Position, Reader};
use crate::ledger::journal::{HASH_DIGITS, Header, split_end};
use crate::ledger::state_dir::StateDir;

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
        let journal = first_chain(state_dir);
        let saved = index.salvage(&aside, journal.as_ref()).unwrap_or(0);
        tracing::error!(
            file = %database.display(), %why, aside = %aside.display(), saved,
            "the ledger's database was damaged: it was moved aside, and a new one is filled from what could be read of it and from the journal; `bedrock-sidecar audit verify` names the records that are missing"
        );
        Ok(index)
    }

    /// Copies records from `damaged`, except those that the journal, which begins at `journal`, still has. Returns how
    /// many were copied.
    fn salvage(&mut self, damaged: &Path, journal: Option<&Chain>) -> Result<u64, IndexError> {
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
fn is_missing(payload: &[u8], journal: Option<&Chain>) -> bool {
    let Some((hash, item)) = split_end(payload) else { return false };
    let Ok(columns) = serde_json::from_str::<ItemColumns<'_>>(item) else { return false };
    let is_hash = hash.len() == HASH_DIGITS && hash.bytes().all(|digit| digit.is_ascii_hexdigit());
    let in_journal =
        journal.is_some_and(|journal| journal.chain_id == columns.chain_id && columns.chain_seq > journal.seq);
    is_hash && !in_journal
}

/// The last link of the chain when the journal's first file was begun.
fn first_chain(state_dir: &StateDir) -> Option<Chain> {
    let mut reader = Reader::new(state_dir.journal(), Position::default());
    let chunk = reader.next_chunk(None).ok()?;
    let (kind, range) = chunk.frames.into_iter().next()?;
    if kind != FrameKind::Header {
        return None;
    }
    serde_json::from_slice::<Header>(&reader.bytes[range]).ok().map(|header| header.chain)
}
