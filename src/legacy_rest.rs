//! The legacy REST API: paths below `/v1/` that older clients use instead of Bedrock's own. A thin front before the same
//! request pipeline.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Response};
use hyper::body::Incoming;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::admin::dashboard;
use crate::error::{Refusal, RefusalKind};
use crate::exchange::whole::{NotWhole, Whole};
use crate::exchange::{Answered, Body, Exchange, REGION};
use crate::large;
use crate::listen::{Client, guard};
use crate::operation::{self, Operation, check_identifier};
use crate::partition::{Partition, Partitions};
use crate::policy::CLASSIFICATION_HEADER;
use crate::proxy::{self, Arrived, Asked};
use crate::record::Record;
use crate::request::{Received, RequestedModel};
use crate::road::Road;
use crate::routing::listing::listing;
use crate::upstream::sign::BodyHash;

const DESTINATION_PARTITION: HeaderName = HeaderName::from_static("x-destination-partition");

/// The longest answer of a model that is wrapped, in bytes: this API holds it in memory. Bedrock's own answers to InvokeModel
/// are of 25 MB at most.
const MAX_ANSWER: usize = 25 * 1024 * 1024;

/// Whether a path is for this API: below `/v1/`, apart from what `bedrock-mantle` serves there.
pub(crate) fn is_below(path: &str) -> bool {
    let is_of =
        |name: &str, rest: &str| rest.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    path.strip_prefix("/v1/").is_some_and(|rest| !["responses", "chat", "models"].iter().any(|name| is_of(name, rest)))
}

/// Serves a path below `/v1/`.
pub(crate) async fn serve(
    road: &Arc<Road>,
    client: &Client,
    mut exchange: Box<Exchange>,
    head: Parts,
    body: Incoming,
) -> Response<Body> {
    let request_id = exchange.record.request_id.clone();
    match answer(road, client, &mut exchange, head, body).await {
        Ok(Front::Own(value)) => {
            let body = Bytes::from(value.to_string());
            let mut response = json_response(body, &request_id);
            tell_destination(&exchange, response.headers_mut());
            exchange.mark_own(response.headers_mut());
            exchange.completed_here(response.body().length());
            response
        }
        Ok(Front::Invocation(answered)) => finish_invocation(exchange, *answered, &request_id).await,
        Err(refusal) => refused(exchange, &refusal, &request_id),
    }
}

/// Where the answer comes from.
enum Front {
    /// The daemon itself.
    Own(Value),
    /// A model.
    Invocation(Box<Answered>),
}

async fn answer(
    road: &Arc<Road>,
    client: &Client,
    exchange: &mut Exchange,
    head: Parts,
    body: Incoming,
) -> Result<Front, Refusal> {
    guard::check(client, &head)?;
    match (&head.method, head.uri.path()) {
        (&Method::POST, "/v1/bedrock/invoke-model") => {
            exchange.operation(&operation::INVOKE_MODEL, None);
            let asked = asked(&operation::INVOKE_MODEL);
            let Arrived { caller, body } = proxy::identified(road, client, exchange, &head, body, Some(&asked)).await?;
            let received = large::work(body.len(), || invocation(&body, &head.headers)).await?;
            proxy::process(road, exchange, &caller, &received).await.map(Box::new).map(Front::Invocation)
        }
        (&Method::GET, "/v1/bedrock/invoke-model") => {
            exchange.named("RoutingInformation");
            let Arrived { caller, .. } = proxy::identified(road, client, exchange, &head, body, None).await?;
            proxy::permit_caller(road, &caller)?;
            Ok(Front::Own(routing(road)))
        }
        (&Method::GET, "/v1/bedrock/models") => {
            exchange.named("ListFoundationModels");
            let asked = asked(&operation::LIST_FOUNDATION_MODELS);
            let Arrived { caller, .. } = proxy::identified(road, client, exchange, &head, body, Some(&asked)).await?;
            let listing = &operation::LIST_FOUNDATION_MODELS;
            let permit = proxy::permit(road, exchange, &caller, listing, None, &head.headers)?;
            models(road, permit.reach(), &exchange.record.request_id).map(Front::Own)
        }
        (&Method::GET, dashboard::PATH) => {
            exchange.named(Record::DASHBOARD);
            let asked = asked(&operation::DASHBOARD);
            let Arrived { caller, .. } = proxy::identified(road, client, exchange, &head, body, Some(&asked)).await?;
            // A signed request is not judged before its body.
            proxy::permit(road, exchange, &caller, &operation::DASHBOARD, None, &head.headers)?;
            let _admission = proxy::admit_question(road, exchange.user, &caller).await?;
            let query = head.uri.query().unwrap_or_default();
            dashboard::answer(road, &client.peer, Some(&caller), query).await.map(Front::Own)
        }
        (_, "/v1/bedrock/invoke-model" | "/v1/bedrock/models" | dashboard::PATH) => {
            Err(Refusal::new(RefusalKind::UnknownOperation, format!("{} is not served on this path.", head.method)))
        }
        _ => Err(Refusal::new(
            RefusalKind::UnknownOperation,
            "there is no such path under /v1/; OpenAI's API is served under /openai/v1 and Anthropic's under /anthropic/v1, so give a client of theirs that base URL; bedrock-mantle serves /v1/responses, /v1/chat/completions and /v1/models; the legacy API has /v1/bedrock/invoke-model, /v1/bedrock/models and /v1/dashboard/requests.",
        )),
    }
}

/// No path of this API names a model.
fn asked(operation: &'static Operation) -> Asked<'static> {
    let named_in = |_: &'static Operation, headers: &HeaderMap, body: &Bytes| {
        let model = invocation(body, headers).ok()?.model?;
        Some(model.name)
    };
    Asked { operation, model: None, named_in }
}

/// `{modelId, contentType?, accept?, body}`. serde refuses a key that stands twice, of which readers disagree about which
/// one counts. The body is not read here: an object reaches the model as the bytes that came.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Invocation<'a> {
    model_id: Option<Value>,
    content_type: Option<Value>,
    accept: Option<Value>,
    #[serde(borrow)]
    body: Option<&'a RawValue>,
}

/// Reads an [`Invocation`]. The client's own headers are for the policy; only the two of the model's request go upstream.
fn invocation(body: &Bytes, client: &HeaderMap) -> Result<Received, Refusal> {
    let invalid = |message: &'static str| Refusal::new(RefusalKind::Validation, message);
    let named = parse(body)?;
    let model = named.model_id.as_ref().and_then(Value::as_str);
    let model = model.ok_or_else(|| invalid("the request's body must hold modelId, a string."))?;
    check_identifier(model)?;
    let payload = match named.body.map(RawValue::get) {
        None => return Err(invalid("the request's body must hold body: the model's request.")),
        Some(text) if text.starts_with('"') => decode(&serde_json::from_str::<String>(text).map_err(|_| not_json())?)?,
        Some(json) => body.slice_ref(json.as_bytes()),
    };
    let mut headers = HeaderMap::new();
    for level in client.get_all(CLASSIFICATION_HEADER) {
        headers.append(CLASSIFICATION_HEADER, level.clone());
    }
    for (value, name) in [(&named.content_type, CONTENT_TYPE), (&named.accept, http::header::ACCEPT)] {
        let value = value.as_ref().and_then(Value::as_str).unwrap_or("application/json");
        let value = HeaderValue::from_str(value).map_err(|_| invalid("contentType or accept is not a media type."))?;
        headers.insert(name, value);
    }
    Ok(Received {
        operation: &operation::INVOKE_MODEL,
        method: Method::POST,
        headers,
        query: None,
        path: String::new(),
        body: payload,
        body_hash: BodyHash::default(),
        model: Some(RequestedModel { name: model.to_owned(), in_body: None }),
        events: None,
    })
}

fn parse(body: &[u8]) -> Result<Invocation<'_>, Refusal> {
    // serde would also read the values from an array, in their order.
    if body.trim_ascii_start().starts_with(b"[") {
        return Err(Refusal::new(RefusalKind::Validation, "the request's body is not a JSON object."));
    }
    serde_json::from_slice(body).map_err(|error| {
        // Every key takes any value, so that a fault of meaning is a key that came before.
        if error.is_data() {
            let twice = "modelId, contentType, accept or body stands twice in the request's body; send each once.";
            return Refusal::new(RefusalKind::Validation, twice);
        }
        not_json()
    })
}

fn not_json() -> Refusal {
    Refusal::new(RefusalKind::Validation, "the request's body is not valid JSON.")
}

/// A string body is the model's JSON itself, or base64 of it.
fn decode(text: &str) -> Result<Bytes, Refusal> {
    use base64::Engine;
    if serde_json::from_str::<serde::de::IgnoredAny>(text)
        .is_ok_and(|_| !text.trim_start().starts_with(|c: char| c.is_ascii_digit()))
    {
        return Ok(Bytes::copy_from_slice(text.as_bytes()));
    }
    base64::engine::general_purpose::STANDARD
        .decode(text.trim())
        .map(Bytes::from)
        .map_err(|_| Refusal::new(RefusalKind::Validation, "body is a string that is neither JSON nor base64."))
}

fn routing(road: &Road) -> Value {
    let region = road.first_region();
    json!({
        "service": "bedrock-sidecar",
        "method": "POST",
        "path": "/v1/bedrock/invoke-model",
        "routing": {
            "sourcePartition": "govcloud",
            "destinationPartition": Partition::of_region(region).in_records(),
            "destinationRegion": region,
        },
        "request": {
            "modelId": "required: a model, inference profile or ARN",
            "contentType": "optional: application/json",
            "accept": "optional: application/json",
            "body": "required: the model's request as an object, a JSON string or base64",
        },
    })
}

fn models(road: &Road, reach: Partitions, request_id: &str) -> Result<Value, Refusal> {
    let mut listing = listing(road, reach)?;
    listing["timestamp"] = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string().into();
    listing["source"] =
        json!({ "partition": "govcloud", "region": road.settings.audit.region, "requestId": request_id });
    Ok(listing)
}

/// Wraps the model's answer: its JSON as a string, its content type beside it.
async fn finish_invocation(exchange: Box<Exchange>, answered: Answered, request_id: &str) -> Response<Body> {
    let whole = match exchange.read_whole(answered, MAX_ANSWER).await {
        Ok(whole) => whole,
        Err(not_whole) => return not_given(*not_whole, request_id),
    };
    let mut response = if whole.status.is_success() {
        match wrapped(&whole).await {
            Ok(body) => json_response(body, request_id),
            Err(refusal) => return not_given(*whole.not_given(refusal), request_id),
        }
    } else {
        let error = crate::upstream::answer::AwsError::new(&whole.headers, &whole.body);
        let mut response = json_response(error_body(&error.error_type, &error.message, request_id), request_id);
        *response.status_mut() = whole.status;
        response
    };
    tell_partition(&whole.headers, response.headers_mut());
    hand_on(&whole.headers, response.headers_mut(), |name| {
        name.starts_with("x-bedrock-sidecar-")
            || name.starts_with("x-amzn-")
            || name == http::header::RETRY_AFTER.as_str()
    });
    whole.given_as(response.body().length());
    response
}

fn not_given(not_whole: NotWhole, request_id: &str) -> Response<Body> {
    let NotWhole { exchange, headers, refusal } = not_whole;
    let mut response = refused(exchange, &refusal, request_id);
    tell_partition(&headers, response.headers_mut());
    hand_on(&headers, response.headers_mut(), |name| name.starts_with("x-bedrock-sidecar-"));
    response
}

/// `{"body":…,"contentType":…}`. It is written beside the model's answer and not by way of a tree of values, which would
/// hold a long answer several times. Its length is counted first, so that its memory is charged, and kept until it is
/// written.
async fn wrapped(whole: &Whole) -> Result<Bytes, Refusal> {
    let content_type = whole.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let shape = Wrapped { body: Text(&whole.body), content_type: content_type.unwrap_or("application/json") };
    let mut length = Length(0);
    // Strings can be written as JSON, and neither a number nor a vector refuses bytes.
    large::work(whole.body.len(), || {
        let _ = serde_json::to_writer(&mut length, &shape);
    })
    .await;
    let (mut held, budget) = whole.hold();
    held.grow_to(length.0, budget).await?;
    let mut written = Vec::with_capacity(length.0);
    large::work(length.0, || {
        let _ = serde_json::to_writer(&mut written, &shape);
    })
    .await;
    Ok(held.keep(written))
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Wrapped<'a> {
    body: Text<'a>,
    content_type: &'a str,
}

/// Bytes as a string: base64 of what is not UTF-8.
#[derive(Debug)]
struct Text<'a>(&'a [u8]);

impl Serialize for Text<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use base64::display::Base64Display;
        use base64::engine::general_purpose::STANDARD;
        match std::str::from_utf8(self.0) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => serializer.collect_str(&Base64Display::new(self.0, &STANDARD)),
        }
    }
}

/// Counts what is written.
struct Length(usize);

impl std::io::Write for Length {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// By the record.
fn tell_destination(exchange: &Exchange, to: &mut HeaderMap) {
    if let Some(partition) = exchange.record.destination_partition() {
        to.insert(DESTINATION_PARTITION, HeaderValue::from_static(partition));
    }
}

/// By the region that has answered.
fn tell_partition(from: &HeaderMap, to: &mut HeaderMap) {
    let Some(region) = from.get(REGION).and_then(|region| region.to_str().ok()) else { return };
    let partition = Partition::of_region(region).in_records();
    to.insert(DESTINATION_PARTITION, HeaderValue::from_static(partition));
}

fn hand_on(from: &HeaderMap, to: &mut HeaderMap, wanted: impl Fn(&str) -> bool) {
    for (name, value) in from.iter().filter(|(name, _)| wanted(name.as_str())) {
        to.insert(name.clone(), value.clone());
    }
}

fn refused(mut exchange: Box<Exchange>, refusal: &Refusal, request_id: &str) -> Response<Body> {
    let mut response = error_response(refusal, request_id);
    tell_destination(&exchange, response.headers_mut());
    exchange.mark_own(response.headers_mut());
    exchange.note_refusal(refusal, response.body().length());
    response
}

fn error_response(refusal: &Refusal, request_id: &str) -> Response<Body> {
    let body = error_body(refusal.kind.error_type(), &refusal.text(), request_id);
    let mut response = json_response(body, request_id);
    *response.status_mut() = refusal.kind.status();
    refusal.headers(response.headers_mut());
    response
}

fn error_body(code: &str, message: &str, request_id: &str) -> Bytes {
    Bytes::from(json!({ "error": { "code": code, "message": message, "requestId": request_id } }).to_string())
}

fn json_response(body: Bytes, request_id: &str) -> Response<Body> {
    let mut response = Response::new(Body::whole(body));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(HeaderName::from_static("x-source-partition"), HeaderValue::from_static("govcloud"));
    headers.insert(DESTINATION_PARTITION, HeaderValue::from_static(Partition::Commercial.in_records()));
    if let Ok(id) = HeaderValue::from_str(request_id) {
        headers.insert(HeaderName::from_static("x-request-id"), id);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_paths_of_bedrock_mantle_are_not_this_api_s() {
        for path in ["/v1/bedrock/models", "/v1/dashboard/requests", "/v1/", "/v1/chats", "/v1/modelsx", "/v1/messages"]
        {
            assert!(is_below(path), "{path}");
        }
        for path in
            ["/v1/chat/completions", "/v1/responses", "/v1/responses/x", "/v1/models", "/v1", "/openai/v1/models"]
        {
            assert!(!is_below(path), "{path}");
        }
    }

    #[test]
    fn a_body_is_an_object_a_json_string_or_base64() {
        let none = HeaderMap::new();
        let read = |text: &str| invocation(&Bytes::copy_from_slice(text.as_bytes()), &none);
        let body = |value: &str| read(&format!(r#"{{"modelId":"a.b","body":{value}}}"#)).map(|r| r.body);
        assert_eq!(body(r#"{"a":1}"#).unwrap(), r#"{"a":1}"#);
        assert_eq!(body(r#""{\"a\": 1}""#).unwrap(), r#"{"a": 1}"#);
        assert_eq!(body(r#""eyJhIjogMX0=""#).unwrap(), r#"{"a": 1}"#);
        assert_eq!(body(r#""{broken""#).unwrap_err().kind, RefusalKind::Validation);
        for broken in [
            "{}",
            "x",
            r#"{"modelId":"a.b"}"#,
            r#"{"modelId":"a.b","body":null}"#,
            r#"{"modelId":"a/../b","body":{}}"#,
            r#"{"modelId":["a.b"],"body":{}}"#,
            r#"["a.b",null,null,{}]"#,
        ] {
            assert_eq!(read(broken).unwrap_err().kind, RefusalKind::Validation, "{broken}");
        }
    }

    #[test]
    fn an_object_keeps_its_bytes() {
        let none = HeaderMap::new();
        for object in [
            r#"{"z":1,"a":2}"#,
            r#"{ "n" : 12345678901234567890123 , "m":1.50,"k":1E400 }"#,
            "{\n\t\"text\": \"caf\\u00e9 é\" }",
            r#"{"a":1,"a":2}"#,
            "[1.0, 2e0]",
        ] {
            let text = format!("{{\"body\": {object} ,\"modelId\":\"a.b\"}}\n");
            let received = invocation(&Bytes::from(text), &none).unwrap();
            assert_eq!(received.body, object.as_bytes(), "{object}");
        }
    }

    #[test]
    fn a_key_that_stands_twice_is_refused() {
        for text in [
            r#"{"modelId":"a.b","modelId":"c.d","body":{}}"#,
            r#"{"modelId":"a.b","body":{},"body":{"x":1}}"#,
            r#"{"modelId":"a.b","b\u006fdy":{},"body":{"x":1}}"#,
            r#"{"modelId":"a.b","accept":"a/b","accept":"a/c","body":{}}"#,
        ] {
            let refusal = invocation(&Bytes::from(text), &HeaderMap::new()).unwrap_err();
            assert!(refusal.text().contains("twice"), "{text}: {}", refusal.text());
        }
    }
}
