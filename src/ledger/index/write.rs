//! Writing to the index: inserting ended records, and marking what was shipped.

use rusqlite::config::DbConfig;
use rusqlite::{Transaction, params};

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
    /// the table.
    Until { id: i64, count: u64 },
    /// The table does not take this one.
    SetAside { id: i64, reason: String },
    /// The table took one that was set aside.
    TakenAfterAll { id: i64 },
}

/// Bytes in the write-ahead log after which a checkpoint is due.
const CHECKPOINT_BYTES: u64 = 4 << 20;
/// What a transaction adds to the log beside its records.
const TRANSACTION_BYTES: u64 = 16 << 10;

/// Entries that did not become records.
#[derive(Debug, Default)]
pub(crate) struct PassedOver {
    /// Places in a chain that another record has already, by the records that claim them.
    pub(crate) conflicts: Vec<u64>,
    /// The same record was there before.
    pub(crate) repeated: u64,
    pub(crate) undecodable: u64,
}

impl Index {
    /// Inserts the entries of a piece of the journal, and the position behind it, in one transaction.
    ///
    /// A record that is there already is passed over. Of two that claim the same place in a chain, the first stays in
    /// it; the other is kept aside, and returned. Entries that hold no record are counted.
    pub(crate) fn insert(
        &mut self,
        entries: &[(FrameKind, &[u8])],
        position: Position,
    ) -> Result<PassedOver, IndexError> {
        let mut passed_over = PassedOver::default();
        let mut state = IndexState { position, ..self.state };
        let mut chain = self.chain.clone();
        let transaction = self.db.transaction()?;
        let mut head: Option<(u64, String)> = None;
        {
            let mut insert = transaction.prepare_cached(
                "INSERT INTO records (id, chain, seq, started_ms, success, caller, caller_uid, model_id, hash, item)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10) ON CONFLICT (chain, seq) DO NOTHING",
            )?;
            for (kind, payload) in entries {
                match kind {
                    FrameKind::Open => {}
                    FrameKind::Header => {
                        let Ok(header) = serde_json::from_slice::<Header>(payload) else {
                            passed_over.undecodable += 1;
                            continue;
                        };
                        write_head(&transaction, &chain, head.take())?;
                        chain = Some((header.chain.chain_id.clone(), chain_row(&transaction, &header.chain)?));
                    }
                    FrameKind::Close => {
                        let end = split_end(payload).map(|(hash, item)| (hash, item, ItemColumns::read(item)));
                        let Some((hash, item, Ok(columns))) = end else {
                            passed_over.undecodable += 1;
                            continue;
                        };
                        if chain.as_ref().is_none_or(|(id, _)| *id != columns.chain_id) {
                            write_head(&transaction, &chain, head.take())?;
                            chain = Some((
                                columns.chain_id.clone().into_owned(),
                                chain_row_without_header(&transaction, &columns)?,
                            ));
                        }
                        let Some((_, row)) = &chain else { return Err(IndexError::NotAnItem) };
                        let inserted = insert.execute(params![
                            state.last_id + 1,
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
                        if inserted == 0 {
                            if keep_aside(&transaction, *row, &columns, hash, item)? {
                                passed_over.conflicts.push(columns.chain_seq);
                                state.unshipped_bytes += item.len() as u64;
                                state.kept_bytes += item.len() as u64;
                            } else {
                                passed_over.repeated += 1;
                            }
                            continue;
                        }
                        state.last_id += 1;
                        state.unshipped_bytes += item.len() as u64;
                        state.kept_bytes += item.len() as u64;
                        if head.as_ref().is_none_or(|(seq, _)| *seq < columns.chain_seq) {
                            head = Some((columns.chain_seq, hash.to_owned()));
                        }
                    }
                }
            }
        }
        write_head(&transaction, &chain, head)?;
        write_state(&transaction, &state)?;
        transaction.commit()?;
        let bytes = state.kept_bytes.saturating_sub(self.state.kept_bytes);
        self.uncheckpointed += 2 * bytes + TRANSACTION_BYTES;
        self.state = state;
        self.chain = chain;
        Ok(passed_over)
    }

    /// Marks progress of shipping.
    pub(crate) fn mark_shipped(&mut self, progress: &[ShippingProgress]) -> Result<(), IndexError> {
        let mut state = self.state;
        let transaction = self.db.transaction()?;
        for step in progress {
            match step {
                ShippingProgress::Until { id, count } => {
                    state.shipped_total += count;
                    // Those that were pruned on their way to the table are no longer counted.
                    if *id > state.shipped_id {
                        let bytes = transaction
                            .prepare_cached(
                                "SELECT coalesce(sum(octet_length(item)), 0) FROM records WHERE id > ?1 AND id <= ?2",
                            )?
                            .query_row([state.shipped_id, *id], |row| row.get(0))?;
                        state.shipped_id = *id;
                        state.unshipped_bytes = state.unshipped_bytes.saturating_sub(to_unsigned(bytes));
                    }
                }
                ShippingProgress::SetAside { id, reason } => {
                    // Unless it was pruned meanwhile.
                    transaction.execute(
                        "INSERT OR REPLACE INTO set_aside (id, reason)
                         SELECT ?1, ?2 WHERE EXISTS (SELECT 1 FROM records WHERE id = ?1)",
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
        self.uncheckpointed += TRANSACTION_BYTES;
        self.state = state;
        Ok(())
    }

    /// Whether the write-ahead log has become long.
    pub(crate) fn wants_checkpoint(&self) -> bool {
        self.uncheckpointed >= CHECKPOINT_BYTES
    }

    /// Closing the file, too, leaves the write-ahead log as it is.
    pub(crate) fn close_without_checkpoint(&self) {
        let _ = self.db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
    }

    /// Closes the file so that nothing of it is left in the write-ahead log.
    pub(crate) fn close_whole(self) -> Result<(), IndexError> {
        let busy: i64 = self.db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
        if busy != 0 {
            return Err(std::io::Error::other("somebody reads it").into());
        }
        self.db.close().map_err(|(_, error)| error)?;
        Ok(())
    }

    /// Moves what was committed from SQLite's write-ahead log into the database file, and flushes it, so that journal
    /// files may be deleted. False while a reader prevents part of it.
    pub(crate) fn checkpoint(&mut self) -> Result<bool, IndexError> {
        self.uncheckpointed = 0;
        let (log, done): (i64, i64) =
            self.db.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| Ok((row.get(1)?, row.get(2)?)))?;
        Ok(log == done)
    }

    /// How many records were set aside, for what they are or for a conflict.
    pub(crate) fn set_aside_count(&self) -> Result<u64, IndexError> {
        let count = "SELECT (SELECT count(*) FROM set_aside) + (SELECT count(*) FROM conflicts)";
        Ok(self.db.query_row(count, [], |row| row.get(0)).map(to_unsigned)?)
    }
}

/// Keeps a record aside whose place in the chain another has. False when the two are the same, or it is there already.
fn keep_aside(
    transaction: &Transaction<'_>,
    chain: i64,
    columns: &ItemColumns<'_>,
    hash: &str,
    item: &str,
) -> Result<bool, IndexError> {
    let seq = to_signed(columns.chain_seq);
    let there: String = transaction
        .prepare_cached("SELECT hash FROM records WHERE chain = ?1 AND seq = ?2")?
        .query_row(params![chain, seq], |row| row.get(0))?;
    if there == hash {
        return Ok(false);
    }
    let kept = transaction
        .prepare_cached(
            "INSERT OR IGNORE INTO conflicts (chain, seq, hash, item, started_ms) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![chain, seq, hash, item, columns.started_ms()])?;
    Ok(kept > 0)
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
            .prepare_cached("UPDATE chains SET head_seq = ?2, head_hash = ?3 WHERE id = ?1 AND head_seq < ?2")?
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
