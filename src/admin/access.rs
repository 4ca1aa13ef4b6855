//! Whose records somebody may see: by the kernel's word on the connection, never by what a request says of itself unproven.

use serde_json::{Value, json};

use crate::auditor::Scope;
use crate::caller::{Caller, Peer};
use crate::error::{Refusal, RefusalKind};
use crate::road::Road;

/// The records that a local user or a recognised caller may see: root and the members of `admin.groups` all of them, others
/// their own.
///
/// # Errors
/// 403 for someone whom neither the kernel nor a signature names.
pub(crate) fn scope(road: &Road, peer: &Peer, caller: Option<&Caller>) -> Result<Scope, Refusal> {
    let groups = &road.settings.admin.groups;
    if peer.uid.is_some_and(|uid| uid == 0 || groups.iter().any(|group| road.callers.is_member(uid, group))) {
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

/// What the dashboard has to know of who looks at it.
pub(super) fn answer(road: &Road, peer: &Peer, scope: &Scope) -> Value {
    json!({
        "scope": match scope { Scope::All => "all", Scope::Own { .. } => "own" },
        "uid": peer.uid,
        "hostId": road.audit.host_id(),
        "version": env!("CARGO_PKG_VERSION"),
        "groups": road.settings.admin.groups,
    })
}
