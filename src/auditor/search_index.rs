//! Searching the index, where the records of this host are.

use rusqlite::types::Value as Sql;
use rusqlite::{Connection, params_from_iter};
use serde_json::Value;

use super::query::{Page, Query, Scope};
use crate::ledger::index::IndexError;
use crate::ledger::integer::to_unsigned;
use crate::record::Record;

/// Finds the records that a query is about, newest first.
pub(crate) fn search(db: &mut Connection, query: &Query, scope: &Scope, now_ms: i64) -> Result<Page, IndexError> {
    // In a transaction, so that count and page are of the same moment.
    let db = db.transaction()?;
    search_in(&db, query, scope, now_ms)
}

/// The newest records of those behind one id and up to another, oldest first: at most `query.limit`. Of whatever time.
pub(crate) fn between(
    db: &Connection,
    query: &Query,
    scope: &Scope,
    (behind, last): (i64, i64),
) -> Result<Vec<Value>, IndexError> {
    let (filter, mut values) = condition(query, scope, (i64::MIN, None));
    let limit = i64::try_from(query.limit).unwrap_or(i64::MAX);
    values.extend([behind, last, limit].map(Sql::Integer));
    let mut select = db.prepare(&format!(
        "SELECT item, hash FROM records WHERE {filter} AND id > ? AND id <= ? ORDER BY id DESC LIMIT ?"
    ))?;
    let items = select.query_map(params_from_iter(&values), |row| {
        Ok(with_hash(&row.get::<_, String>(0)?, &row.get::<_, String>(1)?))
    })?;
    let mut items: Vec<Value> = items.collect::<Result<_, _>>()?;
    items.reverse();
    Ok(items)
}

/// The same on a connection that is open.
pub(crate) fn search_in(db: &Connection, query: &Query, scope: &Scope, now_ms: i64) -> Result<Page, IndexError> {
    let (filter, mut values) = condition(query, scope, query.starts(now_ms));
    // The columns of the condition are in the index, so counting reads no record that names a model, unless a partition is
    // sought.
    let total: i64 = db.query_row(
        &format!("SELECT count(*) FROM records INDEXED BY records_by_time WHERE {filter}"),
        params_from_iter(&values),
        |row| row.get(0),
    )?;
    let mut page = filter;
    if let Some((started_ms, id)) = query.next_token.as_deref().and_then(parse_token) {
        page.push_str(" AND (started_ms, id) < (?, ?)");
        values.extend([Sql::Integer(started_ms), Sql::Integer(id)]);
    }
    values.push(Sql::Integer(i64::try_from(query.limit).unwrap_or(i64::MAX).saturating_add(1)));
    let mut select = db.prepare(&format!(
        "SELECT started_ms, id, item, hash FROM records WHERE {page} ORDER BY started_ms DESC, id DESC LIMIT ?"
    ))?;
    let mut rows = select.query(params_from_iter(&values))?;
    let mut found = Page { total: to_unsigned(total), ..Page::default() };
    let mut last: (i64, i64) = (0, 0);
    while let Some(row) = rows.next()? {
        if found.items.len() == query.limit {
            found.next = Some(format!("{} {}", last.0, last.1).into_bytes());
            break;
        }
        last = (row.get(0)?, row.get(1)?);
        found.items.push(with_hash(&row.get::<_, String>(2)?, &row.get::<_, String>(3)?));
    }
    Ok(found)
}

/// An item with its hash, as it stands in DynamoDB and in exports.
pub(crate) fn with_hash(item: &str, hash: &str) -> Value {
    let mut item: Value = serde_json::from_str(item).unwrap_or_else(|_| Value::String(item.to_owned()));
    if let Some(fields) = item.as_object_mut() {
        fields.insert("chainHash".to_owned(), hash.into());
    }
    item
}

/// The start and the id of the last record of the page before; none when it is not a token of this search.
fn parse_token(token: &[u8]) -> Option<(i64, i64)> {
    let (started_ms, id) = std::str::from_utf8(token).ok()?.split_once(' ')?;
    Some((started_ms.parse().ok()?, id.parse().ok()?))
}

fn condition(query: &Query, scope: &Scope, (since_ms, until_ms): (i64, Option<i64>)) -> (String, Vec<Sql>) {
    let mut condition = "started_ms >= ?".to_owned();
    let mut values = vec![Sql::Integer(since_ms)];
    let mut and = |text: &str, more: Vec<Sql>| {
        condition.push_str(" AND ");
        condition.push_str(text);
        values.extend(more);
    };
    if let Some(until_ms) = until_ms {
        and("started_ms <= ?", vec![Sql::Integer(until_ms)]);
    }
    if let Some(success) = query.success {
        and("success = ?", vec![Sql::Integer(success.into())]);
    }
    if let Some(model) = &query.model_id {
        and("model_id = ?", vec![Sql::Text(model.clone())]);
    }
    if let Some(caller) = &query.caller {
        and("caller = ?", vec![Sql::Text(caller.clone())]);
    }
    if let Some(uid) = query.caller_uid {
        and("caller_uid = ?", vec![Sql::Integer(uid.into())]);
    }
    for member in query.members() {
        and("instr(item, ?) > 0", vec![Sql::Text(member)]);
    }
    if let Some(status) = query.status_code {
        // A number has no end of its own.
        let members = [',', '}'].map(|end| Sql::Text(format!("\"statusCode\":{status}{end}")));
        and("(instr(item, ?) > 0 OR instr(item, ?) > 0)", members.to_vec());
    }
    if !query.finds_own() {
        // Their model is empty, so that of all others the record need not be read. A text inside a record cannot hold
        // this: its quotes are escaped.
        let own = Record::OWN.map(|own| Sql::Text(format!("\"operation\":\"{own}\"")));
        and("(model_id <> '' OR (instr(item, ?) = 0 AND instr(item, ?) = 0))", own.to_vec());
    }
    if let Scope::Own { caller, uid } = scope {
        // Comparing with NULL is never true: who has neither name nor uid sees nothing.
        let caller = caller.clone().map_or(Sql::Null, Sql::Text);
        and("(caller = ? OR caller_uid = ?)", vec![caller, uid.map_or(Sql::Null, |uid| Sql::Integer(uid.into()))]);
    }
    (condition, values)
}
