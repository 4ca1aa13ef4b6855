//! A proxy before DynamoDB Local that fails the way DynamoDB does.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use aws_sdk_dynamodb::Client;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::{client, port};

/// How the proxy answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// As DynamoDB Local does.
    None,
    /// Connections break.
    Gone,
    /// 400, ProvisionedThroughputExceededException.
    Throttled,
    /// 500, InternalServerError.
    ServerError,
    /// Of every batch, the second half stays unprocessed.
    Half,
    /// 400, ExpiredTokenException.
    Expired,
    /// 400, AccessDeniedException.
    Denied,
    /// No item is small enough.
    TooLarge,
    /// Items are refused for what they are, and the table cannot be described.
    Confused,
}

/// A running proxy; it answers until the test ends.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    fault: Arc<Mutex<Fault>>,
    /// Batches that were asked for.
    pub batches: Arc<AtomicU64>,
    /// Requests that met a fault.
    pub faults: Arc<AtomicU64>,
    gate: Arc<Gate>,
}

/// Where requests of some operations wait.
#[derive(Debug, Default)]
struct Gate {
    /// The operations that are held, as `x-amz-target` ends.
    held: watch::Sender<&'static [&'static str]>,
    waiting: AtomicU64,
}

impl Gate {
    async fn pass(&self, target: &str) {
        let mut held = self.held.subscribe();
        self.waiting.fetch_add(1, Ordering::SeqCst);
        // The sender lives as long as this borrow.
        let _ = held.wait_for(|held| !held.iter().any(|operation| target.ends_with(operation))).await;
        self.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Proxy {
    /// A proxy on a port of its own, without faults at first.
    pub async fn start() -> Proxy {
        let upstream = tokio::task::spawn_blocking(port).await.unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let proxy = Proxy {
            port,
            fault: Arc::new(Mutex::new(Fault::None)),
            batches: Arc::default(),
            faults: Arc::default(),
            gate: Arc::default(),
        };
        let (fault, batches, faults) = (proxy.fault.clone(), proxy.batches.clone(), proxy.faults.clone());
        let gate = proxy.gate.clone();
        tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                let (fault, batches, faults) = (fault.clone(), batches.clone(), faults.clone());
                let gate = gate.clone();
                let service = service_fn(move |request: Request<Incoming>| {
                    let now = *fault.lock().unwrap();
                    let (batches, faults, gate) = (batches.clone(), faults.clone(), gate.clone());
                    async move {
                        gate.pass(request.headers()["x-amz-target"].to_str().unwrap()).await;
                        answer(request, now, upstream, batches, faults).await
                    }
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        proxy
    }

    /// How the requests that come from now on are answered.
    pub fn set(&self, fault: Fault) {
        *self.fault.lock().unwrap() = fault;
    }

    /// Lets requests of these operations wait until other ones are named; all others pass.
    pub fn hold(&self, operations: &'static [&'static str]) {
        self.gate.held.send_replace(operations);
    }

    /// Requests that wait.
    pub fn waiting(&self) -> u64 {
        self.gate.waiting.load(Ordering::SeqCst)
    }

    /// The URL to give to a client or a daemon.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// An SDK client that goes through the proxy.
    pub fn client(&self) -> Client {
        client(&self.endpoint())
    }
}

async fn answer(
    request: Request<Incoming>,
    fault: Fault,
    upstream: u16,
    batches: Arc<AtomicU64>,
    faults: Arc<AtomicU64>,
) -> Result<Response<Full<Bytes>>, std::io::Error> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
    let is_batch = head.headers["x-amz-target"].to_str().unwrap().ends_with("BatchWriteItem");
    if is_batch {
        batches.fetch_add(1, Ordering::SeqCst);
    }
    let refuse = |status: u16, kind: &str, message: &str| {
        faults.fetch_add(1, Ordering::SeqCst);
        let body = json!({ "__type": format!("com.amazonaws.dynamodb.v20120810#{kind}"), "message": message });
        Ok(Response::builder()
            .status(status)
            .header("content-type", "application/x-amz-json-1.0")
            .body(Full::from(body.to_string()))
            .unwrap())
    };
    match fault {
        Fault::Gone => {
            faults.fetch_add(1, Ordering::SeqCst);
            Err(std::io::Error::other("gone"))
        }
        Fault::Throttled => refuse(
            400,
            "ProvisionedThroughputExceededException",
            "The level of configured provisioned throughput for the table was exceeded.",
        ),
        Fault::ServerError => refuse(500, "InternalServerError", "Internal server error"),
        Fault::Expired => refuse(400, "ExpiredTokenException", "The security token included in the request is expired"),
        Fault::Denied => {
            refuse(400, "AccessDeniedException", "User is not authorized to perform: dynamodb:BatchWriteItem")
        }
        Fault::TooLarge if is_batch => {
            refuse(400, "ValidationException", "Item size has exceeded the maximum allowed size")
        }
        Fault::Confused if is_batch => refuse(400, "ValidationException", "Something is wrong"),
        Fault::Confused => refuse(500, "InternalServerError", "Internal server error"),
        Fault::Half if is_batch => {
            let mut sent: Value = serde_json::from_slice(&body).unwrap();
            let tables = sent["RequestItems"].as_object_mut().unwrap();
            let (table, requests) = tables.iter_mut().next().unwrap();
            let table = table.clone();
            let requests = requests.as_array_mut().unwrap();
            let left = requests.split_off(requests.len().div_ceil(2));
            let response = forward(&head, Bytes::from(sent.to_string()), upstream).await;
            if left.is_empty() || response.status() != 200 {
                return Ok(response);
            }
            faults.fetch_add(1, Ordering::SeqCst);
            Ok(Response::new(Full::from(json!({ "UnprocessedItems": { table: left } }).to_string())))
        }
        Fault::None | Fault::Half | Fault::TooLarge => Ok(forward(&head, body, upstream).await),
    }
}

async fn forward(head: &http::request::Parts, body: Bytes, port: u16) -> Response<Full<Bytes>> {
    let stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut request = Request::post("/");
    for (name, value) in head.headers.iter().filter(|(name, _)| *name != http::header::CONTENT_LENGTH) {
        request = request.header(name, value);
    }
    let response = sender.send_request(request.body(Full::new(body)).unwrap()).await.unwrap();
    let (head, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = head.status;
    if let Some(kind) = head.headers.get(http::header::CONTENT_TYPE) {
        answer.headers_mut().insert(http::header::CONTENT_TYPE, kind.clone());
    }
    answer
}
