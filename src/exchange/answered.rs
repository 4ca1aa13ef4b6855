//! What an upstream's answer leaves in the record, and what of it goes to the client.

use std::sync::Arc;

use http::header::HeaderValue;
use http::{HeaderMap, Response, StatusCode};

use super::relay::Body;
use super::{AMZN_REQUEST_ID, Exchange, MODEL};
use crate::meter::{Ending, Meter, Metered};
use crate::model::{Models, Target};
use crate::operation::Plane;
use crate::record::Outcome;
use crate::upstream::answer::{AwsError, word};
use crate::upstream::{Answer, AnswerBody, Upstream, strip};

/// The record's `ended` for a stream that ended between two events, before its final one.
const WITHOUT_FINAL_EVENT: &str = "without_final_event";
/// The same for the answer's half of a bidirectional stream that ended while the client could still speak.
const BEFORE_CLIENT: &str = "before_client";

/// What an upstream answered, which one it was, and what was sent for the model; none where the request names no model.
#[derive(Debug)]
pub(crate) struct Answered {
    pub answer: Answer,
    pub upstream: Arc<Upstream>,
    /// Whose host has answered: a request may be served by another one than its operation's.
    pub plane: Plane,
    pub target: Option<Target>,
    /// What is known of this upstream's models, where its answer may list them.
    pub listed_by: Option<Arc<Models>>,
}

impl Exchange {
    /// Hands an upstream's answer on: status, headers and body as they came, and what we add to the headers.
    pub(crate) fn relay(mut self: Box<Self>, answered: Answered) -> Response<Body> {
        let (status, headers, meter, body) = self.answered(answered);
        let body = match body {
            AnswerBody::Read(bytes) => {
                self.record.first_byte_latency = Some(self.elapsed());
                self.record.response_size = bytes.len() as u64;
                self.complete(meter);
                Body::whole(bytes)
            }
            AnswerBody::Passing(body) => Body::relay(body, self, meter),
        };
        let mut response = Response::new(body);
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        response
    }

    /// Takes down what an answer's head says. What is left of it are status, headers for the client, and the body.
    pub(super) fn answered(&mut self, answered: Answered) -> (StatusCode, HeaderMap, Meter, AnswerBody) {
        let Answered { answer: Answer { status, mut headers, body, .. }, upstream, target, .. } = answered;
        // After a failover that led nowhere, the answer may be of another upstream than the one that was tried last.
        upstream.region.clone_into(&mut self.record.destination_region);
        self.record.inference_profile_used = target.as_ref().filter(|t| t.is_profile).map(|t| t.identifier.clone());
        strip::response_headers(&mut headers);
        self.mark(&mut headers);
        if let Some(model) = target.and_then(|target| HeaderValue::from_str(&target.identifier).ok()) {
            headers.insert(MODEL, model);
        }
        self.record.upstream_request_id = headers.get(AMZN_REQUEST_ID).and_then(|value| value.to_str().ok()).map(word);
        self.record.status_code = status.as_u16();
        self.has_answer = status.is_success();
        let meter = match self.is_bidirectional() {
            true => Meter::bidirectional(status, &headers),
            false => Meter::new(status, &headers),
        };
        self.record.streaming |= meter.is_streaming();
        if !status.is_success() {
            self.record.error_message = Some(error_for_record(status, &headers, &body));
        }
        (status, headers, meter, body)
    }

    pub(super) fn complete(&mut self, meter: Meter) {
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
            (None, Ending::Whole) if outcome == Outcome::Completed && self.client_may_speak() => {
                self.record.ended = Some(BEFORE_CLIENT.to_owned());
            }
            (None, Ending::Whole) => {}
        }
        self.close(outcome, status);
    }

    /// Takes down what the answer has said of its usage.
    pub(super) fn metered(&mut self, meter: Meter) -> Metered {
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
}

/// Type and text of an error that is passing; the body of one that was not read is left alone.
fn error_for_record(status: StatusCode, headers: &HeaderMap, body: &AnswerBody) -> String {
    let read = match body {
        AnswerBody::Read(bytes) => &bytes[..],
        AnswerBody::Passing(_) => &[],
    };
    AwsError::new(headers, read).for_record(status)
}
