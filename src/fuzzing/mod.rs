//! What must hold for every input that a stranger can send, or an admin can write: one function for each fuzz target.
//!
//! A function takes any bytes, calls what reads them in the daemon, and panics where a promise is broken. It returns true
//! if the input got past the front door, so that a run can tell whether it has tried more than refusals. `fuzz/` runs
//! these functions under libFuzzer; `tests` runs them on the seeds and on mutations of them.

#![expect(clippy::expect_used, clippy::panic, reason = "a fuzz target speaks by panicking")]

mod answer;
mod client_event;
mod head;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use percent_encoding::{percent_decode_str, utf8_percent_encode};
use serde_json::Value;

use crate::caller::authorization::{Authorization, Claim, claim, parse, parse_presigned};
use crate::caller::signing_key::SigningKeys;
use crate::caller::sigv4::{self, Payload, Request};
use crate::config::{Config, Source};
use crate::credentials::secret::{self, CredentialKind};
use crate::limits::estimate as estimate_of;
use crate::meter::Meter;
use crate::model::body::{find, replace};
use crate::model::catalogue::{Catalogue, FoundationModel, Profile, ProfileModel};
use crate::model::resolve::{Known, Resolution, check, resolve};
use crate::operation::{SEGMENT, TokenEstimate, check_identifier, find as find_operation, path_with};
use crate::settings::callers::Secret;
use crate::settings::{Models, Settings};
use crate::sigv4::ALGORITHM;

pub use answer::answer;
pub use client_event::client_event;
pub use head::head;

/// 2026-11-22, the day of the seeds, in seconds since 1970.
const NOW: u64 = 1_795_375_674;

/// The reader of signatures, header form and presigned form, reads back what it has read, and nothing made up verifies.
/// The input's lines: Authorization, query, path, x-amz-date, body. True if a signature was read.
pub fn authorization(data: &[u8]) -> bool {
    let mut lines = data.splitn(5, |byte| *byte == b'\n');
    let mut line = || lines.next().unwrap_or_default();
    let (authorization, query, path, date, body) = (line(), line(), line(), line(), line());
    let mut headers = HeaderMap::new();
    for (name, value) in [("authorization", authorization), ("x-amz-date", date)] {
        if !value.is_empty()
            && let Ok(value) = HeaderValue::from_bytes(value)
        {
            headers.insert(name, value);
        }
    }
    let query = String::from_utf8_lossy(query);
    let query = (!query.is_empty()).then_some(query.as_ref());
    let Ok(Claim::Signature(read)) = claim(&headers, query) else { return false };
    read_back(&read);
    let path = String::from_utf8_lossy(path);
    let request = Request {
        method: "POST",
        path: &path,
        query,
        authority: "localhost",
        headers: &headers,
        payload: Payload::Whole(body),
    };
    let keys = SigningKeys::new(Secret::new("a secret that the fuzzer cannot know"));
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(NOW);
    assert!(sigv4::verify(&read, &request, &keys, &[], now).is_err());
    true
}

fn read_back(read: &Authorization<'_>) {
    let credential = format!("{}/{}", read.access_key_id, read.scope);
    let Some(presigned) = &read.presigned else {
        let text =
            format!("Credential={credential}, SignedHeaders={}, Signature={}", read.signed_headers, read.signature);
        assert_eq!(parse(&text).as_ref(), Ok(read));
        return;
    };
    let encoded = |text| utf8_percent_encode(text, SEGMENT);
    let query = format!(
        "X-Amz-Algorithm={ALGORITHM}&X-Amz-Credential={}&X-Amz-Date={}&X-Amz-Expires={}&X-Amz-SignedHeaders={}&X-Amz-Signature={}",
        encoded(&credential),
        encoded(&presigned.date),
        presigned.expires,
        encoded(&read.signed_headers),
        encoded(&read.signature),
    );
    assert_eq!(parse_presigned(&query).as_ref(), Ok(&Some(read.clone())));
}

/// A request's method and path, with a space between them. What is found has no dot segments however often it is decoded,
/// and is found again under the path that is made from it. True if an operation was found.
pub fn operation(data: &[u8]) -> bool {
    let Some((method, path)) = std::str::from_utf8(data).ok().and_then(|text| text.split_once(' ')) else {
        return false;
    };
    let Ok(method) = Method::from_bytes(method.as_bytes()) else { return false };
    let found = match find_operation(&method, path) {
        Ok(found) => found,
        Err(refusal) => {
            assert!(!refusal.message.contains(char::is_control), "{refusal:?}");
            return false;
        }
    };
    let decoded = percent_decode_str(path).decode_utf8_lossy();
    assert!(!decoded.split('/').any(|part| part == "." || part == ".."), "{decoded}");
    assert!(!decoded.contains(char::is_control), "{decoded}");
    if let Some(identifier) = &found.identifier {
        assert!(check_identifier(identifier).is_ok(), "{identifier}");
        let again = find_operation(&method, &path_with(found.operation, identifier));
        assert_eq!(again.as_ref().ok(), Some(&found));
    }
    true
}

/// A model's identifier, as a client names it. What is sent for it has passed the lists and the geographies, whatever it
/// was before. True if something is sent, or looked up first.
pub fn identifier(data: &[u8]) -> bool {
    static KNOWN: LazyLock<(Models, Catalogue)> = LazyLock::new(|| (models(), catalogue()));
    let Ok(asked) = std::str::from_utf8(data) else { return false };
    let (settings, catalogue) = &*KNOWN;
    let mut sends = false;
    for catalogue in [Some(catalogue), None] {
        let known = Known { settings, caller: None, catalogue, learned: None, looked_up: None };
        match resolve(asked, known) {
            Ok(Resolution::Send(target)) => {
                let sent = target.identifier.as_str();
                assert!(check(sent, known).is_ok(), "{asked} {sent}");
                assert!(!sent.contains("forbidden"), "{asked} {sent}");
                assert!(!leaves_the_us(sent), "{asked} {sent}");
                sends = true;
            }
            Ok(Resolution::Create { model, .. }) => assert!(!model.contains("forbidden"), "{asked} {model}"),
            Ok(Resolution::LookUp { arn }) => {
                assert!(arn.starts_with("arn:aws:bedrock:"), "{asked} {arn}");
                sends = true;
            }
            Err(_) => {}
        }
    }
    sends
}

/// By the form alone: `eu.provider.model`, or the ARN of such a profile.
fn leaves_the_us(identifier: &str) -> bool {
    const ELSEWHERE: [&str; 8] = ["eu", "apac", "jp", "au", "ca", "in", "sa", "global"];
    let arn: Vec<&str> = identifier.splitn(6, ':').collect();
    let profile = match arn[..] {
        ["arn", _, "bedrock", _, _, resource] => resource.strip_prefix("inference-profile/").unwrap_or_default(),
        _ => identifier,
    };
    let labels: Vec<&str> = profile.split('.').collect();
    labels.len() > 2 && ELSEWHERE.contains(&labels[0])
}

fn models() -> Models {
    let text = "[models]\ndeny = [\"*forbidden*\"]\ngeographies = [\"us\"]\n\
        [models.aliases]\nclaude = \"a.profile-only-v1:0\"\nevil = \"eu.a.profile-only-v1:0\"\n";
    settings_of(text).expect("these settings are good").models
}

fn catalogue() -> Catalogue {
    let model = |id: &str, types: &[&str]| FoundationModel {
        model_id: id.into(),
        model_arn: format!("arn:aws:bedrock:us-east-1::foundation-model/{id}"),
        inference_types_supported: types.iter().map(|kind| (*kind).to_owned()).collect(),
        ..FoundationModel::default()
    };
    let profile = |id: &str, kind: &str, resource: &str, of: &str| Profile {
        inference_profile_id: id.into(),
        inference_profile_arn: format!("arn:aws:bedrock:us-east-1:1:{resource}/{id}"),
        kind: kind.into(),
        status: "ACTIVE".into(),
        models: vec![ProfileModel { model_arn: format!("arn:aws:bedrock:us-east-1::foundation-model/{of}") }],
        ..Profile::default()
    };
    Catalogue::new(
        vec![
            model("a.on-demand-v1:0", &["ON_DEMAND"]),
            model("a.profile-only-v1:0", &["INFERENCE_PROFILE"]),
            model("a.forbidden-v1:0", &["INFERENCE_PROFILE"]),
            model("a.no-profile-v1:0", &["INFERENCE_PROFILE"]),
        ],
        vec![
            profile("us.a.profile-only-v1:0", "SYSTEM_DEFINED", "inference-profile", "a.profile-only-v1:0"),
            profile("eu.a.profile-only-v1:0", "SYSTEM_DEFINED", "inference-profile", "a.profile-only-v1:0"),
            profile("us.a.forbidden-v1:0", "SYSTEM_DEFINED", "inference-profile", "a.forbidden-v1:0"),
            profile("app1", "APPLICATION", "application-inference-profile", "a.profile-only-v1:0"),
            profile("app2", "APPLICATION", "application-inference-profile", "a.forbidden-v1:0"),
        ],
    )
}

/// Where Rerank names its model.
const RERANKED: [&str; 4] =
    ["rerankingConfiguration", "bedrockRerankingConfiguration", "modelConfiguration", "modelArn"];

/// A body in which the model stands under "model", or where Rerank has it. The model that is found is the one that
/// serde_json finds, and replacing it changes that one string. True if a model was found.
pub fn body_model(data: &[u8]) -> bool {
    const OTHER: &str = "us.other \"model\" \\ \u{1}\u{e9}";
    let found = find(data, &["model"]);
    if let Ok(Top(fields)) = serde_json::from_slice(data) {
        let models: Vec<&Value> = fields.iter().filter(|(key, _)| key == "model").map(|(_, value)| value).collect();
        let other_case = fields.iter().any(|(key, _)| key != "model" && key.eq_ignore_ascii_case("model"));
        match (models[..].as_ref(), &found) {
            (_, Err(_)) if other_case => {}
            ([], Ok(None)) | ([_, _, ..], Err(_)) => {}
            ([Value::String(model)], Ok(Some(named))) => assert_eq!(named.model, *model),
            ([other], Err(_)) if !other.is_string() => {}
            (models, found) => panic!("serde_json reads {models:?}, we read {found:?}"),
        }
    }
    let body = Bytes::copy_from_slice(data);
    let reranked = find(data, &RERANKED).ok().flatten();
    if let Some(named) = &reranked {
        let replaced = replace(&body, named, OTHER);
        if let Ok(whole) = serde_json::from_slice::<Value>(&replaced) {
            let pointer: String = RERANKED.iter().map(|key| format!("/{key}")).collect();
            assert_eq!(whole.pointer(&pointer), Some(&Value::from(OTHER)));
        }
    }
    let Ok(Some(named)) = found else { return reranked.is_some() };
    let replaced = replace(&body, &named, OTHER);
    let tail = data.len() - named.span.end;
    assert_eq!(replaced[..named.span.start], data[..named.span.start]);
    assert_eq!(replaced[replaced.len() - tail..], data[named.span.end..]);
    let again = find(&replaced, &["model"]).ok().flatten().expect("it is still there");
    assert_eq!((again.model.as_str(), again.span.start), (OTHER, named.span.start));
    true
}

/// The top level of a JSON object, keys that stand twice included.
struct Top(Vec<(String, Value)>);

impl<'de> serde::Deserialize<'de> for Top {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Top, D::Error> {
        struct Fields;
        impl<'de> serde::de::Visitor<'de> for Fields {
            type Value = Top;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Top, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Top(fields))
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

/// A request's body. Its estimate stays within bounds, and covers the `max_tokens` that serde_json finds at the top level.
/// True if there was one.
pub fn estimate(data: &[u8]) -> bool {
    let top = serde_json::from_slice::<Value>(data).ok();
    let asked = top.as_ref().and_then(|top| top.as_object()?.get("max_tokens")?.as_u64());
    let estimate = estimate_of(TokenEstimate::FromBody, data);
    assert!(estimate.output <= 1_000_000);
    assert!(estimate.input <= data.len() as u64 + 1);
    // Of duplicates serde_json keeps the last, we the largest.
    assert!(asked.is_none_or(|most| estimate.output >= most.min(1_000_000)));
    asked.is_some()
}

/// An Amazon event stream: as it is, and with the checksums mended, which no mutation would guess. True if it said something.
pub fn event_stream(data: &[u8]) -> bool {
    let mut mended = data.to_vec();
    let mut at = 0;
    while let Some([a, b, c, d, ..]) = mended.get(at..).filter(|rest| rest.len() >= 12) {
        let total = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        let crc = crc32fast::hash(&mended[at..at + 8]);
        mended[at + 8..at + 12].copy_from_slice(&crc.to_be_bytes());
        if total < 16 {
            break;
        }
        at = at.saturating_add(total);
    }
    let as_it_is = metered_as("application/vnd.amazon.eventstream", data);
    metered_as("application/vnd.amazon.eventstream", &mended) || as_it_is
}

/// Server-sent events. True if they said something.
pub fn server_sent_events(data: &[u8]) -> bool {
    metered_as("text/event-stream; charset=utf-8", data)
}

/// A JSON answer. True if it told its usage.
pub fn json_answer(data: &[u8]) -> bool {
    metered_as("application/json", data)
}

fn metered_as(content_type: &'static str, data: &[u8]) -> bool {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    metered(StatusCode::OK, &headers, data)
}

/// An answer is understood in the same way however it is cut. True if it said something.
fn metered(status: StatusCode, headers: &HeaderMap, data: &[u8]) -> bool {
    let read = |pieces: &[&[u8]]| {
        let mut meter = Meter::new(status, headers);
        pieces.iter().for_each(|piece| meter.feed(&Bytes::copy_from_slice(piece)));
        meter.finish()
    };
    let cuts = pieces(data);
    let whole = read(&cuts[0]);
    for cut in &cuts[1..] {
        assert_eq!(read(cut), whole, "another cut says something else");
    }
    // Both stand in the record, which has to fit in an item of the table.
    let names = [&whole.exception, &whole.service_tier].into_iter().flatten();
    names.for_each(|name| assert!(name.len() <= 128 && !name.contains(char::is_control), "{name:?}"));
    !whole.usage.is_empty() || whole.exception.is_some()
}

/// The text of a secret. Neither an error nor what is shown of a credential quotes it. True if it was one.
pub fn secret(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    let around = secret::parse(&format!("\n {text} \r\n"));
    let mut credential = match secret::parse(text) {
        Ok(credential) => credential,
        Err(sentence) => {
            assert_eq!(around.err(), Some(sentence.clone()), "space around a secret means nothing");
            is_one_of_few(sentence);
            return false;
        }
    };
    assert_eq!(around.map(|same| same.fingerprint).ok(), Some(credential.fingerprint));
    // A region may be shown, and a key may look like one.
    credential.region = None;
    let shown = format!("{credential:?} {:?} {}", credential.kind, credential.description());
    let (public, key) = match &credential.kind {
        CredentialKind::Bearer { authorization, .. } => {
            ("", authorization.to_str().unwrap_or_default().trim_start_matches("Bearer "))
        }
        CredentialKind::AwsKeys(held) => (held.keys().access_key_id(), held.keys().secret_access_key()),
    };
    // The identifier may be shown, and may hold what is also the key.
    let shown = shown.replace(&format!("{public:?}"), "");
    // A shorter one may be part of a word.
    assert!(key.len() < 24 || !shown.contains(key), "{shown}");
    true
}

/// An error that quotes its input is a new sentence for every input.
fn is_one_of_few(sentence: String) {
    static SENTENCES: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    assert!(!sentence.contains(char::is_control), "{sentence:?}");
    let mut sentences = SENTENCES.lock().unwrap_or_else(PoisonError::into_inner);
    sentences.insert(sentence);
    assert!(sentences.len() <= 24, "some of these quote the secret: {sentences:#?}");
}

/// The text of a configuration file. An error is one line that names a place in the file. True if it became settings.
pub fn configuration(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    let source = Source::new(Path::new("config.toml"), text.to_owned());
    // Settings open the files that the text names: none but these.
    let harmless = |path: &Path| path == Path::new("/dev/null") || path.starts_with("/nonexistent");
    if source.parse().is_ok_and(|config| !files(&config).iter().all(|path| harmless(path))) {
        return false;
    }
    let Err(error) = Settings::from_source(&source) else { return true };
    let lines: Vec<&str> = text.split('\n').collect();
    let shown = error.to_string();
    let line = lines.get(error.line.wrapping_sub(1));
    assert!(line.is_some_and(|line| (1..=line.chars().count() + 1).contains(&error.column)), "{shown}");
    assert_eq!(shown, format!("config.toml:{}:{}: {}", error.line, error.column, error.sentence));
    assert!(!error.sentence.trim().is_empty() && !shown.contains(char::is_control), "{shown:?}");
    false
}

/// The files that are read while a configuration becomes settings.
fn files(config: &Config) -> Vec<&Path> {
    let upstreams = config.upstreams.iter().flat_map(|list| list.get_ref()).map(|upstream| &upstream.get_ref().ca_file);
    let callers = config.callers.iter().map(|caller| caller.get_ref());
    let callers = callers.flat_map(|caller| [&caller.secret_access_key_file, &caller.bearer_token_file]);
    let optional = upstreams.chain(callers).chain([&config.limits.prices_file]).flatten();
    let tls = config.listen.tls.iter();
    let tls =
        tls.flat_map(|tls| [Some(&tls.certificate_file), Some(&tls.private_key_file), tls.client_ca_file.as_ref()]);
    optional.chain(tls.flatten()).map(|file| file.get_ref().0.as_path()).collect()
}

fn settings_of(text: &str) -> Option<Settings> {
    Settings::from_source(&Source::new(Path::new("config.toml"), text.to_owned())).ok()
}

/// The input in one piece, byte by byte, and in pieces of lengths that it chooses by its checksum.
fn pieces(data: &[u8]) -> [Vec<&[u8]>; 3] {
    let mut state = crc32fast::hash(data);
    let mut rest = data;
    let mut odd = Vec::new();
    while !rest.is_empty() {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let (piece, after) = rest.split_at(rest.len().min(1 + (state >> 26) as usize));
        odd.push(piece);
        rest = after;
    }
    [vec![data], data.chunks(1).collect(), odd]
}
