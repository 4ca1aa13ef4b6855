//! One request in flight, from its head to the end of its answer: the record that is being filled, and the certainty that
//! it is closed exactly once, however the request ends.

mod admitted;
mod answered;
mod client_half;
mod relay;
mod tags;
mod trace;
pub(crate) mod whole;

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, Response, StatusCode};
use uuid::Uuid;

use admitted::Tried;
pub(crate) use admitted::{AdmittedExchange, Went};
pub(crate) use answered::Answered;
use client_half::ClientHalf;
pub(crate) use relay::Body;

use crate::caller::{Caller, User};
use crate::error::Refusal;
use crate::ledger::Opened;
use crate::limits::Admission;
use crate::listen::Client;
use crate::listen::requests::Turn;
use crate::meter::Meter;
use crate::metrics::InFlight;
use crate::operation::{Api, ModelPlace, Operation, TokenEstimate};
use crate::panics;
use crate::receive::budget::Held;
use crate::record::{self, Outcome, Record, Usage};
use crate::request_id;
use crate::road::Road;
use crate::routing::Route;
use crate::settings::callers::CallerEntry;
use crate::telemetry::Parent;
use crate::timings::{Timings, Waited};
use crate::upstream::pool::{Effort, Pool};

pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-bedrock-sidecar-request-id");
/// Under which AWS services give a request's id, and SDKs show it.
pub(crate) const AMZN_REQUEST_ID: HeaderName = HeaderName::from_static("x-amzn-requestid");
const MODEL: HeaderName = HeaderName::from_static("x-bedrock-sidecar-model");
pub(crate) const REGION: HeaderName = HeaderName::from_static("x-bedrock-sidecar-region");

/// What a record says of a panic.
const OWN_ERROR: &str = "bedrock-sidecar: an error in the daemon's own code ended the request";
/// The client had left before the answer's end: nginx's number for it.
const CLIENT_CLOSED_REQUEST: u16 = 499;

/// A request between its head and the end of its answer.
pub(crate) struct Exchange {
    road: Arc<Road>,
    /// The record's own, as it was made.
    id: Uuid,
    pub record: Record,
    /// Whose bounds it is under.
    pub user: User,
    /// The caller's, once it is known.
    entry: Option<Arc<CallerEntry>>,
    started: Instant,
    /// What it has waited for limits and for memory.
    pub queued: Waited,
    /// What it has taken to have it answered, at all upstreams.
    effort: Effort,
    /// The upstream that the record tells of.
    tried: Tried,
    /// The commercial region that it was sent to, if it was tried elsewhere after that.
    crossed: Option<String>,
    closed: bool,
    /// The daemon's own code has panicked over its answer's body.
    panicked: bool,
    /// What the limits have granted; held until the answer's last byte.
    admission: Option<Admission>,
    /// The opening that the ledger holds; none before the request goes upstream.
    opened: Option<Opened>,
    /// No upstream has done anything with it, so nothing can have been used.
    never_sent: bool,
    /// It was sent to an upstream whose answer the client does not get, and nobody knows what came of it there. A model may
    /// have been at work, and commercial Bedrock charges for that.
    may_have_run: bool,
    /// An upstream has begun an answer that is no error, so what it tells was used.
    has_answer: bool,
    /// Of an answer that is being read whole.
    held_meter: Option<Meter>,
    /// The class of error with which the daemon answers itself.
    error_type: &'static str,
    /// Whose error messages the client reads.
    api: Api,
    /// The operation runs no model: token counts in its answer are its subject, or of a request that was paid before.
    is_free: bool,
    /// Tokens of the output that the upstream had not counted when its stream ended, estimated.
    uncounted: u64,
    /// The record's service tier is the one that the answer reports.
    tier_is_reported: bool,
    /// The caller's own span, or that of the request that it is for.
    parent: Option<Parent>,
    /// The client's half of a bidirectional stream.
    client: Option<Box<ClientHalf>>,
    /// Its place among the requests in progress; none if the daemon began it itself, or had no place.
    turn: Option<Turn>,
    _in_flight: InFlight,
}

impl Exchange {
    /// Begins the record of a request whose head has arrived.
    pub(crate) fn begin(road: &Arc<Road>, client: &Client) -> Box<Exchange> {
        Exchange::of(road, &client.peer.source, client.peer.uid, User::of(&client.peer))
    }

    /// In a place of its own, so that futures hold a pointer instead of a kilobyte.
    fn of(road: &Arc<Road>, source: &str, uid: Option<u32>, user: User) -> Box<Exchange> {
        let now = jiff::Timestamp::now();
        let id = request_id::new(now);
        let record = Record {
            request_id: request_id::text(id),
            started_ms: now.as_millisecond(),
            operation: Cow::Borrowed("Unknown"),
            source_ip: source.to_owned(),
            caller_uid: uid,
            user_arn: (*road.callers.host_arn()).to_owned(),
            destination_region: road.first_region().to_owned(),
            ..Record::default()
        };
        let in_flight = road.metrics.enter();
        Box::new(Exchange {
            road: Arc::clone(road),
            id,
            record,
            user,
            entry: None,
            started: Instant::now(),
            queued: Waited::default(),
            effort: Effort::default(),
            tried: Tried::default(),
            crossed: None,
            closed: false,
            panicked: false,
            admission: None,
            opened: None,
            never_sent: false,
            may_have_run: false,
            has_answer: false,
            held_meter: None,
            error_type: "",
            api: Api::default(),
            is_free: false,
            uncounted: 0,
            tier_is_reported: false,
            parent: None,
            client: None,
            turn: None,
            _in_flight: in_flight,
        })
    }

    /// Begins the record of a call that the daemon makes for itself.
    pub(crate) fn begin_own(road: &Arc<Road>, source: &str, uid: u32, parent: Parent) -> Box<Exchange> {
        let mut exchange = Exchange::of(road, source, Some(uid), User::Local(uid));
        exchange.parent = Some(parent);
        exchange
    }

    /// The record's id.
    pub(crate) fn id(&self) -> Uuid {
        self.id
    }

    /// Takes a place among the requests in progress, until the answer's end.
    ///
    /// # Errors
    /// 503 if there is none.
    pub(crate) fn take_turn(&mut self) -> Result<(), Refusal> {
        let turn = self.road.requests.turn(self.user).inspect_err(|_| self.road.metrics.requests_full())?;
        self.turn = Some(turn);
        Ok(())
    }

    /// A part of the memory for bodies, none of it taken yet.
    pub(crate) fn hold(&self) -> Held {
        self.road.buffered.hold(self.user).waiting_in(&self.queued)
    }

    /// What the request is; `identifier` is what its path carries.
    pub(crate) fn operation(&mut self, operation: &'static Operation, identifier: Option<&str>) {
        self.record.operation = Cow::Borrowed(operation.name);
        self.record.streaming = operation.streaming;
        self.is_free = operation.tokens == TokenEstimate::NoTokens;
        self.api = operation.api();
        if operation.model == ModelPlace::Path {
            self.record.model_id = identifier.unwrap_or_default().to_owned();
        }
    }

    /// A request that the daemon answers from what it knows.
    pub(crate) fn named(&mut self, operation: &'static str) {
        self.record.operation = Cow::Borrowed(operation);
    }

    /// Keeps the headers that the configuration wants kept, and the ids of the client's own tracing.
    pub(crate) fn tags(&mut self, headers: &HeaderMap) {
        let ids = trace::ids(headers);
        self.record.tags = tags::of(headers, &self.road.settings.headers.record, ids);
        self.parent = trace::parent(ids);
    }

    /// Ends with an answer that no upstream was asked for.
    pub(crate) fn completed_here(mut self: Box<Self>, body_length: usize) {
        self.record.response_size = body_length as u64;
        self.close(Outcome::Completed, StatusCode::OK.as_u16());
    }

    /// Where it is to go. What is refused from now on would have gone there.
    pub(crate) fn routed(&mut self, route: &Route) {
        let road = &self.road;
        if road.partitions.single().is_none()
            && let Some(region) = route.first(road).next().and_then(|at| road.regions.get(at))
        {
            region.upstream.region.clone_into(&mut self.record.destination_region);
        }
    }

    /// Who has sent it.
    pub(crate) fn caller(&mut self, caller: &Caller) {
        self.entry.clone_from(&caller.entry);
        let record = &mut self.record;
        record.caller = caller.name().map(str::to_owned);
        record.caller_uid = caller.uid;
        record.identity_verified = caller.identity_verified;
        record.access_key_id.clone_from(&caller.access_key_id);
        caller.user_arn.as_ref().clone_into(&mut record.user_arn);
    }

    /// For a call of the daemon's own, which is sent on another way.
    pub(crate) fn effort(&mut self) -> &mut Effort {
        &mut self.effort
    }

    /// A call of the daemon's own has ended.
    pub(crate) fn ended(mut self: Box<Self>, outcome: Outcome, status: u16) {
        self.close(outcome, status);
    }

    /// Ends with an answer of our own.
    pub(crate) fn refuse(mut self: Box<Self>, refusal: &Refusal) -> Response<Body> {
        let response = refusal.response_for(self.api);
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

    /// Adds the headers by which an answer of the daemon is known.
    fn mark(&self, headers: &mut HeaderMap) {
        if let Ok(id) = HeaderValue::from_str(&self.record.request_id) {
            headers.insert(REQUEST_ID, id);
        }
        let was_sent = self.sent_to().is_some() && !self.never_sent;
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

    /// Milliseconds since the request's head.
    fn elapsed(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// The daemon ends, and what is still in flight with it.
    fn cut_off(&mut self) {
        let why = "bedrock-sidecar: the daemon stopped before the end of the answer, when drain.timeout had passed";
        self.record.error_message = Some(why.to_owned());
        let status = self.record.status_code;
        self.close(Outcome::Interrupted, status);
    }

    fn close(&mut self, outcome: Outcome, status: u16) {
        if std::mem::replace(&mut self.closed, true) {
            return;
        }
        if let Some(client) = &self.client {
            self.record.request_size = client.progress.received();
        }
        self.record.outcome = outcome;
        self.record.status_code = status;
        self.record.success = outcome == Outcome::Completed;
        self.record.latency = self.elapsed();
        self.record.attempts = self.effort.attempts;
        if self.sent_to().is_none() {
            self.record.inference_profile_used = None;
        }
        if outcome == Outcome::UpstreamBroke {
            self.effort.results.break_off();
        }
        self.count_attempts();
        self.tell_crossing();
        let settled_and_recorded = self.road.limits.request_ends();
        if let Some(mut admission) = self.admission.take() {
            if let Some(tier) = self.record.service_tier.as_deref().filter(|_| self.tier_is_reported) {
                admission.served_in(tier);
            }
            self.record.cost_nano_usd = admission.cost(&self.record.usage);
            if self.record.attempts == 0 || self.never_sent {
                admission.cancel();
            } else {
                let was_heard = self.client.as_ref().is_some_and(|client| client.progress.has_begun());
                let may_have_used = self.has_answer || was_heard;
                settle(admission, &self.record, may_have_used, self.may_have_run, self.uncounted);
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
        let (whole, queued) = (self.started.elapsed(), self.queued.total());
        let timings = Timings { whole, queued, connecting: self.effort.connecting };
        let server = self.sent_to().map(Pool::endpoint);
        self.road.ended(&self.record, &timings, self.error_type, self.parent, server, is_told);
    }
}

/// Replaces what was reserved by what was used. A request that never went upstream used nothing, nor did one that the
/// upstream refused; one whose answer broke off used what had streamed, and may have used all that it reserved.
/// `may_have_used`: an answer has begun, or an upstream has got a part of the client's stream. `may_have_run`: another upstream
/// has not told what came of the request there.
fn settle(mut admission: Admission, record: &Record, may_have_used: bool, may_have_run: bool, uncounted: u64) {
    let refused = record.outcome == Outcome::UpstreamError && record::is_refusal(record.status_code);
    let used_nothing = refused || (record.outcome == Outcome::Refused && !may_have_used);
    if used_nothing && !may_have_run {
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
            self.cut_off();
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
