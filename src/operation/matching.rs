//! Finds the operation of a request by its method and its raw path, and the identifier that the path carries.
//!
//! A path is never decoded before it is matched: `..%2F..` decoded and then signed would be a signed traversal.

use std::borrow::Cow;

use http::Method;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::{ModelPlace, OPERATIONS, Operation};
use crate::ascii::{self, Alphabet};
use crate::error::{Refusal, RefusalKind};

/// RFC 3986 unreserved characters stand as they are, everything else is percent-encoded: what SigV4 and SDKs agree on.
pub(crate) const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

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
/// 400 for a path that no SDK sends, 404 for one that is no operation.
pub fn find(method: &Method, path: &str) -> Result<Matched, Refusal> {
    let mut segments = segments(path)?;
    for operation in OPERATIONS {
        if operation.method == method.as_str()
            && let Some(found) = matches(operation.path, segments.iter().map(|segment| segment.raw))
        {
            let found = found.map(|at| segments.swap_remove(at).decoded);
            let identifier = match operation.model {
                ModelPlace::Path | ModelPlace::Described => Some(identifier(found.unwrap_or_default())?),
                _ => {
                    let id = found.map(identifier).transpose()?;
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
    if is_misspelt(method, &segments) {
        return Err(Refusal::new(
            RefusalKind::Validation,
            "the path spells an operation with percent-encoding or empty segments; send it as SDKs do.",
        ));
    }
    if let Some(what) = of_agents(&segments) {
        return Err(Refusal::new(
            RefusalKind::UnknownOperation,
            format!(
                "of bedrock-agent-runtime only Rerank is relayed: {what} are resources of one account, and GovCloud's do not exist in the commercial one; call GovCloud's own endpoint for them, with a client that has no other endpoint."
            ),
        ));
    }
    Err(Refusal::new(
        RefusalKind::UnknownOperation,
        format!(
            "{method} on this path is no operation of bedrock-runtime, nor Rerank, nor a read of Bedrock's models and inference profiles; check the endpoint that the SDK's client was given. OpenAI's API is served under /openai/v1 and Anthropic's under /anthropic/v1; under /v1 bedrock-mantle serves responses, chat/completions and models."
        ),
    ))
}

/// What the other operations of bedrock-agent-runtime work on, by how their paths begin; none for a path that is none of
/// theirs.
fn of_agents(segments: &[Segment<'_>]) -> Option<&'static str> {
    match segments.first()?.raw {
        "knowledgebases" | "retrieveAndGenerate" | "retrieveAndGenerateStream" | "generateQuery" => {
            Some("knowledge bases")
        }
        "agents" | "sessions" => Some("agents and their sessions"),
        "flows" => Some("flows"),
        "prompts" | "optimize-prompt" => Some("prompts"),
        _ => None,
    }
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

/// One segment of a path.
struct Segment<'a> {
    /// As it came.
    raw: &'a str,
    decoded: Cow<'a, str>,
}

/// What nothing can be wrong with in a segment, unless it is one or two dots.
const PLAIN: Alphabet = Alphabet::letters_digits_and(b"-_:.");

/// The segments, after the checks that hold for every path.
fn segments(path: &str) -> Result<Vec<Segment<'_>>, Refusal> {
    let invalid = |why: &'static str| Refusal::new(RefusalKind::Validation, why);
    let Some(rest) = path.strip_prefix('/') else {
        return Err(invalid("the request's target must be a path that starts with a slash."));
    };
    let mut segments = Vec::with_capacity(LONGEST);
    for raw in ascii::split(rest, b'/') {
        let decoded = decode(raw)?;
        if !PLAIN.makes(decoded.as_bytes()) || matches!(&*decoded, "." | "..") {
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
        segments.push(Segment { raw, decoded });
    }
    Ok(segments)
}

/// How many segments most paths have at most.
const LONGEST: usize = 5;

/// Matches a row; returns which segment is the first `{}`.
fn matches<'a>(pattern: &[&str], segments: impl ExactSizeIterator<Item = &'a str>) -> Option<Option<usize>> {
    if segments.len() != pattern.len() {
        return None;
    }
    let mut found = None;
    for (at, (expected, segment)) in pattern.iter().zip(segments).enumerate() {
        match *expected {
            "{}" if segment.is_empty() => return None,
            "{}" => found = found.or(Some(at)),
            literal if literal == segment => {}
            _ => return None,
        }
    }
    Some(found)
}

/// Whether an upstream that decodes or tidies paths would take this for an operation, which it is not.
fn is_misspelt(method: &Method, segments: &[Segment<'_>]) -> bool {
    // A slash at the end is no misspelling: it is another path.
    let is_kept = |(at, segment): &(usize, &Segment<'_>)| !segment.raw.is_empty() || at + 1 == segments.len();
    let kept = segments.iter().enumerate().filter(is_kept);
    let tidy: Vec<&str> = kept.flat_map(|(_, segment)| segment.decoded.split('/')).collect();
    let is_it = |operation: &&Operation| {
        operation.method == method.as_str() && matches(operation.path, tidy.iter().copied()).is_some()
    };
    OPERATIONS.iter().any(is_it)
}

fn decode(segment: &str) -> Result<Cow<'_, str>, Refusal> {
    let mut rest = segment.as_bytes();
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
    if rest.len() == segment.len() {
        return Ok(Cow::Borrowed(segment));
    }
    percent_decode_str(segment)
        .decode_utf8()
        .map_err(|_| Refusal::new(RefusalKind::Validation, "the path is not UTF-8 after percent-decoding."))
}

/// Demands of a decoded identifier the alphabet of model IDs, profile IDs and ARNs.
fn identifier(decoded: Cow<'_, str>) -> Result<String, Refusal> {
    check_identifier(&decoded)?;
    Ok(decoded.into_owned())
}

const IN_IDENTIFIERS: Alphabet = Alphabet::letters_digits_and(b".:/-_");

/// Refuses an identifier that no model, profile, guardrail or ARN can have, so that nothing is smuggled into a path.
///
/// # Errors
/// 400, with what is wrong with it; the identifier is not quoted.
pub fn check_identifier(identifier: &str) -> Result<(), Refusal> {
    // 2048 is the longest modelId of the service model.
    if identifier.is_empty() || identifier.len() > 2048 || !IN_IDENTIFIERS.makes(identifier.as_bytes()) {
        return Err(Refusal::new(
            RefusalKind::Validation,
            "the identifier in the request is not one of a model, an inference profile or an ARN.",
        ));
    }
    if ascii::split(identifier, b'/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(Refusal::new(
            RefusalKind::Validation,
            "the identifier in the request holds an empty or a dot segment.",
        ));
    }
    Ok(())
}
