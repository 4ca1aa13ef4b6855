//! What an admin should look at although requests are served, each in a clause that says what is wrong and what helps.

use serde_json::Value;

use crate::cli::words::{of, time};

/// A credential is renewed five minutes before it expires; one that has less left has not been.
const OVERDUE_SECONDS: u64 = 240;
/// Of a budget, a day's tokens, the ledger or the connections.
const NEARLY_ALL: f64 = 0.9;

/// From the answer to `/status`. What an older daemon does not tell is no reason to worry.
pub(super) fn attention(status: &Value) -> Vec<String> {
    let mut clauses = Vec::new();
    if let Some(refused) = status["reloadRefused"].as_str() {
        let why = refused.trim_end_matches('.');
        clauses.push(format!("the last reload was refused, and the settings before it are in force: {why}"));
    }
    credential(&status["credential"], "", &mut clauses);
    for upstream in list(&status["upstreams"]) {
        clauses.extend(of_upstream(upstream));
        own_credential(upstream, &mut clauses);
    }
    records(&status["audit"], &mut clauses);
    for scope in list(&status["limits"]["scopes"]) {
        clauses.extend(of_scope(scope));
    }
    let fleet = &status["limits"]["fleet"];
    if fleet["leased"] == false {
        clauses.push("the fleet's table gives no lease, so limits of the fleet hold by this host's share".to_owned());
    }
    let connections = &status["connections"];
    if part(&connections["clients"], &connections["max"]) >= NEARLY_ALL {
        clauses.push("nearly all connections are taken (listen.max_connections)".to_owned());
    }
    let bodies = &status["bodies"];
    if part(&bodies["bytes"], &bodies["maxBytes"]) >= NEARLY_ALL {
        clauses.push("request bodies take nearly all of their memory (limits.max_buffered_bytes)".to_owned());
    }
    clauses
}

/// The breaker of a plane; null from a daemon that does not tell.
pub(super) fn breaker<'a>(upstream: &'a Value, plane: &str) -> &'a Value {
    list(&upstream["breakers"]).iter().find(|breaker| breaker["plane"] == plane).unwrap_or(&Value::Null)
}

/// How much of the whole is taken, 0 where there is no whole.
pub(in crate::cli) fn part(taken: &Value, whole: &Value) -> f64 {
    match (taken.as_f64(), whole.as_f64()) {
        (Some(taken), Some(whole)) if whole > 0.0 => taken / whole,
        _ => 0.0,
    }
}

pub(in crate::cli) fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// A limit's scope as the configuration names it.
pub(super) fn scope_name(scope: &Value) -> String {
    match (scope["scope"].as_str().unwrap_or_default(), scope["name"].as_str().unwrap_or_default()) {
        ("host", _) => "this host".to_owned(),
        (kind, name) => format!("{kind} {name}"),
    }
}

/// Its problem, unless a clause says it already.
fn own_credential(upstream: &Value, clauses: &mut Vec<String>) {
    let own = &upstream["credential"];
    let Some(problem) = own["problem"].as_str().map(|problem| problem.trim_end_matches('.')) else { return };
    if !clauses.iter().any(|clause| clause.contains(problem)) {
        let region = upstream["region"].as_str().unwrap_or_default();
        credential(own, &format!(" of {region}"), clauses);
    }
}

/// `whose` is that of an upstream, or "" for the top-level one.
fn credential(credential: &Value, whose: &str, clauses: &mut Vec<String>) {
    let expires = credential["expiresInSeconds"].as_u64();
    let left = expires.map(|seconds| format!("; the one in use expires in {}", time(seconds))).unwrap_or_default();
    if let Some(problem) = credential["problem"].as_str() {
        clauses.push(format!("the credential{whose} cannot be renewed: {}{left}", problem.trim_end_matches('.')));
    } else if expires.is_some_and(|seconds| seconds < OVERDUE_SECONDS) {
        clauses.push(format!("its source gives no newer credential{left}"));
    }
}

fn of_upstream(upstream: &Value) -> Vec<String> {
    let region = upstream["region"].as_str().unwrap_or_default();
    let mut clauses = Vec::new();
    let planes = [
        ("runtime", "requests to models"),
        ("control", "listings of models"),
        ("agent_runtime", "Rerank"),
        ("mantle", "requests to bedrock-mantle"),
    ];
    for (plane, what) in planes {
        let breaker = breaker(upstream, plane);
        if let Some(state) = breaker["state"].as_str().filter(|state| *state != "closed") {
            let why = breaker["reason"].as_str().map(|reason| format!(": {reason}")).unwrap_or_default();
            clauses.push(format!("{region} is passed over for {what}{why} (its breaker is {state})"));
        }
    }
    if let Some(objection) = upstream["objection"].as_str() {
        clauses.push(format!("{region} cannot be used: {}", objection.trim_end_matches('.')));
    }
    if clauses.is_empty() && upstream["paused"] == true {
        clauses.push(format!("{region} is passed over because connects to it failed"));
    }
    if upstream["modelsListed"] == false {
        clauses.push(format!("the models of {region} have not been listed yet"));
    }
    clauses
}

fn records(audit: &Value, clauses: &mut Vec<String>) {
    let number = |key: &str| audit[key].as_u64().unwrap_or(0);
    let error = audit["lastError"].as_str().map(|error| error.trim_end_matches('.'));
    if audit["tableReachable"] == false {
        let wait = of(number("pending"), "record waits", "records wait");
        let why = error.map(|error| format!(": {error}")).unwrap_or_default();
        clauses.push(format!("{wait} for DynamoDB{why}"));
    } else if let Some(error) = error {
        clauses.push(error.to_owned());
    }
    if number("setAside") > 0 {
        let set_aside = of(number("setAside"), "record is", "records are");
        clauses.push(format!("{set_aside} set aside (`bedrock-sidecar audit list --set-aside`)"));
    }
    if number("unrecorded") > 0 {
        let unrecorded = of(number("unrecorded"), "request was", "requests were");
        clauses.push(format!("{unrecorded} answered and not recorded since the start"));
    }
    if part(&audit["bytes"], &audit["maxBytes"]) >= NEARLY_ALL {
        clauses.push("the ledger is nearly full (audit.max_ledger_bytes)".to_owned());
    }
}

fn of_scope(scope: &Value) -> Option<String> {
    let tokens = part(&scope["tokensToday"], &scope["tokensPerDay"]);
    let budget = scope["budgetUsed"].as_f64().unwrap_or(0.0);
    let (used, what) = if tokens >= budget { (tokens, "tokens_per_day") } else { (budget, "its budget") };
    (used >= NEARLY_ALL).then(|| format!("{} has used {:.0} % of {what}", scope_name(scope), used * 100.0))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_host_on_which_all_works_and_an_older_daemon_need_nothing() {
        assert_eq!(attention(&json!({ "ready": true })), Vec::<String>::new());
        let well = json!({
            "credential": { "problem": null, "expiresInSeconds": 3600 },
            "upstreams": [{ "region": "us-east-1", "paused": false, "modelsListed": true,
                            "breakers": [{ "plane": "runtime", "state": "closed" }] }],
            "audit": { "pending": 3, "bytes": 1, "maxBytes": 100, "tableReachable": true },
            "limits": { "scopes": [{ "scope": "host", "tokensToday": 5, "tokensPerDay": 100, "budgetUsed": 0.2 }] },
        });
        assert_eq!(attention(&well), Vec::<String>::new());
    }

    #[test]
    fn each_thing_that_is_wrong_is_said() {
        let ill = json!({
            "reloadRefused": "line 3 is wrong.",
            "credential": { "problem": "the secret is gone.", "expiresInSeconds": 90 },
            "upstreams": [
                { "region": "us-east-1", "paused": true, "modelsListed": false,
                  "breakers": [{ "plane": "runtime", "state": "open", "reason": "connections failed" }],
                  "credential": { "problem": "the secret is gone.", "expiresInSeconds": 90 },
                  "objection": "no key." },
                { "region": "us-west-2", "paused": true, "breakers": [{ "plane": "control", "state": "half-open" }] },
                { "region": "us-east-2", "paused": true, "credential": { "problem": "the file is gone." } },
            ],
            "audit": {
                "pending": 1204, "bytes": 95, "maxBytes": 100, "tableReachable": false, "lastError": "no route.",
                "setAside": 1, "unrecorded": 2,
            },
            "limits": {
                "scopes": [
                    { "scope": "host", "tokensToday": 95, "tokensPerDay": 100 },
                    { "scope": "caller", "name": "billing", "budgetUsed": 1.0 },
                ],
                "fleet": { "leased": false },
            },
            "connections": { "clients": 1000, "max": 1024 },
            "bodies": { "bytes": 100, "maxBytes": 100 },
        });
        let told = attention(&ill);
        assert_eq!(
            told,
            [
                "the last reload was refused, and the settings before it are in force: line 3 is wrong",
                "the credential cannot be renewed: the secret is gone; the one in use expires in 1 min",
                "us-east-1 is passed over for requests to models: connections failed (its breaker is open)",
                "us-east-1 cannot be used: no key",
                "the models of us-east-1 have not been listed yet",
                "us-west-2 is passed over for listings of models (its breaker is half-open)",
                "us-east-2 is passed over because connects to it failed",
                "the credential of us-east-2 cannot be renewed: the file is gone",
                "1,204 records wait for DynamoDB: no route",
                "1 record is set aside (`bedrock-sidecar audit list --set-aside`)",
                "2 requests were answered and not recorded since the start",
                "the ledger is nearly full (audit.max_ledger_bytes)",
                "this host has used 95 % of tokens_per_day",
                "caller billing has used 100 % of its budget",
                "the fleet's table gives no lease, so limits of the fleet hold by this host's share",
                "nearly all connections are taken (listen.max_connections)",
                "request bodies take nearly all of their memory (limits.max_buffered_bytes)",
            ]
        );
    }
}
