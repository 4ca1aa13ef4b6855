//! The control interface under `/_simulator/`, for tests that run in another process.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::faults::Fault;
use crate::keys::Change;
use crate::reply::Reply;
use crate::state::State;

/// What `POST /_simulator/gate` takes.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct GateChange {
    closed: Option<bool>,
    release: Option<u64>,
}

pub(crate) fn answer(state: &State, method: &str, path: &str, body: &[u8]) -> Reply {
    let result = match (method, path) {
        ("GET", "/_simulator/health") => Ok(json!({"region": state.region, "account": state.account})),
        ("GET", "/_simulator/requests") => Ok(json!(state.record.all())),
        ("DELETE", "/_simulator/requests") => {
            state.record.clear();
            Ok(json!({}))
        }
        ("GET", "/_simulator/faults") => Ok(json!(state.faults.all())),
        ("POST", "/_simulator/faults") => parse(body).map(|fault: Fault| {
            state.faults.add(fault);
            json!({})
        }),
        ("DELETE", "/_simulator/faults") => {
            state.faults.clear();
            Ok(json!({}))
        }
        ("GET", "/_simulator/credentials") => Ok(json!(state.known())),
        ("POST", "/_simulator/credentials") => parse(body).map(|change: Change| {
            state.change_credentials(change);
            json!(state.known())
        }),
        ("GET", "/_simulator/gate") => Ok(json!(state.gate.state())),
        ("POST", "/_simulator/gate") => parse(body).map(|change: GateChange| {
            match change.closed {
                Some(true) => state.gate.close(),
                Some(false) => state.gate.open(),
                None => {}
            }
            state.gate.release(change.release.unwrap_or(0));
            json!(state.gate.state())
        }),
        _ => return Reply::json(404, &json!({"message": format!("the simulator has no {method} {path}")})),
    };
    match result {
        Ok(value) => Reply::json(200, &value),
        Err(message) => Reply::json(400, &json!({ "message": message })),
    }
}

fn parse<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    let value: Value = serde_json::from_slice(body).map_err(|error| format!("not JSON: {error}"))?;
    serde_json::from_value(value).map_err(|error| error.to_string())
}
