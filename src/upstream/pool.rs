//! Connections to one host: opened when needed, kept while they are good, HTTP/2 or HTTP/1.1 as ALPN decides.
//!
//! An HTTP/1.1 connection carries one request at a time and waits here in between. An HTTP/2 connection carries many, but
//! no more than the peer allows: a thousand streams that last for minutes must not queue behind one connection.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{HOST, HeaderValue};
use http::uri::{Authority, Scheme};
use http::{Request, Response, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::config::Endpoint;

/// A request as it goes upstream: its body is in memory, because the signature needs its hash and a retry its bytes.
pub(crate) type Outgoing = Request<Full<Bytes>>;

/// Idle HTTP/1.1 connections are dropped before servers commonly close them (60 s and up).
const IDLE: Duration = Duration::from_secs(50);
const MAX_IDLE: usize = 256;
/// A request that no peer has processed is sent again so often at most, on other connections or streams.
const MAX_REPEATS: u32 = 3;
/// Streams on one HTTP/2 connection, unless the peer allows fewer.
const MAX_STREAMS: usize = 100;
/// What one stream may have in flight; a slow client stops its own stream and no other.
const STREAM_WINDOW: u32 = 256 * 1024;
/// What all streams of one connection may have in flight: the windows of `MAX_STREAMS` streams.
const CONNECTION_WINDOW: u32 = 100 * STREAM_WINDOW;

/// The connections to one endpoint.
#[derive(Debug)]
pub(crate) struct Pool {
    endpoint: Endpoint,
    scheme: Scheme,
    authority: Authority,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    connect_timeout: Duration,
    connections: Mutex<Connections>,
    /// Held while a connection is being opened to a host that is not known to speak HTTP/1.1 only: who waits may then
    /// share the new HTTP/2 connection.
    opening: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Connections {
    idle: Vec<(http1::SendRequest<Full<Bytes>>, Instant)>,
    shared: Vec<Arc<Shared>>,
    http1_only: bool,
}

#[derive(Debug)]
struct Shared {
    sender: http2::SendRequest<Full<Bytes>>,
    streams: AtomicUsize,
    /// What the peer allows; it may change its mind.
    most: Arc<AtomicUsize>,
}

/// Why no answer came.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    /// Nothing was sent.
    #[error("no connection to {endpoint}: {reason}")]
    Connect { endpoint: String, reason: String },
    /// Peers said, or closed the connection in such a way, that they did nothing with the request.
    #[error("{endpoint} did not take the request: {reason}")]
    NotTaken { endpoint: String, reason: String },
    /// The request may have been received.
    #[error("the connection to {endpoint} broke before an answer: {reason}")]
    Broke { endpoint: String, reason: String },
}

/// What it took to have a request answered.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Effort {
    /// How often the request was sent. The pool counts repeats alone.
    pub attempts: u32,
    /// How long it waited for connections.
    pub connecting: Duration,
}

/// A connection in use; goes back to the pool with the end of the answer.
#[derive(Debug)]
pub(crate) struct Lease {
    pool: Arc<Pool>,
    connection: Option<Connection>,
}

#[derive(Debug)]
enum Connection {
    Own(http1::SendRequest<Full<Bytes>>),
    Stream(Arc<Shared>),
}

impl Pool {
    pub(crate) fn new(
        endpoint: Endpoint,
        tls: Option<Arc<ClientConfig>>,
        connect_timeout: Duration,
    ) -> Result<Arc<Pool>, String> {
        let tls = match tls {
            Some(config) => {
                let host = endpoint.host.trim_start_matches('[').trim_end_matches(']').to_owned();
                let name = ServerName::try_from(host).map_err(|_| format!("{endpoint} has no valid host name"))?;
                Some((config, name))
            }
            None => None,
        };
        let authority = Authority::try_from(endpoint.authority()).map_err(|error| format!("{endpoint}: {error}"))?;
        let scheme = if endpoint.tls { Scheme::HTTPS } else { Scheme::HTTP };
        Ok(Arc::new(Pool {
            endpoint,
            scheme,
            authority,
            tls,
            connect_timeout,
            connections: Mutex::default(),
            opening: tokio::sync::Mutex::new(()),
        }))
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Sends one request on a connection of the pool. A pooled connection that turns out to be closed before it took the
    /// request is replaced, and so is a stream that the peer refused unread; both a few times at most. A request that may
    /// have been processed is never sent twice. Each repeat of a request that had left is counted in `effort`.
    pub(crate) async fn send(
        self: &Arc<Pool>,
        mut request: Outgoing,
        effort: &mut Effort,
    ) -> Result<(Response<Incoming>, Lease), SendError> {
        let mut repeats = 0;
        loop {
            // The pool may hold many connections that the peer has closed; a new one is not of those.
            let began = Instant::now();
            let connection = if repeats < MAX_REPEATS { self.connection().await } else { self.fresh().await };
            effort.connecting += began.elapsed();
            let mut lease = Lease { pool: Arc::clone(self), connection: Some(connection?) };
            // Bodies are shared, so this copies the head alone, and only where a peer can say what it did not process.
            let copy = matches!(lease.connection, Some(Connection::Stream(_))).then(|| request.clone());
            let sent = match &mut lease.connection {
                Some(Connection::Own(sender)) => sender.try_send_request(self.for_http1(request)).await,
                Some(Connection::Stream(shared)) => {
                    shared.sender.clone().try_send_request(self.for_http2(request)).await
                }
                None => return Err(self.not_taken("there is no connection".to_owned())),
            };
            let mut error = match sent {
                Ok(response) => return Ok((response, lease)),
                Err(error) => error,
            };
            lease.discard();
            let reason = describe(error.error());
            let (unprocessed, had_left) = match (error.take_message(), copy) {
                (Some(unsent), _) => (unsent, false),
                (None, Some(copy)) if was_not_processed(error.error()) => (copy, true),
                _ => return Err(SendError::Broke { endpoint: self.endpoint.to_string(), reason }),
            };
            if repeats == MAX_REPEATS {
                return Err(self.not_taken(reason));
            }
            repeats += 1;
            effort.attempts += u32::from(had_left);
            request = unprocessed;
        }
    }

    fn not_taken(&self, reason: String) -> SendError {
        SendError::NotTaken { endpoint: self.endpoint.to_string(), reason }
    }

    /// Origin form and a `Host` header.
    fn for_http1(&self, mut request: Outgoing) -> Outgoing {
        if let Some(path) = request.uri().path_and_query().cloned() {
            *request.uri_mut() = Uri::from(path);
        }
        if let Ok(host) = HeaderValue::from_str(self.authority.as_str()) {
            request.headers_mut().insert(HOST, host);
        }
        request
    }

    /// `:scheme` and `:authority`, which hyper takes from an absolute URI.
    fn for_http2(&self, mut request: Outgoing) -> Outgoing {
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(self.scheme.clone());
        parts.authority = Some(self.authority.clone());
        parts.path_and_query = request.uri().path_and_query().cloned();
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
        request.headers_mut().remove(HOST);
        request
    }

    async fn connection(self: &Arc<Pool>) -> Result<Connection, SendError> {
        if let Some(connection) = self.pooled() {
            return Ok(connection);
        }
        let may_be_shared = self.tls.is_some() && !self.lock().http1_only;
        let _opening = if may_be_shared {
            let guard = self.opening.lock().await;
            if let Some(connection) = self.pooled() {
                return Ok(connection);
            }
            Some(guard)
        } else {
            None
        };
        self.fresh().await
    }

    /// A connection of its own making, whatever the pool holds.
    async fn fresh(self: &Arc<Pool>) -> Result<Connection, SendError> {
        let opened = tokio::time::timeout(self.connect_timeout, self.open()).await;
        let failed = |reason: String| SendError::Connect { endpoint: self.endpoint.to_string(), reason };
        match opened {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => Err(failed(describe(&*error))),
            Err(_) => Err(failed(format!("no handshake within {} s", self.connect_timeout.as_secs_f32()))),
        }
    }

    fn pooled(&self) -> Option<Connection> {
        let mut connections = self.lock();
        connections.shared.retain(|shared| !shared.sender.is_closed());
        for shared in &connections.shared {
            let most = shared.most.load(Ordering::Relaxed).min(MAX_STREAMS);
            if shared.streams.load(Ordering::Relaxed) < most {
                shared.streams.fetch_add(1, Ordering::Relaxed);
                return Some(Connection::Stream(Arc::clone(shared)));
            }
        }
        let now = Instant::now();
        connections.idle.retain(|(sender, since)| !sender.is_closed() && now.duration_since(*since) < IDLE);
        let ready = connections.idle.iter().rposition(|(sender, _)| sender.is_ready())?;
        Some(Connection::Own(connections.idle.swap_remove(ready).0))
    }

    async fn open(self: &Arc<Pool>) -> Result<Connection, Box<dyn std::error::Error + Send + Sync>> {
        let host = self.endpoint.host.trim_start_matches('[').trim_end_matches(']');
        let tcp = TcpStream::connect((host, self.endpoint.port)).await?;
        tcp.set_nodelay(true)?;
        let keepalive =
            socket2::TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(15));
        socket2::SockRef::from(&tcp).set_tcp_keepalive(&keepalive)?;
        let Some((config, name)) = &self.tls else {
            return self.http1(tcp).await;
        };
        let stream = TlsConnector::from(Arc::clone(config)).connect(name.clone(), tcp).await?;
        if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
            return self.http2(stream).await;
        }
        self.lock().http1_only = true;
        self.http1(stream).await
    }

    async fn http1<T>(&self, stream: T) -> Result<Connection, Box<dyn std::error::Error + Send + Sync>>
    where
        T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
    {
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "upstream connection ended");
            }
        });
        Ok(Connection::Own(sender))
    }

    async fn http2<T>(&self, stream: T) -> Result<Connection, Box<dyn std::error::Error + Send + Sync>>
    where
        T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
    {
        let (mut sender, mut connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(20))
            .max_header_list_size(64 * 1024)
            .handshake(TokioIo::new(stream))
            .await?;
        let most = Arc::new(AtomicUsize::new(MAX_STREAMS));
        let allowed = Arc::clone(&most);
        tokio::spawn(async move {
            let driven = std::future::poll_fn(|cx| {
                let polled = Pin::new(&mut connection).poll(cx);
                allowed.store(connection.current_max_send_streams(), Ordering::Relaxed);
                polled
            });
            if let Err(error) = driven.await {
                tracing::debug!(%error, "upstream connection ended");
            }
        });
        // The peer's own limit on streams is known once its settings have arrived.
        sender.ready().await?;
        let shared = Arc::new(Shared { sender, streams: AtomicUsize::new(1), most });
        self.lock().shared.push(Arc::clone(&shared));
        Ok(Connection::Stream(shared))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Connections> {
        // Nothing between lock and unlock can leave the lists in a bad state.
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lease {
    /// It is one stream of an HTTP/2 connection.
    pub(crate) fn is_stream(&self) -> bool {
        matches!(self.connection, Some(Connection::Stream(_)))
    }

    /// Gives the connection back after a whole answer.
    pub(crate) fn give_back(mut self) {
        if let Some(Connection::Own(sender)) = self.connection.take_if(|c| matches!(c, Connection::Own(_))) {
            let mut connections = self.pool.lock();
            if !sender.is_closed() && connections.idle.len() < MAX_IDLE {
                connections.idle.push((sender, Instant::now()));
            }
        }
    }

    /// The connection carried a failure; it is not used again.
    fn discard(mut self) {
        if let Some(Connection::Stream(shared)) = &self.connection
            && shared.sender.is_closed()
        {
            let shared = Arc::clone(shared);
            self.pool.lock().shared.retain(|other| !Arc::ptr_eq(other, &shared));
        }
        if let Some(Connection::Own(sender)) = self.connection.take_if(|c| matches!(c, Connection::Own(_))) {
            drop(sender);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(Connection::Stream(shared)) = &self.connection {
            shared.streams.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// The peer has said that it did nothing with the request: it was refused as a stream, or came after a graceful GOAWAY
/// (RFC 9113, 8.7).
fn was_not_processed(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            let graceful = error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR);
            let refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
            return error.is_remote() && (graceful || refused);
        }
        cause = error.source();
    }
    false
}

/// The innermost cause: the outer ones only say that something failed.
pub(super) fn describe(error: &(dyn std::error::Error + 'static)) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    match deepest.downcast_ref::<io::Error>() {
        Some(error) if error.kind() == io::ErrorKind::UnexpectedEof => "the peer closed the connection".to_owned(),
        _ => deepest.to_string(),
    }
}
