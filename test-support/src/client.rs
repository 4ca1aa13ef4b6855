//! HTTP/1.1 and HTTP/2 as a client sees them, on connections of their own or kept.

use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, Response, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::net::TcpStream;

use crate::within;

/// A request with its whole body.
pub type Request = http::Request<Full<Bytes>>;

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// As they came; trailers are not among them.
    pub headers: HeaderMap,
    /// All of the body.
    pub body: Bytes,
}

impl Answer {
    /// Reads the body to its end.
    ///
    /// # Errors
    /// The body breaks off.
    pub async fn of(response: Response<Incoming>) -> Result<Answer, hyper::Error> {
        let (head, body) = response.into_parts();
        let body = body.collect().await?.to_bytes();
        Ok(Answer { status: head.status.as_u16(), headers: head.headers, body })
    }

    /// The first value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// The body as text, with replacement characters for what is not UTF-8.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; anything else fails the test.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {self:?}"))
    }
}

/// A request with the headers that an SDK would send; add or remove more by `headers_mut`.
pub fn request(method: Method, path: &str, body: impl Into<Bytes>) -> Request {
    let body = body.into();
    let mut request = Request::new(Full::new(body.clone()));
    *request.method_mut() = method;
    *request.uri_mut() = path.parse::<Uri>().unwrap();
    if !body.is_empty() {
        request.headers_mut().insert("content-type", "application/json".parse().unwrap());
    }
    request
}

/// GET on a connection of its own.
pub async fn get(address: SocketAddr, path: &str) -> Answer {
    send(address, request(Method::GET, path, "")).await
}

/// POST of JSON on a connection of its own.
pub async fn post(address: SocketAddr, path: &str, body: impl Into<Bytes>) -> Answer {
    send(address, request(Method::POST, path, body)).await
}

/// One request on a connection of its own.
pub async fn send(address: SocketAddr, request: Request) -> Answer {
    let mut connection = Http1::to(address).await;
    let response = connection.start(request).await.unwrap();
    within("the body", Answer::of(response)).await.unwrap()
}

/// A kept HTTP/1.1 connection.
#[derive(Debug)]
pub struct Http1 {
    sender: http1::SendRequest<Full<Bytes>>,
    host: String,
}

impl Http1 {
    /// Connects by TCP.
    pub async fn to(address: SocketAddr) -> Http1 {
        let stream = TcpStream::connect(address).await.unwrap();
        Http1::on(stream, &address.to_string()).await
    }

    /// Speaks on a stream that is connected already; `host` goes into every request.
    pub async fn on<T>(stream: T, host: &str) -> Http1
    where
        T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
    {
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Http1 { sender, host: host.to_owned() }
    }

    /// Sends a request and waits for the answer's head.
    ///
    /// # Errors
    /// The connection ends before that.
    pub async fn start(&mut self, mut request: Request) -> Result<Response<Incoming>, hyper::Error> {
        let host = self.host.parse().unwrap();
        request.headers_mut().entry("host").or_insert(host);
        within("a connection that can send", self.sender.ready()).await?;
        within("an answer", self.sender.send_request(request)).await
    }

    /// Sends a request and reads the whole answer.
    pub async fn send(&mut self, request: Request) -> Answer {
        let response = self.start(request).await.unwrap();
        within("the body", Answer::of(response)).await.unwrap()
    }
}

/// A kept HTTP/2 connection with prior knowledge.
#[derive(Debug, Clone)]
pub struct Http2 {
    sender: http2::SendRequest<Full<Bytes>>,
    authority: String,
}

impl Http2 {
    /// Connects by TCP.
    pub async fn to(address: SocketAddr) -> Http2 {
        let stream = TcpStream::connect(address).await.unwrap();
        let (sender, connection) =
            http2::Builder::new(TokioExecutor::new()).handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Http2 { sender, authority: address.to_string() }
    }

    /// Sends a request on a stream of its own and waits for the answer's head.
    ///
    /// # Errors
    /// The stream or the connection ends before that.
    pub async fn start(&self, mut request: Request) -> Result<Response<Incoming>, hyper::Error> {
        let path = request.uri().path_and_query().unwrap().to_string();
        *request.uri_mut() = format!("http://{}{path}", self.authority).parse().unwrap();
        let mut sender = self.sender.clone();
        within("a connection that can send", sender.ready()).await?;
        within("an answer", sender.send_request(request)).await
    }

    /// Sends a request and reads the whole answer.
    pub async fn send(&self, request: Request) -> Answer {
        let response = self.start(request).await.unwrap();
        within("the body", Answer::of(response)).await.unwrap()
    }
}

/// Reads a body as it comes.
#[derive(Debug)]
pub struct Reader {
    /// `x-bedrock-sidecar-request-id`; empty when the answer has none.
    pub request_id: String,
    body: Incoming,
    /// What has come so far.
    pub bytes: BytesMut,
}

impl Reader {
    /// Reads nothing yet.
    pub fn new(response: Response<Incoming>) -> Reader {
        let id = response.headers().get("x-bedrock-sidecar-request-id").and_then(|id| id.to_str().ok());
        let request_id = id.unwrap_or_default().to_owned();
        Reader { request_id, body: response.into_body(), bytes: BytesMut::new() }
    }

    /// Waits until so many bytes have come in all.
    ///
    /// # Errors
    /// The body breaks off before that.
    pub async fn until(&mut self, length: usize) -> Result<(), hyper::Error> {
        while self.bytes.len() < length {
            match within("the next bytes of the answer", self.body.frame()).await {
                Some(frame) => self.take(frame?),
                None => panic!("the answer ended after {} of {length} bytes", self.bytes.len()),
            }
        }
        Ok(())
    }

    /// Reads to the end, clean or not.
    ///
    /// # Errors
    /// The body breaks off.
    pub async fn end(&mut self) -> Result<(), hyper::Error> {
        while let Some(frame) = within("the end of the answer", self.body.frame()).await {
            self.take(frame?);
        }
        Ok(())
    }

    fn take(&mut self, frame: hyper::body::Frame<Bytes>) {
        if let Ok(data) = frame.into_data() {
            self.bytes.extend_from_slice(&data);
        }
    }
}
