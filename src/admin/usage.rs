//! `GET /v1/dashboard/usage` and `GET /v1/dashboard/chain`: the figures of the dashboard, and whether the newest records are
//! as they were written.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use tokio::task::JoinSet;

use super::dashboard::scope;
use crate::admin::desk;
use crate::auditor::usage::{Document, Question};
use crate::auditor::{Scope, chain_end, usage};
use crate::caller::{Peer, User};
use crate::error::{Refusal, RefusalKind};
use crate::exchange::Body;
use crate::listen::Client;
use crate::panics::{self, Panicked};
use crate::road::Road;
use crate::workers::Workers;

pub(super) const USAGE: &str = "/v1/dashboard/usage";
pub(super) const CHAIN: &str = "/v1/dashboard/chain";

/// Answers on the main runtime, because it may take long.
pub(super) async fn serve(
    workers: &Workers,
    road: Arc<Road>,
    client: Arc<Client>,
    path: &'static str,
    raw_query: String,
) -> Result<Response<Body>, Panicked> {
    let question = async move {
        if path == CHAIN { chain(&road, &client.peer).await } else { figures(&road, &client.peer, &raw_query).await }
    };
    // Dropped with the set, when its client leaves.
    let mut asked = JoinSet::new();
    asked.spawn_on(panics::contained(question), workers.main());
    let answered = asked.join_next().await.and_then(Result::ok).unwrap_or(Err(Panicked))?;
    Ok(match answered {
        Ok(document) => shown(document),
        Err(refusal) => refusal.response().map(Body::whole),
    })
}

async fn figures(road: &Road, peer: &Peer, raw_query: &str) -> Result<Document, Refusal> {
    let scope = scope(&road.callers, peer, None)?;
    let question = Question::parse(raw_query)?;
    let _turn = turn(road, peer, &scope)?;
    usage::answer(&road.audit, &question, scope).await
}

async fn chain(road: &Road, peer: &Peer) -> Result<Document, Refusal> {
    let scope = scope(&road.callers, peer, None)?;
    if scope != Scope::All {
        return Err(Refusal::new(
            RefusalKind::AccessDenied,
            "the chain runs through the records of all users: root and members of the group bedrock-sidecar may have it checked.",
        ));
    }
    let _turn = turn(road, peer, &scope)?;
    let checked = chain_end::check_newest(&road.audit).await?;
    Ok(Document { content_type: "application/json", text: checked.to_string() })
}

fn turn(road: &Road, peer: &Peer, scope: &Scope) -> Result<desk::Turn, Refusal> {
    let question = desk::Question { is_auditor: *scope == Scope::All, to_table: false };
    road.desk.turn((User::of(peer), None), question, Instant::now())
}

fn shown(document: Document) -> Response<Body> {
    let mut response = Response::new(Body::whole(Bytes::from(document.text)));
    *response.status_mut() = StatusCode::OK;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(document.content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
