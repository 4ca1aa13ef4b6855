//! The control interface under `/_simulator/`, for tests that run in another process.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::faults::Fault;
use crate::framing::{self, UnknownFraming};
use crate::keys::Change;
use crate::reply::Reply;
use crate::roles_anywhere::RolesAnywhere;
use crate::state::State;

/// What `POST /_simulator/gate` takes.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct GateChange {
    closed: Option<bool>,
    release: Option<u64>,
}

/// What `POST /_simulator/data-retention` takes.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RetentionChange {
    mode: String,
}

/// What `POST /_simulator/framing` takes. What is left out stays as it is.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FramingChange {
    framing: Option<String>,
    /// 0 means never.
    calm_after_resets: Option<u64>,
}

pub(crate) fn answer(state: &State, method: &str, path: &str, body: &[u8]) -> Reply {
    let result = match (method, path) {
        ("GET", "/_simulator/health") => Ok(json!({"region": state.region, "account": state.account})),
        ("GET", "/_simulator/requests") => Ok(json!(state.record.all())),
        ("DELETE", "/_simulator/requests") => {
            state.clear();
            Ok(json!({}))
        }
        ("GET", "/_simulator/faults") => Ok(json!(state.faults.all())),
        ("POST", "/_simulator/faults") => parse(body).map(|fault: Fault| {
            state.inject(fault);
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
        ("GET", "/_simulator/roles-anywhere") => Ok(json!(state.roles_anywhere())),
        ("POST", "/_simulator/roles-anywhere") => parse(body).map(|known: RolesAnywhere| {
            state.set_roles_anywhere(Some(known));
            json!({})
        }),
        ("DELETE", "/_simulator/roles-anywhere") => {
            state.set_roles_anywhere(None);
            Ok(json!({}))
        }
        ("GET", "/_simulator/data-retention") => Ok(json!({ "mode": state.data_retention() })),
        ("POST", "/_simulator/data-retention") => parse(body).map(|change: RetentionChange| {
            state.set_data_retention(&change.mode);
            json!({ "mode": change.mode })
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
        ("GET", "/_simulator/framing") => Ok(framing(state)),
        ("POST", "/_simulator/framing") => parse(body).and_then(|change: FramingChange| {
            if let Some(name) = change.framing {
                state.framing.set(Some(name.parse().map_err(|error: UnknownFraming| error.to_string())?));
            }
            if let Some(resets) = change.calm_after_resets {
                state.framing.set_calm_after(Some(resets));
            }
            Ok(framing(state))
        }),
        ("DELETE", "/_simulator/framing") => {
            state.framing.set(None);
            state.framing.set_calm_after(None);
            Ok(json!({}))
        }
        ("GET", "/_simulator/framings") => Ok(framing::ALL
            .iter()
            .map(|framing| json!({"name": framing, "verdict": framing.verdict(), "about": framing.about()}))
            .collect()),
        ("GET", "/_simulator/connections") => Ok(json!(state.tally.all())),
        _ => return Reply::json(404, &json!({"message": format!("the simulator has no {method} {path}")})),
    };
    match result {
        Ok(value) => Reply::json(200, &value),
        Err(message) => Reply::json(400, &json!({ "message": message })),
    }
}

fn framing(state: &State) -> Value {
    let choice = state.framing.choice().map(|choice| choice.to_string());
    json!({"framing": choice, "calm_after_resets": state.framing.calm_after()})
}

fn parse<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    let value: Value = serde_json::from_slice(body).map_err(|error| format!("not JSON: {error}"))?;
    serde_json::from_value(value).map_err(|error| error.to_string())
}
