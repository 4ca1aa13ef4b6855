//! One request, in order: record, route, fault, leaks, credentials, operation, answer.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Either};
use hyper::body::Incoming;
use hyper::header::{HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Request, Response, Version};
use serde_json::{Value, json};
use tokio::runtime::{Handle, RuntimeFlavor};

use crate::auth::{Judge, Kind, Presented};
use crate::bidirectional::{self, TalkBody};
use crate::body::ReplyBody;
use crate::faults::{Effect, Target};
use crate::framing::{Framing, Verdict};
use crate::operations::{self, Input};
use crate::record::{Ended, Open, Received};
use crate::reply::{AwsError, Reply};
use crate::route::{Call, Host, route};
use crate::state::State;
use crate::wire::Control;
use crate::{control, leaks, mantle, roles_anywhere};

/// The connection a request came by.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    pub(crate) tls: bool,
    /// Which of Bedrock's hosts it was opened to.
    pub(crate) host: Host,
    pub(crate) number: u64,
    pub(crate) client_port: u16,
    pub(crate) control: Arc<Control>,
    /// Whether answers are framed by hand on it.
    pub(crate) framed: bool,
}

/// AWS's limit of InvokeModel's body.
pub(crate) const BODY_LIMIT: usize = 25_000_000;

/// Work on a longer body leaves the thread to others.
const LARGE: usize = 1_000_000;

/// A request with its body read.
#[derive(Debug, Clone, Default)]
pub(crate) struct Arrived {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) target: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Bytes,
    pub(crate) body_length: usize,
}

/// An answer that is ready to be put on the wire.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) reply: Reply,
    /// The reply's headers and those of every answer.
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    pub(crate) framing: Framing,
    pub(crate) record: Option<Open>,
    /// The length of the body before the framing cut it.
    pub(crate) length: usize,
    /// Whether its length cannot be known before its end.
    pub(crate) streams: bool,
}

/// Answers by hyper.
pub(crate) async fn answer(
    state: Arc<State>,
    connection: Connection,
    request: Request<Incoming>,
) -> Response<Either<ReplyBody, TalkBody>> {
    if bidirectional::is_meant(request.method().as_str(), request.uri().path()) {
        let (parts, body) = request.into_parts();
        return match bidirectional::answer(&state, &connection, &parts, body).await {
            Ok(response) => response.map(Either::Right),
            Err(reply) => written(&state, &connection, unrecorded(reply)).map(Either::Left),
        };
    }
    let version = request.version();
    let answered = match read(request).await {
        Ok(arrived) => answer_to(&state, &connection, arrived, version).await,
        // The client broke off while sending: there is nobody to answer, and nothing whole to record.
        Err(_) => unrecorded(Reply::json(400, &json!({}))),
    };
    written(&state, &connection, answered).map(Either::Left)
}

fn written(state: &State, connection: &Connection, answered: Answered) -> Response<ReplyBody> {
    let Answered { reply, headers, record, .. } = answered;
    let body = ReplyBody::new(reply.steps, state.gate.clone(), Arc::clone(&connection.control), record);
    let mut response = Response::new(body);
    *response.status_mut() =
        hyper::StatusCode::from_u16(reply.status).unwrap_or(hyper::StatusCode::INTERNAL_SERVER_ERROR);
    for (name, value) in headers {
        response.headers_mut().append(name, value);
    }
    response
}

/// What is to be answered, whoever writes it.
pub(crate) async fn answer_to(
    state: &Arc<State>,
    connection: &Connection,
    arrived: Arrived,
    version: Version,
) -> Answered {
    if arrived.path.starts_with("/_simulator/") {
        return unrecorded(control::answer(state, &arrived.method, &arrived.path, &arrived.body));
    }

    let Opened { routed, model, request_id, record, skew, effect } = open(state, connection, &arrived, version).await;

    let known = state.known();
    let judge = Judge { known: &known, region: &state.region, host: connection.host, now: now(skew) };
    let decision = || decide(state, &judge, &arrived, &routed, model.as_deref(), effect.as_ref(), &record);
    let result = if arrived.body.len() > LARGE { beside_others(decision) } else { decision() };
    let mut reply = match result {
        Ok(reply) => reply,
        Err(error) => {
            record.update(|received| received.error_type = Some(error.kind.clone()));
            match connection.host {
                Host::Bedrock | Host::AgentRuntime => {
                    refusal(&error, routed.as_ref().is_ok_and(Call::foreign_errors), &request_id)
                }
                Host::Mantle => mantle::refusal(&error, &arrived.path, &request_id),
            }
        }
    };
    let length = reply.length();
    if let Some(effect) = &effect {
        effect.edit(&mut reply);
        match effect {
            Effect::Garbage => connection.control.talk_garbage(),
            Effect::CloseAfter => connection.control.go_away(),
            _ => {}
        }
    }
    let framing = framing(state, connection, effect.as_ref(), &reply, version);
    let (length_to_tell, streams) = (reply.length(), reply.streams());
    framing.cut(&mut reply);
    let length_to_tell = if framing.verdict() == Verdict::Empty { 0 } else { length_to_tell };
    record.update(|received| {
        received.status = Some(reply.status);
        received.model_resolved = reply.model_resolved.clone();
        received.answer_length = if framing.verdict() == Verdict::Empty { 0 } else { length as u64 };
        (received.input_tokens, received.output_tokens) = reply.tokens;
        received.framing = connection.framed.then(|| framing.to_string());
    });
    let delay = reply.delay;
    if !delay.is_zero() {
        // A client that leaves during the wait drops this future, so that the record must be closed by a guard.
        let guard = LeaveGuard(Some(record.clone()), Arc::clone(&connection.control));
        tokio::time::sleep(delay).await;
        guard.disarm();
    }
    let headers = answer_head(&reply, &request_id, skew);
    Answered { reply, headers, framing, record: Some(record), length: length_to_tell, streams }
}

/// A request that is in the record, and what is to befall it.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) routed: Result<Call, AwsError>,
    pub(crate) model: Option<String>,
    pub(crate) request_id: String,
    pub(crate) record: Open,
    pub(crate) skew: i64,
    pub(crate) effect: Option<Effect>,
}

pub(crate) async fn open(state: &Arc<State>, connection: &Connection, arrived: &Arrived, version: Version) -> Opened {
    let request_id = uuid::Uuid::new_v4().to_string();
    let routed = route(connection.host, &arrived.method, &arrived.path);
    let model = routed.as_ref().ok().and_then(|call| named_model(call, &arrived.body));
    let record = state.record.open(received(state, connection, arrived, version, &routed, &model, &request_id));
    let (skew, effect) = state.faults.take(&target(state, connection, arrived, &routed, model.as_deref()));
    if let Some(effect) = &effect {
        record.update(|received| received.fault = Some(effect.kind()));
        break_connection(state, connection, effect, &record).await;
    }
    Opened { routed, model, request_id, record, skew, effect }
}

/// The answer that does not wait for the request's body, if this request's framing is of that kind.
pub(crate) fn answer_early(
    state: &Arc<State>,
    connection: &Connection,
    arrived: &Arrived,
    version: Version,
) -> Option<Answered> {
    if arrived.path.starts_with("/_simulator/") {
        return None;
    }
    let routed = route(connection.host, &arrived.method, &arrived.path);
    let model = routed.as_ref().ok().and_then(Call::model).map(str::to_owned);
    let waiting = state.faults.take_early(&target(state, connection, arrived, &routed, model.as_deref()));
    let framing = waiting.or_else(|| state.framing.early())?.fitting(version == Version::HTTP_2, connection.tls, false);
    if !framing.is_early() {
        return None;
    }
    let request_id = uuid::Uuid::new_v4().to_string();
    let record = state.record.open(received(state, connection, arrived, version, &routed, &model, &request_id));
    let error = AwsError::new(413, "RequestEntityTooLargeException", "Request Entity Too Large");
    let reply = refusal(&error, routed.as_ref().is_ok_and(Call::foreign_errors), &request_id);
    record.update(|received| {
        received.status = Some(reply.status);
        received.error_type = Some(error.kind.clone());
        received.answer_length = reply.length() as u64;
        received.framing = Some(framing.to_string());
        received.fault = waiting.map(|variant| Effect::Framing { variant }.kind());
    });
    let headers = answer_head(&reply, &request_id, 0);
    let length = reply.length();
    Some(Answered { reply, headers, framing, record: Some(record), length, streams: false })
}

/// An answer of the control interface, or to nobody.
pub(crate) fn unrecorded(reply: Reply) -> Answered {
    let (headers, length, streams) = (answer_head(&reply, "", 0), reply.length(), reply.streams());
    Answered { reply, headers, framing: Framing::PLAIN, record: None, length, streams }
}

fn framing(
    state: &State,
    connection: &Connection,
    effect: Option<&Effect>,
    reply: &Reply,
    version: Version,
) -> Framing {
    let (http2, stream) = (version == Version::HTTP_2, reply.is_stream());
    match effect {
        _ if !connection.framed => Framing::PLAIN,
        Some(Effect::Framing { variant }) => variant.fitting(http2, connection.tls, stream),
        // A fault that has edited the script wants it sent as it is.
        Some(effect) if effect.error().is_none() => Framing::PLAIN,
        _ => state.framing.choose(http2, connection.tls, stream),
    }
}

fn target<'a>(
    state: &'a State,
    connection: &Connection,
    arrived: &'a Arrived,
    routed: &'a Result<Call, AwsError>,
    model: Option<&'a str>,
) -> Target<'a> {
    Target {
        operation: routed.as_ref().map_or("", |call| call.name()),
        model: model.unwrap_or_default(),
        path: &arrived.path,
        region: &state.region,
        framed: connection.framed,
    }
}

/// Without optimisation, to hash and parse 20 MB takes seconds. Other exchanges go on meanwhile.
fn beside_others<T>(work: impl FnOnce() -> T) -> T {
    match Handle::current().runtime_flavor() {
        RuntimeFlavor::MultiThread => tokio::task::block_in_place(work),
        _ => work(),
    }
}

/// The decision proper. Leaks come before credentials: a leak must never hide behind a 403.
fn decide(
    state: &State,
    judge: &Judge<'_>,
    arrived: &Arrived,
    routed: &Result<Call, AwsError>,
    model: Option<&str>,
    effect: Option<&Effect>,
    record: &Open,
) -> Result<Reply, AwsError> {
    find_leaks(state, arrived, routed, record)?;
    if arrived.body_length > BODY_LIMIT {
        return Err(AwsError::new(413, "RequestEntityTooLargeException", "Request Entity Too Large"));
    }
    let presented = presented(arrived);
    if let Ok(Call::CreateSession) = routed {
        let serial = roles_anywhere::judge(state, &presented, judge.now)?;
        return match effect.and_then(Effect::error) {
            Some(error) => Err(error),
            None => roles_anywhere::answer(state, &serial, judge.now),
        };
    }
    let is_agents = routed.as_ref().is_ok_and(|call| call.host() == Host::AgentRuntime);
    if is_agents && Kind::of(&arrived.headers) == Kind::Bearer {
        let message = "simulator: no API key is good for the operations of the agent runtime";
        return Err(AwsError::new(403, "AccessDeniedException", message));
    }
    judge.judge(&presented).map_err(|error| match (judge.host, Kind::of(&arrived.headers)) {
        (Host::Mantle, Kind::Bearer) => mantle::invalid_bearer(),
        _ => error,
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

/// Leaks first, then whatever `judge` says.
pub(crate) fn check<T>(
    state: &State,
    arrived: &Arrived,
    routed: &Result<Call, AwsError>,
    record: &Open,
    judge: impl FnOnce(&Presented<'_>) -> Result<T, AwsError>,
) -> Result<T, AwsError> {
    find_leaks(state, arrived, routed, record)?;
    judge(&presented(arrived))
}

fn presented(arrived: &Arrived) -> Presented<'_> {
    Presented {
        method: &arrived.method,
        raw_path: &arrived.path,
        raw_query: &arrived.query,
        headers: &arrived.headers,
        body: &arrived.body,
    }
}

fn find_leaks(
    state: &State,
    arrived: &Arrived,
    routed: &Result<Call, AwsError>,
    record: &Open,
) -> Result<(), AwsError> {
    let own_ports = state.ports.read().unwrap_or_else(PoisonError::into_inner).clone();
    let mut leaks = leaks::find(&state.region, &arrived.target, &arrived.headers, &arrived.body, &own_ports);
    let mut added = state.added_headers.clone();
    if let Ok(Call::CreateSession) = routed {
        added.extend(roles_anywhere::HEADERS.map(str::to_owned));
    }
    leaks.extend(leaks::foreign(&arrived.headers, &added));
    if !leaks.is_empty() {
        let message = format!("simulator: leaked: {}", leaks.join("; "));
        record.update(|received| received.leaks = leaks);
        return Err(AwsError::validation(message));
    }
    Ok(())
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
    let mut body = BytesMut::new();
    let mut body_length = 0;
    while let Some(frame) = incoming.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        body_length += data.len();
        if body_length <= BODY_LIMIT {
            body.extend_from_slice(&data);
        }
    }
    Ok(Arrived { body: body.freeze(), body_length, ..head(&parts) })
}

/// A request without its body.
pub(crate) fn head(parts: &Parts) -> Arrived {
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
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str()).to_owned();
    Arrived {
        method: parts.method.as_str().to_owned(),
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        target,
        headers,
        body: Bytes::new(),
        body_length: 0,
    }
}

fn named_model(call: &Call, body: &[u8]) -> Option<String> {
    if let Some(model) = call.model() {
        return Some(model.to_owned());
    }
    let place = call.model_place()?;
    let value: Value = serde_json::from_slice(body).ok()?;
    value.pointer(place)?.as_str().map(str::to_owned)
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
        arrived_us: SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(u64::MAX)),
        http_version: format!("{version:?}"),
        tls: connection.tls,
        connection: connection.number,
        client_port: connection.client_port,
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
        sent_crc32: 0,
        ended: Ended::Open,
        framing: None,
        stream: None,
        answer_length: 0,
        sent_whole: false,
        input_tokens: None,
        output_tokens: None,
        client_reset: None,
        cancelled_whole: false,
        events: Vec::new(),
        event_count: 0,
        has_final_frame: false,
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

/// The reply's headers, behind those that every answer has.
pub(crate) fn answer_head(reply: &Reply, request_id: &str, skew: i64) -> Vec<(HeaderName, HeaderValue)> {
    let seconds = u64::try_from(now(skew)).unwrap_or_default();
    let date = httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
    let own = [("date", date.as_str()), ("x-amzn-requestid", request_id)];
    let given = reply.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    own.into_iter()
        .chain(given)
        // A fault may name anything as a header; what is none is left out.
        .filter_map(|(name, value)| Some((name.parse().ok()?, HeaderValue::from_bytes(value.as_bytes()).ok()?)))
        .collect()
}

pub(crate) fn now(skew: i64) -> i64 {
    jiff::Timestamp::now().as_second() + skew
}

struct LeaveGuard(Option<Open>, Arc<Control>);

impl LeaveGuard {
    fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for LeaveGuard {
    fn drop(&mut self) {
        if let Some(record) = self.0.take() {
            record.close(self.1.fate());
        }
    }
}
