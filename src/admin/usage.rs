//! `GET /v1/dashboard/usage` and `GET /v1/dashboard/chain`: the figures of the dashboard, and whether the newest records are
//! as they were written.

use std::sync::Arc;

use http::Response;

use super::access::scope;
use super::dashboard::{download, format, held, turn};
use crate::auditor::usage::Question;
use crate::auditor::{Scope, chain_end, usage};
use crate::caller::Peer;
use crate::error::{Refusal, RefusalKind};
use crate::exchange::Body;
use crate::road::Road;

pub(super) const USAGE: &str = "/v1/dashboard/usage";
pub(super) const CHAIN: &str = "/v1/dashboard/chain";

/// What was used, as JSON or as a file.
pub(super) async fn figures(road: &Road, peer: &Peer, raw_query: &str) -> Result<Response<Body>, Refusal> {
    let scope = scope(road, peer, None)?;
    let (format, filters) = format(raw_query)?;
    let question = Question::parse(&filters)?;
    let turn = turn(road, peer, None, &scope, false)?;
    let report = usage::answer(&road.audit, question, scope, Arc::clone(&turn)).await?;
    Ok(match format {
        None => held("application/json", report.json().to_string(), turn),
        Some(format) => download(format, "usage", report.written(format), turn),
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
    let turn = turn(road, peer, None, &scope, false)?;
    let checked = chain_end::check_newest(&road.audit, Arc::clone(&turn)).await?;
    Ok(held("application/json", checked.to_string(), turn))
}
