//! `GET /v1/dashboard/usage` and `GET /v1/dashboard/chain`: the figures of the dashboard, and whether the newest records are
//! as they were written.

use std::time::Instant;

use http::{Response, StatusCode};

use super::access::scope;
use super::{dashboard, desk, respond};
use crate::auditor::usage::Question;
use crate::auditor::{Scope, chain_end, usage};
use crate::caller::{Peer, User};
use crate::error::{Refusal, RefusalKind};
use crate::exchange::Body;
use crate::road::Road;

pub(super) const USAGE: &str = "/v1/dashboard/usage";
pub(super) const CHAIN: &str = "/v1/dashboard/chain";

/// What was used, as JSON or as a file.
pub(super) async fn figures(road: &Road, peer: &Peer, raw_query: &str) -> Result<Response<Body>, Refusal> {
    let scope = scope(road, peer, None)?;
    let (format, filters) = dashboard::format(raw_query)?;
    let question = Question::parse(&filters)?;
    let _turn = turn(road, peer, &scope)?;
    let report = usage::answer(&road.audit, question, scope).await?;
    Ok(match format {
        None => respond(StatusCode::OK, "application/json", report.json().to_string()),
        Some(format) => dashboard::download(format, "usage", report.written(format)),
    })
}

/// What the check of the newest records has found.
pub(super) async fn chain(road: &Road, peer: &Peer) -> Result<Response<Body>, Refusal> {
    let scope = scope(road, peer, None)?;
    if scope != Scope::All {
        return Err(Refusal::new(
            RefusalKind::AccessDenied,
            "the chain runs through the records of all users: root and the members of admin.groups may have it checked.",
        ));
    }
    let _turn = turn(road, peer, &scope)?;
    let checked = chain_end::check_newest(&road.audit).await?;
    Ok(respond(StatusCode::OK, "application/json", checked.to_string()))
}

fn turn(road: &Road, peer: &Peer, scope: &Scope) -> Result<desk::Turn, Refusal> {
    let question = desk::Question { is_auditor: *scope == Scope::All, to_table: false };
    road.desk.turn((User::of(peer), None), question, Instant::now())
}
