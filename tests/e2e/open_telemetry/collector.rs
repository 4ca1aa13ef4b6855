//! A collector of OpenTelemetry that takes nothing but what OTLP says, or does what a test tells it to.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::pending;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::metrics::v1::HistogramDataPoint;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use test_support::until;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// What it does with an export.
#[derive(Debug, Clone)]
pub(super) enum Mood {
    /// Takes it.
    Takes,
    /// Answers with this status, and perhaps with Retry-After.
    Answers(u16, Option<&'static str>),
    /// Takes it but for so many spans.
    Partly(i64),
    /// Never answers.
    Silent,
    /// Takes traces, and never answers to metrics.
    TracesAlone,
}

/// A collector on a port of its own.
#[derive(Debug, Clone)]
pub(super) struct Collector {
    pub(super) address: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    mood: Mood,
    taken: Vec<Told>,
    page: Option<ExportMetricsServiceRequest>,
    /// Everything that has come, whether it was taken or not.
    bytes: Vec<u8>,
    posts: usize,
}

/// A span that was taken.
#[derive(Debug, Clone)]
pub(super) struct Told {
    pub(super) span: Span,
    pub(super) attributes: BTreeMap<String, String>,
    pub(super) resource: BTreeMap<String, String>,
}

impl Collector {
    /// By plain HTTP.
    pub(super) async fn start() -> Collector {
        Collector::serve(None).await
    }

    /// By TLS.
    pub(super) async fn with_tls(tls: TlsAcceptor) -> Collector {
        Collector::serve(Some(tls)).await
    }

    async fn serve(tls: Option<TlsAcceptor>) -> Collector {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = State { mood: Mood::Takes, taken: Vec::new(), page: None, bytes: Vec::new(), posts: 0 };
        let collector = Collector { address, state: Arc::new(Mutex::new(state)) };
        let accepts = collector.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (collector, tls) = (accepts.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        Some(tls) => collector.connection(tls.accept(stream).await.unwrap()).await,
                        None => collector.connection(stream).await,
                    }
                });
            }
        });
        collector
    }

    async fn connection(self, stream: impl AsyncRead + AsyncWrite + Unpin) {
        let service = service_fn(|request| self.clone().answer(request));
        let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
    }

    async fn answer(self, request: http::Request<Incoming>) -> Result<http::Response<Full<Bytes>>, Infallible> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        assert_eq!((head.method.as_str(), head.headers["content-type"].to_str().unwrap()), ("POST", PROTOBUF));
        let mood = {
            let mut state = self.state.lock().unwrap();
            state.posts += 1;
            state.bytes.extend_from_slice(&body);
            state.mood.clone()
        };
        let mut answer = http::Response::new(Full::default());
        answer.headers_mut().insert("content-type", PROTOBUF.parse().unwrap());
        match mood {
            Mood::Takes => self.take(head.uri.path(), &body),
            Mood::Partly(rejected_spans) => {
                let partial_success = Some(ExportTracePartialSuccess { rejected_spans, error_message: String::new() });
                *answer.body_mut() = ExportTraceServiceResponse { partial_success }.encode_to_vec().into();
            }
            Mood::Answers(status, retry_after) => {
                *answer.status_mut() = status.try_into().unwrap();
                if let Some(after) = retry_after {
                    answer.headers_mut().insert("retry-after", after.parse().unwrap());
                }
            }
            Mood::TracesAlone if head.uri.path() == "/v1/traces" => self.take(head.uri.path(), &body),
            Mood::Silent | Mood::TracesAlone => pending().await,
        }
        Ok(answer)
    }

    fn take(&self, path: &str, body: &[u8]) {
        let mut state = self.state.lock().unwrap();
        match path {
            "/v1/traces" => state.taken.extend(told(&strictly(body))),
            "/v1/metrics" => state.page = Some(strictly(body)),
            other => panic!("OTLP has no {other}"),
        }
    }

    /// What it does from now on.
    pub(super) fn becomes(&self, mood: Mood) {
        self.state.lock().unwrap().mood = mood;
    }

    /// The spans that were taken.
    pub(super) fn taken(&self) -> Vec<Told> {
        self.state.lock().unwrap().taken.clone()
    }

    /// How many exports have come.
    pub(super) fn posts(&self) -> usize {
        self.state.lock().unwrap().posts
    }

    /// Whether this text has come in any export.
    pub(super) fn has_seen(&self, text: &str) -> bool {
        self.state.lock().unwrap().bytes.windows(text.len()).any(|window| window == text.as_bytes())
    }

    /// Waits for the span of a request.
    pub(super) async fn span_of(&self, request_id: &str) -> Told {
        let is_it = |told: &Told| told.attributes["bedrock_sidecar.request_id"] == request_id;
        until(&format!("the span of {request_id}"), || self.taken().into_iter().find(is_it)).await
    }

    /// The data points of a metric in the latest page, with their attributes.
    pub(super) fn points(&self, name: &str) -> Vec<(BTreeMap<String, String>, HistogramDataPoint)> {
        let page = self.state.lock().unwrap().page.clone().unwrap_or_default();
        let scopes = page.resource_metrics.into_iter().flat_map(|resource| resource.scope_metrics);
        let metrics = scopes.flat_map(|scope| scope.metrics).filter(|metric| metric.name == name);
        let points = metrics.flat_map(|metric| match metric.data {
            Some(Data::Histogram(histogram)) => histogram.data_points,
            other => panic!("{name} is {other:?}"),
        });
        points.map(|point| (attributes(&point.attributes), point)).collect()
    }
}

const PROTOBUF: &str = "application/x-protobuf";

/// A message that is the same when it is written again: nothing is unknown, twice or in another form.
fn strictly<M: Message + Default + std::fmt::Debug>(body: &[u8]) -> M {
    let message = M::decode(body).unwrap();
    assert!(message.encode_to_vec() == body, "{message:?}");
    message
}

fn told(request: &ExportTraceServiceRequest) -> Vec<Told> {
    let mut all = Vec::new();
    for resource_spans in &request.resource_spans {
        let resource = attributes(&resource_spans.resource.as_ref().unwrap().attributes);
        for scope_spans in &resource_spans.scope_spans {
            assert_eq!(scope_spans.scope.as_ref().unwrap().name, "bedrock-sidecar");
            for span in &scope_spans.spans {
                assert!(span.trace_id.len() == 16 && span.trace_id != [0; 16], "{span:?}");
                assert!(span.span_id.len() == 8 && span.span_id != [0; 8], "{span:?}");
                assert!(matches!(span.parent_span_id.len(), 0 | 8), "{span:?}");
                assert!(!span.name.is_empty() && span.start_time_unix_nano <= span.end_time_unix_nano, "{span:?}");
                let attributes = attributes(&span.attributes);
                all.push(Told { span: span.clone(), attributes, resource: resource.clone() });
            }
        }
    }
    all
}

/// Each once, as text.
fn attributes(all: &[KeyValue]) -> BTreeMap<String, String> {
    let mut map = BTreeMap::new();
    for attribute in all {
        let text = match attribute.value.as_ref().unwrap().value.as_ref().unwrap() {
            Value::StringValue(text) => text.clone(),
            Value::BoolValue(value) => value.to_string(),
            Value::IntValue(value) => value.to_string(),
            Value::DoubleValue(value) => value.to_string(),
            other => panic!("{other:?}"),
        };
        assert!(map.insert(attribute.key.clone(), text).is_none(), "{} twice", attribute.key);
    }
    map
}
