//! Which operation a request is: one table of what Bedrock serves on the paths that SDKs send. `matching` finds a request in
//! it.

mod matching;
mod plane;

#[cfg(test)]
mod tests;

pub use matching::{Matched, check_identifier, find};
pub(crate) use matching::{SEGMENT, path_with};
pub use plane::Plane;
pub(crate) use plane::Planes;

/// Where a request names its model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelPlace {
    /// It names none.
    None,
    /// The path segment after `/model/`.
    Path,
    /// The string under this key of the JSON body; the request is refused without it.
    Body(&'static str),
    /// The string that these keys of the JSON body lead to, one in the other; the request is refused without it.
    Within(&'static [&'static str]),
    /// The request runs models that it names where the daemon does not see them, in a file on S3.
    Unseen,
    /// `modelSource.copyFrom` of a profile that is to be created.
    CopyFrom,
    /// The segment names a foundation model or a profile that is only described.
    Described,
}

/// What of a request's tokens can be told before it is sent, for the limits to reserve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenEstimate {
    /// The operation runs no model, or one that is not paid by tokens: a request costs none, whatever its body says.
    NoTokens,
    /// A model reads the body and may answer: input by the body's size, output by `max_tokens` or its kin in the body.
    FromBody,
    /// A model reads what is streamed to it, which nobody knows yet, and answers without a bound.
    Unbounded,
}

/// Whether Bedrock keeps what a request asks and what it answers, for requests that come later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stores {
    /// It does not.
    Never,
    /// Where the body says `"store": true`.
    IfAsked,
    /// Unless the body says `"store": false`.
    UnlessToldNot,
}

/// Whose error messages the clients of an operation read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Api {
    /// AWS's own.
    #[default]
    Aws,
    /// OpenAI's.
    OpenAi,
    /// Anthropic's.
    Anthropic,
}

/// One row of the table.
#[derive(Debug, PartialEq, Eq)]
pub struct Operation {
    /// AWS's name; for the OpenAI and Anthropic shapes the name of the API.
    pub name: &'static str,
    /// Another name that rules may use, for several operations at once.
    pub group: Option<&'static str>,
    method: &'static str,
    /// `{}` stands for one segment.
    path: &'static [&'static str],
    /// Which host serves it.
    pub plane: Plane,
    /// Where a request names its model.
    pub model: ModelPlace,
    /// What a request's tokens are estimated by.
    pub tokens: TokenEstimate,
    /// The answer is always a stream. OpenAI and Anthropic answers may be: their content type says so.
    pub streaming: bool,
    /// The request is a stream, too, which lasts as long as the answer.
    pub bidirectional: bool,
    /// Whether Bedrock keeps the answer.
    pub stores: Stores,
}

impl Operation {
    /// Whose error messages its clients read.
    pub fn api(&self) -> Api {
        match self.path {
            ["openai" | "v1", ..] => Api::OpenAi,
            ["anthropic", ..] => Api::Anthropic,
            _ => Api::Aws,
        }
    }
}

impl Operation {
    /// Whether it is about a response that is kept at the upstream that made it.
    pub(crate) fn is_of_kept(&self) -> bool {
        matches!(self.path, [.., "responses", "{}"] | [.., "responses", "{}", _])
    }

    /// What reads the kept responses that a request of this operation may build on.
    pub(crate) fn read_by(&self) -> Option<&'static Operation> {
        let builds_on = matches!(self.path, [.., "responses"] | [.., "responses", "input_tokens" | "compact"]);
        builds_on.then_some(if self.plane == Mantle { &MANTLE_GET_RESPONSE } else { &OPENAI_GET_RESPONSE })
    }

    /// Whether the mantle host may serve it in the place of bedrock-runtime.
    pub(crate) fn is_of_both(&self) -> bool {
        [&MESSAGES, &MESSAGES_COUNT_TOKENS, &COUNT_TOKENS].contains(&self)
    }

    /// Whether a model runs, so that what is throttled is that model.
    pub(crate) fn runs_model(&self) -> bool {
        self.tokens != NoTokens || self.plane == AgentRuntime
    }
}

const fn row(
    name: &'static str,
    method: &'static str,
    path: &'static [&'static str],
    plane: Plane,
    model: ModelPlace,
    tokens: TokenEstimate,
) -> Operation {
    let (streaming, bidirectional) = (false, false);
    Operation { name, group: None, method, path, plane, model, tokens, streaming, bidirectional, stores: Never }
}

/// Beside the main operation of an API: no model runs.
const fn beside(
    group: &'static str,
    name: &'static str,
    method: &'static str,
    path: &'static [&'static str],
) -> Operation {
    of_group(group, row(name, method, path, Runtime, NoModel, NoTokens))
}

const fn of_group(group: &'static str, operation: Operation) -> Operation {
    Operation { group: Some(group), ..operation }
}

/// Every name that a rule on operations can fit: those of the operations and of their groups, and of the questions that
/// the daemon answers itself.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    let relayed = OPERATIONS.iter().flat_map(|operation| [Some(operation.name), operation.group]);
    relayed.flatten().chain([DASHBOARD.name, SERVER_TOOLS])
}

/// What rules call all operations of the mantle host by.
pub(crate) const MANTLE_GROUP: &str = "Mantle";

/// The name by which rules permit what Bedrock calls by itself during a request: connectors and MCP servers.
pub(crate) const SERVER_TOOLS: &str = "MantleServerTools";

/// An operation of the mantle host. Rules may name them all by their group.
const fn mantle(
    name: &'static str,
    method: &'static str,
    path: &'static [&'static str],
    model: ModelPlace,
    tokens: TokenEstimate,
) -> Operation {
    of_group(MANTLE_GROUP, row(name, method, path, Mantle, model, tokens))
}

const fn storing(stores: Stores, operation: Operation) -> Operation {
    Operation { stores, ..operation }
}

const fn streaming(operation: Operation) -> Operation {
    Operation { streaming: true, ..operation }
}

const fn bidirectional(operation: Operation) -> Operation {
    Operation { streaming: true, bidirectional: true, ..operation }
}

use ModelPlace::{Body, CopyFrom, Described, None as NoModel, Path, Unseen, Within};
use Plane::{AgentRuntime, Control, Mantle, Runtime};
use Stores::{IfAsked, Never, UnlessToldNot};
use TokenEstimate::{FromBody, NoTokens, Unbounded};

/// What the legacy REST API invokes, which has no Bedrock path.
pub(crate) static INVOKE_MODEL: Operation =
    row("InvokeModel", "POST", &["model", "{}", "invoke"], Runtime, Path, FromBody);

/// Here a model goes by its own name, also one that is invoked through a profile.
pub(crate) static COUNT_TOKENS: Operation =
    row("CountTokens", "POST", &["model", "{}", "count-tokens"], Runtime, Path, NoTokens);

/// What the legacy REST API's list of models is permitted as.
pub(crate) static LIST_FOUNDATION_MODELS: Operation =
    row("ListFoundationModels", "GET", &["foundation-models"], Control, NoModel, NoTokens);

/// What it lists is looked through, like the list of models.
pub(crate) static LIST_INFERENCE_PROFILES: Operation =
    row("ListInferenceProfiles", "GET", &["inference-profiles"], Control, NoModel, NoTokens);

/// Here a GovCloud profile is translated, as where it is invoked.
pub(crate) static GET_INFERENCE_PROFILE: Operation =
    row("GetInferenceProfile", "GET", &["inference-profiles", "{}"], Control, Described, NoTokens);

/// What the daemon does itself where a model has no profile that may be used.
pub(crate) static CREATE_INFERENCE_PROFILE: Operation =
    row("CreateInferenceProfile", "POST", &["inference-profiles"], Control, CopyFrom, NoTokens);

/// Here a model goes by its ARN, and runs without a profile.
pub(crate) static RERANK: Operation = row(
    "Rerank",
    "POST",
    &["rerank"],
    AgentRuntime,
    Within(&["rerankingConfiguration", "bedrockRerankingConfiguration", "modelConfiguration", "modelArn"]),
    NoTokens,
);

/// What it lists is looked through, like the list of models.
pub(crate) static MANTLE_LIST_MODELS: Operation =
    mantle("MantleListModels", "GET", &["v1", "models"], NoModel, NoTokens);

/// Who may not read a response may not build on it either.
pub(crate) static MANTLE_GET_RESPONSE: Operation =
    mantle("MantleGetResponse", "GET", &["v1", "responses", "{}"], NoModel, NoTokens);

/// The same at bedrock-runtime.
pub(crate) static OPENAI_GET_RESPONSE: Operation =
    beside("OpenAI", "OpenAIGetResponse", "GET", &["openai", "v1", "responses", "{}"]);

/// What bedrock-runtime lists for OpenAI's clients.
pub(crate) static OPENAI_LIST_MODELS: Operation =
    beside("OpenAI", "OpenAIListModels", "GET", &["openai", "v1", "models"]);

/// The same for Anthropic's.
pub(crate) static ANTHROPIC_LIST_MODELS: Operation =
    beside("Anthropic", "AnthropicListModels", "GET", &["anthropic", "v1", "models"]);

/// Anthropic's path, which both hosts serve.
pub(crate) static MESSAGES_COUNT_TOKENS: Operation = row(
    "MessagesCountTokens",
    "POST",
    &["anthropic", "v1", "messages", "count_tokens"],
    Runtime,
    Body("model"),
    NoTokens,
);

/// The same for a message.
pub(crate) static MESSAGES: Operation =
    row("Messages", "POST", &["anthropic", "v1", "messages"], Runtime, Body("model"), FromBody);

/// The legacy REST API's questions about records, which no upstream answers.
pub(crate) static DASHBOARD: Operation =
    row(crate::record::Record::DASHBOARD, "GET", &["v1", "dashboard", "requests"], Control, NoModel, NoTokens);

/// Everything that is relayed, after the service models of bedrock-runtime, bedrock and bedrock-agent-runtime (botocore), and
/// what OpenAI's and Anthropic's clients call.
pub(crate) static OPERATIONS: [&Operation; 49] = [
    &INVOKE_MODEL,
    &streaming(row(
        "InvokeModelWithResponseStream",
        "POST",
        &["model", "{}", "invoke-with-response-stream"],
        Runtime,
        Path,
        FromBody,
    )),
    &row("Converse", "POST", &["model", "{}", "converse"], Runtime, Path, FromBody),
    &streaming(row("ConverseStream", "POST", &["model", "{}", "converse-stream"], Runtime, Path, FromBody)),
    &COUNT_TOKENS,
    &bidirectional(row(
        "InvokeModelWithBidirectionalStream",
        "POST",
        &["model", "{}", "invoke-with-bidirectional-stream"],
        Runtime,
        Path,
        Unbounded,
    )),
    &row("ApplyGuardrail", "POST", &["guardrail", "{}", "version", "{}", "apply"], Runtime, NoModel, NoTokens),
    &row("InvokeGuardrailChecks", "POST", &["guardrail-checks", "invoke"], Runtime, NoModel, NoTokens),
    &row("StartAsyncInvoke", "POST", &["async-invoke"], Runtime, Body("modelId"), FromBody),
    &row("ListAsyncInvokes", "GET", &["async-invoke"], Runtime, NoModel, NoTokens),
    &row("GetAsyncInvoke", "GET", &["async-invoke", "{}"], Runtime, NoModel, NoTokens),
    &storing(
        IfAsked,
        row("ChatCompletions", "POST", &["openai", "v1", "chat", "completions"], Runtime, Body("model"), FromBody),
    ),
    &storing(UnlessToldNot, row("Responses", "POST", &["openai", "v1", "responses"], Runtime, Body("model"), FromBody)),
    // What OpenAI's clients call beside these; bedrock-runtime has neither files (they are on S3) nor fine-tuning.
    &of_group(
        "OpenAI",
        row(
            "OpenAICountInputTokens",
            "POST",
            &["openai", "v1", "responses", "input_tokens"],
            Runtime,
            Body("model"),
            NoTokens,
        ),
    ),
    &of_group(
        "OpenAI",
        row(
            "OpenAICompactResponse",
            "POST",
            &["openai", "v1", "responses", "compact"],
            Runtime,
            Body("model"),
            FromBody,
        ),
    ),
    &OPENAI_GET_RESPONSE,
    &beside("OpenAI", "OpenAIDeleteResponse", "DELETE", &["openai", "v1", "responses", "{}"]),
    &beside("OpenAI", "OpenAICancelResponse", "POST", &["openai", "v1", "responses", "{}", "cancel"]),
    &beside("OpenAI", "OpenAIListInputItems", "GET", &["openai", "v1", "responses", "{}", "input_items"]),
    &OPENAI_LIST_MODELS,
    &of_group("OpenAI", row("OpenAIGetModel", "GET", &["openai", "v1", "models", "{}"], Runtime, Described, NoTokens)),
    &of_group("OpenAI", row("OpenAICreateBatch", "POST", &["openai", "v1", "batches"], Runtime, Unseen, FromBody)),
    &beside("OpenAI", "OpenAIListBatches", "GET", &["openai", "v1", "batches"]),
    &beside("OpenAI", "OpenAIGetBatch", "GET", &["openai", "v1", "batches", "{}"]),
    &beside("OpenAI", "OpenAICancelBatch", "POST", &["openai", "v1", "batches", "{}", "cancel"]),
    &MESSAGES,
    &MESSAGES_COUNT_TOKENS,
    &ANTHROPIC_LIST_MODELS,
    &of_group(
        "Anthropic",
        row("AnthropicGetModel", "GET", &["anthropic", "v1", "models", "{}"], Runtime, Described, NoTokens),
    ),
    &RERANK,
    &storing(IfAsked, mantle("MantleChatCompletions", "POST", &["v1", "chat", "completions"], Body("model"), FromBody)),
    &storing(UnlessToldNot, mantle("MantleResponses", "POST", &["v1", "responses"], Body("model"), FromBody)),
    &mantle("MantleCountInputTokens", "POST", &["v1", "responses", "input_tokens"], Body("model"), NoTokens),
    &mantle("MantleCompactResponse", "POST", &["v1", "responses", "compact"], Body("model"), FromBody),
    &MANTLE_GET_RESPONSE,
    &mantle("MantleDeleteResponse", "DELETE", &["v1", "responses", "{}"], NoModel, NoTokens),
    &mantle("MantleCancelResponse", "POST", &["v1", "responses", "{}", "cancel"], NoModel, NoTokens),
    &mantle("MantleListInputItems", "GET", &["v1", "responses", "{}", "input_items"], NoModel, NoTokens),
    &MANTLE_LIST_MODELS,
    &mantle("MantleGetModel", "GET", &["v1", "models", "{}"], Described, NoTokens),
    &LIST_FOUNDATION_MODELS,
    &row("GetFoundationModel", "GET", &["foundation-models", "{}"], Control, Described, NoTokens),
    &row(
        "GetFoundationModelAvailability",
        "GET",
        &["foundation-model-availability", "{}"],
        Control,
        Described,
        NoTokens,
    ),
    &row("ListGuardrails", "GET", &["guardrails"], Control, NoModel, NoTokens),
    &row("ListPromptRouters", "GET", &["prompt-routers"], Control, NoModel, NoTokens),
    &LIST_INFERENCE_PROFILES,
    &GET_INFERENCE_PROFILE,
    &CREATE_INFERENCE_PROFILE,
    &row("DeleteInferenceProfile", "DELETE", &["inference-profiles", "{}"], Control, Described, NoTokens),
];
