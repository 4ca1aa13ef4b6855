//! Reading from the index: records in the order in which they ended, and what the ledger's start has to know.

use std::collections::HashSet;

use rusqlite::{Connection, OptionalExtension, Row};
use serde::Deserialize;

use super::{Index, IndexError};
use crate::ledger::chain::Chain;
use crate::ledger::integer::{to_signed, to_unsigned};

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

/// A record whose place in the chain another has.
#[derive(Debug, Clone)]
pub(crate) struct KeptAside {
    pub(crate) chain_id: String,
    pub(crate) seq: u64,
    pub(crate) record: IndexedRecord,
    /// The hash of the one that has the place; none when that was pruned.
    pub(crate) rival: Option<String>,
}

/// At most `limit` of the records whose place another has, in the order in which they were found.
pub(crate) fn conflicts(db: &Connection, limit: usize) -> Result<Vec<KeptAside>, IndexError> {
    let version: i64 = db.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if version < 2 {
        return Ok(Vec::new());
    }
    let mut select = db.prepare(
        "SELECT chain_id, c.seq, c.id, c.item, c.hash, r.hash FROM conflicts AS c JOIN chains ON chains.id = c.chain
         LEFT JOIN records AS r ON r.chain = c.chain AND r.seq = c.seq WHERE r.hash IS NOT c.hash ORDER BY c.id LIMIT ?1",
    )?;
    let rows = select.query_map([i64::try_from(limit).unwrap_or(i64::MAX)], |row| {
        let record = IndexedRecord { id: row.get(2)?, item: row.get(3)?, hash: row.get(4)? };
        Ok(KeptAside { chain_id: row.get(0)?, seq: to_unsigned(row.get(1)?), record, rival: row.get(5)? })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// For the ledger's start.
impl Index {
    /// The end of the newest chain.
    pub(crate) fn last_chain(&self) -> Result<Option<Chain>, IndexError> {
        let select = "SELECT host_id, chain_id, head_seq, head_hash FROM chains ORDER BY id DESC LIMIT 1";
        Ok(self.db.query_row(select, [], chain_of_row).optional()?)
    }

    /// The end of one chain, as far as the index has it.
    pub(crate) fn chain(&self, chain_id: &str) -> Result<Option<Chain>, IndexError> {
        let select = "SELECT host_id, chain_id, head_seq, head_hash FROM chains WHERE chain_id = ?1";
        Ok(self.db.query_row(select, [chain_id], chain_of_row).optional()?)
    }

    /// The ids of the requests whose records were inserted after this link of a chain; of all, when the link is not
    /// known.
    pub(crate) fn ended_after(&self, link: Option<&Chain>) -> Result<HashSet<String>, IndexError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Ended {
            request_id: String,
        }
        let (chain_id, seq) = link.map_or(("", 0), |link| (link.chain_id.as_str(), link.seq));
        let mut select = self.db.prepare(
            "SELECT item FROM records LEFT JOIN (SELECT id AS first FROM chains WHERE chain_id = ?1)
             WHERE first IS NULL OR chain > first OR (chain = first AND seq > ?2)",
        )?;
        let mut rows = select.query((chain_id, to_signed(seq)))?;
        let mut ids = HashSet::new();
        while let Some(row) = rows.next()? {
            ids.extend(
                serde_json::from_str::<Ended>(row.get_ref(0)?.as_str().unwrap_or_default()).map(|e| e.request_id),
            );
        }
        Ok(ids)
    }
}

fn chain_of_row(row: &Row<'_>) -> rusqlite::Result<Chain> {
    Ok(Chain { host_id: row.get(0)?, chain_id: row.get(1)?, seq: to_unsigned(row.get(2)?), hash: row.get(3)? })
}
