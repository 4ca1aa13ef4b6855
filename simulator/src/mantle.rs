//! The second inference host, `bedrock-mantle`: OpenAI's and Anthropic's APIs on paths of its own, with models of its own
//! under bare names, and errors in the words of those APIs.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};

use crate::auth::header;
use crate::catalogue::{self, Model, Vendor};
use crate::operations::{Input, messages, openai};
use crate::prompt::{all_text, count};
use crate::reply::{AwsError, Reply};
use crate::route::decode;
use crate::state::State;

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum MantleCall {
    /// `below_openai`: under `/openai/v1`.
    ChatCompletions {
        below_openai: bool,
    },
    Responses {
        below_openai: bool,
    },
    CountInputTokens,
    CompactResponse,
    GetResponse {
        id: String,
    },
    DeleteResponse {
        id: String,
    },
    CancelResponse {
        id: String,
    },
    ListInputItems {
        id: String,
    },
    ListModels,
    GetModel {
        id: String,
    },
    Messages,
    MessagesCountTokens,
}

use MantleCall::*;

impl MantleCall {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            ChatCompletions { .. } => "MantleChatCompletions",
            Responses { .. } => "MantleResponses",
            CountInputTokens => "MantleCountInputTokens",
            CompactResponse => "MantleCompactResponse",
            GetResponse { .. } => "MantleGetResponse",
            DeleteResponse { .. } => "MantleDeleteResponse",
            CancelResponse { .. } => "MantleCancelResponse",
            ListInputItems { .. } => "MantleListInputItems",
            ListModels => "MantleListModels",
            GetModel { .. } => "MantleGetModel",
            Messages => "MantleMessages",
            MessagesCountTokens => "MantleMessagesCountTokens",
        }
    }

    pub(crate) fn names_model(&self) -> bool {
        matches!(
            self,
            ChatCompletions { .. }
                | Responses { .. }
                | CountInputTokens
                | CompactResponse
                | Messages
                | MessagesCountTokens
        )
    }
}

/// The responses that are kept, with what was put in.
#[derive(Debug, Default)]
pub(crate) struct Stored(Mutex<BTreeMap<String, (Value, Value)>>);

impl Stored {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, (Value, Value)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn keep(&self, response: &Value, input: &Value) {
        if let Some(id) = response["id"].as_str() {
            self.lock().insert(id.to_owned(), (response.clone(), input.clone()));
        }
    }
}

/// Finds the call.
pub(crate) fn route(method: &str, raw_path: &str) -> Result<MantleCall, AwsError> {
    let unknown = || AwsError::new(404, "not_found", "Not Found");
    let segments: Vec<&str> = raw_path.strip_prefix('/').ok_or_else(unknown)?.split('/').collect();
    let (below_openai, rest) = match segments.as_slice() {
        ["anthropic", "v1", "messages"] if method == "POST" => return Ok(Messages),
        ["anthropic", "v1", "messages", "count_tokens"] if method == "POST" => return Ok(MessagesCountTokens),
        ["openai", "v1", rest @ ..] => (true, rest),
        ["v1", rest @ ..] => (false, rest),
        _ => return Err(unknown()),
    };
    Ok(match (method, rest) {
        (_, [.., ""]) => return Err(unknown()),
        ("POST", ["chat", "completions"]) => ChatCompletions { below_openai },
        ("POST", ["responses"]) => Responses { below_openai },
        ("POST", ["responses", "input_tokens"]) => CountInputTokens,
        ("POST", ["responses", "compact"]) => CompactResponse,
        ("GET", ["responses", id]) => GetResponse { id: decode(id)? },
        ("DELETE", ["responses", id]) => DeleteResponse { id: decode(id)? },
        ("POST", ["responses", id, "cancel"]) => CancelResponse { id: decode(id)? },
        ("GET", ["responses", id, "input_items"]) => ListInputItems { id: decode(id)? },
        ("GET", ["models"]) => ListModels,
        ("GET", ["models", id]) => GetModel { id: decode(id)? },
        _ => return Err(unknown()),
    })
}

/// The model under its bare name. Profiles and ARNs are not known here.
fn model(id: Option<&str>) -> Result<&'static Model, AwsError> {
    let id = id.ok_or_else(|| AwsError::new(400, "missing_required_parameter", "model is required"))?;
    catalogue::on_mantle(id).ok_or_else(|| {
        AwsError::new(
            404,
            "not_found_error",
            format!("The model '{id}' does not exist or you do not have access to it."),
        )
    })
}

/// The model, if this API serves it.
fn served(input: &Input<'_>, vendor: Vendor) -> Result<&'static Model, AwsError> {
    let model = model(input.model)?;
    if model.vendor != vendor {
        let text = format!("The model '{}' does not support the requested API", model.id);
        return Err(AwsError::new(400, "unsupported_api", text));
    }
    Ok(model)
}

/// The model, if OpenAI's API serves it below this path. The two APIs say in different words that they do not.
fn served_on(input: &Input<'_>, api: &str, below_openai: bool) -> Result<&'static Model, AwsError> {
    let model = served(input, Vendor::OpenAi)?;
    let path = format!("{}/v1/{api}", if below_openai { "/openai" } else { "" });
    if catalogue::serves(model.id, &path) {
        return Ok(model);
    }
    Err(match api {
        "responses" => {
            let text = format!("The model '{}' does not support the '{path}' API", model.id);
            AwsError::new(400, "validation_error", text)
        }
        _ => {
            let text = format!("model `{}` isn't supported on this route", model.id);
            AwsError::new(400, "unsupported_route", text)
        }
    })
}

/// Whether a response is kept. An account that keeps nothing keeps none, whatever is asked.
fn keeps(state: &State, body: &Value) -> Result<bool, AwsError> {
    if state.data_retention() != "none" {
        return Ok(body["store"] != false);
    }
    match ["store", "background"].into_iter().find(|name| body[name] == true) {
        Some(name) => {
            let text = format!("{name}=true is not available in data retention mode 'none'");
            Err(AwsError::new(400, "validation_error", text))
        }
        None => Ok(false),
    }
}

/// Carries a call out.
pub(crate) fn call(state: &State, call: &MantleCall, input: &Input<'_>) -> Result<Reply, AwsError> {
    let kept = &state.stored;
    let found = |id: &str| {
        let missing = || AwsError::new(404, "not_found", format!("Response with id '{id}' not found."));
        kept.lock().get(id).cloned().ok_or_else(missing)
    };
    match call {
        ChatCompletions { below_openai } => openai::chat(served_on(input, "chat/completions", *below_openai)?, input),
        Responses { below_openai } => {
            let model = served_on(input, "responses", *below_openai)?;
            openai::responses(model, input, keeps(state, &input.json()?)?.then_some(kept))
        }
        CountInputTokens => {
            let model = served(input, Vendor::OpenAi)?;
            let tokens = count(&all_text(&input.json()?["input"]));
            Ok(Reply::json(200, &json!({"object": "response.input_tokens", "input_tokens": tokens})).by(model.id))
        }
        CompactResponse => openai::responses(served(input, Vendor::OpenAi)?, input, None),
        GetResponse { id } => Ok(Reply::json(200, &found(id)?.0)),
        DeleteResponse { id } => {
            found(id)?;
            kept.lock().remove(id);
            Ok(Reply::json(200, &json!({"id": id, "object": "response", "deleted": true})))
        }
        CancelResponse { id } => {
            let mut response = found(id)?.0;
            response["status"] = "cancelled".into();
            Ok(Reply::json(200, &response))
        }
        ListInputItems { id } => {
            let items = match found(id)?.1 {
                Value::Array(items) => items,
                text => vec![json!({"type": "message", "id": "msg_1", "role": "user", "status": "completed",
                                    "content": [{"type": "input_text", "text": text}]})],
            };
            Ok(Reply::json(
                200,
                &json!({"object": "list", "data": items, "first_id": "msg_1", "last_id": "msg_1",
                                        "has_more": false}),
            ))
        }
        ListModels => {
            let data: Vec<Value> = catalogue::all_on_mantle().map(openai::listed).collect();
            Ok(Reply::json(200, &json!({"object": "list", "data": data})))
        }
        GetModel { id } => Ok(Reply::json(200, &openai::listed(model(Some(id))?))),
        Messages => {
            check_version(input)?;
            messages::messages(served(input, Vendor::Anthropic)?, input)
        }
        MessagesCountTokens => {
            check_version(input)?;
            check_counted(&input.json()?)?;
            messages::count_tokens(served(input, Vendor::Anthropic)?, input)
        }
    }
}

/// Anthropic's API tells its version in a header, as a date. That of the runtime host is another one, in the body.
fn check_version(input: &Input<'_>) -> Result<(), AwsError> {
    match header(input.headers, "anthropic-version") {
        Some(version) if version.len() == 10 && version.starts_with("20") => Ok(()),
        _ => Err(AwsError::new(400, "invalid_request_error", "anthropic-version: header is required")),
    }
}

/// What only running a model needs is refused where tokens are counted.
fn check_counted(body: &Value) -> Result<(), AwsError> {
    let extra = ["max_tokens", "temperature", "anthropic_version", "anthropic_beta", "stream"];
    match extra.into_iter().find(|name| body.get(name).is_some()) {
        Some(name) => {
            Err(AwsError::new(400, "invalid_request_error", format!("{name}: Extra inputs are not permitted")))
        }
        None => Ok(()),
    }
}

/// A bearer key that is not known, or no more.
pub(crate) fn invalid_bearer() -> AwsError {
    AwsError::new(401, "invalid_api_key", "Invalid bearer token")
}

/// An error in the words of the API whose path it is.
pub(crate) fn refusal(error: &AwsError, path: &str, request_id: &str) -> Reply {
    let body = if path.starts_with("/anthropic/") {
        json!({"type": "error", "error": {"type": error.kind, "message": error.message}, "request_id": request_id})
    } else {
        let kind = if error.status >= 500 { "server_error" } else { "invalid_request_error" };
        json!({"error": {"code": error.kind, "message": error.message, "param": null, "type": kind}})
    };
    let mut reply = Reply::json(error.status, &body);
    for (name, value) in &error.headers {
        reply = reply.header(name, value);
    }
    reply
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_the_runtime_host_are_unknown_here() {
        for path in
            ["/model/a.b/converse", "/foundation-models", "/v1/bedrock/models", "/v1/responses/", "/v2/responses"]
        {
            assert_eq!(route("POST", path).map_err(|error| error.status), Err(404), "{path}");
        }
        assert_eq!(route("POST", "/openai/v1/responses").ok(), Some(Responses { below_openai: true }));
        assert_eq!(route("GET", "/v1/responses/resp_1").ok(), Some(GetResponse { id: "resp_1".into() }));
    }

    #[test]
    fn models_have_bare_names_only() {
        for id in
            ["us.anthropic.claude-opus-4-7", "openai.gpt-oss-20b-1:0", "arn:aws:bedrock:us-east-1::foundation-model/x"]
        {
            assert_eq!(model(Some(id)).map_err(|error| error.status).err(), Some(404), "{id}");
        }
        assert!(model(Some("openai.gpt-oss-20b")).is_ok());
    }
}
