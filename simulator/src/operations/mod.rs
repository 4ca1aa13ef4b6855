//! The operations, once a request is known to be sound and its sender known.

pub(crate) mod asynchronous;
mod control_plane;
mod converse;
mod guardrail;
mod invoke;
pub(crate) mod messages;
pub(crate) mod openai;
mod rerank;
mod tier;
mod vendors;

use serde_json::{Value, json};

use crate::catalogue::Model;
use crate::reply::{AwsError, Reply};
use crate::route::Call;
use crate::sigv4::sha256_hex;
use crate::state::State;
use crate::{mantle, opaque, prompt};

/// What an operation looks at besides its path.
#[derive(Debug)]
pub(crate) struct Input<'a> {
    pub(crate) query: &'a str,
    pub(crate) headers: &'a [(String, String)],
    pub(crate) body: &'a [u8],
    pub(crate) model: Option<&'a str>,
}

impl Input<'_> {
    pub(crate) fn json(&self) -> Result<Value, AwsError> {
        if let Some(kind) = crate::auth::header(self.headers, "content-type") {
            let essence = kind.split(';').next().unwrap_or_default().trim();
            if !essence.eq_ignore_ascii_case("application/json") {
                return Err(AwsError::validation(format!("The provided content type '{kind}' is not supported.")));
            }
        }
        let value: Value = serde_json::from_slice(self.body)
            .map_err(|_| AwsError::validation("Malformed input request, please reformat your input and try again."))?;
        if value.is_object() { Ok(value) } else { Err(AwsError::validation("The request body must be a JSON object.")) }
    }

    /// An identifier that follows from the body, and from nothing else.
    fn derived_id(&self) -> String {
        sha256_hex(self.body)[..24].to_owned()
    }

    fn parameter(&self, name: &str) -> Option<String> {
        crate::route::query_pairs(self.query).into_iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    fn target(&self, state: &State) -> Result<&'static Model, AwsError> {
        let reference = self.model.ok_or_else(|| AwsError::validation("The request names no model."))?;
        state.with_profiles(|profiles| profiles.resolve(reference))
    }
}

/// Carries a call out.
pub(crate) fn call(state: &State, call: &Call, input: &Input<'_>) -> Result<Reply, AwsError> {
    match call {
        Call::InvokeModel { stream, .. } => invoke::invoke(input.target(state)?, *stream, input),
        Call::Converse { stream, .. } => converse::converse(input.target(state)?, *stream, input),
        Call::CountTokens { model } => count_tokens(state.with_profiles(|profiles| profiles.counting(model))?, input),
        Call::Bidirectional { .. } => {
            Err(AwsError::validation("simulator: a bidirectional stream is not framed by hand"))
        }
        Call::ApplyGuardrail { id, version } => guardrail::apply(id, version, input),
        Call::GuardrailChecks => guardrail::checks(input),
        Call::StartAsyncInvoke => asynchronous::start(state, input.target(state)?, input),
        Call::ListAsyncInvokes => asynchronous::list(state, input),
        Call::GetAsyncInvoke { arn } => asynchronous::describe(state, arn),
        Call::ChatCompletions => openai::chat(input.target(state)?, input),
        Call::Responses => openai::responses(input.target(state)?, input, None),
        Call::OpenAiModels => Ok(openai::models(&state.region)),
        Call::OpenAiModel { id } => openai::model(&state.region, id),
        Call::Messages => messages::messages(input.target(state)?, input),
        Call::MessagesCountTokens => messages::count_tokens(input.target(state)?, input),
        Call::ListFoundationModels => control_plane::list_models(state, input),
        Call::GetFoundationModel { id } => control_plane::describe_model(state, id),
        Call::GetFoundationModelAvailability { id } => control_plane::availability(state, id),
        Call::ListGuardrails => Ok(guardrail::list(state, input)),
        Call::ListPromptRouters => {
            Ok(Reply::json(200, &json!({ "promptRouterSummaries": opaque::routers(&state.region, &state.account) })))
        }
        Call::ListInferenceProfiles => control_plane::list_profiles(state, input),
        Call::CreateInferenceProfile => control_plane::create_profile(state, input),
        Call::GetInferenceProfile { id } => {
            state.with_profiles(|profiles| profiles.describe(id)).map(|profile| Reply::json(200, &profile))
        }
        Call::DeleteInferenceProfile { id } => {
            state.with_profiles(|profiles| profiles.delete(id)).map(|()| Reply::json(200, &json!({})))
        }
        Call::GetPromptRouter { arn } => match opaque::router(arn, &state.region, &state.account) {
            Some(router) => Ok(Reply::json(200, &router)),
            None => Err(AwsError::not_found("The requested prompt router could not be found.")),
        },
        Call::GetProvisionedModelThroughput { id } => match opaque::provisioned(id, &state.region, &state.account) {
            Some(provisioned) => Ok(Reply::json(200, &provisioned)),
            None => Err(AwsError::not_found("The requested provisioned model could not be found.")),
        },
        // It is answered before, because it is judged in another way.
        Call::CreateSession => Err(AwsError::new(404, "UnknownOperationException", "Unknown operation")),
        Call::Rerank => rerank::rerank(state, input),
        Call::Mantle(call) => mantle::call(state, call, input),
        Call::GetAccountDataRetention => Ok(control_plane::data_retention(state)),
    }
}

fn count_tokens(model: &Model, input: &Input<'_>) -> Result<Reply, AwsError> {
    use base64::Engine;
    let value = input.json()?;
    let text = if let Some(converse) = value.pointer("/input/converse") {
        converse::whole_text(converse)
    } else if let Some(body) = value.pointer("/input/invokeModel/body").and_then(Value::as_str) {
        let decoded = base64::engine::general_purpose::STANDARD
            .decode(body)
            .map_err(|_| AwsError::validation("The body of invokeModel is not base64."))?;
        let body: Value = serde_json::from_slice(&decoded)
            .map_err(|_| AwsError::validation("Malformed input request, please reformat your input and try again."))?;
        vendors::read(model.vendor, &body)?.whole
    } else {
        return Err(AwsError::validation("The input must be one of converse and invokeModel."));
    };
    Ok(Reply::json(200, &json!({"inputTokens": prompt::count(&text)})).by(model.id))
}
