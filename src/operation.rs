//! Which operation a request is: one table of what Bedrock serves on the paths that SDKs send, matched on the raw path.
//!
//! A path is never decoded before it is matched: `..%2F..` decoded and then signed would be a signed traversal.

use std::borrow::Cow;

use http::Method;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::error::{Refusal, RefusalKind};

/// RFC 3986 unreserved characters stand as they are, everything else is percent-encoded: what SigV4 and SDKs agree on.
pub(crate) const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Which of Bedrock's hosts serves an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plane {
    /// `bedrock-runtime`: inference.
    Runtime,
    /// `bedrock`: models and inference profiles.
    Control,
}

impl Plane {
    /// Both.
    pub const ALL: [Plane; 2] = [Plane::Runtime, Plane::Control];

    /// As metrics and `/status` name it.
    pub fn name(self) -> &'static str {
        match self {
            Plane::Runtime => "runtime",
            Plane::Control => "control",
        }
    }
}

/// Where a request names its model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelPlace {
    /// It names none.
    None,
    /// The path segment after `/model/`.
    Path,
    /// The string under this key of the JSON body; the request is refused without it.
    Body(&'static str),
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
    /// The operation runs no model: a request costs no tokens, whatever its body says.
    NoTokens,
    /// A model reads the body and may answer: input by the body's size, output by `max_tokens` or its kin in the body.
    FromBody,
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
    /// False for what Bedrock has and the daemon does not relay.
    pub relayed: bool,
}

const fn row(
    name: &'static str,
    method: &'static str,
    path: &'static [&'static str],
    plane: Plane,
    model: ModelPlace,
    tokens: TokenEstimate,
) -> Operation {
    Operation { name, group: None, method, path, plane, model, tokens, streaming: false, relayed: true }
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
    relayed.flatten().chain([DASHBOARD.name])
}

const fn streaming(operation: Operation) -> Operation {
    Operation { streaming: true, ..operation }
}

const fn not_yet(operation: Operation) -> Operation {
    Operation { relayed: false, ..operation }
}

use ModelPlace::{Body, CopyFrom, Described, None as NoModel, Path, Unseen};
use Plane::{Control, Runtime};
use TokenEstimate::{FromBody, NoTokens};

/// What the legacy REST API invokes, which has no Bedrock path.
pub(crate) static INVOKE_MODEL: Operation =
    row("InvokeModel", "POST", &["model", "{}", "invoke"], Runtime, Path, FromBody);

/// What the legacy REST API's list of models is permitted as.
pub(crate) static LIST_FOUNDATION_MODELS: Operation =
    row("ListFoundationModels", "GET", &["foundation-models"], Control, NoModel, NoTokens);

/// Here a GovCloud profile is translated, as where it is invoked.
pub(crate) static GET_INFERENCE_PROFILE: Operation =
    row("GetInferenceProfile", "GET", &["inference-profiles", "{}"], Control, Described, NoTokens);

/// What the daemon does itself where a model has no profile that may be used.
pub(crate) static CREATE_INFERENCE_PROFILE: Operation =
    row("CreateInferenceProfile", "POST", &["inference-profiles"], Control, CopyFrom, NoTokens);

/// The legacy REST API's questions about records, which no upstream answers.
pub(crate) static DASHBOARD: Operation =
    row(crate::record::Record::DASHBOARD, "GET", &["v1", "dashboard", "requests"], Control, NoModel, NoTokens);

/// Everything that is relayed, after the service models of bedrock-runtime and bedrock (botocore).
pub(crate) static OPERATIONS: [&Operation; 35] = [
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
    &row("CountTokens", "POST", &["model", "{}", "count-tokens"], Runtime, Path, NoTokens),
    &not_yet(streaming(row(
        "InvokeModelWithBidirectionalStream",
        "POST",
        &["model", "{}", "invoke-with-bidirectional-stream"],
        Runtime,
        Path,
        FromBody,
    ))),
    &row("ApplyGuardrail", "POST", &["guardrail", "{}", "version", "{}", "apply"], Runtime, NoModel, NoTokens),
    &row("InvokeGuardrailChecks", "POST", &["guardrail-checks", "invoke"], Runtime, NoModel, NoTokens),
    &row("StartAsyncInvoke", "POST", &["async-invoke"], Runtime, Body("modelId"), FromBody),
    &row("ListAsyncInvokes", "GET", &["async-invoke"], Runtime, NoModel, NoTokens),
    &row("GetAsyncInvoke", "GET", &["async-invoke", "{}"], Runtime, NoModel, NoTokens),
    &row("ChatCompletions", "POST", &["openai", "v1", "chat", "completions"], Runtime, Body("model"), FromBody),
    &row("Responses", "POST", &["openai", "v1", "responses"], Runtime, Body("model"), FromBody),
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
    &beside("OpenAI", "OpenAIGetResponse", "GET", &["openai", "v1", "responses", "{}"]),
    &beside("OpenAI", "OpenAIDeleteResponse", "DELETE", &["openai", "v1", "responses", "{}"]),
    &beside("OpenAI", "OpenAICancelResponse", "POST", &["openai", "v1", "responses", "{}", "cancel"]),
    &beside("OpenAI", "OpenAIListInputItems", "GET", &["openai", "v1", "responses", "{}", "input_items"]),
    &beside("OpenAI", "OpenAIListModels", "GET", &["openai", "v1", "models"]),
    &beside("OpenAI", "OpenAIGetModel", "GET", &["openai", "v1", "models", "{}"]),
    &of_group("OpenAI", row("OpenAICreateBatch", "POST", &["openai", "v1", "batches"], Runtime, Unseen, FromBody)),
    &beside("OpenAI", "OpenAIListBatches", "GET", &["openai", "v1", "batches"]),
    &beside("OpenAI", "OpenAIGetBatch", "GET", &["openai", "v1", "batches", "{}"]),
    &beside("OpenAI", "OpenAICancelBatch", "POST", &["openai", "v1", "batches", "{}", "cancel"]),
    &row("Messages", "POST", &["anthropic", "v1", "messages"], Runtime, Body("model"), FromBody),
    &row(
        "MessagesCountTokens",
        "POST",
        &["anthropic", "v1", "messages", "count_tokens"],
        Runtime,
        Body("model"),
        NoTokens,
    ),
    &beside("Anthropic", "AnthropicListModels", "GET", &["anthropic", "v1", "models"]),
    &beside("Anthropic", "AnthropicGetModel", "GET", &["anthropic", "v1", "models", "{}"]),
    &LIST_FOUNDATION_MODELS,
    &row("GetFoundationModel", "GET", &["foundation-models", "{}"], Control, Described, NoTokens),
    &row("ListInferenceProfiles", "GET", &["inference-profiles"], Control, NoModel, NoTokens),
    &GET_INFERENCE_PROFILE,
    &CREATE_INFERENCE_PROFILE,
    &row("DeleteInferenceProfile", "DELETE", &["inference-profiles", "{}"], Control, Described, NoTokens),
];

/// A request's operation and the identifier that its path carries.
#[derive(Debug, PartialEq, Eq)]
pub struct Matched {
    /// The row of the table.
    pub operation: &'static Operation,
    /// The decoded identifier of the path, for `Path` and `Described`.
    pub identifier: Option<String>,
}

/// Finds the operation of a method and a raw path (without its query).
///
/// # Errors
/// 400 for a path that no SDK sends, 404 for one that is no operation, 501 for an operation that is not relayed.
pub fn find(method: &Method, path: &str) -> Result<Matched, Refusal> {
    let segments = segments(path)?;
    for operation in OPERATIONS {
        if operation.method == method.as_str()
            && let Some(raw) = matches(operation.path, &segments)
        {
            if !operation.relayed {
                return Err(Refusal::new(
                    RefusalKind::NotImplemented,
                    format!(
                        "{} is not relayed yet; use ConverseStream or InvokeModelWithResponseStream.",
                        operation.name
                    ),
                ));
            }
            let identifier = match operation.model {
                Path | Described => Some(identifier(raw.unwrap_or_default())?),
                _ => {
                    let id = raw.map(identifier).transpose()?;
                    // The path is sent as it came, and these identifiers are no ARNs.
                    if operation.group.is_some() && id.is_some_and(|id| id.contains('/')) {
                        return Err(Refusal::new(
                            RefusalKind::Validation,
                            "the identifier in the path holds a slash; send it as it was given.",
                        ));
                    }
                    None
                }
            };
            return Ok(Matched { operation, identifier });
        }
    }
    if is_misspelt(method, &segments)? {
        return Err(Refusal::new(
            RefusalKind::Validation,
            "the path spells an operation with percent-encoding or empty segments; send it as SDKs do.",
        ));
    }
    Err(Refusal::new(
        RefusalKind::UnknownOperation,
        format!(
            "{method} on this path is no operation of bedrock-runtime, nor a read of Bedrock's models and inference profiles; check the endpoint that the SDK's client was given. OpenAI's API is served under /openai/v1 and Anthropic's under /anthropic/v1."
        ),
    ))
}

/// The path of an operation with another identifier, encoded once.
pub(crate) fn path_with(operation: &Operation, identifier: &str) -> String {
    let mut path = String::with_capacity(identifier.len() + 48);
    for segment in operation.path {
        path.push('/');
        match *segment {
            "{}" => path.extend(utf8_percent_encode(identifier, SEGMENT)),
            literal => path.push_str(literal),
        }
    }
    path
}

/// The raw segments, after the checks that hold for every path.
fn segments(path: &str) -> Result<Vec<&str>, Refusal> {
    let invalid = |why: &'static str| Refusal::new(RefusalKind::Validation, why);
    let Some(rest) = path.strip_prefix('/') else {
        return Err(invalid("the request's target must be a path that starts with a slash."));
    };
    let segments: Vec<&str> = rest.split('/').collect();
    for segment in &segments {
        let decoded = decode(segment)?;
        if decoded.split('/').any(|part| part == "." || part == "..") {
            return Err(invalid("the path holds a dot segment; send the path of one operation."));
        }
        if decoded.contains(|c: char| c.is_control()) {
            return Err(invalid("the path holds a control character."));
        }
        // What one server takes for a separator, an escape or a parameter, and another for a letter.
        if decoded.contains(['\\', ';', '%']) {
            return Err(invalid(
                "the path holds a backslash, a semicolon or an encoded %; send the path of one operation.",
            ));
        }
    }
    Ok(segments)
}

/// Matches a row; the first `{}` segment is returned raw.
fn matches<'a>(pattern: &[&str], segments: &[&'a str]) -> Option<Option<&'a str>> {
    if segments.len() != pattern.len() {
        return None;
    }
    let mut found = None;
    for (expected, segment) in pattern.iter().zip(segments) {
        match *expected {
            "{}" if segment.is_empty() => return None,
            "{}" => found = found.or(Some(*segment)),
            literal if literal == *segment => {}
            _ => return None,
        }
    }
    Some(found)
}

/// Whether an upstream that decodes or tidies paths would take this for an operation, which it is not.
fn is_misspelt(method: &Method, segments: &[&str]) -> Result<bool, Refusal> {
    let mut tidy = Vec::with_capacity(segments.len());
    for (at, segment) in segments.iter().enumerate() {
        // A slash at the end is no misspelling: it is another path.
        if !segment.is_empty() || at + 1 == segments.len() {
            tidy.push(decode(segment)?);
        }
    }
    let tidy: Vec<&str> = tidy.iter().flat_map(|segment| segment.split('/')).collect();
    Ok(OPERATIONS
        .iter()
        .any(|operation| operation.method == method.as_str() && matches(operation.path, &tidy).is_some()))
}

fn decode(segment: &str) -> Result<Cow<'_, str>, Refusal> {
    let bytes = segment.as_bytes();
    let mut rest = bytes;
    while let Some(at) = memchr::memchr(b'%', rest) {
        let hex = rest.get(at + 1..at + 3).is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit));
        if !hex {
            return Err(Refusal::new(
                RefusalKind::Validation,
                "the path holds a % that is not followed by two hex digits.",
            ));
        }
        rest = &rest[at + 3..];
    }
    percent_decode_str(segment)
        .decode_utf8()
        .map_err(|_| Refusal::new(RefusalKind::Validation, "the path is not UTF-8 after percent-decoding."))
}

/// Decodes an identifier and demands the alphabet of model IDs, profile IDs and ARNs.
fn identifier(raw: &str) -> Result<String, Refusal> {
    let decoded = decode(raw)?;
    check_identifier(&decoded)?;
    Ok(decoded.into_owned())
}

/// Refuses an identifier that no model, profile, guardrail or ARN can have, so that nothing is smuggled into a path.
///
/// # Errors
/// 400, with what is wrong with it; the identifier is not quoted.
pub fn check_identifier(identifier: &str) -> Result<(), Refusal> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b':' | b'/' | b'-' | b'_');
    // 2048 is the longest modelId of the service model.
    if identifier.is_empty() || identifier.len() > 2048 || !identifier.bytes().all(plain) {
        return Err(Refusal::new(
            RefusalKind::Validation,
            "the identifier in the request is not one of a model, an inference profile or an ARN.",
        ));
    }
    if identifier.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
        return Err(Refusal::new(
            RefusalKind::Validation,
            "the identifier in the request holds an empty or a dot segment.",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(method: Method, path: &str) -> Result<(&'static str, Option<String>), u16> {
        find(&method, path).map(|m| (m.operation.name, m.identifier)).map_err(|refusal| refusal.kind.status().as_u16())
    }

    #[test]
    fn both_spellings_of_a_model_are_one_segment() {
        let expected = Ok(("InvokeModel", Some("anthropic.claude-3-haiku-20240307-v1:0".to_owned())));
        assert_eq!(name(Method::POST, "/model/anthropic.claude-3-haiku-20240307-v1:0/invoke"), expected);
        assert_eq!(name(Method::POST, "/model/anthropic.claude-3-haiku-20240307-v1%3A0/invoke"), expected);
        assert_eq!(
            name(Method::POST, "/model/arn%3Aaws%3Abedrock%3Aus-east-1%3A%3Afoundation-model%2Fa.b-v1%3A0/converse"),
            Ok(("Converse", Some("arn:aws:bedrock:us-east-1::foundation-model/a.b-v1:0".to_owned())))
        );
    }

    #[test]
    fn every_row_matches_a_path_made_from_it() {
        for operation in OPERATIONS {
            let path: String = operation.path.iter().map(|s| format!("/{}", s.replace("{}", "x.y"))).collect();
            let method: Method = operation.method.parse().unwrap();
            match find(&method, &path) {
                Ok(found) => assert_eq!(found.operation, operation, "{path}"),
                Err(refusal) => assert!(!operation.relayed && refusal.kind == RefusalKind::NotImplemented, "{path}"),
            }
        }
    }

    #[test]
    fn traversal_and_smuggling_are_refused() {
        for path in [
            "/model/../invoke",
            "/model/a%2F..%2Fb/invoke",
            "/model/%2e%2e/invoke",
            "/model/a%3Fb/invoke",
            "/model/a%23b/invoke",
            "/model/a%00b/invoke",
            "/model/a%0Ab/invoke",
            "/model/a%2/invoke",
            "/model/a%zz/invoke",
            "/model/%ff/invoke",
            "/model/a b/invoke",
            "/model/a%2Fb%2F/invoke",
            "/openai/v1/../../x",
            "model/a/invoke",
        ] {
            assert_eq!(name(Method::POST, path), Err(400), "{path}");
        }
    }

    #[test]
    fn unknown_paths_are_unknown_operations() {
        for path in [
            "/",
            "/model",
            "/model//invoke",
            "/model/a/invokes",
            "/model/a/b/invoke",
            "/model/a/invoke/",
            "/openai/v1/",
            "/anthropic",
        ] {
            assert_eq!(name(Method::POST, path), Err(404), "{path}");
        }
        assert_eq!(name(Method::GET, "/model/a/invoke"), Err(404));
        assert_eq!(name(Method::POST, "/model/a/invoke-with-bidirectional-stream"), Err(501));
    }

    #[test]
    fn named_rows_are_in_the_table() {
        for named in [&INVOKE_MODEL, &LIST_FOUNDATION_MODELS, &CREATE_INFERENCE_PROFILE] {
            assert!(OPERATIONS.iter().any(|row| std::ptr::eq(*row, named)), "{}", named.name);
        }
        assert_eq!((INVOKE_MODEL.name, LIST_FOUNDATION_MODELS.name), ("InvokeModel", "ListFoundationModels"));
    }

    #[test]
    fn what_runs_no_model_costs_no_tokens() {
        let free: Vec<_> = OPERATIONS.iter().filter(|row| row.tokens == NoTokens).map(|row| row.name).collect();
        assert_eq!(
            free,
            [
                "CountTokens",
                "ApplyGuardrail",
                "InvokeGuardrailChecks",
                "ListAsyncInvokes",
                "GetAsyncInvoke",
                "OpenAICountInputTokens",
                "OpenAIGetResponse",
                "OpenAIDeleteResponse",
                "OpenAICancelResponse",
                "OpenAIListInputItems",
                "OpenAIListModels",
                "OpenAIGetModel",
                "OpenAIListBatches",
                "OpenAIGetBatch",
                "OpenAICancelBatch",
                "MessagesCountTokens",
                "AnthropicListModels",
                "AnthropicGetModel",
                "ListFoundationModels",
                "GetFoundationModel",
                "ListInferenceProfiles",
                "GetInferenceProfile",
                "CreateInferenceProfile",
                "DeleteInferenceProfile",
            ]
        );
    }

    #[test]
    fn counting_has_rows_of_its_own() {
        for path in ["/anthropic/v1/messages/count_tokens", "/openai/v1/responses/input_tokens"] {
            assert_eq!(find(&Method::POST, path).unwrap().operation.tokens, NoTokens, "{path}");
        }
        assert_eq!(name(Method::POST, "/anthropic/v1/messages/count_tokens"), Ok(("MessagesCountTokens", None)));
        assert_eq!(name(Method::POST, "/openai/v1/responses/x/cancel"), Ok(("OpenAICancelResponse", None)));
        for path in ["/openai/v1/responses/compact", "/openai/v1/batches"] {
            assert_eq!(find(&Method::POST, path).unwrap().operation.tokens, FromBody, "{path}");
        }
    }

    #[test]
    fn nothing_is_relayed_because_of_how_its_path_begins() {
        for (method, path) in [
            (Method::POST, "/anthropic/v1/messages/batches"),
            (Method::POST, "/anthropic/v1/complete"),
            (Method::POST, "/openai/v1/fine_tuning/jobs"),
            (Method::POST, "/openai/v1/files"),
            (Method::DELETE, "/openai/v1/files/file-1"),
            (Method::POST, "/openai/v1/completions"),
            (Method::POST, "/openai/v1/chat/completions/"),
            (Method::POST, "/openai/v1/Chat/Completions"),
            (Method::GET, "/openai/v1/models/x/y"),
            (Method::POST, "/anthropic/v1/messages/"),
        ] {
            assert_eq!(name(method, path), Err(404), "{path}");
        }
    }

    #[test]
    fn an_operation_that_is_spelled_otherwise_is_refused() {
        for path in [
            "/openai/v1/chat/completion%73",
            "/openai/v1/chat%2Fcompletions",
            "/openai//v1/chat/completions",
            "//openai/v1/chat/completions",
            "/openai/v1/chat/completions;x=1",
            "/openai/v1/x/%252e%252e/chat/completions",
            "/openai/v1/x/..%5cchat/completions",
            "/openai/v1/x\\..\\chat/completions",
            "/openai/v1/chat/./completions",
            "/openai/v1/responses/x%2Fcancel",
            "/anthropic/v1/message%73",
            "/%61sync-invoke",
            "/model/a.b%253A0/invoke",
            "/model/a.b;c/invoke",
        ] {
            assert_eq!(name(Method::POST, path), Err(400), "{path}");
        }
        assert_eq!(name(Method::GET, "/openai/v1/responses/a%2Finput_items"), Err(400));
    }

    #[test]
    fn a_path_is_encoded_once() {
        let converse = find(&Method::POST, "/model/a/converse").unwrap().operation;
        assert_eq!(path_with(converse, "us.a.b-v1:0"), "/model/us.a.b-v1%3A0/converse");
        assert_eq!(path_with(converse, "arn:aws:x/y"), "/model/arn%3Aaws%3Ax%2Fy/converse");
    }
}
