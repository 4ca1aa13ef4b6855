//! One request, in order: record, route, fault, leaks, credentials, operation, answer.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::{Request, Response, Version};
use serde_json::{Value, json};

use crate::auth::{Judge, Kind, Presented};
use crate::body::ReplyBody;
use crate::faults::{Effect, Target};
use crate::operations::{self, Input};
use crate::record::{Ended, Open, Received};
use crate::reply::{AwsError, Reply};
use crate::route::{Call, route};
use crate::state::State;
use crate::wire::Control;
use crate::{control, leaks};

/// The connection a request came by.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    pub(crate) tls: bool,
    pub(crate) number: u64,
    pub(crate) control: Arc<Control>,
}

/// AWS's limit of InvokeModel's body.
const BODY_LIMIT: usize = 25_000_000;

/// A request with its body read.
struct Arrived {
    method: String,
    path: String,
    query: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Bytes,
    body_length: usize,
}

pub(crate) async fn answer(
    state: Arc<State>,
    connection: Connection,
    request: Request<Incoming>,
) -> Response<ReplyBody> {
    let version = request.version();
    let Ok(arrived) = read(request).await else {
        // The client broke off while sending: there is nobody to answer, and nothing whole to record.
        return finish(&state, &connection, Reply::json(400, &json!({})), "", 0, None);
    };
    if arrived.path.starts_with("/_simulator/") {
        let reply = control::answer(&state, &arrived.method, &arrived.path, &arrived.body);
        return finish(&state, &connection, reply, "", 0, None);
    }

    let request_id = uuid::Uuid::new_v4().to_string();
    let routed = route(&arrived.method, &arrived.path);
    let model = routed.as_ref().ok().and_then(|call| named_model(call, &arrived.body));
    let record = state.record.open(received(&state, &connection, &arrived, version, &routed, &model, &request_id));
    let (skew, effect) = state.faults.take(&Target {
        operation: routed.as_ref().map_or("", |call| call.name()),
        model: model.as_deref().unwrap_or_default(),
        path: &arrived.path,
        region: &state.region,
    });
    if let Some(effect) = &effect {
        record.update(|received| received.fault = Some(effect.kind()));
        break_connection(&state, &connection, effect, &record).await;
    }

    let result = decide(&state, &arrived, &routed, model.as_deref(), skew, effect.as_ref(), &record);
    let mut reply = match result {
        Ok(reply) => reply,
        Err(error) => {
            record.update(|received| received.error_type = Some(error.kind.clone()));
            refusal(&error, routed.as_ref().is_ok_and(Call::foreign_errors), &request_id)
        }
    };
    if let Some(effect) = &effect {
        effect.edit(&mut reply);
        match effect {
            Effect::Garbage => connection.control.talk_garbage(),
            Effect::CloseAfter => connection.control.go_away(),
            _ => {}
        }
    }
    record.update(|received| {
        received.status = Some(reply.status);
        received.model_resolved = reply.model_resolved.clone();
    });
    let delay = reply.delay;
    if !delay.is_zero() {
        // A client that leaves during the wait drops this future, so that the record must be closed by a guard.
        let guard = LeaveGuard(Some(record.clone()));
        tokio::time::sleep(delay).await;
        guard.disarm();
    }
    finish(&state, &connection, reply, &request_id, skew, Some(record))
}

/// The decision proper. Leaks come before credentials: a leak must never hide behind a 403.
fn decide(
    state: &State,
    arrived: &Arrived,
    routed: &Result<Call, AwsError>,
    model: Option<&str>,
    skew: i64,
    effect: Option<&Effect>,
    record: &Open,
) -> Result<Reply, AwsError> {
    let own_ports: Vec<u16> = state.addresses.iter().map(|address| address.port()).collect();
    let leaks = leaks::find(&arrived.target, &arrived.headers, &arrived.body, &own_ports);
    if !leaks.is_empty() {
        let message = format!("simulator: leaked: {}", leaks.join("; "));
        record.update(|received| received.leaks = leaks);
        return Err(AwsError::validation(message));
    }
    if arrived.body_length > BODY_LIMIT {
        return Err(AwsError::new(413, "RequestEntityTooLargeException", "Request Entity Too Large"));
    }
    Judge { known: &state.known(), region: &state.region, now: now(skew) }.judge(&Presented {
        method: &arrived.method,
        raw_path: &arrived.path,
        raw_query: &arrived.query,
        headers: &arrived.headers,
        body: &arrived.body,
    })?;
    if let Some(error) = effect.and_then(Effect::error) {
        return Err(error);
    }
    let call = routed.as_ref().map_err(Clone::clone)?;
    operations::call(
        state,
        call,
        &Input { query: &arrived.query, headers: &arrived.headers, body: &arrived.body, model },
    )
}

/// Faults below HTTP, which never come to an answer.
async fn break_connection(state: &Arc<State>, connection: &Connection, effect: &Effect, record: &Open) {
    match effect {
        Effect::BreakBeforeHeaders { how } => connection.control.kill(*how),
        Effect::RefuseConnections { ms } => {
            state.refusing.send_replace(true);
            let (state, pause) = (Arc::clone(state), Duration::from_millis(*ms));
            tokio::spawn(async move {
                tokio::time::sleep(pause).await;
                state.refusing.send_replace(false);
            });
        }
        _ => return,
    }
    record.clone().close(Ended::Cut);
    std::future::pending::<()>().await;
}

async fn read(request: Request<Incoming>) -> Result<Arrived, hyper::Error> {
    let (parts, mut incoming) = request.into_parts();
    let mut headers: Vec<(String, String)> = parts
        .headers
        .iter()
        .map(|(name, value)| (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
        .collect();
    if let Some(authority) = parts.uri.authority() {
        // HTTP/2 sends `:authority` in place of Host; signatures cover it under the name `host`, JavaScript's under its own.
        if !parts.headers.contains_key("host") {
            headers.insert(0, ("host".to_owned(), authority.to_string()));
        }
        headers.insert(0, (":authority".to_owned(), authority.to_string()));
    }
    let mut body = BytesMut::new();
    let mut body_length = 0;
    while let Some(frame) = incoming.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        body_length += data.len();
        if body_length <= BODY_LIMIT {
            body.extend_from_slice(&data);
        }
    }
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str()).to_owned();
    Ok(Arrived {
        method: parts.method.as_str().to_owned(),
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        target,
        headers,
        body: body.freeze(),
        body_length,
    })
}

fn named_model(call: &Call, body: &[u8]) -> Option<String> {
    if let Some(model) = call.model() {
        return Some(model.to_owned());
    }
    let member = call.model_member()?;
    let value: Value = serde_json::from_slice(body).ok()?;
    value[member].as_str().map(str::to_owned)
}

fn received(
    state: &State,
    connection: &Connection,
    arrived: &Arrived,
    version: Version,
    routed: &Result<Call, AwsError>,
    model: &Option<String>,
    request_id: &str,
) -> Received {
    let authorization = crate::auth::header(&arrived.headers, "authorization").unwrap_or_default();
    let access_key_id =
        authorization.split_once("Credential=").and_then(|(_, rest)| rest.split('/').next()).map(str::to_owned);
    Received {
        number: 0,
        region: state.region.clone(),
        method: arrived.method.clone(),
        path: arrived.target.clone(),
        headers: arrived.headers.clone(),
        body: arrived.body.clone(),
        body_length: arrived.body_length,
        http_version: format!("{version:?}"),
        tls: connection.tls,
        connection: connection.number,
        operation: routed.as_ref().ok().map(|call| call.name().to_owned()),
        model: model.clone(),
        model_resolved: None,
        auth: Kind::of(&arrived.headers).name().to_owned(),
        access_key_id,
        leaks: Vec::new(),
        fault: None,
        status: None,
        error_type: None,
        request_id: request_id.to_owned(),
        bytes_sent: 0,
        ended: Ended::Open,
    }
}

/// OpenAI's and Anthropic's paths tell errors in those vendors' shapes, still with AWS's headers.
fn refusal(error: &AwsError, foreign: bool, request_id: &str) -> Reply {
    if !foreign || error.status == 403 {
        return error.reply();
    }
    let body = json!({
        "type": "error",
        "error": {"code": error.kind, "message": error.message, "param": null, "type": "invalid_request_error"},
        "request_id": request_id,
    });
    Reply::json(error.status, &body).header("x-amzn-ErrorType", &error.kind)
}

fn finish(
    state: &State,
    connection: &Connection,
    reply: Reply,
    request_id: &str,
    skew: i64,
    record: Option<Open>,
) -> Response<ReplyBody> {
    let body = ReplyBody::new(reply.steps, state.gate.clone(), Arc::clone(&connection.control), record);
    let mut response = Response::new(body);
    *response.status_mut() =
        hyper::StatusCode::from_u16(reply.status).unwrap_or(hyper::StatusCode::INTERNAL_SERVER_ERROR);
    let seconds = u64::try_from(now(skew)).unwrap_or_default();
    let date = httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
    let own = [("date".to_owned(), date), ("x-amzn-requestid".to_owned(), request_id.to_owned())];
    for (name, value) in own.into_iter().chain(reply.headers) {
        let name = hyper::header::HeaderName::from_bytes(name.as_bytes());
        // A fault may name anything as a header; what is none is left out.
        if let (Ok(name), Ok(value)) = (name, hyper::header::HeaderValue::from_bytes(value.as_bytes())) {
            response.headers_mut().append(name, value);
        }
    }
    response
}

fn now(skew: i64) -> i64 {
    jiff::Timestamp::now().as_second() + skew
}

struct LeaveGuard(Option<Open>);

impl LeaveGuard {
    fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for LeaveGuard {
    fn drop(&mut self) {
        if let Some(record) = self.0.take() {
            record.close(Ended::ClientWentAway);
        }
    }
}
