//! A step of counting: some records are read, added up in memory, and written together with the marker behind them.

use std::collections::HashMap;

use rusqlite::types::ToSql;
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params, params_from_iter};

use super::counted::Counted;
use super::file::{File, Marker, write_marker};
use super::key::{Grain, Key};
use super::resolution::is_ahead;
use super::sums::{NUMBERS, Sums};
use super::{Progress, Resolution, RollupError};
use crate::ledger::index::IndexError;
use crate::ledger::integer::{to_signed, to_unsigned};

/// A step ends with so many records, or with so many sums: they bound its memory, and how long the file is locked.
const STEP_RECORDS: usize = 2_000;
const STEP_SUMS: usize = 250;

/// More bytes the file does not use; beyond them, the older half of every resolution goes.
const MAX_BYTES: u64 = 64 << 20;

/// What a step has read.
struct Batch {
    /// By the finest resolution that is still kept, the beginning of its interval, and the key.
    sums: HashMap<(&'static [Resolution], i64, Key), Sums>,
    /// Counting begins anew: what was counted by now is void.
    anew: bool,
    marker: Option<Marker>,
    /// The newest record of the ledger.
    last_id: i64,
    /// The latest date of a record that lies in the future and is passed over, in seconds since 1970; 0 if there is none.
    ahead: i64,
}

impl File {
    /// Counts the next records.
    pub(super) fn step(&mut self, ledger: &mut Connection, now_ms: i64) -> Result<Progress, RollupError> {
        let now = now_ms.div_euclid(1000);
        let minute = Resolution::MINUTE.start(now);
        let clock = self.clock()?;
        // By a clock that was put back, too much was deleted. What was passed over as ahead may be due by now, or was so only
        // because the clock was behind. Both are counted again, unless more would be lost by that.
        let is_put_back = clock.swept > minute + Resolution::HOUR.step;
        let is_due = clock.ahead > 0 && !is_ahead(clock.ahead, now);
        let anew = (is_put_back || is_due) && self.is_covered_by(ledger)?;
        let before = self.marker()?.filter(|_| !anew);
        let ahead = if is_due { 0 } else { clock.ahead };
        let batch = read(ledger, before.clone(), ahead, now)?;
        let progress = batch.progress();
        if batch.anew || batch.marker != before || batch.ahead != clock.ahead {
            self.write(&batch)?;
        }
        if clock.swept != minute {
            self.sweep(now, MAX_BYTES)?;
            self.db.prepare_cached("UPDATE clock SET swept = ?1")?.execute([minute])?;
        }
        Ok(progress)
    }

    /// Whether the ledger's records go back as far as the sums. Those of older ones can be made only once.
    fn is_covered_by(&self, ledger: &Connection) -> Result<bool, RollupError> {
        let first_sum: Option<i64> = self
            .db
            .prepare_cached("SELECT min(start) FROM sums WHERE step = ?1")?
            .query_row([Resolution::HOUR.step], |row| row.get(0))?;
        let first_ms: Option<i64> =
            ledger.query_row("SELECT min(started_ms) FROM records", [], |row| row.get(0)).map_err(IndexError::from)?;
        let begins = first_ms.map(|first_ms| Resolution::HOUR.start(first_ms.div_euclid(1000)));
        Ok(first_sum.is_none_or(|first_sum| begins.is_some_and(|begins| begins <= first_sum)))
    }

    fn write(&mut self, batch: &Batch) -> Result<(), RollupError> {
        let transaction = self.db.transaction()?;
        if batch.anew {
            transaction.execute_batch("DELETE FROM sums; DELETE FROM marker;")?;
        }
        for ((resolutions, start, key), sums) in &batch.sums {
            for resolution in *resolutions {
                add(&transaction, (resolution.step, resolution.start(*start)), key, sums)?;
            }
        }
        transaction.prepare_cached("UPDATE clock SET ahead = ?1")?.execute([batch.ahead])?;
        if let Some(marker) = &batch.marker {
            write_marker(&transaction, marker)?;
        }
        Ok(transaction.commit()?)
    }

    /// Deletes what is too old, and what there is no room for.
    pub(super) fn sweep(&mut self, now: i64, max_bytes: u64) -> Result<(), RollupError> {
        for resolution in Resolution::ALL {
            let delete = "DELETE FROM sums WHERE step = ?1 AND start < ?2";
            self.db.prepare_cached(delete)?.execute((resolution.step, resolution.oldest(now)))?;
        }
        let mut rounds = 0;
        while self.used_bytes()? > max_bytes && rounds < 8 {
            rounds += 1;
            tracing::warn!("the roll-ups of the dashboard have no more room; the older half of them is deleted");
            for resolution in Resolution::ALL {
                let span = "SELECT min(start), max(start) FROM sums WHERE step = ?1";
                let span: (Option<i64>, Option<i64>) =
                    self.db.query_row(span, [resolution.step], |row| Ok((row.get(0)?, row.get(1)?)))?;
                if let (Some(first), Some(last)) = span {
                    let delete = "DELETE FROM sums WHERE step = ?1 AND start <= ?2";
                    self.db.execute(delete, (resolution.step, first + (last - first) / 2))?;
                }
            }
        }
        let mut vacuum = self.db.prepare_cached("PRAGMA incremental_vacuum(1000)")?;
        let mut rows = vacuum.query([])?;
        while rows.next()?.is_some() {}
        Ok(())
    }

    pub(super) fn used_bytes(&self) -> Result<u64, RollupError> {
        let pragma = |name| self.db.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
        let pages = pragma("page_count")? - pragma("freelist_count")?;
        Ok(to_unsigned(pages.saturating_mul(pragma("page_size")?)))
    }
}

impl Batch {
    fn progress(&self) -> Progress {
        let Some(marker) = &self.marker else { return Progress { thousandths: 1000, is_done: true } };
        let (done, all) = (marker.id - marker.first_id, self.last_id - marker.first_id);
        let is_done = marker.id >= self.last_id;
        let share = if is_done || all <= 0 { 1000 } else { (done.max(0) * 1000 / all).min(999) };
        Progress { thousandths: u16::try_from(share).unwrap_or(0), is_done }
    }
}

/// Reads the records behind the marker, as they are at one moment. `ahead` is the latest date that was passed over by now.
fn read(ledger: &mut Connection, before: Option<Marker>, ahead: i64, now: i64) -> Result<Batch, IndexError> {
    let ledger = ledger.transaction()?;
    let last_id: i64 = ledger.query_row("SELECT coalesce(max(id), 0) FROM records", [], |row| row.get(0))?;
    let (behind, first_id, anew) = match go_on(&ledger, before.as_ref())? {
        Some((id, first_id)) => (id, first_id, false),
        None => {
            let first = first_to_count(&ledger, now)?.unwrap_or(last_id);
            (first, first, true)
        }
    };
    let ahead = if anew { 0 } else { ahead };
    let mut batch = Batch { sums: HashMap::new(), anew, marker: before.filter(|_| !anew), last_id, ahead };
    let mut last = None;
    let mut select = ledger
        .prepare_cached("SELECT id, chain, seq, started_ms, item FROM records WHERE id > ?1 ORDER BY id LIMIT ?2")?;
    let mut rows = select.query((behind, to_signed(STEP_RECORDS as u64)))?;
    while batch.sums.len() < STEP_SUMS
        && let Some(row) = rows.next()?
    {
        last = Some((row.get(0)?, row.get(1)?, row.get(2)?));
        batch.count(row, now)?;
    }
    // Where all records are too old to count, those that follow are to be counted.
    if last.is_none() && anew {
        let newest = ledger.query_row("SELECT id, chain, seq FROM records WHERE id = ?1", [last_id], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        });
        last = newest.optional()?;
    }
    if let Some((id, chain, seq)) = last {
        let chain: i64 = chain;
        let chain_id = ledger.query_row("SELECT chain_id FROM chains WHERE id = ?1", [chain], |row| row.get(0))?;
        batch.marker = Some(Marker { chain_id, seq, id, first_id });
    }
    Ok(batch)
}

impl Batch {
    fn count(&mut self, row: &Row<'_>, now: i64) -> Result<(), IndexError> {
        let started = row.get::<_, i64>(3)?.div_euclid(1000);
        if is_ahead(started, now) {
            self.ahead = self.ahead.max(started);
        }
        let resolutions = Resolution::of(started, now);
        let Some(finest) = resolutions.first() else { return Ok(()) };
        // What is no item cannot be counted.
        let Ok(item) = row.get_ref(4)?.as_str() else { return Ok(()) };
        if let Some(counted) = Counted::read(item).filter(|counted| !counted.is_own()) {
            let key = (resolutions, finest.start(started), Key::of(&counted));
            counted.add_to(self.sums.entry(key).or_default());
        }
        Ok(())
    }
}

/// The id behind which counting goes on, and where it had begun; none when the marker does not tell, because the record is
/// not where it was: the index was rebuilt, restored or lost, and what is in it has other ids.
fn go_on(ledger: &Transaction<'_>, marker: Option<&Marker>) -> Result<Option<(i64, i64)>, IndexError> {
    let Some(marker) = marker else { return Ok(None) };
    let found = ledger
        .prepare_cached(
            "SELECT (SELECT id FROM records WHERE chain = chains.id AND seq = ?2), anchor_seq FROM chains
             WHERE chain_id = ?1",
        )?
        .query_row(params![marker.chain_id, marker.seq], |row| Ok((row.get(0)?, row.get(1)?)));
    let found: Option<(Option<i64>, i64)> = found.optional()?;
    Ok(match found {
        Some((Some(id), _)) if id == marker.id => Some((id, marker.first_id)),
        // It was deleted for its age, and all before it: what is left is not counted yet.
        Some((None, deleted)) if deleted >= marker.seq => Some((0, marker.first_id)),
        _ => None,
    })
}

/// The id behind which the first record is that counts. Ids go by when requests ended: a record of the window's first day that
/// ended more than an hour before those of its first hour would be passed over, and that day is not shown. Where the records
/// begin later, none may be passed over, and all have to be looked at.
fn first_to_count(ledger: &Transaction<'_>, now: i64) -> Result<Option<i64>, IndexError> {
    let since_ms = Resolution::HOUR.oldest(now).saturating_mul(1000);
    let first = ledger
        .prepare_cached(
            "WITH first AS (SELECT min(started_ms) AS ms FROM records WHERE started_ms >= ?1)
             SELECT iif(ms < ?1 + 86400000,
               (SELECT min(id) - 1 FROM records WHERE started_ms BETWEEN ms AND ms + 3600000),
               (SELECT min(id) - 1 FROM records WHERE started_ms >= ?1))
             FROM first WHERE ms IS NOT NULL",
        )?
        .query_row([since_ms], |row| row.get(0));
    Ok(first.optional()?.flatten())
}

const KEY: &str =
    "step = ?1 AND start = ?2 AND uid = ?3 AND caller = ?4 AND model = ?5 AND operation = ?6 AND region = ?7
     AND outcome = ?8 AND status = ?9";

/// Adds to the sum of a key in an interval (its length and its beginning), or of what is left of the key where there are too
/// many.
fn add(transaction: &Transaction<'_>, interval: (i64, i64), key: &Key, sums: &Sums) -> Result<(), RollupError> {
    let mut counts = None;
    for grain in Grain::ALL {
        let key = key.at(grain);
        if let Some(mut there) = find(transaction, interval, &key)? {
            there.merge(sums);
            return put(transaction, interval, &key, &there);
        }
        let (of_uid, in_all) = match counts {
            Some(counts) => counts,
            None => *counts.insert(keys(transaction, interval, &key)?),
        };
        if grain.has_room(of_uid, in_all) {
            return put(transaction, interval, &key, sums);
        }
    }
    Ok(())
}

fn find(transaction: &Transaction<'_>, interval: (i64, i64), key: &Key) -> Result<Option<Sums>, RollupError> {
    let mut select = transaction.prepare_cached(&format!(
        "SELECT requests, input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, cost_nano_usd, unpriced,
                request_bytes, response_bytes, latency, first_byte FROM sums WHERE {KEY}"
    ))?;
    let found = select.query_row(params_from_iter(columns(&interval, key, &uid_of(key))), |row| {
        let mut sums = Sums::default();
        sums.add_row(row, 0)?;
        Ok(sums)
    });
    Ok(found.optional()?)
}

fn put(transaction: &Transaction<'_>, interval: (i64, i64), key: &Key, sums: &Sums) -> Result<(), RollupError> {
    let numbers = sums.numbers().map(to_signed);
    let (latency, first_byte) = (sums.latency.to_bytes(), sums.first_byte.to_bytes());
    let uid = uid_of(key);
    let columns = columns(&interval, key, &uid).into_iter();
    let values = columns.chain(numbers.iter().map(|number| -> &dyn ToSql { number }));
    let values = values.chain([&latency as &dyn ToSql, &first_byte]);
    transaction
        .prepare_cached(
            "INSERT OR REPLACE INTO sums VALUES
             (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20)",
        )?
        .execute(params_from_iter(values))?;
    Ok(())
}

/// How many keys an interval has, of the key's uid or, where there is none, of its caller, and in all.
fn keys(transaction: &Transaction<'_>, interval: (i64, i64), key: &Key) -> Result<(u64, u64), RollupError> {
    let mut count = transaction.prepare_cached(
        "SELECT count(*) FILTER (WHERE uid = ?3 AND (uid >= 0 OR caller = ?4)), count(*) FROM sums
         WHERE step = ?1 AND start = ?2",
    )?;
    let counts = count.query_row(params![interval.0, interval.1, uid_of(key), key.caller], |row| {
        Ok((to_unsigned(row.get(0)?), to_unsigned(row.get(1)?)))
    });
    Ok(counts?)
}

fn uid_of(key: &Key) -> i64 {
    key.uid.map_or(-1, i64::from)
}

fn columns<'a>(interval: &'a (i64, i64), key: &'a Key, uid: &'a i64) -> [&'a dyn ToSql; 9] {
    let Key { uid: _, caller, model, operation, region, outcome, status } = key;
    [&interval.0, &interval.1, uid, caller, model, operation, region, outcome, status]
}

impl Sums {
    /// Adds what a row says, whose numbers begin with this column.
    pub(super) fn add_row(&mut self, row: &Row<'_>, first: usize) -> Result<(), rusqlite::Error> {
        let mut numbers = [0; NUMBERS];
        for (at, number) in numbers.iter_mut().enumerate() {
            *number = to_unsigned(row.get(first + at)?);
        }
        self.add(numbers);
        self.latency.merge_bytes(row.get_ref(first + NUMBERS)?.as_blob()?);
        self.first_byte.merge_bytes(row.get_ref(first + NUMBERS + 1)?.as_blob()?);
        Ok(())
    }
}
