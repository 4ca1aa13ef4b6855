//! A stand-in for Bedrock that does as little as it can: it checks nothing and answers at once. Where an answer has to be
//! right, in tests, `simulator/` stands in.

use std::io::Read;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::Frame;
use http_body_util::{BodyExt, Either, Full};
use hyper::body::{Body, Incoming};
use hyper::header::HeaderValue;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::time::{Instant, Interval, interval_at};
use tokio_rustls::TlsAcceptor;

use crate::flood::Flood;
use crate::listed::{self, Reached};
use crate::{Error, eventstream, table, tls};

pub(crate) const EVENTS_PER_SECOND: u32 = 20;
/// The size of InvokeModel's answer.
pub(crate) const ANSWER: usize = 2048;
/// As many streams on one connection as Bedrock allows.
const STREAMS: u32 = 100;

/// What the upstream needs.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Its certificate, for localhost.
    #[arg(long)]
    certificate: PathBuf,
    #[arg(long)]
    key: PathBuf,
    /// Lists so many more models, and a system profile of each.
    #[arg(long, default_value_t = 0)]
    models: usize,
    /// How these are invoked.
    #[arg(long, value_enum, default_value_t = Reached::ByProfile)]
    reached: Reached,
}

/// What it answers, made once.
#[derive(Debug)]
struct Answers {
    invoked: Bytes,
    models: Bytes,
    profiles: Bytes,
}

impl Answers {
    fn new(arguments: &Arguments) -> Result<Answers, Error> {
        let mut models: serde_json::Value = serde_json::from_str(MODELS)?;
        if let Some(summaries) = models["modelSummaries"].as_array_mut() {
            summaries.extend(listed::models(arguments.models, arguments.reached));
        }
        Ok(Answers {
            invoked: invoked().into(),
            models: models.to_string().into(),
            profiles: listed::profiles(arguments.models).into(),
        })
    }
}

/// Serves until the standard input ends, that is with the process that holds it.
pub(crate) fn run(arguments: &Arguments) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let answers = Arc::new(Answers::new(arguments)?);
    let mut ports = Vec::new();
    for protocols in [["http/1.1"].as_slice(), ["h2", "http/1.1"].as_slice()] {
        let config = tls::server(&arguments.certificate, &arguments.key, protocols)?;
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        ports.push(listener.local_addr()?.port());
        runtime.spawn(listen(listener, config.into(), Arc::clone(&answers)));
    }
    let table = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
    println!("{}", json!({ "http1": ports[0], "http2": ports[1], "table": table.local_addr()?.port() }));
    runtime.spawn(table::listen(table));
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

async fn listen(listener: TcpListener, tls: TlsAcceptor, answers: Arc<Answers>) -> Result<(), std::io::Error> {
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (tls, answers) = (tls.clone(), Arc::clone(&answers));
        tokio::spawn(async move {
            // Clients leave as they like; what they miss, they tell.
            let Ok(stream) = tls.accept(stream).await else { return };
            let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            let service = service_fn(move |request| answer(request, Arc::clone(&answers)));
            let stream = TokioIo::new(stream);
            let _ended = if is_http2 {
                hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .timer(TokioTimer::new())
                    .max_concurrent_streams(STREAMS)
                    .initial_stream_window_size(1 << 20)
                    .initial_connection_window_size(32 << 20)
                    .serve_connection(stream, service)
                    .await
            } else {
                hyper::server::conn::http1::Builder::new()
                    .timer(TokioTimer::new())
                    .serve_connection(stream, service)
                    .await
            };
        });
    }
}

/// An answer of a Claude model.
fn invoked() -> String {
    let answer = |text: &str| {
        json!({
            "id": "msg_bdrk_01", "type": "message", "role": "assistant", "model": "claude-3-haiku-20240307",
            "content": [{ "type": "text", "text": text }], "stop_reason": "end_turn", "stop_sequence": null,
            "usage": { "input_tokens": 250, "output_tokens": 400 },
        })
        .to_string()
    };
    let around = answer("").len();
    answer(&"x".repeat(ANSWER - around))
}

type Answer = Either<Full<Bytes>, Either<Paced, Flood>>;

async fn answer(request: Request<Incoming>, answers: Arc<Answers>) -> Result<Response<Answer>, Error> {
    let (head, mut body) = request.into_parts();
    let path = head.uri.path();
    let mut asked = Vec::new();
    while let Some(frame) = body.frame().await {
        if let (Ok(piece), true) = (frame?.into_data(), path.ends_with("/converse-stream")) {
            asked.extend_from_slice(&piece);
        }
    }
    let json = |status: StatusCode, body: Bytes| {
        Response::builder()
            .status(status)
            .header("content-type", "application/json")
            .header("x-amzn-requestid", "8ba9f5a8-2e3c-4f58-a4d6-5f1d0b9c7d11")
            .body(Either::Left(Full::new(body)))
    };
    if path.ends_with("/converse-stream") {
        let asked: serde_json::Value = serde_json::from_slice(&asked)?;
        let stream = match asked["additionalModelRequestFields"]["flood"].as_u64() {
            Some(bytes) => Either::Right(Flood::new(usize::try_from(bytes)?)?),
            None => {
                let events = asked["inferenceConfig"]["maxTokens"].as_u64().ok_or("no maxTokens")?;
                Either::Left(Paced::new(usize::try_from(events)?))
            }
        };
        return Ok(Response::builder()
            .header("content-type", "application/vnd.amazon.eventstream")
            .header("x-amzn-requestid", "8ba9f5a8-2e3c-4f58-a4d6-5f1d0b9c7d11")
            .body(Either::Right(stream))?);
    }
    Ok(match path {
        "/foundation-models" => json(StatusCode::OK, answers.models.clone()),
        "/inference-profiles" if head.uri.query().is_some_and(|query| query.contains("type=SYSTEM_DEFINED")) => {
            json(StatusCode::OK, answers.profiles.clone())
        }
        "/inference-profiles" => json(StatusCode::OK, r#"{"inferenceProfileSummaries":[]}"#.into()),
        // Every model of these is reached by its profile alone.
        path if path.starts_with("/model/bench.") => {
            let model = path.split('/').nth(2).unwrap_or_default();
            json(StatusCode::BAD_REQUEST, listed::refusal(model).into()).map(|mut refused| {
                refused.headers_mut().insert("x-amzn-errortype", HeaderValue::from_static("ValidationException"));
                refused
            })
        }
        path if path.ends_with("/invoke") => json(StatusCode::OK, answers.invoked.clone()),
        _ => json(StatusCode::NOT_FOUND, r#"{"message":"this stand-in does not know the path"}"#.into()),
    }?)
}

const MODELS: &str = r#"{"modelSummaries":[{"modelId":"anthropic.claude-3-haiku-20240307-v1:0",
"modelArn":"arn:aws:bedrock:us-east-1::foundation-model/anthropic.claude-3-haiku-20240307-v1:0","modelName":"Claude 3 Haiku",
"providerName":"Anthropic","inputModalities":["TEXT","IMAGE"],"outputModalities":["TEXT"],"responseStreamingSupported":true,
"customizationsSupported":[],"inferenceTypesSupported":["ON_DEMAND"],"modelLifecycle":{"status":"ACTIVE"}}]}"#;

/// So late is tokio's timer by itself, which counts milliseconds and begins to wait within one.
const TIMER: Duration = Duration::from_millis(2);

/// A stream whose events come at a fixed rate. One that is late does not make those after it late.
struct Paced {
    clock: Interval,
    /// When the first event is due, by both clocks.
    begin: (Instant, u64),
    events: usize,
    /// Frames that have been sent: the beginning, events, the end.
    sent: usize,
}

impl Paced {
    fn new(events: usize) -> Paced {
        let begin = (Instant::now(), eventstream::now());
        Paced { clock: interval_at(begin.0, Duration::from_secs(1) / EVENTS_PER_SECOND), begin, events, sent: 0 }
    }

    /// The event of this tick. It is due now; but one that the connection has held up was due when the timer fired at the
    /// latest.
    fn delta(&self, tick: Instant) -> Result<Bytes, Error> {
        let latest = tick - self.begin.0 + TIMER;
        eventstream::delta(eventstream::now().min(self.begin.1 + u64::try_from(latest.as_nanos())?))
    }
}

impl Body for Paced {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let events = self.events;
        let frame = match self.sent {
            0 => eventstream::beginning(),
            sent if sent <= events => {
                let tick = ready!(self.clock.poll_tick(cx));
                self.delta(tick)
            }
            sent if sent == events + 1 => eventstream::end(events),
            _ => return Poll::Ready(None),
        };
        self.sent += 1;
        Poll::Ready(Some(frame.map(Frame::data)))
    }
}
