//! Questions to SQLite.

use std::path::Path;

use rusqlite::types::Value as Sql;
use rusqlite::{Connection, params_from_iter};
use serde_json::Value;

use super::{StoreError, open_to_read};
use crate::audit::questions::{Found, Partition, Query, Scope};

/// Finds the records that a question is about, newest first.
pub fn select(path: &Path, query: &Query, who: &Scope, since_ms: i64) -> Result<Found, StoreError> {
    let mut db = open_to_read(path)?;
    // One look: count and page are of the same moment.
    let db = db.transaction()?;
    select_in(&db, query, who, since_ms)
}

/// The same on a connection that is open.
pub fn select_in(db: &Connection, query: &Query, who: &Scope, since_ms: i64) -> Result<Found, StoreError> {
    if query.partition == Partition::Govcloud {
        return Ok(Found::default());
    }
    let (filter, mut values) = condition(query, who, since_ms);
    // Every column of the condition is in the index, so counting reads no record.
    let total: i64 = db.query_row(
        &format!("SELECT count(*) FROM records INDEXED BY records_by_time WHERE {filter}"),
        params_from_iter(&values),
        |row| row.get(0),
    )?;
    let mut page = filter;
    if let Some((started_ms, id)) = query.next_token.as_deref().and_then(position) {
        page.push_str(" AND (started_ms, id) < (?, ?)");
        values.extend([Sql::Integer(started_ms), Sql::Integer(id)]);
    }
    values.push(Sql::Integer(query.limit as i64 + 1));
    let mut select = db.prepare(&format!(
        "SELECT started_ms, id, item, hash FROM records WHERE {page} ORDER BY started_ms DESC, id DESC LIMIT ?"
    ))?;
    let mut rows = select.query(params_from_iter(&values))?;
    let mut found = Found { total: super::unsigned(total), ..Found::default() };
    let mut last: (i64, i64) = (0, 0);
    while let Some(row) = rows.next()? {
        if found.items.len() == query.limit {
            found.next = Some(format!("{} {}", last.0, last.1).into_bytes());
            break;
        }
        last = (row.get(0)?, row.get(1)?);
        found.items.push(whole(&row.get::<_, String>(2)?, &row.get::<_, String>(3)?));
    }
    Ok(found)
}

/// An item with its hash, as it stands in DynamoDB and in exports.
pub fn whole(item: &str, hash: &str) -> Value {
    let mut item: Value = serde_json::from_str(item).unwrap_or_else(|_| Value::String(item.to_owned()));
    if let Some(fields) = item.as_object_mut() {
        fields.insert("chainHash".to_owned(), hash.into());
    }
    item
}

/// Where a token of ours points.
pub fn position(token: &[u8]) -> Option<(i64, i64)> {
    let (started_ms, id) = std::str::from_utf8(token).ok()?.split_once(' ')?;
    Some((started_ms.parse().ok()?, id.parse().ok()?))
}

fn condition(query: &Query, who: &Scope, since_ms: i64) -> (String, Vec<Sql>) {
    let mut condition = "started_ms >= ?".to_owned();
    let mut values = vec![Sql::Integer(since_ms)];
    let mut and = |text: &str, more: Vec<Sql>| {
        condition.push_str(" AND ");
        condition.push_str(text);
        values.extend(more);
    };
    if let Some(success) = query.success {
        and("success = ?", vec![Sql::Integer(success.into())]);
    }
    if let Some(model) = &query.model_id {
        and("model_id = ?", vec![Sql::Text(model.clone())]);
    }
    if let Some(caller) = &query.caller {
        and("caller = ?", vec![Sql::Text(caller.clone())]);
    }
    if let Scope::Own { caller, uid } = who {
        // Comparing with NULL is never true: who is nobody sees nothing.
        let caller = caller.clone().map_or(Sql::Null, Sql::Text);
        and("(caller = ? OR caller_uid = ?)", vec![caller, uid.map_or(Sql::Null, |uid| Sql::Integer(uid.into()))]);
    }
    (condition, values)
}
