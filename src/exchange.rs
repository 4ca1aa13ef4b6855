//! One request in flight, from its head to the end of its answer: the record that is being filled, and the certainty that
//! it is closed exactly once, however the request ends.

mod tags;
pub(crate) mod whole;

use std::borrow::Cow;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, Response, StatusCode};
use http_body::{Body as HttpBody, Frame, SizeHint};

use crate::caller::{Caller, User};
use crate::error::Refusal;
use crate::ledger::Opened;
use crate::limits::Admission;
use crate::listen::requests::Turn;
use crate::listen::{self, Client};
use crate::meter::{Ending, Meter, Metered};
use crate::metrics::InFlight;
use crate::model::Target;
use crate::model::lookup::Asker;
use crate::operation::{ModelPlace, Operation, TokenEstimate};
use crate::panics;
use crate::record::{Outcome, Record, Usage};
use crate::road::Road;
use crate::settings::callers::CallerEntry;
use crate::upstream::answer::{AwsError, word};
use crate::upstream::body::{BodyError, UpstreamBody};
use crate::upstream::{Answer, AnswerBody, Failure, Upstream, UpstreamRequest, strip};

pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-bedrock-sidecar-request-id");
/// Under which AWS services give a request's id, and SDKs show it.
pub(crate) const AMZN_REQUEST_ID: HeaderName = HeaderName::from_static("x-amzn-requestid");
const MODEL: HeaderName = HeaderName::from_static("x-bedrock-sidecar-model");
const REGION: HeaderName = HeaderName::from_static("x-bedrock-sidecar-region");

/// The record's `ended` for a stream that ended between two events, before its final one.
const WITHOUT_FINAL_EVENT: &str = "without_final_event";
/// What a record says of a panic.
const OWN_ERROR: &str = "bedrock-sidecar: an error in the daemon's own code ended the request";
/// The client had left before the answer's end: nginx's number for it.
const CLIENT_CLOSED_REQUEST: u16 = 499;

/// A request between its head and the end of its answer.
pub(crate) struct Exchange {
    road: Arc<Road>,
    pub record: Record,
    /// Whose bounds it is under.
    pub user: User,
    /// The caller's, once it is known.
    entry: Option<Arc<CallerEntry>>,
    started: Instant,
    closed: bool,
    /// The daemon's own code has panicked over its answer's body.
    panicked: bool,
    /// What the limits have granted; held until the answer's last byte.
    admission: Option<Admission>,
    /// The opening that the ledger holds; none before the request goes upstream.
    opened: Option<Opened>,
    /// No upstream could be reached, so nothing can have been used.
    never_sent: bool,
    /// An upstream has begun an answer that is no error, so what it tells was used.
    has_answer: bool,
    /// Of an answer that is being read whole.
    held_meter: Option<Meter>,
    /// The class of error with which the daemon answers itself.
    error_type: &'static str,
    /// The operation runs no model: token counts in its answer are its subject, or of a request that was paid before.
    is_free: bool,
    /// Tokens of the output that the upstream had not counted when its stream ended, estimated.
    uncounted: u64,
    /// The record's service tier is the one that the answer reports.
    tier_is_reported: bool,
    /// Its place among the requests in progress; none if the daemon began it itself, or had no place.
    turn: Option<Turn>,
    _in_flight: InFlight,
}

/// An exchange that the limits have admitted. It goes upstream by [`AdmittedExchange::open`] only.
pub(crate) struct AdmittedExchange<'a>(&'a mut Exchange);

/// An exchange whose opening is in the ledger. Sending demands one, so nothing can go upstream unrecorded.
pub(crate) struct OpenExchange<'a>(&'a mut Exchange);

/// What an upstream answered, which one it was, and what was sent for the model; none where the request names no model.
#[derive(Debug)]
pub(crate) struct Answered {
    pub answer: Answer,
    pub region: String,
    pub target: Option<Target>,
}

impl AdmittedExchange<'_> {
    /// The region that is being tried.
    pub(crate) fn region(&mut self, region: &str) {
        region.clone_into(&mut self.0.record.destination_region);
    }

    /// What is sent in place of the model that was asked for.
    pub(crate) fn sent_as(&mut self, target: &Target) {
        self.0.record.inference_profile_used = target.is_profile.then(|| target.identifier.clone());
    }

    /// Whose rules hold, and on whose account a name is looked up.
    pub(crate) fn asker(&self) -> Asker {
        Asker { user: self.0.user, entry: self.0.entry.clone() }
    }

    /// For calls that the daemon has to make itself, so that it can send this request.
    pub(crate) fn road(&self) -> Arc<Road> {
        Arc::clone(&self.0.road)
    }

    /// Counts an attempt, and writes the request with it into the ledger, before its first byte goes upstream: the opening
    /// at the first attempt, and what has changed since at each further one.
    ///
    /// # Errors
    /// The ledger cannot take it, and `audit.on_failure` says that it is then refused.
    pub(crate) async fn open(&mut self) -> Result<OpenExchange<'_>, Refusal> {
        let Exchange { road, record, opened, .. } = &mut *self.0;
        record.attempts += 1;
        if let Some(opened) = opened {
            road.audit.amend(opened, record);
            return Ok(OpenExchange(self.0));
        }
        let begun = panics::vital(|| {
            panics::inject("ledger", &record.model_id);
            road.audit.begin(record)
        });
        // Until it is certain that the opening stays, nothing is sent.
        record.attempts -= 1;
        // Held before the wait: whatever happens during it, the exchange ends the record that was begun.
        road.audit.wait_until_durable(opened.insert(begun?)).await?;
        record.attempts += 1;
        Ok(OpenExchange(self.0))
    }

    /// The upstream gave no answer, or broke before one.
    pub(crate) fn upstream_broke(&mut self) {
        self.0.record.outcome = Outcome::UpstreamBroke;
    }

    /// No upstream took the request, so nothing can have been used.
    pub(crate) fn never_sent(&mut self) {
        self.0.never_sent = true;
    }
}

impl OpenExchange<'_> {
    /// Sends the request. Whoever waits for the answer may leave while a model is at work on it: that counts as sent.
    pub(crate) async fn send(self, upstream: &Upstream, request: &UpstreamRequest) -> Result<Answer, Failure> {
        let Exchange { road, record, opened, .. } = self.0;
        let before = record.attempts.saturating_sub(1);
        let sent = upstream
            .exchange_telling(request, |attempts| {
                record.attempts = before + attempts;
                if let Some(opened) = opened {
                    road.audit.amend(opened, record);
                }
            })
            .await;
        record.attempts = before + sent.attempts;
        sent.result
    }
}

impl Exchange {
    /// Begins the record of a request whose head has arrived.
    pub(crate) fn begin(road: &Arc<Road>, client: &Client) -> Exchange {
        Exchange::of(road, &client.peer.source, client.peer.uid, User::of(&client.peer))
    }

    fn of(road: &Arc<Road>, source: &str, uid: Option<u32>, user: User) -> Exchange {
        let now = jiff::Timestamp::now();
        let record = Record {
            request_id: uuid::Uuid::now_v7().to_string(),
            started_ms: now.as_millisecond(),
            operation: Cow::Borrowed("Unknown"),
            source_ip: source.to_owned(),
            caller_uid: uid,
            user_arn: road.callers.host_arn().to_string(),
            destination_region: road.first_region().to_owned(),
            ..Record::default()
        };
        let in_flight = road.metrics.enter();
        Exchange {
            road: Arc::clone(road),
            record,
            user,
            entry: None,
            started: Instant::now(),
            closed: false,
            panicked: false,
            admission: None,
            opened: None,
            never_sent: false,
            has_answer: false,
            held_meter: None,
            error_type: "",
            is_free: false,
            uncounted: 0,
            tier_is_reported: false,
            turn: None,
            _in_flight: in_flight,
        }
    }

    /// Begins the record of a call that the daemon makes for itself.
    pub(crate) fn begin_own(road: &Arc<Road>, source: &str, uid: u32) -> Exchange {
        Exchange::of(road, source, Some(uid), User::Local(uid))
    }

    /// Takes a place among the requests in progress, until the answer's end.
    ///
    /// # Errors
    /// 503 if there is none.
    pub(crate) fn take_turn(&mut self) -> Result<(), Refusal> {
        self.turn = Some(self.road.requests.turn(self.user)?);
        Ok(())
    }

    /// What the request is; `identifier` is what its path carries.
    pub(crate) fn operation(&mut self, operation: &'static Operation, identifier: Option<&str>) {
        self.record.operation = Cow::Borrowed(operation.name);
        self.record.streaming = operation.streaming;
        self.is_free = operation.tokens == TokenEstimate::NoTokens;
        if operation.model == ModelPlace::Path {
            self.record.model_id = identifier.unwrap_or_default().to_owned();
        }
    }

    /// A request that the daemon answers from what it knows.
    pub(crate) fn named(&mut self, operation: &'static str) {
        self.record.operation = Cow::Borrowed(operation);
    }

    /// Keeps the headers that the configuration wants kept.
    pub(crate) fn tags(&mut self, headers: &HeaderMap) {
        self.record.tags = tags::of(headers, &self.road.settings.headers.record);
    }

    /// Ends with an answer that no upstream was asked for.
    pub(crate) fn completed_here(mut self, body_length: usize) {
        self.record.response_size = body_length as u64;
        self.close(Outcome::Completed, StatusCode::OK.as_u16());
    }

    /// Who has sent it.
    pub(crate) fn caller(&mut self, caller: &Caller) {
        self.entry.clone_from(&caller.entry);
        let record = &mut self.record;
        record.caller = caller.name().map(str::to_owned);
        record.caller_uid = caller.uid;
        record.identity_verified = caller.identity_verified;
        record.access_key_id.clone_from(&caller.access_key_id);
        record.user_arn = caller.user_arn.to_string();
    }

    /// The limits have granted it this.
    pub(crate) fn admitted(&mut self, admission: Admission) -> AdmittedExchange<'_> {
        let admission = self.admission.insert(admission);
        if let Ok(id) = self.record.request_id.parse() {
            admission.recorded_as(id);
        }
        AdmittedExchange(self)
    }

    /// Writes a call of the daemon's own, which no limit admits, into the ledger.
    ///
    /// # Errors
    /// As those of [`AdmittedExchange::open`].
    pub(crate) async fn open_own(&mut self) -> Result<(), Refusal> {
        AdmittedExchange(self).open().await.map(drop)
    }

    /// A call of the daemon's own has ended.
    pub(crate) fn ended(mut self, outcome: Outcome, status: u16) {
        self.close(outcome, status);
    }

    /// Ends with an answer of our own.
    pub(crate) fn refuse(mut self, refusal: &Refusal) -> Response<Body> {
        let response = refusal.response();
        self.note_refusal(refusal, response.body().len());
        let mut response = response.map(Body::whole);
        self.mark_own(response.headers_mut());
        response
    }

    /// Records a refusal whose answer has another shape than AWS's.
    pub(crate) fn note_refusal(&mut self, refusal: &Refusal, body_length: usize) {
        self.record.error_message = Some(refusal.text());
        self.record.response_size = body_length as u64;
        self.error_type = refusal.kind.error_type();
        let outcome =
            if self.record.outcome == Outcome::UpstreamBroke { Outcome::UpstreamBroke } else { Outcome::Refused };
        self.close(outcome, refusal.kind.status().as_u16());
    }

    /// Hands an upstream's answer on: status, headers and body as they came, and what we add to the headers.
    pub(crate) fn relay(mut self, answered: Answered) -> Response<Body> {
        let (status, headers, meter, body) = self.answered(answered);
        let body = match body {
            AnswerBody::Read(bytes) => {
                self.record.first_byte_latency = Some(self.elapsed());
                self.record.response_size = bytes.len() as u64;
                self.complete(meter);
                Body::whole(bytes)
            }
            AnswerBody::Passing(body) => {
                Body(BodyKind::Relay(Box::new(Relay { body, passage: Some(Passage { exchange: self, meter }) })))
            }
        };
        if let Body(BodyKind::Relay(relay)) = body {
            // An answer without a body has ended before its first frame.
            let relay = if relay.body.is_end_stream() { relay.ended() } else { relay };
            return respond(status, headers, Body(BodyKind::Relay(relay)));
        }
        respond(status, headers, body)
    }

    /// Takes down what an answer's head says. What is left of it are status, headers for the client, and the body.
    fn answered(&mut self, answered: Answered) -> (StatusCode, HeaderMap, Meter, AnswerBody) {
        let Answered { answer: Answer { status, mut headers, body }, region, target } = answered;
        // After a failover that led nowhere, the answer may be of another upstream than the one that was tried last.
        self.record.destination_region = region;
        self.record.inference_profile_used = target.as_ref().filter(|t| t.is_profile).map(|t| t.identifier.clone());
        strip::response_headers(&mut headers);
        self.mark(&mut headers);
        if let Some(model) = target.and_then(|target| HeaderValue::from_str(&target.identifier).ok()) {
            headers.insert(MODEL, model);
        }
        self.record.upstream_request_id = headers.get(AMZN_REQUEST_ID).and_then(|value| value.to_str().ok()).map(word);
        self.record.status_code = status.as_u16();
        self.has_answer = status.is_success();
        let meter = Meter::new(status, &headers);
        self.record.streaming |= meter.is_streaming();
        if !status.is_success() {
            self.record.error_message = Some(error_for_record(status, &headers, &body));
        }
        (status, headers, meter, body)
    }

    /// Adds the headers by which an answer of the daemon is known.
    fn mark(&self, headers: &mut HeaderMap) {
        if let Ok(id) = HeaderValue::from_str(&self.record.request_id) {
            headers.insert(REQUEST_ID, id);
        }
        let was_sent = self.record.attempts > 0 && !self.never_sent;
        if let Some(region) = HeaderValue::from_str(&self.record.destination_region).ok().filter(|_| was_sent) {
            headers.insert(REGION, region);
        }
    }

    /// The same for an answer that the daemon gives itself.
    pub(crate) fn mark_own(&self, headers: &mut HeaderMap) {
        self.mark(headers);
        if let Ok(id) = HeaderValue::from_str(&self.record.request_id) {
            headers.insert(AMZN_REQUEST_ID, id);
        }
    }

    fn complete(&mut self, meter: Meter) {
        let Metered { exception, ending, .. } = self.metered(meter);
        let status = self.record.status_code;
        let outcome = match (&exception, ending) {
            (None, Ending::WithinEvent) => Outcome::UpstreamBroke,
            (None, _) if (200..300).contains(&status) => Outcome::Completed,
            _ => Outcome::UpstreamError,
        };
        match (exception, ending) {
            (Some(exception), _) => self.record.error_message = Some(exception),
            (None, Ending::WithinEvent) => {
                self.record.error_message = Some("the upstream's stream ended within an event".to_owned());
            }
            (None, Ending::WithoutFinalEvent) => self.record.ended = Some(WITHOUT_FINAL_EVENT.to_owned()),
            (None, Ending::Whole) => {}
        }
        self.close(outcome, status);
    }

    /// Takes down what the answer has said of its usage.
    fn metered(&mut self, meter: Meter) -> Metered {
        let metered = meter.finish();
        if !self.is_free {
            self.record.usage = metered.usage;
            self.uncounted = metered.uncounted;
            if metered.service_tier.is_some() {
                self.record.service_tier.clone_from(&metered.service_tier);
                self.tier_is_reported = true;
            }
        }
        metered
    }

    /// Milliseconds since the request's head.
    fn elapsed(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn close(&mut self, outcome: Outcome, status: u16) {
        if std::mem::replace(&mut self.closed, true) {
            return;
        }
        self.record.outcome = outcome;
        self.record.status_code = status;
        self.record.success = outcome == Outcome::Completed;
        self.record.latency = self.elapsed();
        let settled_and_recorded = self.road.limits.request_ends();
        if let Some(mut admission) = self.admission.take() {
            if let Some(tier) = self.record.service_tier.as_deref().filter(|_| self.tier_is_reported) {
                admission.served_in(tier);
            }
            self.record.cost_nano_usd = admission.cost(&self.record.usage);
            if self.record.attempts == 0 || self.never_sent {
                admission.cancel();
            } else {
                settle(admission, &self.record, self.has_answer, self.uncounted);
            }
        }
        let is_told = panics::vital(|| match self.opened.take() {
            Some(opened) => {
                self.road.audit.close(opened, &self.record);
                true
            }
            None => self.road.audit.note_unsent(&self.record, self.error_type),
        });
        drop(settled_and_recorded);
        self.road.ended(&self.record, self.started.elapsed(), is_told);
    }
}

/// Replaces what was reserved by what was used. A request that never went upstream used nothing, nor did one that the
/// upstream refused; one whose answer broke off used what had streamed, and may have used all that it reserved.
fn settle(mut admission: Admission, record: &Record, has_answer: bool, uncounted: u64) {
    let failed = record.outcome == Outcome::UpstreamError && record.status_code >= 400;
    if failed || (record.outcome == Outcome::Refused && !has_answer) {
        let nothing = Usage { input_tokens: Some(0), output_tokens: Some(0), ..Usage::default() };
        admission.settle(&nothing);
    } else if record.outcome == Outcome::Completed && record.ended.is_none() {
        admission.settle(&record.usage);
    } else {
        admission.settle_broken_off(&record.usage, uncounted);
    }
}

impl Drop for Exchange {
    /// Whoever held the exchange was dropped: hyper drops requests and bodies whose client has left. At the end of a drain
    /// that lasted too long, the daemon drops them itself.
    fn drop(&mut self) {
        if self.closed {
            return;
        }
        if let Some(meter) = self.held_meter.take() {
            self.metered(meter);
        }
        if self.panicked || std::thread::panicking() {
            self.record.error_message = Some(OWN_ERROR.to_owned());
            // An answer that had begun keeps its status; else the client is refused now.
            let status = if self.panicked { self.record.status_code } else { 500 };
            self.close(Outcome::Interrupted, status);
        } else if self.road.cut_off.load(Ordering::Relaxed) {
            let why = "bedrock-sidecar: the daemon stopped before the end of the answer, when drain.timeout had passed";
            self.record.error_message = Some(why.to_owned());
            let status = self.record.status_code;
            self.close(Outcome::Interrupted, status);
        } else {
            self.record.error_message.get_or_insert_with(|| "the client left before the end of the answer".to_owned());
            self.close(Outcome::ClientDisconnected, CLIENT_CLOSED_REQUEST);
        }
    }
}

impl std::fmt::Debug for Exchange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exchange").field("record", &self.record).finish_non_exhaustive()
    }
}

fn respond(status: StatusCode, headers: HeaderMap, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// Type and text of an error that is passing; the body of one that was not read is left alone.
fn error_for_record(status: StatusCode, headers: &HeaderMap, body: &AnswerBody) -> String {
    let read = match body {
        AnswerBody::Read(bytes) => &bytes[..],
        AnswerBody::Passing(_) => &[],
    };
    AwsError::new(headers, read).for_record(status)
}

/// The body of an answer to a client.
#[derive(Debug)]
pub(crate) struct Body(BodyKind);

#[derive(Debug)]
enum BodyKind {
    Whole(Option<Bytes>),
    Relay(Box<Relay>),
}

/// Bytes that pass from upstream, with the exchange that ends when they do.
#[derive(Debug)]
struct Relay {
    body: UpstreamBody,
    /// Taken at the end; what is left when the relay is dropped belongs to a client that has gone.
    passage: Option<Passage>,
}

#[derive(Debug)]
struct Passage {
    exchange: Exchange,
    meter: Meter,
}

impl Body {
    pub(crate) fn whole(bytes: Bytes) -> Body {
        Body(BodyKind::Whole(Some(bytes).filter(|bytes| !bytes.is_empty())))
    }

    /// Bytes, as far as they are known.
    pub(crate) fn length(&self) -> usize {
        usize::try_from(self.size_hint().lower()).unwrap_or(usize::MAX)
    }
}

impl Relay {
    /// The next frame, taken down as it passes.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    self.passed(data);
                }
                // hyper does not ask again after the last frame of a body whose length it knows.
                if self.body.is_end_stream() {
                    self.end();
                }
            }
            Poll::Ready(Some(Err(error))) => self.broke(error),
            Poll::Ready(None) => self.end(),
            Poll::Pending => {}
        }
        polled
    }

    fn passed(&mut self, data: &Bytes) {
        let Some(Passage { exchange, meter }) = &mut self.passage else { return };
        panics::inject("relay", &exchange.record.model_id);
        if exchange.record.first_byte_latency.is_none() && !data.is_empty() {
            exchange.record.first_byte_latency = Some(exchange.elapsed());
        }
        exchange.record.response_size += data.len() as u64;
        meter.feed(data);
    }

    fn end(&mut self) {
        if let Some(Passage { mut exchange, meter }) = self.passage.take() {
            exchange.complete(meter);
        }
    }

    fn ended(mut self: Box<Self>) -> Box<Self> {
        self.end();
        self
    }

    fn broke(&mut self, error: &BodyError) {
        if let Some(Passage { mut exchange, meter }) = self.passage.take() {
            let Metered { exception, .. } = exchange.metered(meter);
            exchange.record.error_message = Some(exception.unwrap_or_else(|| error.to_string()));
            let status = exchange.record.status_code;
            exchange.close(Outcome::UpstreamBroke, status);
        }
    }
}

impl listen::Answer for Body {
    fn client_stalled(&mut self) {
        let BodyKind::Relay(relay) = &mut self.0 else { return };
        let Some(Passage { mut exchange, meter }) = relay.passage.take() else { return };
        exchange.metered(meter);
        exchange.record.error_message =
            Some("bedrock-sidecar: the client took no byte of its answer for listen.write_timeout, or for 5 s while others needed its connection".to_owned());
        let status = exchange.record.status_code;
        exchange.close(Outcome::ClientStalled, status);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let Some(Passage { mut exchange, meter }) = self.passage.take() {
            exchange.metered(meter);
        }
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let relay = match &mut self.0 {
            BodyKind::Whole(bytes) => return Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            BodyKind::Relay(relay) => relay,
        };
        panics::contain(|| relay.poll_next(cx)).unwrap_or_else(|_panicked| {
            if let Some(passage) = relay.passage.take().as_mut() {
                passage.exchange.panicked = true;
            }
            Poll::Ready(Some(Err(BodyError::Panicked)))
        })
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            BodyKind::Whole(bytes) => bytes.is_none(),
            BodyKind::Relay(relay) => relay.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            BodyKind::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            BodyKind::Relay(relay) => relay.body.size_hint(),
        }
    }
}
