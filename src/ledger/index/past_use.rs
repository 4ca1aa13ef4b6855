//! What the records say was used, for limits that have forgotten it.

use std::collections::{HashMap, HashSet};

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::Deserialize;

use super::IndexError;
use crate::ledger::integer::{to_signed, to_unsigned};
use crate::limits::{ChainHead, PastUse, UseAfter};

/// What an item says of its use.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Used {
    request_id: String,
    attempts: u64,
    input_tokens: Option<u64>,
    output_tokens: Option<u64>,
    cache_write_tokens: u64,
    cost_nano_usd: u64,
    outcome: String,
    status_code: u16,
}

/// The use of each day, caller and model by requests that began at `since_ms` or later.
pub(crate) fn past_use(db: &Connection, since_ms: i64) -> Result<Vec<PastUse>, IndexError> {
    let mut sums = Sums::default();
    let mut select = db.prepare("SELECT started_ms, caller, model_id, item FROM records WHERE started_ms >= ?1")?;
    let mut rows = select.query([since_ms])?;
    while let Some(row) = rows.next()? {
        sums.add(row, &used(row)?)?;
    }
    Ok(sums.uses())
}

/// The use of requests that ended after a place in the chain, in that chain or in later ones. Those in `open` apart.
pub(crate) fn use_after(db: &Connection, head: &ChainHead, open: &[String]) -> Result<UseAfter, IndexError> {
    let chain: Option<i64> =
        db.query_row("SELECT id FROM chains WHERE chain_id = ?1", [&head.chain_id], |row| row.get(0)).optional()?;
    // A chain that is not here tells nothing of what the file knows.
    let Some(chain) = chain else { return Ok(UseAfter::default()) };
    let open: HashSet<&str> = open.iter().map(String::as_str).collect();
    let (mut sums, mut known) = (Sums::default(), HashMap::new());
    let mut select = db.prepare(
        "SELECT started_ms, caller, model_id, item FROM records WHERE chain = ?1 AND seq > ?2
         UNION ALL SELECT started_ms, caller, model_id, item FROM records WHERE chain > ?1",
    )?;
    let mut rows = select.query(params![chain, to_signed(head.seq)])?;
    while let Some(row) = rows.next()? {
        let used = used(row)?;
        if !open.contains(&*used.request_id) {
            sums.add(row, &used)?;
        } else if used.is_certain() {
            known.insert(used.request_id.clone(), (used.tokens(), used.cost_nano_usd));
        }
    }
    Ok(UseAfter { used: sums.uses(), known })
}

/// An item that cannot be read used nothing that is known.
fn used(row: &Row<'_>) -> Result<Used, IndexError> {
    Ok(serde_json::from_str(row.get_ref(3)?.as_str().map_err(rusqlite::Error::from)?).unwrap_or_default())
}

impl Used {
    /// As limits count them.
    fn tokens(&self) -> u64 {
        let (input, output) = (self.input_tokens.unwrap_or(0), self.output_tokens.unwrap_or(0));
        input.saturating_add(output).saturating_add(self.cache_write_tokens)
    }

    /// Whether the record tells all that the request used: it had no answer of a model, or the answer counted its tokens.
    fn is_certain(&self) -> bool {
        let failed = self.outcome == "upstream_error" && self.status_code >= 400;
        let counted = self.outcome == "completed" && self.input_tokens.is_some() && self.output_tokens.is_some();
        !self.was_sent() || failed || self.outcome == "refused" || counted
    }

    /// The record of an interrupted request does not know how far it had come.
    fn was_sent(&self) -> bool {
        self.attempts > 0 || self.outcome == "interrupted"
    }
}

/// Uses by day, caller and model.
#[derive(Debug, Default)]
struct Sums(HashMap<(u64, Option<String>, String), PastUse>);

impl Sums {
    fn add(&mut self, row: &Row<'_>, used: &Used) -> Result<(), IndexError> {
        let day = to_unsigned(row.get::<_, i64>(0)? / 86_400_000);
        let (caller, model): (Option<String>, String) = (row.get(1)?, row.get(2)?);
        let sum = self.0.entry((day, caller.clone(), model.clone())).or_insert(PastUse {
            day,
            caller,
            model,
            requests: 0,
            tokens: 0,
            nano_usd: 0,
        });
        sum.requests = sum.requests.saturating_add(u64::from(used.was_sent()));
        sum.tokens = sum.tokens.saturating_add(used.tokens());
        sum.nano_usd = sum.nano_usd.saturating_add(used.cost_nano_usd);
        Ok(())
    }

    fn uses(self) -> Vec<PastUse> {
        self.0.into_values().collect()
    }
}
