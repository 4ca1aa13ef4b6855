//! What the records say was used, for limits that have forgotten it.

use std::collections::{HashMap, HashSet};

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::Deserialize;

use super::IndexError;
use crate::ledger::integer::{to_signed, to_unsigned};
use crate::limits::{ChainHead, PastUse, UseAfter};
use crate::record::{self, Usage};

/// What an item says of its use.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Used {
    request_id: String,
    attempts: u64,
    #[serde(flatten)]
    usage: Usage,
    cost_nano_usd: Option<u64>,
    inference_profile_used: Option<String>,
    outcome: String,
    status_code: u16,
}

/// The use of each day, caller and model by requests that began at `since_ms` or later, and were recorded up to `until`.
pub(crate) fn past_use(db: &Connection, since_ms: i64, until: Option<&ChainHead>) -> Result<Vec<PastUse>, IndexError> {
    let (last_chain, last_seq) = end(db, until)?;
    let mut sums = Sums::default();
    let mut select = db.prepare(
        "SELECT started_ms, caller, model_id, item FROM records
         WHERE started_ms >= ?1 AND (chain < ?2 OR (chain = ?2 AND seq <= ?3))",
    )?;
    let mut rows = select.query(params![since_ms, last_chain, last_seq])?;
    while let Some(row) = rows.next()? {
        sums.add(row, &used(row)?)?;
    }
    Ok(sums.uses())
}

/// The use of requests that ended after a place in the chain, in that chain or in later ones, up to `until`. Those in
/// `open` apart.
pub(crate) fn use_after(
    db: &Connection,
    head: &ChainHead,
    until: Option<&ChainHead>,
    open: &[String],
) -> Result<UseAfter, IndexError> {
    let (last_chain, last_seq) = end(db, until)?;
    let chain: Option<i64> =
        db.query_row("SELECT id FROM chains WHERE chain_id = ?1", [&head.chain_id], |row| row.get(0)).optional()?;
    // A chain that is not here tells nothing of what the file knows.
    let Some(chain) = chain else { return Ok(UseAfter::default()) };
    let open: HashSet<&str> = open.iter().map(String::as_str).collect();
    let (mut sums, mut known) = (Sums::default(), HashMap::new());
    let mut select = db.prepare(
        "SELECT started_ms, caller, model_id, item FROM records
         WHERE (chain > ?1 OR (chain = ?1 AND seq > ?2)) AND (chain < ?3 OR (chain = ?3 AND seq <= ?4))",
    )?;
    let mut rows = select.query(params![chain, to_signed(head.seq), last_chain, last_seq])?;
    while let Some(row) = rows.next()? {
        let used = used(row)?;
        if !open.contains(&*used.request_id) {
            sums.add(row, &used)?;
        } else if used.is_certain() {
            known.insert(used.request_id.clone(), (used.tokens(), used.cost()));
        }
    }
    Ok(UseAfter { used: sums.uses(), known })
}

/// The place up to which records count. They have to be here by then.
fn end(db: &Connection, until: Option<&ChainHead>) -> Result<(i64, i64), IndexError> {
    let Some(until) = until else { return Ok((i64::MAX, i64::MAX)) };
    let select = "SELECT id, head_seq FROM chains WHERE chain_id = ?1";
    let chain: Option<(i64, i64)> =
        db.query_row(select, [&until.chain_id], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    match chain {
        Some((id, head)) if head >= to_signed(until.seq) => Ok((id, to_signed(until.seq))),
        None if until.seq == 0 => Ok((i64::MAX, i64::MAX)),
        _ => Err(IndexError::Journal("its newest records are not in the database yet".to_owned())),
    }
}

/// An item that cannot be read used nothing that is known.
fn used(row: &Row<'_>) -> Result<Used, IndexError> {
    Ok(serde_json::from_str(row.get_ref(3)?.as_str().map_err(rusqlite::Error::from)?).unwrap_or_default())
}

impl Used {
    /// As limits count them.
    fn tokens(&self) -> u64 {
        let usage = &self.usage;
        [usage.input_tokens, usage.output_tokens, usage.cache_write_tokens]
            .into_iter()
            .flatten()
            .fold(0, u64::saturating_add)
    }

    /// None when it used something and nobody knows what that costs.
    fn cost(&self) -> Option<u64> {
        let is_nothing = self.tokens() == 0 && self.usage.cache_read_tokens.unwrap_or(0) == 0;
        self.cost_nano_usd.or(is_nothing.then_some(0))
    }

    /// Whether the record tells all that the request used: it had no answer of a model, or the answer counted its tokens.
    /// What came of attempts before the last one it does not tell, and a gateway that answers 502 or 504 does not know.
    fn is_certain(&self) -> bool {
        let failed = self.outcome == "upstream_error" && record::is_refusal(self.status_code) && self.attempts <= 1;
        let counted =
            self.outcome == "completed" && self.usage.input_tokens.is_some() && self.usage.output_tokens.is_some();
        !self.was_sent() || failed || self.outcome == "refused" || counted
    }

    /// The record of an interrupted request does not know how far it had come.
    fn was_sent(&self) -> bool {
        self.attempts > 0 || self.outcome == "interrupted"
    }
}

/// Uses by day, caller and model.
#[derive(Debug, Default)]
struct Sums(HashMap<(u64, Option<String>, String, Option<String>), PastUse>);

impl Sums {
    fn add(&mut self, row: &Row<'_>, used: &Used) -> Result<(), IndexError> {
        let day = to_unsigned(row.get::<_, i64>(0)? / 86_400_000);
        let (caller, model): (Option<String>, String) = (row.get(1)?, row.get(2)?);
        let profile = used.inference_profile_used.clone();
        let sum = self.0.entry((day, caller.clone(), model.clone(), profile.clone())).or_insert(PastUse {
            day,
            caller,
            model,
            profile,
            requests: 0,
            tokens: 0,
            nano_usd: 0,
            unpriced: Usage::default(),
        });
        sum.requests = sum.requests.saturating_add(u64::from(used.was_sent()));
        sum.tokens = sum.tokens.saturating_add(used.tokens());
        match used.cost() {
            Some(cost) => sum.nano_usd = sum.nano_usd.saturating_add(cost),
            None => add(&mut sum.unpriced, &used.usage),
        }
        Ok(())
    }

    fn uses(self) -> Vec<PastUse> {
        self.0.into_values().collect()
    }
}

fn add(sum: &mut Usage, more: &Usage) {
    let add = |sum: &mut Option<u64>, more: Option<u64>| {
        *sum = Some(sum.unwrap_or(0).saturating_add(more.unwrap_or(0)));
    };
    add(&mut sum.input_tokens, more.input_tokens);
    add(&mut sum.output_tokens, more.output_tokens);
    add(&mut sum.cache_read_tokens, more.cache_read_tokens);
    add(&mut sum.cache_write_tokens, more.cache_write_tokens);
    add(&mut sum.cache_write_1h_tokens, more.cache_write_1h_tokens);
}
