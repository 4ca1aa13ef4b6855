//! Counting anew what is kept beside the records, after a migration or a rebuild.

use rusqlite::{Connection, Transaction, params};

use super::{IndexError, IndexState};
use crate::ledger::integer::to_unsigned;

/// The same state with the sums that the records have. Reads the whole index.
pub(super) fn recount(db: &Connection, state: IndexState) -> Result<IndexState, IndexError> {
    let (kept, unshipped): (i64, i64) = db.query_row(
        "SELECT coalesce(sum(octet_length(item)), 0),
                coalesce(sum(CASE WHEN id > ?1 THEN octet_length(item) ELSE 0 END), 0) FROM records",
        [state.shipped_id],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    let conflicts: i64 =
        db.query_row("SELECT coalesce(sum(octet_length(item)), 0) FROM conflicts", [], |row| row.get(0))?;
    Ok(IndexState {
        kept_bytes: to_unsigned(kept + conflicts),
        unshipped_bytes: to_unsigned(unshipped + conflicts),
        ..state
    })
}

/// Gives the records ids without gaps: how many wait for the table is told by the difference of two ids.
pub(super) fn close_gaps(transaction: &Transaction<'_>, mut state: IndexState) -> Result<IndexState, IndexError> {
    transaction.execute("DELETE FROM set_aside WHERE id NOT IN (SELECT id FROM records)", [])?;
    let mut moved: Vec<(i64, i64)> = Vec::new();
    let (mut next, mut shipped) = (None, 0);
    let mut select = transaction.prepare("SELECT id FROM records ORDER BY id")?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let id: i64 = row.get(0)?;
        let new = next.unwrap_or(id);
        if new != id {
            moved.push((id, new));
        }
        if id <= state.shipped_id || next.is_none() {
            shipped = if id <= state.shipped_id { new } else { new - 1 };
        }
        next = Some(new + 1);
    }
    match next {
        Some(next) => (state.last_id, state.shipped_id) = (next - 1, shipped),
        None => {
            state.last_id = state.last_id.max(state.shipped_id);
            state.shipped_id = state.last_id;
        }
    }
    let mut record = transaction.prepare("UPDATE records SET id = ?2 WHERE id = ?1")?;
    let mut set_aside = transaction.prepare("UPDATE set_aside SET id = ?2 WHERE id = ?1")?;
    for (id, new) in moved {
        record.execute(params![id, new])?;
        set_aside.execute(params![id, new])?;
    }
    Ok(state)
}
