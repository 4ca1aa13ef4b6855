//! Writing: ended records in, progress of shipping marked.

use std::borrow::Cow;

use rusqlite::{OptionalExtension, Transaction, params};
use serde::Deserialize;

use super::{State, Store, StoreError, signed};
use crate::audit::chain::Chain;
use crate::audit::journal::frame::Kind;
use crate::audit::journal::read::Position;
use crate::audit::journal::{HASH_DIGITS, Header};

/// The parts of an item that questions filter by.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Columns<'a> {
    #[serde(borrow)]
    pub timestamp: Cow<'a, str>,
    pub success: bool,
    #[serde(borrow)]
    pub model_id: Cow<'a, str>,
    pub caller: Option<String>,
    pub caller_uid: Option<u32>,
    pub chain_seq: u64,
    #[serde(borrow)]
    pub chain_id: Cow<'a, str>,
    #[serde(borrow)]
    pub host_id: Cow<'a, str>,
}

impl Columns<'_> {
    /// Milliseconds since 1970; 0 when the timestamp cannot be read.
    pub fn started_ms(&self) -> i64 {
        self.timestamp.parse::<jiff::Timestamp>().map_or(0, jiff::Timestamp::as_millisecond)
    }
}

/// What shipping has to have marked.
#[derive(Debug)]
pub enum Shipped {
    /// Every record up to here is in the table or set aside; how many that are, and their bytes.
    Until { id: i64, count: u64, bytes: u64 },
    /// The table will never take this one.
    SetAside { id: i64, reason: String },
}

impl Store {
    /// Stores the entries of a piece of the journal and how far it went, in one transaction.
    pub fn store(&mut self, entries: &[(Kind, &[u8])], position: Position) -> Result<(), StoreError> {
        let mut state = State { position, ..self.state };
        let mut chain = self.chain.clone();
        let transaction = self.db.transaction()?;
        let mut head: Option<(u64, String)> = None;
        {
            let mut insert = transaction.prepare_cached(
                "INSERT INTO records (id, chain, seq, started_ms, success, caller, caller_uid, model_id, hash, item)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
            )?;
            for (kind, payload) in entries {
                match kind {
                    Kind::Open => {}
                    Kind::Header => {
                        let header: Header = serde_json::from_slice(payload).map_err(|_| StoreError::NoItem)?;
                        mark_head(&transaction, &chain, head.take())?;
                        chain = Some((header.chain.chain_id.clone(), chain_row(&transaction, &header.chain)?));
                    }
                    Kind::Close => {
                        let (hash, item) = split(payload)?;
                        let columns: Columns<'_> = serde_json::from_str(item).map_err(|_| StoreError::NoItem)?;
                        if chain.as_ref().is_none_or(|(id, _)| *id != columns.chain_id) {
                            mark_head(&transaction, &chain, head.take())?;
                            chain = Some((columns.chain_id.clone().into_owned(), found_chain(&transaction, &columns)?));
                        }
                        let Some((_, row)) = &chain else { return Err(StoreError::NoItem) };
                        state.last_id += 1;
                        state.unshipped_bytes += item.len() as u64;
                        state.kept_bytes += item.len() as u64;
                        insert.execute(params![
                            state.last_id,
                            row,
                            signed(columns.chain_seq),
                            columns.started_ms(),
                            columns.success,
                            columns.caller,
                            columns.caller_uid,
                            columns.model_id,
                            hash,
                            item
                        ])?;
                        head = Some((columns.chain_seq, hash.to_owned()));
                    }
                }
            }
        }
        mark_head(&transaction, &chain, head)?;
        write_state(&transaction, &state)?;
        transaction.commit()?;
        self.state = state;
        self.chain = chain;
        Ok(())
    }

    /// Marks progress of shipping.
    pub fn mark(&mut self, progress: &[Shipped]) -> Result<(), StoreError> {
        let mut state = self.state;
        let transaction = self.db.transaction()?;
        for shipped in progress {
            match shipped {
                Shipped::Until { id, count, bytes } => {
                    state.shipped_id = state.shipped_id.max(*id);
                    state.shipped_total += count;
                    state.unshipped_bytes = state.unshipped_bytes.saturating_sub(*bytes);
                }
                Shipped::SetAside { id, reason } => {
                    transaction.execute(
                        "INSERT OR REPLACE INTO set_aside (id, reason) VALUES (?1, ?2)",
                        params![id, reason],
                    )?;
                }
            }
        }
        write_state(&transaction, &state)?;
        transaction.commit()?;
        self.state = state;
        Ok(())
    }

    /// Brings what was committed into the database file and onto the disk, so that journal files may go. False while a
    /// reader keeps some of it from there.
    pub fn settle(&self) -> Result<bool, StoreError> {
        let (log, done): (i64, i64) =
            self.db.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| Ok((row.get(1)?, row.get(2)?)))?;
        Ok(log == done)
    }

    /// The newest chain's end, for a journal that is gone.
    pub fn last_chain(&self) -> Result<Option<Chain>, StoreError> {
        let chain = self.db.query_row(
            "SELECT host_id, chain_id, head_seq, head_hash FROM chains ORDER BY id DESC LIMIT 1",
            [],
            |row| {
                Ok(Chain {
                    host_id: row.get(0)?,
                    chain_id: row.get(1)?,
                    seq: super::unsigned(row.get(2)?),
                    hash: row.get(3)?,
                })
            },
        );
        Ok(chain.optional()?)
    }

    /// How many records were set aside.
    pub fn set_aside_count(&self) -> Result<u64, StoreError> {
        Ok(self.db.query_row("SELECT count(*) FROM set_aside", [], |row| row.get(0)).map(super::unsigned)?)
    }
}

/// The hash and the item of a closing payload.
pub fn split(payload: &[u8]) -> Result<(&str, &str), StoreError> {
    let (hash, item) = payload.split_at_checked(HASH_DIGITS).ok_or(StoreError::NoItem)?;
    let text = |bytes| std::str::from_utf8(bytes).map_err(|_| StoreError::NoItem);
    Ok((text(hash)?, text(item)?))
}

fn chain_row(transaction: &Transaction<'_>, chain: &Chain) -> Result<i64, StoreError> {
    transaction.execute(
        "INSERT OR IGNORE INTO chains (chain_id, host_id, anchor_seq, anchor_hash, head_seq, head_hash)
         VALUES (?1, ?2, ?3, ?4, ?3, ?4)",
        params![chain.chain_id, chain.host_id, signed(chain.seq), chain.hash],
    )?;
    Ok(transaction.query_row("SELECT id FROM chains WHERE chain_id = ?1", [&chain.chain_id], |row| row.get(0))?)
}

/// The row of a chain whose file header could not be read.
fn found_chain(transaction: &Transaction<'_>, columns: &Columns<'_>) -> Result<i64, StoreError> {
    let chain = Chain {
        host_id: columns.host_id.clone().into_owned(),
        chain_id: columns.chain_id.clone().into_owned(),
        seq: columns.chain_seq.saturating_sub(1),
        hash: String::new(),
    };
    chain_row(transaction, &chain)
}

fn mark_head(
    transaction: &Transaction<'_>,
    chain: &Option<(String, i64)>,
    head: Option<(u64, String)>,
) -> Result<(), StoreError> {
    if let (Some((_, row)), Some((seq, hash))) = (chain, head) {
        transaction
            .prepare_cached("UPDATE chains SET head_seq = ?2, head_hash = ?3 WHERE id = ?1")?
            .execute(params![row, signed(seq), hash])?;
    }
    Ok(())
}

pub(super) fn write_state(transaction: &Transaction<'_>, state: &State) -> Result<(), StoreError> {
    transaction
        .prepare_cached(
            "UPDATE state SET segment = ?1, offset = ?2, last_id = ?3, shipped_id = ?4, shipped_total = ?5,
             unshipped_bytes = ?6, kept_bytes = ?7",
        )?
        .execute(params![
            signed(state.position.segment),
            signed(state.position.offset),
            state.last_id,
            state.shipped_id,
            signed(state.shipped_total),
            signed(state.unshipped_bytes),
            signed(state.kept_bytes),
        ])?;
    Ok(())
}
