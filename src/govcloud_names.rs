//! What of a request names something of the GovCloud account, apart from its model: guardrails, keys, projects. A guardrail
//! is replaced by the one that `[guardrails]` gives for it; everything else of the kind is refused, because it would tell
//! the commercial side of GovCloud and could not be found there.
//!
//! Only places that name resources are looked at. A prompt may hold any ARN.

mod members;

use std::sync::LazyLock;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_ENCODING, HeaderName, HeaderValue};
use memchr::memmem::Finder;
use percent_encoding::{percent_decode_str, utf8_percent_encode};
use serde_json::Value;
use serde_json::value::RawValue;

use self::members::{Fault, Members};
use crate::error::{Refusal, RefusalKind};
use crate::operation::{Api, ModelPlace, SEGMENT, check_identifier};
use crate::request::Received;
use crate::settings::Settings;
use crate::settings::guardrails::Guardrails;
use crate::upstream::strip;

/// The mark of a GovCloud ARN. None of its characters is one that JSON has to escape.
const GOVCLOUD: &str = "aws-us-gov";

const GUARDRAIL: HeaderName = HeaderName::from_static("x-amzn-bedrock-guardrailidentifier");

/// Longest value of a header that goes upstream, in bytes: Bedrock's request metadata is the longest that it defines.
const MAX_HEADER: usize = 16 * 1024;

/// The request with the commercial names in the place of GovCloud's; none when there is nothing to replace.
///
/// # Errors
/// Something of a GovCloud account is named that nothing stands for on the commercial side.
pub(crate) fn replaced(received: &Received, settings: &Settings) -> Result<Option<Received>, Refusal> {
    let guardrails = &settings.guardrails;
    let path = path(received, guardrails)?;
    if received.query.as_deref().is_some_and(|query| percent_decode_str(query).decode_utf8_lossy().contains(GOVCLOUD)) {
        return Err(refusal(
            "the request's query names something of a GovCloud account, which commercial Bedrock does not have.",
        ));
    }
    let guardrail = headers(received, settings)?;
    let body = body(received, guardrails)?;
    if path.is_none() && guardrail.is_none() && body.is_none() {
        return Ok(None);
    }
    let mut received = received.clone();
    if let Some(path) = path {
        received.path = path;
    }
    if let Some(guardrail) = guardrail {
        received.headers.insert(GUARDRAIL, guardrail);
    }
    Ok(Some(match body {
        Some(body) => received.with_body(body)?,
        None => received,
    }))
}

/// The path of ApplyGuardrail names a guardrail. Paths that name a model are made anew from the model.
fn path(received: &Received, guardrails: &Guardrails) -> Result<Option<String>, Refusal> {
    if received.model.as_ref().is_some_and(|model| model.in_body.is_none()) {
        return Ok(None);
    }
    if let Some((raw, rest)) = received.path.strip_prefix("/guardrail/").and_then(|rest| rest.split_once('/')) {
        let asked = percent_decode_str(raw).decode_utf8_lossy();
        let sent = commercial_guardrail(&asked, guardrails)?;
        return Ok(sent.map(|sent| format!("/guardrail/{}/{rest}", utf8_percent_encode(sent, SEGMENT))));
    }
    if percent_decode_str(&received.path).decode_utf8_lossy().contains(GOVCLOUD) {
        return Err(refusal(
            "the request's path names something of a GovCloud account, which commercial Bedrock does not have.",
        ));
    }
    Ok(None)
}

/// The value that takes the place of the guardrail's header.
fn headers(received: &Received, settings: &Settings) -> Result<Option<HeaderValue>, Refusal> {
    let mut sent = None;
    for (name, value) in &received.headers {
        if !strip::travels(name.as_str(), &settings.headers.forward) {
            continue;
        }
        if value.len() > MAX_HEADER {
            return Err(refusal(format!("the header {name} is longer than {MAX_HEADER} bytes.")));
        }
        if *name == GUARDRAIL {
            if received.headers.get_all(name).iter().nth(1).is_some() {
                return Err(refusal(format!("the header {name} stands twice; send it once.")));
            }
            let asked = String::from_utf8_lossy(value.as_bytes());
            let commercial = commercial_guardrail(asked.trim(), &settings.guardrails)?;
            sent = commercial.and_then(|commercial| HeaderValue::from_str(commercial).ok());
        } else if memchr::memmem::find(value.as_bytes(), GOVCLOUD.as_bytes()).is_some() {
            return Err(refusal(format!(
                "the header {name} names something of a GovCloud account, which commercial Bedrock does not have."
            )));
        }
    }
    Ok(sent)
}

/// The places in a body that name resources: of Converse, InvokeModel, StartAsyncInvoke and the OpenAI shape.
const PLACES: [&str; 6] = [
    "guardrailConfig",
    "amazon-bedrock-guardrailConfig",
    "guardrailIdentifier",
    "projectIdentifier",
    "outputDataConfig",
    "requestMetadata",
];

/// What StartAsyncInvoke and CreateInferenceProfile give to what they make. Other bodies may use the same keys for prompts.
const LABELS: [&str; 2] = ["tags", "description"];

/// What OpenAI's and Anthropic's APIs keep beside a prompt, or call.
const BESIDE_PROMPTS: [&str; 2] = ["metadata", "mcp_servers"];

/// In these, each tool may name what Bedrock is to call.
const TOOLS: [&str; 1] = ["tools"];
const CALLED: [&str; 4] = ["connector_id", "server_url", "headers", "authorization"];

/// The body with other guardrails; only their strings change.
fn body(received: &Received, guardrails: &Guardrails) -> Result<Option<Bytes>, Refusal> {
    let body = &received.body;
    let is_encoded = |value: &HeaderValue| !value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"identity");
    if !body.is_empty() && received.headers.get_all(CONTENT_ENCODING).iter().any(is_encoded) {
        return Err(refusal(
            "the request's body has a Content-Encoding, so what it names cannot be checked; send it as plain JSON.",
        ));
    }
    if received.operation.model == ModelPlace::CopyFrom
        && received.model.as_ref().is_some_and(|model| model.name.contains(GOVCLOUD))
    {
        return Err(refusal(
            "\"copyFrom\" names a model or profile of GovCloud, of which commercial Bedrock makes no profile; name one of the commercial partition.",
        ));
    }
    if !may_name_something(body) {
        return Ok(None);
    }
    // Whether it is JSON is for Bedrock to say, in its own words.
    let Some(places) = read(body, &PLACES)? else { return Ok(None) };
    let labels = match received.operation.name {
        "StartAsyncInvoke" | "CreateInferenceProfile" => read(body, &LABELS)?.unwrap_or_default(),
        _ if received.operation.api() != Api::Aws => {
            check_tools(body)?;
            read(body, &BESIDE_PROMPTS)?.unwrap_or_default()
        }
        _ => Members::default(),
    };
    let of_guardrails = |name: &str| name == members::GUARDRAIL || members::CONFIGS.contains(&name);
    for (key, value) in places.iter().chain(labels.iter()).filter(|(key, _)| !of_guardrails(key)) {
        if names_govcloud(value) {
            return Err(refusal(format!(
                "\"{key}\" in the request's body names something of a GovCloud account, which commercial Bedrock does not have."
            )));
        }
    }
    let mut edits = Vec::new();
    let mut named = vec![places.get(members::GUARDRAIL)];
    for config in members::CONFIGS.into_iter().filter_map(|name| places.get(name)) {
        let config = read(config.get().as_bytes(), &[members::GUARDRAIL])?;
        named.push(config.and_then(|config| config.get(members::GUARDRAIL)));
    }
    for value in named.into_iter().flatten() {
        let Ok(asked) = serde_json::from_str::<String>(value.get()) else {
            if names_govcloud(value) {
                return Err(unreadable());
            }
            continue;
        };
        if let Some(sent) = commercial_guardrail(&asked, guardrails)? {
            // The value is a part of the body, so that its place is the distance of their addresses.
            let start = value.get().as_ptr().addr() - body.as_ptr().addr();
            edits.push((start..start + value.get().len(), Value::from(sent).to_string()));
        }
    }
    if edits.is_empty() {
        return Ok(None);
    }
    edits.sort_by_key(|(place, _)| place.start);
    let mut edited = BytesMut::with_capacity(body.len() + 256);
    let mut done = 0;
    for (place, text) in edits {
        edited.extend_from_slice(&body[done..place.start]);
        edited.extend_from_slice(text.as_bytes());
        done = place.end;
    }
    edited.extend_from_slice(&body[done..]);
    Ok(Some(edited.freeze()))
}

/// What a tool is called by must not be of GovCloud. What it is for is a prompt.
fn check_tools(body: &Bytes) -> Result<(), Refusal> {
    let tools = read(body, &TOOLS)?.and_then(|members| members.get("tools"));
    let tools = tools.and_then(|tools| serde_json::from_str::<Vec<&RawValue>>(tools.get()).ok()).unwrap_or_default();
    for tool in tools {
        let called = read(tool.get().as_bytes(), &CALLED)?.unwrap_or_default();
        if let Some((key, _)) = called.iter().find(|(_, value)| names_govcloud(value)) {
            return Err(refusal(format!(
                "\"{key}\" of a tool names something of a GovCloud account, which commercial Bedrock does not have."
            )));
        }
    }
    Ok(())
}

/// A quick look that most bodies end with. `\u00` may write any letter of a name,
/// and UTF-16 has a zero in each of them.
fn may_name_something(body: &[u8]) -> bool {
    static NAMES: LazyLock<[Finder<'static>; 2]> = LazyLock::new(|| [Finder::new(GOVCLOUD), Finder::new("\\u00")]);
    NAMES.iter().any(|name| name.find(body).is_some())
        || memchr::memchr(0, body).is_some()
        || holds_in_any_case(body, b"guardrail")
}

/// `word` is in lower case.
fn holds_in_any_case(text: &[u8], word: &[u8]) -> bool {
    let starts_at = |at: usize| text.get(at..at + word.len()).is_some_and(|found| found.eq_ignore_ascii_case(word));
    memchr::memchr2_iter(word[0], word[0].to_ascii_uppercase(), text).any(starts_at)
}

/// None where it is not JSON, or no object, and nothing of it looks as if it named something of GovCloud: whoever reads it
/// upstream may be less strict.
fn read<'a>(json: &'a [u8], names: &'static [&'static str]) -> Result<Option<Members<'a>>, Refusal> {
    let Ok(members) = Members::read(json, names) else { return unread(json) };
    match members.fault {
        None => Ok(Some(members)),
        Some(Fault::Twice(key)) => Err(refusal(format!("\"{key}\" stands twice in the request's body; send it once."))),
        Some(Fault::OtherCase(key)) => Err(refusal(format!(
            "a key in the request's body differs from \"{key}\" in case alone; write it as Bedrock does."
        ))),
    }
}

fn unread<T>(json: &[u8]) -> Result<Option<T>, Refusal> {
    let text = unescaped(json);
    let is_named = |name: &str| holds_in_any_case(&text, name.to_ascii_lowercase().as_bytes());
    if memchr::memmem::find(&text, GOVCLOUD.as_bytes()).is_some() && PLACES.into_iter().any(is_named) {
        return Err(unreadable());
    }
    Ok(None)
}

fn unreadable() -> Refusal {
    refusal("the request's body is not valid JSON and seems to name something of a GovCloud account; send valid JSON.")
}

/// Looks at the text and not at a tree of values, in which a key that stands twice has one value.
fn names_govcloud(value: &RawValue) -> bool {
    memchr::memmem::find(&unescaped(value.get().as_bytes()), GOVCLOUD.as_bytes()).is_some()
}

/// The text with the ASCII letters that `\u` writes, whether or not it is JSON. Zeros are left out: UTF-16 reads as ASCII.
fn unescaped(json: &[u8]) -> Vec<u8> {
    let json: Vec<u8> = json.iter().copied().filter(|byte| *byte != 0).collect();
    let mut text = Vec::with_capacity(json.len());
    let mut at = 0;
    while let Some(byte) = json.get(at) {
        let code = json.get(at + 2..at + 6).and_then(|hex| std::str::from_utf8(hex).ok());
        let code = code.and_then(|hex| u32::from_str_radix(hex, 16).ok()).and_then(|code| u8::try_from(code).ok());
        match (byte, json.get(at + 1), code) {
            (b'\\', Some(b'u'), Some(code)) => {
                text.push(code);
                at += 6;
            }
            (b'\\', Some(next), _) => {
                text.extend([b'\\', *next]);
                at += 2;
            }
            _ => {
                text.push(*byte);
                at += 1;
            }
        }
    }
    text
}

/// What is sent in the place of a guardrail; none where it stays.
fn commercial_guardrail<'a>(asked: &str, guardrails: &'a Guardrails) -> Result<Option<&'a str>, Refusal> {
    if let Some(sent) = guardrails.get(asked) {
        return Ok(Some(sent));
    }
    if !asked.contains(GOVCLOUD) {
        return Ok(None);
    }
    // Quoted only if it looks like one: the text comes from anybody.
    let quoted =
        if check_identifier(asked).is_ok() { format!("the guardrail \"{asked}\"") } else { "the guardrail".into() };
    Err(refusal(format!(
        "{quoted} belongs to a GovCloud account and does not exist on the commercial side; name one of the commercial account, or let [guardrails] in the configuration say which one takes its place."
    )))
}

fn refusal(sentence: impl Into<std::borrow::Cow<'static, str>>) -> Refusal {
    Refusal::new(RefusalKind::Validation, sentence)
}

#[cfg(test)]
mod tests;
