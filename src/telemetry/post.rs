//! One export: an HTTP request with protobuf in it, and what the collector's answer means.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue, USER_AGENT};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message;

use crate::config::Endpoint;
pub(super) use crate::config::Signal;
use crate::settings;
use crate::upstream::pool::{Effort, Outgoing, Pool};
use crate::upstream::throttled::retry_after;
use crate::upstream::tls;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// OTLP's own default.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Answers are far smaller.
const MAX_ANSWER: usize = 64 * 1024;
const PROTOBUF: HeaderValue = HeaderValue::from_static("application/x-protobuf");
const PROGRAM: HeaderValue = HeaderValue::from_static(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")));

/// Whom to send to, and how often metrics are sent.
#[derive(Debug)]
pub(crate) struct Collector {
    endpoint: Endpoint,
    pool: Arc<Pool>,
    signals: Vec<Signal>,
    pub(super) interval: Duration,
}

/// What became of an export.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The collector has it, but for so many spans that it did not want.
    Taken { rejected: u64 },
    /// It may be sent again, after this time if the collector named one.
    Later { after: Option<Duration>, reason: String },
    /// The collector will never take it.
    Refused { reason: String },
}

impl Collector {
    /// Prepares connections; nothing is contacted yet.
    ///
    /// # Errors
    /// No TLS towards this endpoint is possible.
    pub(super) fn new(settings: &settings::Telemetry) -> Result<Collector, String> {
        let tls = if settings.endpoint.tls { Some(tls::config(settings.ca.as_deref())?) } else { None };
        let pool = Pool::new(settings.endpoint.clone(), tls, CONNECT_TIMEOUT)?;
        let (endpoint, signals) = (settings.endpoint.clone(), settings.signals.clone());
        Ok(Collector { endpoint, pool, signals, interval: settings.metrics_interval })
    }

    /// Whether it is to get these.
    pub(super) fn sends(&self, signal: Signal) -> bool {
        self.signals.contains(&signal)
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Sends one export. It ends within the time-outs whatever the collector does.
    pub(super) async fn post(&self, signal: Signal, body: Bytes) -> Answer {
        let mut effort = Effort::default();
        let sent = self.pool.send(ANSWER_TIMEOUT, &mut effort, |_| request(&self.endpoint, signal, body.clone()));
        let (response, lease) = match sent.await {
            Ok(answered) => answered,
            Err(error) => return Answer::Later { after: None, reason: error.to_string() },
        };
        let (head, body) = response.into_parts();
        let body = tokio::time::timeout(ANSWER_TIMEOUT, Limited::new(body, MAX_ANSWER).collect()).await;
        let Ok(Ok(body)) = body else {
            // Whether it was taken is not known; OTLP would rather have it twice than never.
            return Answer::Later { after: None, reason: format!("{}: no whole answer", head.status.as_u16()) };
        };
        lease.give_back();
        meaning(signal, head.status, &head.headers, &body.to_bytes(), SystemTime::now())
    }
}

fn request(endpoint: &Endpoint, signal: Signal, body: Bytes) -> Result<Outgoing, String> {
    let path = match signal {
        Signal::Traces => "/v1/traces",
        Signal::Metrics => "/v1/metrics",
    };
    let uri = format!("{endpoint}{path}");
    let mut request = Request::new(body.into());
    *request.method_mut() = Method::POST;
    *request.uri_mut() = uri.parse().map_err(|_| format!("{uri} is no URL"))?;
    request.headers_mut().insert(CONTENT_TYPE, PROTOBUF);
    request.headers_mut().insert(USER_AGENT, PROGRAM);
    Ok(request)
}

/// As OTLP says (OTLP/HTTP Response). The text of an answer is not repeated: it may quote what was sent.
fn meaning(signal: Signal, status: StatusCode, headers: &HeaderMap, body: &[u8], now: SystemTime) -> Answer {
    let reason = || format!("the collector answered {status}");
    match status.as_u16() {
        200..300 => {
            let partial = || ExportTraceServiceResponse::decode(body).ok()?.partial_success;
            let rejected = if signal == Signal::Traces { partial() } else { None };
            let rejected = rejected.map_or(0, |partial| u64::try_from(partial.rejected_spans).unwrap_or(0));
            Answer::Taken { rejected }
        }
        429 | 502 | 503 | 504 => Answer::Later { after: retry_after(headers, now), reason: reason() },
        _ => Answer::Refused { reason: reason() },
    }
}

#[cfg(test)]
mod tests {
    use http::header::RETRY_AFTER;
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTracePartialSuccess;

    use super::*;

    #[test]
    fn answers_mean_what_otlp_says() {
        let mut headers = HeaderMap::new();
        let answer = |status, headers: &HeaderMap, body: &[u8]| {
            let status = StatusCode::from_u16(status).unwrap();
            meaning(Signal::Traces, status, headers, body, SystemTime::UNIX_EPOCH)
        };
        assert_eq!(answer(200, &headers, b""), Answer::Taken { rejected: 0 });
        assert_eq!(answer(200, &headers, b"{}"), Answer::Taken { rejected: 0 });
        let partial = |rejected_spans| {
            let partial_success = Some(ExportTracePartialSuccess { rejected_spans, error_message: "CANARY".into() });
            ExportTraceServiceResponse { partial_success }.encode_to_vec()
        };
        assert_eq!(answer(200, &headers, &partial(3)), Answer::Taken { rejected: 3 });
        assert_eq!(answer(200, &headers, &partial(-1)), Answer::Taken { rejected: 0 });
        assert!(matches!(answer(400, &headers, b"CANARY"), Answer::Refused { reason } if !reason.contains("CANARY")));
        assert!(matches!(answer(500, &headers, b""), Answer::Refused { .. }));
        for status in [429, 502, 503, 504] {
            assert!(matches!(answer(status, &headers, b""), Answer::Later { after: None, .. }), "{status}");
        }
        headers.insert(RETRY_AFTER, HeaderValue::from_static("7"));
        let seven = Some(Duration::from_secs(7));
        assert!(matches!(answer(503, &headers, b""), Answer::Later { after, .. } if after == seven));
    }
}
