//! Finds the operation of a request by its method and its raw path, and the identifier that the path carries.
//!
//! A path is never decoded before it is matched: `..%2F..` decoded and then signed would be a signed traversal.

use std::borrow::Cow;

use http::Method;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::{ModelPlace, OPERATIONS, Operation};
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
    let segments = segments(path)?;
    for operation in OPERATIONS {
        if operation.method == method.as_str()
            && let Some(raw) = matches(operation.path, &segments)
        {
            let identifier = match operation.model {
                ModelPlace::Path | ModelPlace::Described => Some(identifier(raw.unwrap_or_default())?),
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
fn of_agents(segments: &[&str]) -> Option<&'static str> {
    match *segments.first()? {
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

/// The raw segments, after the checks that hold for every path.
fn segments(path: &str) -> Result<Vec<&str>, Refusal> {
    let invalid = |why: &'static str| Refusal::new(RefusalKind::Validation, why);
    let Some(rest) = path.strip_prefix('/') else {
        return Err(invalid("the request's target must be a path that starts with a slash."));
    };
    let segments: Vec<&str> = rest.split('/').collect();
    for segment in &segments {
        let decoded = decode(segment)?;
        // Nothing of what follows can be wrong with most segments.
        let is_plain = decoded.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b':' | b'.'));
        if is_plain && !matches!(&*decoded, "." | "..") {
            continue;
        }
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
    if !segment.as_bytes().contains(&b'%') {
        return Ok(Cow::Borrowed(segment));
    }
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
