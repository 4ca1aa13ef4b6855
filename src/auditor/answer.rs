//! Answering a query beside the running daemon, from the index or from the table.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::query::{Page, Query, Scope, Source};
use super::reading::read;
use super::{search_index, search_table};
use crate::error::{Refusal, RefusalKind};
use crate::ledger::Ledger;
use crate::ledger::clock::now_ms;

/// Answers in the shape of the legacy REST API: `requests`, `totalCount`, `filters`, and `nextToken` while there is
/// more.
///
/// # Errors
/// A refusal when the query cannot be answered by this ledger or this table (400), or they cannot be read now (503).
pub async fn answer(ledger: &Ledger, query: &Query, scope: Scope) -> Result<Value, Refusal> {
    answer_holding(ledger, query, scope, ()).await
}

/// The same. `held` is dropped when this host's ledger has been searched, which may be after whoever asked has left.
///
/// # Errors
/// As [`answer`].
pub(crate) async fn answer_holding(
    ledger: &Ledger,
    query: &Query,
    scope: Scope,
    held: impl Send + 'static,
) -> Result<Value, Refusal> {
    let page = match query.source {
        Source::Ledger => from_index(ledger, query, scope, held).await?,
        Source::Dynamodb => from_table(ledger, query, &scope).await?,
    };
    let mut answer = Map::new();
    answer.insert("requests".into(), Value::Array(page.items));
    answer.insert("totalCount".into(), page.total.into());
    answer.insert("filters".into(), query.filters());
    if let Some(next) = page.next {
        answer.insert("nextToken".into(), URL_SAFE_NO_PAD.encode(next).into());
    }
    Ok(Value::Object(answer))
}

/// The newest records of those in the index behind one id and up to another, oldest first: at most `query.limit`.
///
/// # Errors
/// 503 when the index cannot be read now.
pub(crate) async fn between(
    ledger: &Ledger,
    query: &Query,
    scope: Scope,
    ids: (i64, i64),
) -> Result<Vec<Value>, Refusal> {
    let query = query.clone();
    read(ledger, (), move |db| search_index::between(db, &query, &scope, ids)).await
}

async fn from_index(ledger: &Ledger, query: &Query, scope: Scope, held: impl Send + 'static) -> Result<Page, Refusal> {
    ledger.flush().await;
    let query = query.clone();
    read(ledger, held, move |db| search_index::search(db, &query, &scope, now_ms())).await
}

async fn from_table(ledger: &Ledger, query: &Query, scope: &Scope) -> Result<Page, Refusal> {
    let Some(table) = ledger.table() else {
        return Err(Refusal::new(RefusalKind::Validation, "source=dynamodb needs a table, and audit.table is not set"));
    };
    let client = ledger.clients().client().await;
    let page = search_table::search(&client, &table, query, scope, ledger.host_id(), now_ms()).await;
    if page.is_err() {
        ledger.clients().reset().await;
    }
    page
}
