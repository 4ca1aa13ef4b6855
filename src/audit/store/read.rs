//! Reading records in the order in which they ended.

use rusqlite::Connection;

use super::StoreError;

/// A record as it is stored.
#[derive(Debug, Clone)]
pub struct Stored {
    pub id: i64,
    /// Canonical JSON without `chainHash`.
    pub item: String,
    pub hash: String,
}

/// At most `limit` records behind one.
pub fn stored_after(db: &Connection, id: i64, limit: usize) -> Result<Vec<Stored>, StoreError> {
    let mut select = db.prepare_cached("SELECT id, item, hash FROM records WHERE id > ?1 ORDER BY id LIMIT ?2")?;
    let rows = select
        .query_map((id, limit as i64), |row| Ok(Stored { id: row.get(0)?, item: row.get(1)?, hash: row.get(2)? }))?;
    Ok(rows.collect::<Result<_, _>>()?)
}
