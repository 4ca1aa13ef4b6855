//! What can still be read of a damaged database goes into the new one: records that no table has yet may be nowhere else.

use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use super::write::{Columns, split};
use super::{Store, StoreError};
use crate::audit::chain::Chain;
use crate::audit::journal::HASH_DIGITS;
use crate::audit::journal::frame::Kind;

/// Records that are asked for at a time: damage costs no more than so many at each place.
const STEP: i64 = 20;
/// Steps without a record after which the end is believed to be reached, when it cannot be read.
const PATIENCE: u32 = 5_000;

impl Store {
    /// Copies records from `damaged`, leaving out those that the journal, which begins at `journal`, still has. Returns how
    /// many there were.
    pub fn salvage(&mut self, damaged: &Path, journal: Option<&Chain>) -> Result<u64, StoreError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let old = Connection::open_with_flags(damaged, flags)?;
        let state = super::read_state(&old).unwrap_or_default();
        let last: Option<i64> = old.query_row("SELECT max(id) FROM records", [], |row| row.get(0)).unwrap_or(None);
        let first: i64 = old.query_row("SELECT min(id) FROM records", [], |row| row.get(0)).unwrap_or(1);
        let (mut from, mut empty, mut saved) = (first, 0, 0);
        while last.map_or(empty < PATIENCE, |last| from <= last) {
            let rows = rows(&old, from);
            empty = if rows.is_empty() { empty + 1 } else { 0 };
            for (id, payload) in rows {
                if !wanted(&payload, journal) {
                    continue;
                }
                self.store(&[(Kind::Close, &payload)], self.state.position)?;
                saved += 1;
                if id <= state.shipped_id {
                    self.state.shipped_id = self.state.last_id;
                    self.state.unshipped_bytes = 0;
                }
            }
            from += STEP;
        }
        self.mark(&[])?;
        Ok(saved)
    }
}

/// The records of a step that can be read, as the journal would have them.
fn rows(old: &Connection, from: i64) -> Vec<(i64, Vec<u8>)> {
    let found = old
        .prepare_cached("SELECT id, hash, item FROM records WHERE id >= ?1 AND id < ?2 ORDER BY id")
        .and_then(|mut select| {
            let rows = select.query_map((from, from + STEP), |row| {
                let (hash, item): (String, String) = (row.get(1)?, row.get(2)?);
                Ok((row.get(0)?, [hash.into_bytes(), item.into_bytes()].concat()))
            })?;
            // What lies before the damage in this step counts.
            Ok(rows.map_while(Result::ok).collect())
        });
    found.unwrap_or_default()
}

fn wanted(payload: &[u8], journal: Option<&Chain>) -> bool {
    let Ok((hash, item)) = split(payload) else { return false };
    let Ok(columns) = serde_json::from_str::<Columns<'_>>(item) else { return false };
    let is_hash = hash.len() == HASH_DIGITS && hash.bytes().all(|digit| digit.is_ascii_hexdigit());
    let in_journal =
        journal.is_some_and(|journal| journal.chain_id == columns.chain_id && columns.chain_seq > journal.seq);
    is_hash && !in_journal
}
