//! Answering a query beside the running daemon, from the index or from the table.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::query::{Page, Query, Scope, Source};
use super::{search_index, search_table};
use crate::error::{Refusal, RefusalKind};
use crate::ledger::Ledger;
use crate::ledger::clock::now_ms;
use crate::ledger::index::IndexError;
use crate::panics;

/// Answers in the shape of the legacy REST API: `requests`, `totalCount`, `filters`, and `nextToken` while there is
/// more.
///
/// # Errors
/// A refusal when the query cannot be answered by this ledger or this table (400), or they cannot be read now (503).
pub async fn answer(ledger: &Ledger, query: &Query, scope: Scope) -> Result<Value, Refusal> {
    let page = match query.source {
        Source::Ledger => from_index(ledger, query, scope).await?,
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
    let (path, query) = (ledger.database(), query.clone());
    read(ledger, move || search_index::between(&path, &query, &scope, ids)).await
}

async fn from_index(ledger: &Ledger, query: &Query, scope: Scope) -> Result<Page, Refusal> {
    ledger.flush().await;
    let (path, query) = (ledger.database(), query.clone());
    read(ledger, move || search_index::search(&path, &query, &scope, now_ms())).await
}

async fn read<T: Send + 'static>(
    ledger: &Ledger,
    read: impl FnOnce() -> Result<T, IndexError> + Send + 'static,
) -> Result<T, Refusal> {
    tokio::task::spawn_blocking(move || panics::contain(read))
        .await
        .map_err(|error| unavailable(&error))?
        .map_err(|_panicked| unavailable(&panics::MESSAGE))?
        .map_err(|error| {
            let refusal = unavailable(&error);
            if error.is_corrupt() {
                ledger.report_damage(error);
            }
            refusal
        })
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

fn unavailable(error: &dyn std::fmt::Display) -> Refusal {
    Refusal::new(RefusalKind::ServiceUnavailable, format!("the ledger cannot be read: {error}"))
        .retry_after(Duration::from_secs(5))
}
