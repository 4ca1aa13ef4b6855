//! Reading records from the index in the order in which they ended.

use rusqlite::Connection;

use super::IndexError;

/// A record as it is in the index.
#[derive(Debug, Clone)]
pub(crate) struct IndexedRecord {
    pub(crate) id: i64,
    /// Canonical JSON without `chainHash`.
    pub(crate) item: String,
    pub(crate) hash: String,
}

/// At most `limit` records behind the one with this id.
pub(crate) fn records_after(db: &Connection, id: i64, limit: usize) -> Result<Vec<IndexedRecord>, IndexError> {
    let mut select = db.prepare_cached("SELECT id, item, hash FROM records WHERE id > ?1 ORDER BY id LIMIT ?2")?;
    let rows = select.query_map((id, i64::try_from(limit).unwrap_or(i64::MAX)), |row| {
        Ok(IndexedRecord { id: row.get(0)?, item: row.get(1)?, hash: row.get(2)? })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// At most `limit` of the records that were set aside, behind the one with this id, each with what the table said.
pub(crate) fn set_aside_after(
    db: &Connection,
    id: i64,
    limit: usize,
) -> Result<Vec<(IndexedRecord, String)>, IndexError> {
    let mut select = db.prepare_cached(
        "SELECT id, item, hash, reason FROM set_aside JOIN records USING (id) WHERE id > ?1 ORDER BY id LIMIT ?2",
    )?;
    let rows = select.query_map((id, i64::try_from(limit).unwrap_or(i64::MAX)), |row| {
        Ok((IndexedRecord { id: row.get(0)?, item: row.get(1)?, hash: row.get(2)? }, row.get(3)?))
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}
