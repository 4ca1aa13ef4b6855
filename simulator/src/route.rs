//! Raw method and raw path → the call that was meant. Matching is on the path as it came, one segment at a time:
//! a stand-in that decoded first would hide a proxy that does.

use crate::mantle::{self, MantleCall};
use crate::reply::AwsError;

/// A host of Bedrock's, which knows its own operations and no others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Host {
    /// `bedrock-runtime` and `bedrock`, which are one address here.
    Bedrock,
    /// `bedrock-agent-runtime`.
    AgentRuntime,
    /// `bedrock-mantle`.
    Mantle,
}

/// What was asked for. Identifiers are decoded, after their segment was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Call {
    InvokeModel {
        model: String,
        stream: bool,
    },
    Converse {
        model: String,
        stream: bool,
    },
    CountTokens {
        model: String,
    },
    Bidirectional {
        model: String,
    },
    ApplyGuardrail {
        id: String,
        version: String,
    },
    GuardrailChecks,
    StartAsyncInvoke,
    ListAsyncInvokes,
    GetAsyncInvoke {
        arn: String,
    },
    ChatCompletions,
    Responses,
    Messages,
    MessagesCountTokens,
    OpenAiModels,
    OpenAiModel {
        id: String,
    },
    ListFoundationModels,
    GetFoundationModel {
        id: String,
    },
    GetFoundationModelAvailability {
        id: String,
    },
    ListGuardrails,
    ListPromptRouters,
    ListInferenceProfiles,
    CreateInferenceProfile,
    GetInferenceProfile {
        id: String,
    },
    DeleteInferenceProfile {
        id: String,
    },
    GetPromptRouter {
        arn: String,
    },
    GetProvisionedModelThroughput {
        id: String,
    },
    GetAccountDataRetention,
    Rerank,
    CreateSession,
    /// On the mantle host.
    Mantle(MantleCall),
}

impl Call {
    /// The operation's name, as AWS has it where AWS has one.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Call::InvokeModel { stream: false, .. } => "InvokeModel",
            Call::InvokeModel { stream: true, .. } => "InvokeModelWithResponseStream",
            Call::Converse { stream: false, .. } => "Converse",
            Call::Converse { stream: true, .. } => "ConverseStream",
            Call::CountTokens { .. } => "CountTokens",
            Call::Bidirectional { .. } => "InvokeModelWithBidirectionalStream",
            Call::ApplyGuardrail { .. } => "ApplyGuardrail",
            Call::GuardrailChecks => "InvokeGuardrailChecks",
            Call::StartAsyncInvoke => "StartAsyncInvoke",
            Call::ListAsyncInvokes => "ListAsyncInvokes",
            Call::GetAsyncInvoke { .. } => "GetAsyncInvoke",
            Call::ChatCompletions => "ChatCompletions",
            Call::Responses => "Responses",
            Call::Messages => "Messages",
            Call::MessagesCountTokens => "MessagesCountTokens",
            Call::OpenAiModels => "ListModels",
            Call::OpenAiModel { .. } => "GetModel",
            Call::ListFoundationModels => "ListFoundationModels",
            Call::GetFoundationModel { .. } => "GetFoundationModel",
            Call::GetFoundationModelAvailability { .. } => "GetFoundationModelAvailability",
            Call::ListGuardrails => "ListGuardrails",
            Call::ListPromptRouters => "ListPromptRouters",
            Call::ListInferenceProfiles => "ListInferenceProfiles",
            Call::CreateInferenceProfile => "CreateInferenceProfile",
            Call::GetInferenceProfile { .. } => "GetInferenceProfile",
            Call::DeleteInferenceProfile { .. } => "DeleteInferenceProfile",
            Call::GetPromptRouter { .. } => "GetPromptRouter",
            Call::GetProvisionedModelThroughput { .. } => "GetProvisionedModelThroughput",
            Call::GetAccountDataRetention => "GetAccountDataRetention",
            Call::Rerank => "Rerank",
            Call::CreateSession => "CreateSession",
            Call::Mantle(call) => call.name(),
        }
    }

    /// The model named in the path.
    pub(crate) fn model(&self) -> Option<&str> {
        match self {
            Call::InvokeModel { model, .. }
            | Call::Converse { model, .. }
            | Call::CountTokens { model }
            | Call::Bidirectional { model } => Some(model),
            _ => None,
        }
    }

    /// Where the body names the model, if the path does not: a JSON pointer.
    pub(crate) fn model_place(&self) -> Option<&'static str> {
        match self {
            Call::ChatCompletions | Call::Responses | Call::Messages | Call::MessagesCountTokens => Some("/model"),
            Call::StartAsyncInvoke => Some("/modelId"),
            Call::Mantle(call) if call.names_model() => Some("/model"),
            Call::Rerank => Some("/rerankingConfiguration/bedrockRerankingConfiguration/modelConfiguration/modelArn"),
            _ => None,
        }
    }

    /// The host that serves it.
    pub(crate) fn host(&self) -> Host {
        match self {
            Call::Rerank => Host::AgentRuntime,
            Call::Mantle(_) => Host::Mantle,
            _ => Host::Bedrock,
        }
    }

    /// Whether the error is told in OpenAI's or Anthropic's shape.
    pub(crate) fn foreign_errors(&self) -> bool {
        matches!(
            self,
            Call::ChatCompletions
                | Call::Responses
                | Call::Messages
                | Call::MessagesCountTokens
                | Call::OpenAiModels
                | Call::OpenAiModel { .. }
        )
    }
}

/// Finds the call that a host serves, or says as AWS does that there is none.
pub(crate) fn route(host: Host, method: &str, raw_path: &str) -> Result<Call, AwsError> {
    if host == Host::Mantle {
        return mantle::route(method, raw_path).map(Call::Mantle);
    }
    match call(method, raw_path)? {
        call if call.host() == host => Ok(call),
        _ => Err(unknown()),
    }
}

fn unknown() -> AwsError {
    AwsError::new(404, "UnknownOperationException", "Unknown operation")
}

fn call(method: &str, raw_path: &str) -> Result<Call, AwsError> {
    let Some(path) = raw_path.strip_prefix('/') else { return Err(unknown()) };
    let segments: Vec<&str> = path.split('/').collect();
    let decoded = segments.iter().map(|segment| decode(segment)).collect::<Result<Vec<_>, _>>()?;
    let id = |index: usize| decoded[index].clone();
    Ok(match (method, segments.as_slice()) {
        (_, [.., ""]) => return Err(unknown()),
        ("POST", ["model", _, "invoke"]) => Call::InvokeModel { model: id(1), stream: false },
        ("POST", ["model", _, "invoke-with-response-stream"]) => Call::InvokeModel { model: id(1), stream: true },
        ("POST", ["model", _, "converse"]) => Call::Converse { model: id(1), stream: false },
        ("POST", ["model", _, "converse-stream"]) => Call::Converse { model: id(1), stream: true },
        ("POST", ["model", _, "count-tokens"]) => Call::CountTokens { model: id(1) },
        ("POST", ["model", _, "invoke-with-bidirectional-stream"]) => Call::Bidirectional { model: id(1) },
        ("POST", ["guardrail", _, "version", _, "apply"]) => Call::ApplyGuardrail { id: id(1), version: id(3) },
        ("POST", ["guardrail-checks", "invoke"]) => Call::GuardrailChecks,
        ("POST", ["async-invoke"]) => Call::StartAsyncInvoke,
        ("GET", ["async-invoke"]) => Call::ListAsyncInvokes,
        ("GET", ["async-invoke", _]) => Call::GetAsyncInvoke { arn: id(1) },
        ("POST", ["openai", "v1", "chat", "completions"]) => Call::ChatCompletions,
        ("POST", ["openai", "v1", "responses"]) => Call::Responses,
        ("POST", ["anthropic", "v1", "messages"]) => Call::Messages,
        ("POST", ["anthropic", "v1", "messages", "count_tokens"]) => Call::MessagesCountTokens,
        ("GET", ["openai", "v1", "models"]) => Call::OpenAiModels,
        ("GET", ["openai", "v1", "models", _]) => Call::OpenAiModel { id: id(3) },
        ("GET", ["foundation-models"]) => Call::ListFoundationModels,
        ("GET", ["foundation-models", _]) => Call::GetFoundationModel { id: id(1) },
        ("GET", ["foundation-model-availability", _]) => Call::GetFoundationModelAvailability { id: id(1) },
        ("GET", ["guardrails"]) => Call::ListGuardrails,
        ("GET", ["prompt-routers"]) => Call::ListPromptRouters,
        ("GET", ["inference-profiles"]) => Call::ListInferenceProfiles,
        ("POST", ["inference-profiles"]) => Call::CreateInferenceProfile,
        ("GET", ["inference-profiles", _]) => Call::GetInferenceProfile { id: id(1) },
        ("DELETE", ["inference-profiles", _]) => Call::DeleteInferenceProfile { id: id(1) },
        ("GET", ["prompt-routers", _]) => Call::GetPromptRouter { arn: id(1) },
        ("GET", ["provisioned-model-throughput", _]) => Call::GetProvisionedModelThroughput { id: id(1) },
        ("GET", ["data-retention"]) => Call::GetAccountDataRetention,
        ("POST", ["rerank"]) => Call::Rerank,
        ("POST", ["sessions"]) => Call::CreateSession,
        _ => return Err(unknown()),
    })
}

/// Percent-decodes one segment strictly: half an escape, control bytes, bad UTF-8 and dot segments are refused.
pub(crate) fn decode(segment: &str) -> Result<String, AwsError> {
    let malformed = || AwsError::validation(format!("simulator: malformed path segment '{segment}'"));
    let bytes = segment.as_bytes();
    for (index, byte) in bytes.iter().enumerate() {
        let escape = bytes.get(index + 1..index + 3);
        if *byte == b'%' && !escape.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)) {
            return Err(malformed());
        }
    }
    let decoded = percent_encoding::percent_decode_str(segment).decode_utf8().map_err(|_| malformed())?;
    let dots = decoded.split('/').any(|part| part == "." || part == "..");
    if dots || decoded.chars().any(|character| character.is_control() || "?#\\".contains(character)) {
        return Err(malformed());
    }
    Ok(decoded.into_owned())
}

/// The parameters of a query, decoded, in order.
pub(crate) fn query_pairs(query: &str) -> Vec<(String, String)> {
    let plain = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (plain(name), plain(value)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_one_segment_however_it_is_encoded() {
        for path in ["/model/a.b-v1%3A0/invoke", "/model/a.b-v1:0/invoke"] {
            let call = route(Host::Bedrock, "POST", path).map_err(|error| error.message);
            assert_eq!(call, Ok(Call::InvokeModel { model: "a.b-v1:0".into(), stream: false }));
        }
        let arn =
            route(Host::Bedrock, "POST", "/model/arn%3Aaws%3Abedrock%3Aus-east-1%3A%3Afoundation-model%2Fx/converse");
        let model = "arn:aws:bedrock:us-east-1::foundation-model/x".to_owned();
        assert_eq!(arn.map_err(|error| error.message), Ok(Call::Converse { model, stream: false }));
        assert!(route(Host::Bedrock, "POST", "/model/arn:aws:bedrock:us-east-1::foundation-model/x/converse").is_err());
    }

    #[test]
    fn traversal_and_half_escapes_are_refused() {
        for path in ["/model/..%2F..%2Fx/invoke", "/model/../invoke", "/model/a%2/invoke", "/model/a%00/invoke"] {
            assert_eq!(route(Host::Bedrock, "POST", path).map_err(|error| error.status), Err(400), "{path}");
        }
        assert_eq!(route(Host::Bedrock, "GET", "/nothing").map_err(|error| error.status), Err(404));
    }

    #[test]
    fn a_host_serves_its_own_operations_alone() {
        assert!(route(Host::AgentRuntime, "POST", "/rerank").is_ok());
        for (host, path) in [(Host::Bedrock, "/rerank"), (Host::AgentRuntime, "/model/a.b-v1:0/invoke")] {
            assert_eq!(route(host, "POST", path).map_err(|error| error.status), Err(404), "{path}");
        }
    }
}
