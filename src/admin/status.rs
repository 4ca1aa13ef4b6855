//! `GET /status`: what the daemon knows of itself, for `bedrock-sidecar status` and for scripts. Keys are only added.

use std::time::{Instant, SystemTime};

use http::HeaderMap;
use serde_json::{Value, json};

use super::not_ready;
use crate::auditor::Scope;
use crate::caller::Peer;
use crate::credentials::Credentials;
use crate::ledger::timestamp::timestamp;
use crate::operation::Plane;
use crate::road::{Region, Road};
use crate::upstream::breaker::{Breaker, Position};

/// Whoever may see their own records only is told of no other caller's limits and failures.
pub(super) fn status(road: &Road, peer: &Peer, scope: &Scope) -> Value {
    let mut limits = road.limits.status();
    let mut failures = road.failures.latest();
    if *scope != Scope::All {
        let caller = road.callers.unproven(peer, &HeaderMap::new(), None, SystemTime::now());
        limits.scopes.retain(|of| of.scope != "caller" || Some(&*of.name) == caller.name());
        failures.clear();
    }
    let reasons = not_ready(road);
    let audit = road.audit.status();
    json!({
        "ready": reasons.is_empty(),
        "reasons": reasons,
        "version": env!("CARGO_PKG_VERSION"),
        "configuration": road.settings.path,
        "upSeconds": road.begun.elapsed().as_secs(),
        "reloadRefused": road.reload_refused.load().as_deref(),
        "credential": credential(&road.credentials),
        "upstreams": road.regions.iter().map(|region| upstream(region, road)).collect::<Vec<_>>(),
        "audit": {
            "pending": audit.pending,
            "open": audit.open,
            "bytes": audit.bytes,
            "maxBytes": audit.max_bytes,
            "shipped": audit.shipped_total,
            "lastShippedAt": moment(audit.shipped_ms),
            "lastAnchorAt": moment(audit.anchored_ms),
            "newestSeq": audit.newest_seq,
            "failures": audit.failures_total,
            "unrecorded": audit.unrecorded_total,
            "setAside": audit.set_aside,
            "lastError": audit.last_error,
            "tableReachable": audit.table_reachable,
            "table": road.settings.audit.table,
        },
        "limits": limits,
        "connections": {
            "clients": road.metrics.clients(),
            "max": road.settings.listen.max_connections,
            "inFlight": road.metrics.in_flight(),
        },
        "bodies": {
            "bytes": road.buffered.taken(),
            "maxBytes": road.settings.max_buffered_bytes,
        },
        "log": { "dropped": crate::log::dropped() },
        "lastErrors": failures,
    })
}

/// Milliseconds since 1970 as text; none for 0.
fn moment(milliseconds: i64) -> Option<String> {
    (milliseconds != 0).then(|| timestamp(milliseconds))
}

fn credential(credentials: &Credentials) -> Value {
    let status = credentials.status();
    json!({
        "kind": status.description,
        "confirmedSecondsAgo": status.age.map(|age| age.as_secs()),
        "expiresInSeconds": status.expires_in.map(|left| left.as_secs()),
        "problem": status.problem,
    })
}

fn upstream(region: &Region, road: &Road) -> Value {
    let upstream = &region.upstream;
    let now = Instant::now();
    let breakers: Vec<Value> = upstream.planes().map(|plane| breaker(upstream.breaker(plane), plane, now)).collect();
    let plane = |plane| json!({ "endpoint": upstream.endpoint(plane).to_string() });
    let mut shown = json!({
        "region": upstream.region,
        "partition": region.partition().as_str(),
        "modelsListed": region.models.is_listed(),
        "models": region.models.count(),
        "modelsListedSecondsAgo": region.models.listed_ago().map(|age| age.as_secs()),
        "paused": upstream.breaker(Plane::Runtime).status(now).position == Position::Open,
        "breakers": breakers,
        "credential": credential(upstream.credentials()),
        "objection": region.objection(&road.settings.policy),
        "dataRetention": region.retention.mode(),
        "runtime": plane(Plane::Runtime),
        "control": plane(Plane::Control),
        "agentRuntime": plane(Plane::AgentRuntime),
    });
    if upstream.serves(Plane::Mantle) {
        shown["mantle"] = plane(Plane::Mantle);
    }
    shown
}

fn breaker(breaker: &Breaker, plane: Plane, now: Instant) -> Value {
    let status = breaker.status(now);
    json!({
        "plane": plane.name(),
        "state": status.position.word(),
        "reason": status.reason,
        "probeInSeconds": status.probe_in.map(|pause| pause.as_secs()),
    })
}
