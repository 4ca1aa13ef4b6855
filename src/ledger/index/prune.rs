//! Pruning: old records are deleted from the beginning of the chain, and the file shrinks.

use rusqlite::{OptionalExtension, Transaction, params};

use super::{Index, IndexError, IndexState, write};
use crate::ledger::integer::to_unsigned;

/// Records looked at in one transaction, so that new records never wait long.
const STEP_RECORDS: i64 = 2_000;

const DAY_MS: i64 = 86_400_000;
/// 2025-01-01: no record is older than this program.
const EARLIEST_MS: i64 = 1_735_689_600_000;

/// Which records are deleted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PruneRule {
    /// The time, in milliseconds since 1970. Records that claim to be from a later day, or from before this program,
    /// are as old as the next one that does not.
    pub(crate) now_ms: i64,
    /// Those that started earlier, in milliseconds since 1970.
    pub(crate) before_ms: i64,
    /// The oldest that are in the table, while more bytes than this are kept.
    pub(crate) max_bytes: u64,
    /// The oldest that are in no table, while more bytes than this are in none. None keeps them.
    pub(crate) max_unshipped_bytes: Option<u64>,
    /// There is no table: age alone decides, and records are deleted that were never shipped.
    pub(crate) local_only: bool,
}

/// What a step removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Pruned {
    pub(crate) records: u64,
    /// Of them those that were in no table.
    pub(crate) unshipped: u64,
    /// Records that were kept aside because another has their place.
    pub(crate) conflicts: u64,
    /// There may be more to remove.
    pub(crate) more: bool,
}

impl PruneRule {
    /// Whether a record's date can be believed.
    fn dates(&self, started_ms: i64) -> bool {
        (EARLIEST_MS..=self.now_ms.saturating_add(DAY_MS)).contains(&started_ms)
    }
}

/// The next record whose date can be believed, and that date. Without one, a record is as new as can be.
fn find_dated(transaction: &Transaction<'_>, id: i64, rule: PruneRule) -> Result<(i64, i64), IndexError> {
    let found = transaction
        .prepare_cached(
            "SELECT id, started_ms FROM records WHERE id > ?1 AND started_ms BETWEEN ?2 AND ?3 ORDER BY id LIMIT 1",
        )?
        .query_row([id, EARLIEST_MS, rule.now_ms.saturating_add(DAY_MS)], |row| Ok((row.get(0)?, row.get(1)?)));
    Ok(found.optional()?.unwrap_or((i64::MAX, i64::MAX)))
}

/// Removes what was kept aside for a conflict: after its retention. If its date cannot be believed, or room is needed, it
/// goes when the record has gone whose place it claims.
fn prune_conflicts(transaction: &Transaction<'_>, rule: PruneRule, state: &mut IndexState) -> Result<u64, IndexError> {
    let needs_room = rule.max_unshipped_bytes.is_some_and(|max| state.unshipped_bytes > max);
    let found: Vec<(i64, i64)> = transaction
        .prepare_cached(
            "SELECT conflicts.id, octet_length(item) FROM conflicts JOIN chains ON chains.id = chain
             WHERE (started_ms BETWEEN ?1 AND ?2 AND started_ms < ?3)
                OR (seq <= anchor_seq AND (?4 OR started_ms NOT BETWEEN ?1 AND ?2))
             ORDER BY conflicts.id LIMIT ?5",
        )?
        .query_map(
            params![EARLIEST_MS, rule.now_ms.saturating_add(DAY_MS), rule.before_ms, needs_room, STEP_RECORDS],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?
        .collect::<Result<_, _>>()?;
    let mut delete = transaction.prepare_cached("DELETE FROM conflicts WHERE id = ?1")?;
    for (id, bytes) in &found {
        delete.execute([id])?;
        state.kept_bytes = state.kept_bytes.saturating_sub(to_unsigned(*bytes));
        state.unshipped_bytes = state.unshipped_bytes.saturating_sub(to_unsigned(*bytes));
    }
    Ok(found.len() as u64)
}

impl Index {
    /// Removes a step's worth of records.
    pub(crate) fn prune(&mut self, rule: PruneRule) -> Result<Pruned, IndexError> {
        let mut state = self.state;
        let mut pruned = Pruned::default();
        let mut last: Option<i64> = None;
        let mut anchors: Vec<(i64, i64, String)> = Vec::new();
        // The next record whose date can be believed, and that date.
        let mut next_dated: Option<(i64, i64)> = None;
        let transaction = self.db.transaction()?;
        {
            let mut select = transaction.prepare_cached(
                "SELECT id, chain, seq, hash, started_ms, length(CAST(item AS BLOB)),
                        EXISTS (SELECT 1 FROM set_aside WHERE set_aside.id = records.id)
                 FROM records ORDER BY id LIMIT ?1",
            )?;
            let mut rows = select.query([STEP_RECORDS])?;
            while let Some(row) = rows.next()? {
                let id: i64 = row.get(0)?;
                let started_ms = match row.get(4)? {
                    dated if rule.dates(dated) => dated,
                    _ => match next_dated {
                        Some((next, started_ms)) if next > id => started_ms,
                        _ => {
                            let (next, started_ms) = find_dated(&transaction, id, rule)?;
                            next_dated = Some((next, started_ms));
                            started_ms
                        }
                    },
                };
                let bytes = to_unsigned(row.get(5)?);
                let shipped = id <= state.shipped_id;
                // What was set aside is in no table: it stays for its retention, and what is behind it with it, because
                // the chain's beginning is all that may be missing.
                let set_aside: bool = row.get(6)?;
                let too_many = shipped && !set_aside && state.kept_bytes > rule.max_bytes;
                let too_old = started_ms < rule.before_ms && (shipped || rule.local_only);
                let in_the_way = !set_aside && rule.max_unshipped_bytes.is_some_and(|max| state.unshipped_bytes > max);
                if !(too_many || too_old || in_the_way) {
                    break;
                }
                if !shipped {
                    pruned.unshipped += 1;
                    state.unshipped_bytes = state.unshipped_bytes.saturating_sub(bytes);
                    state.shipped_id = id;
                }
                pruned.records += 1;
                state.kept_bytes = state.kept_bytes.saturating_sub(bytes);
                last = Some(id);
                let (chain, seq, hash) = (row.get(1)?, row.get(2)?, row.get(3)?);
                match anchors.iter_mut().find(|(other, ..)| *other == chain) {
                    Some(anchor) => *anchor = (chain, seq, hash),
                    None => anchors.push((chain, seq, hash)),
                }
            }
        }
        if let Some(last) = last {
            transaction.execute("DELETE FROM records WHERE id <= ?1", [last])?;
            transaction.execute("DELETE FROM set_aside WHERE id <= ?1", [last])?;
        }
        for (chain, seq, hash) in anchors {
            transaction.execute(
                "UPDATE chains SET anchor_seq = ?2, anchor_hash = ?3 WHERE id = ?1",
                params![chain, seq, hash],
            )?;
        }
        pruned.conflicts = prune_conflicts(&transaction, rule, &mut state)?;
        if pruned.records + pruned.conflicts == 0 {
            return Ok(pruned);
        }
        write::write_state(&transaction, &state)?;
        transaction.commit()?;
        self.state = state;
        pruned.more = pruned.records.max(pruned.conflicts) == to_unsigned(STEP_RECORDS);
        // The records are gone: whoever counts them has to know, even where the file keeps its size.
        if let Err(error) = self.shrink() {
            tracing::warn!(%error, "audit: the database could not give free pages back to the file system");
        }
        Ok(pruned)
    }

    /// When the newest record began, by the clock of its time.
    pub(crate) fn newest_started_ms(&self) -> Result<Option<i64>, IndexError> {
        let newest = self.db.query_row("SELECT started_ms FROM records ORDER BY id DESC LIMIT 1", [], |row| row.get(0));
        Ok(newest.optional()?)
    }

    /// Gives free pages back to the file system.
    fn shrink(&self) -> Result<(), IndexError> {
        let mut vacuum = self.db.prepare_cached("PRAGMA incremental_vacuum(4000)")?;
        let mut rows = vacuum.query([])?;
        while rows.next()?.is_some() {}
        Ok(())
    }
}
