//! The dashboard: its page, and the questions that it and auditors ask, answered to whoever may ask them. `/v1/dashboard/requests`
//! is the legacy API's.

use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::{CONTENT_DISPOSITION, CONTENT_TYPE, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Response, StatusCode};
use serde_json::Value;
use tokio::task::JoinSet;

use super::access::{self, scope};
use super::desk::{Question, Turn};
use super::{events, not_served, page, respond, usage};
use crate::auditor::query::Source;
use crate::auditor::{self, Format, Query, Scope};
use crate::caller::{Caller, Peer, User};
use crate::error::{Refusal, RefusalKind};
use crate::exchange::Body;
use crate::listen::Client;
use crate::panics::{self, Panicked};
use crate::partition::Partitions;
use crate::road::Road;
use crate::routing::listing::listing;
use crate::workers::Workers;

pub(crate) const PATH: &str = "/v1/dashboard/requests";
/// How many records there are of what a file holds the newest of.
const TOTAL: HeaderName = HeaderName::from_static("x-total-count");
const BELOW: &str = "/v1/dashboard/";

/// Whether a path of the admin address is the dashboard's.
pub(super) fn is_for(path: &str) -> bool {
    path == "/" || path.starts_with(page::ASSETS) || path.starts_with(BELOW)
}

/// Answers a GET on the admin address. What may take long runs on the main runtime.
pub(super) async fn serve(
    workers: &Workers,
    roads: Arc<ArcSwap<Road>>,
    client: Arc<Client>,
    head: Parts,
) -> Result<Response<Body>, Panicked> {
    let road = roads.load_full();
    let (path, query) = (head.uri.path(), head.uri.query().unwrap_or_default());
    let mut answer = match path {
        "/" => page::page(scope(&road, &client.peer, None).is_ok(), &head.headers),
        "/v1/dashboard/access" => {
            shown(scope(&road, &client.peer, None).map(|scope| access::answer(&road, &client.peer, &scope)))
        }
        "/v1/dashboard/models" => beside(workers, async move { models(&road, &client.peer) }).await?,
        PATH => {
            let query = query.to_owned();
            beside(workers, async move { records(&road, &client.peer, &query).await }).await?
        }
        usage::USAGE => {
            let query = query.to_owned();
            beside(workers, async move { usage::figures(&road, &client.peer, &query).await }).await?
        }
        usage::CHAIN => beside(workers, async move { usage::chain(&road, &client.peer).await }).await?,
        events::PATH => {
            events::follow(&roads, &client.peer, query, workers.main()).unwrap_or_else(|refusal| refused(&refusal))
        }
        _ => path
            .strip_prefix(page::ASSETS)
            .and_then(|name| page::file(name, &head.headers))
            .unwrap_or_else(|| refused(&not_served())),
    };
    page::guard(answer.headers_mut());
    Ok(answer)
}

/// Has something answered on the main runtime. It is dropped when its client leaves.
async fn beside(
    workers: &Workers,
    question: impl Future<Output = Result<Response<Body>, Refusal>> + Send + 'static,
) -> Result<Response<Body>, Panicked> {
    let mut asked = JoinSet::new();
    asked.spawn_on(panics::contained(question), workers.main());
    let answered = asked.join_next().await.and_then(Result::ok).unwrap_or(Err(Panicked))?;
    Ok(answered.unwrap_or_else(|refusal| refused(&refusal)))
}

fn shown(answer: Result<Value, Refusal>) -> Response<Body> {
    match answer {
        Ok(answer) => respond(StatusCode::OK, "application/json", answer.to_string()),
        Err(refusal) => refused(&refusal),
    }
}

fn refused(refusal: &Refusal) -> Response<Body> {
    refusal.response().map(Body::whole)
}

/// An answer that may be large. Its asker has the turn until the client has taken it: what waits for clients is bounded.
pub(super) fn held(content_type: &'static str, text: String, turn: Arc<Turn>) -> Response<Body> {
    let mut answer = Response::new(Body::holding(Bytes::from(text), turn));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}

/// All models, and how each would be sent: for who may see everything. The main address lists what a caller may use.
fn models(road: &Road, peer: &Peer) -> Result<Response<Body>, Refusal> {
    if scope(road, peer, None)? != Scope::All {
        let sentence = "all models are shown to root and to the members of admin.groups; GET /v1/bedrock/models on the main address lists yours.";
        return Err(Refusal::new(RefusalKind::AccessDenied, sentence));
    }
    let turn = turn(road, peer, None, &Scope::All, false)?;
    Ok(held("application/json", listing(road, Partitions::ALL)?.to_string(), turn))
}

/// The right to one question.
pub(super) fn turn(
    road: &Road,
    peer: &Peer,
    caller: Option<&Caller>,
    scope: &Scope,
    to_table: bool,
) -> Result<Arc<Turn>, Refusal> {
    let question = Question { is_auditor: matches!(scope, Scope::All), to_table };
    let asker = (User::of(peer), caller.and_then(Caller::name).map(str::to_owned));
    road.desk.turn(asker, question, Instant::now()).map(Arc::new)
}

/// `format=csv` and `format=jsonl` give the same records for another program, as `audit list` writes them.
async fn records(road: &Road, peer: &Peer, raw_query: &str) -> Result<Response<Body>, Refusal> {
    let (format, filters) = format(raw_query)?;
    let (found, turn) = found(road, peer, None, &filters).await?;
    let Some(format) = format else { return Ok(held("application/json", found.to_string(), turn)) };
    let items = found["requests"].as_array().map(Vec::as_slice).unwrap_or_default();
    let text = auditor::written(format, items).map_err(|error| {
        Refusal::new(RefusalKind::Internal, format!("the records cannot be written as text: {error}"))
    })?;
    let mut answer = download(format, "requests", text, turn);
    // A file does not say that there are more.
    answer.headers_mut().insert(TOTAL, HeaderValue::from(found["totalCount"].as_u64().unwrap_or(0)));
    Ok(answer)
}

/// What a browser is to keep as a file.
pub(super) fn download(format: Format, name: &str, text: String, turn: Arc<Turn>) -> Response<Body> {
    let (content_type, ending) = match format {
        Format::Csv => ("text/csv; charset=utf-8", "csv"),
        _ => ("application/jsonl", "jsonl"),
    };
    let mut answer = held(content_type, text, turn);
    if let Ok(value) = HeaderValue::from_str(&format!("attachment; filename=\"{name}.{ending}\"")) {
        answer.headers_mut().insert(CONTENT_DISPOSITION, value);
    }
    answer
}

/// Takes `format` from a query; none is JSON.
pub(super) fn format(raw_query: &str) -> Result<(Option<Format>, String), Refusal> {
    let (formats, others): (Vec<&str>, Vec<&str>) =
        raw_query.split('&').partition(|pair| pair.split('=').next() == Some("format"));
    let format = match formats.as_slice() {
        [] | ["format=json"] => None,
        ["format=csv"] => Some(Format::Csv),
        ["format=jsonl"] => Some(Format::Jsonl),
        _ => {
            let sentence = "the query parameter format has to be json, csv or jsonl.";
            return Err(Refusal::new(RefusalKind::Validation, sentence));
        }
    };
    Ok((format, others.join("&")))
}

/// Answers a question of a local user or of a recognised caller.
pub(crate) async fn answer(
    road: &Road,
    peer: &Peer,
    caller: Option<&Caller>,
    raw_query: &str,
) -> Result<Value, Refusal> {
    found(road, peer, caller, raw_query).await.map(|(found, _turn)| found)
}

/// What was found, and the turn that it was found in.
async fn found(
    road: &Road,
    peer: &Peer,
    caller: Option<&Caller>,
    raw_query: &str,
) -> Result<(Value, Arc<Turn>), Refusal> {
    let scope = scope(road, peer, caller)?;
    let query = Query::parse(raw_query)?;
    let turn = turn(road, peer, caller, &scope, query.source == Source::Dynamodb)?;
    let found = auditor::answer_holding(&road.audit, &query, scope, Arc::clone(&turn)).await?;
    Ok((found, turn))
}
