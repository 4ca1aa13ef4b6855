//! `GET /v1/dashboard/requests`: an auditor's questions, answered to whoever may ask them.

use std::time::Instant;

use serde_json::Value;

use crate::admin::desk::Question;
use crate::auditor::query::Source;
use crate::auditor::{self, Query, Scope};
use crate::caller::{Caller, Callers, Peer, User};
use crate::error::{Refusal, RefusalKind};
use crate::road::Road;

pub(crate) const PATH: &str = "/v1/dashboard/requests";

/// Root and this group see every record.
const AUDITORS: &str = "bedrock-sidecar";

/// Answers a question of a local user or of a recognised caller.
pub(crate) async fn answer(
    road: &Road,
    peer: &Peer,
    caller: Option<&Caller>,
    raw_query: &str,
) -> Result<Value, Refusal> {
    let scope = scope(&road.callers, peer, caller)?;
    let query = Query::parse(raw_query)?;
    let question = Question { is_auditor: matches!(scope, Scope::All), to_table: query.source == Source::Dynamodb };
    let asker = (User::of(peer), caller.and_then(Caller::name).map(str::to_owned));
    let _turn = road.desk.turn(asker, question, Instant::now())?;
    auditor::answer(&road.audit, &query, scope).await
}

/// Whose records may be seen: by the kernel's word on the peer, never by what the request says of itself unproven.
pub(super) fn scope(callers: &Callers, peer: &Peer, caller: Option<&Caller>) -> Result<Scope, Refusal> {
    if peer.uid.is_some_and(|uid| uid == 0 || callers.is_member(uid, AUDITORS)) {
        return Ok(Scope::All);
    }
    let name = caller.and_then(Caller::name).map(str::to_owned);
    if name.is_none() && peer.uid.is_none() {
        return Err(Refusal::new(
            RefusalKind::AccessDenied,
            "records are shown to local users and to known callers, and the kernel does not say whose this connection is.",
        ));
    }
    Ok(Scope::Own { caller: name, uid: peer.uid })
}
