//! What the records say was used, for limits that have forgotten it.

use rusqlite::Connection;

use super::IndexError;
use crate::ledger::integer::to_unsigned;
use crate::limits::PastUse;

/// The use of each day, caller and model by requests that began at `since_ms` or later.
pub(crate) fn past_use(db: &Connection, since_ms: i64) -> Result<Vec<PastUse>, IndexError> {
    let mut select = db.prepare(
        "SELECT started_ms / 86400000, caller, model_id,
           sum(coalesce(json_extract(item, '$.inputTokens'), 0) + coalesce(json_extract(item, '$.outputTokens'), 0)
             + coalesce(json_extract(item, '$.cacheWriteTokens'), 0)),
           sum(coalesce(json_extract(item, '$.costNanoUsd'), 0))
         FROM records WHERE started_ms >= ?1 GROUP BY 1, 2, 3",
    )?;
    let rows = select.query_map([since_ms], |row| {
        Ok(PastUse {
            day: to_unsigned(row.get(0)?),
            caller: row.get(1)?,
            model: row.get(2)?,
            tokens: to_unsigned(row.get(3)?),
            nano_usd: to_unsigned(row.get(4)?),
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}
