//! Writing to the index: inserting ended records, and marking what was shipped.

use rusqlite::{OptionalExtension, Transaction, params};

use super::columns::ItemColumns;
use super::{Index, IndexError, IndexState};
use crate::ledger::chain::Chain;
use crate::ledger::integer::{to_signed, to_unsigned};
use crate::ledger::journal::frame::FrameKind;
use crate::ledger::journal::read::Position;
use crate::ledger::journal::{Header, split_end};

/// What shipping has achieved, to be marked in the index.
#[derive(Debug)]
pub(crate) enum ShippingProgress {
    /// Every record up to `id` is in the table or set aside. Of those since the last mark, `count` were confirmed by
    /// the table, and all have `bytes` bytes.
    Until { id: i64, count: u64, bytes: u64 },
    /// The table does not take this one.
    SetAside { id: i64, reason: String },
    /// The table took one that was set aside.
    TakenAfterAll { id: i64 },
}

impl Index {
    /// Inserts the entries of a piece of the journal, and the position behind it, in one transaction.
    pub(crate) fn insert(&mut self, entries: &[(FrameKind, &[u8])], position: Position) -> Result<(), IndexError> {
        let mut state = IndexState { position, ..self.state };
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
                    FrameKind::Open => {}
                    FrameKind::Header => {
                        let header: Header = serde_json::from_slice(payload).map_err(|_| IndexError::NotAnItem)?;
                        write_head(&transaction, &chain, head.take())?;
                        chain = Some((header.chain.chain_id.clone(), chain_row(&transaction, &header.chain)?));
                    }
                    FrameKind::Close => {
                        let (hash, item) = split_end(payload).ok_or(IndexError::NotAnItem)?;
                        let columns: ItemColumns<'_> = serde_json::from_str(item).map_err(|_| IndexError::NotAnItem)?;
                        if chain.as_ref().is_none_or(|(id, _)| *id != columns.chain_id) {
                            write_head(&transaction, &chain, head.take())?;
                            chain = Some((
                                columns.chain_id.clone().into_owned(),
                                chain_row_without_header(&transaction, &columns)?,
                            ));
                        }
                        let Some((_, row)) = &chain else { return Err(IndexError::NotAnItem) };
                        state.last_id += 1;
                        state.unshipped_bytes += item.len() as u64;
                        state.kept_bytes += item.len() as u64;
                        insert.execute(params![
                            state.last_id,
                            row,
                            to_signed(columns.chain_seq),
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
        write_head(&transaction, &chain, head)?;
        write_state(&transaction, &state)?;
        transaction.commit()?;
        self.state = state;
        self.chain = chain;
        Ok(())
    }

    /// Marks progress of shipping.
    pub(crate) fn mark_shipped(&mut self, progress: &[ShippingProgress]) -> Result<(), IndexError> {
        let mut state = self.state;
        let transaction = self.db.transaction()?;
        for step in progress {
            match step {
                ShippingProgress::Until { id, count, bytes } => {
                    state.shipped_total += count;
                    // Those that were pruned on their way to the table are no longer counted.
                    if *id > state.shipped_id {
                        state.shipped_id = *id;
                        state.unshipped_bytes = state.unshipped_bytes.saturating_sub(*bytes);
                    }
                }
                ShippingProgress::SetAside { id, reason } => {
                    transaction.execute(
                        "INSERT OR REPLACE INTO set_aside (id, reason) VALUES (?1, ?2)",
                        params![id, reason],
                    )?;
                }
                ShippingProgress::TakenAfterAll { id } => {
                    state.shipped_total += 1;
                    transaction.execute("DELETE FROM set_aside WHERE id = ?1", [id])?;
                }
            }
        }
        write_state(&transaction, &state)?;
        transaction.commit()?;
        self.state = state;
        Ok(())
    }

    /// Moves what was committed from SQLite's write-ahead log into the database file, and flushes it, so that journal
    /// files may be deleted. False while a reader prevents part of it.
    pub(crate) fn checkpoint(&self) -> Result<bool, IndexError> {
        let (log, done): (i64, i64) =
            self.db.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| Ok((row.get(1)?, row.get(2)?)))?;
        Ok(log == done)
    }

    /// The newest chain's end, for a journal that is gone.
    pub(crate) fn last_chain(&self) -> Result<Option<Chain>, IndexError> {
        let chain = self.db.query_row(
            "SELECT host_id, chain_id, head_seq, head_hash FROM chains ORDER BY id DESC LIMIT 1",
            [],
            |row| {
                Ok(Chain {
                    host_id: row.get(0)?,
                    chain_id: row.get(1)?,
                    seq: to_unsigned(row.get(2)?),
                    hash: row.get(3)?,
                })
            },
        );
        Ok(chain.optional()?)
    }

    /// How many records were set aside.
    pub(crate) fn set_aside_count(&self) -> Result<u64, IndexError> {
        Ok(self.db.query_row("SELECT count(*) FROM set_aside", [], |row| row.get(0)).map(to_unsigned)?)
    }
}

fn chain_row(transaction: &Transaction<'_>, chain: &Chain) -> Result<i64, IndexError> {
    transaction.execute(
        "INSERT OR IGNORE INTO chains (chain_id, host_id, anchor_seq, anchor_hash, head_seq, head_hash)
         VALUES (?1, ?2, ?3, ?4, ?3, ?4)",
        params![chain.chain_id, chain.host_id, to_signed(chain.seq), chain.hash],
    )?;
    Ok(transaction.query_row("SELECT id FROM chains WHERE chain_id = ?1", [&chain.chain_id], |row| row.get(0))?)
}

/// The row of a chain whose file header could not be read.
fn chain_row_without_header(transaction: &Transaction<'_>, columns: &ItemColumns<'_>) -> Result<i64, IndexError> {
    let chain = Chain {
        host_id: columns.host_id.clone().into_owned(),
        chain_id: columns.chain_id.clone().into_owned(),
        seq: columns.chain_seq.saturating_sub(1),
        hash: String::new(),
    };
    chain_row(transaction, &chain)
}

fn write_head(
    transaction: &Transaction<'_>,
    chain: &Option<(String, i64)>,
    head: Option<(u64, String)>,
) -> Result<(), IndexError> {
    if let (Some((_, row)), Some((seq, hash))) = (chain, head) {
        transaction
            .prepare_cached("UPDATE chains SET head_seq = ?2, head_hash = ?3 WHERE id = ?1")?
            .execute(params![row, to_signed(seq), hash])?;
    }
    Ok(())
}

pub(super) fn write_state(transaction: &Transaction<'_>, state: &IndexState) -> Result<(), IndexError> {
    transaction
        .prepare_cached(
            "UPDATE state SET segment = ?1, offset = ?2, last_id = ?3, shipped_id = ?4, shipped_total = ?5,
             unshipped_bytes = ?6, kept_bytes = ?7",
        )?
        .execute(params![
            to_signed(state.position.segment),
            to_signed(state.position.offset),
            state.last_id,
            state.shipped_id,
            to_signed(state.shipped_total),
            to_signed(state.unshipped_bytes),
            to_signed(state.kept_bytes),
        ])?;
    Ok(())
}
