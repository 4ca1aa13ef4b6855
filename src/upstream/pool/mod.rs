//! Connections to one host: opened when needed, kept while they are good, HTTP/2 or HTTP/1.1 as ALPN decides.
//!
//! An HTTP/1.1 connection carries one request at a time and waits here in between. An HTTP/2 connection carries many, but
//! no more than the peer allows: a thousand streams that last for minutes must not queue behind one connection.
//!
//! What runs on different threads has different pools (`per_worker.rs`).
//!
//! A request that finds no connection waits in line. As many connections are opened as those in line are expected to need,
//! and whatever becomes free first, a new connection or one that another request gave back, goes to who has waited longest.

mod dial;
mod open;
mod per_worker;
mod socket;
mod state;
mod status;

#[cfg(test)]
mod tests;

use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use http::header::{HOST, HeaderValue};
use http::uri::{Authority, Scheme};
use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::oneshot;

use super::attempts::Results;
use super::outgoing::OutgoingBody;
use crate::bidirectional::ClientEvents;
use crate::config::Endpoint;
pub(crate) use per_worker::Pools;
use state::{Connection, State, Waiter};
use status::Counts;
pub(crate) use status::PoolStatus;

/// A request as it goes upstream.
pub(crate) type Outgoing = Request<OutgoingBody>;

/// Idle connections are dropped before servers commonly close them (60 s and up).
const IDLE: Duration = Duration::from_secs(50);
/// After so long, and up to a fifth more, a connection takes no further requests. New ones follow the name to other
/// addresses; and the h2 crate ends a connection that has brought 100 empty DATA frames in its life.
const AGE: Duration = Duration::from_secs(5 * 60);
/// A ping goes out when nothing has come for so long, streams or none, and must be answered within as long: a path that has
/// silently gone is found out before a request is sent into it.
const PING: Duration = Duration::from_secs(10);
/// A request that no peer has processed is sent again so often at most, on other connections or streams.
const MAX_REPEATS: u32 = 3;
/// The pause before the first repeat; it doubles with each.
const PAUSE: Duration = Duration::from_millis(20);
/// Streams on one HTTP/2 connection, unless the peer allows fewer.
const MAX_STREAMS: usize = 100;

/// What TLS needs to know, and the name that the certificate must have.
type Tls = (Arc<ClientConfig>, ServerName<'static>);

/// The connections to one endpoint.
#[derive(Debug)]
pub(crate) struct Pool {
    endpoint: Endpoint,
    scheme: Scheme,
    authority: Authority,
    /// The authority as a `Host` header.
    host: HeaderValue,
    tls: Option<Tls>,
    times: Times,
    counts: Arc<Counts>,
    state: Mutex<State>,
    /// Where its connections run: where the first request was that asked for one. A connection may come back from elsewhere.
    home: OnceLock<Handle>,
}

#[derive(Debug, Clone, Copy)]
struct Times {
    /// How long a request waits for its connection, in all.
    connect: Duration,
    idle: Duration,
    age: Duration,
    ping: Duration,
}

/// Why no answer came.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    /// Nothing was sent.
    #[error("no connection to {endpoint}: {failed}")]
    Connect { endpoint: String, failed: FailedHandshake },
    /// Nothing was sent: the request could not be made.
    #[error("{0}")]
    NotMade(String),
    /// Nothing was sent: the request needs HTTP/2.
    #[error("{endpoint} speaks HTTP/1.1")]
    OnlyHttp1 { endpoint: String },
    /// Peers said, or closed the connection in such a way, that they did nothing with the request.
    #[error("{endpoint} did not take the request: {reason}")]
    NotTaken { endpoint: String, reason: String },
    /// The same, and it cannot be sent to another peer: a part of the client's events has gone to this one.
    #[error("{endpoint} did not take the stream, which cannot be sent again: {reason}")]
    NotRepeatable { endpoint: String, reason: String },
    /// The request may have been received.
    #[error("the connection to {endpoint} broke before an answer: {reason}")]
    Broke { endpoint: String, reason: String },
    /// The request may have been received.
    #[error("{endpoint} gave no answer within {seconds} s")]
    Silent { endpoint: String, seconds: f32 },
}

impl SendError {
    /// The attempt to connect that has failed, if that is why.
    pub(crate) fn handshake(&self) -> Option<Handshake> {
        match self {
            SendError::Connect { failed, .. } => Some(failed.handshake),
            _ => None,
        }
    }
}

/// Why a request was given no connection.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub(crate) struct FailedHandshake {
    handshake: Handshake,
    reason: String,
}

/// An attempt to connect that has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Handshake {
    /// Requests that have waited for the same one are told the same number. A later attempt has a greater one.
    pub number: u64,
    /// Of the last attempt, of whichever pool of the endpoint, that had begun when this one failed.
    pub last: u64,
}

/// What it took to have a request answered.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Effort {
    /// How often the request was sent: handed over to a connection, and not given back.
    pub attempts: u32,
    /// What came of that, as far as [`super::Upstream`] has sent it.
    pub results: Results,
    /// How long it waited for connections, pauses between repeats included.
    pub connecting: Duration,
}

/// A connection in use; goes back to the pool with the end of the answer.
#[derive(Debug)]
pub(crate) struct Lease {
    pool: Arc<Pool>,
    connection: Option<Connection>,
    /// A request was sent on it. What no request has touched can go to another one.
    has_been_used: bool,
}

impl Pool {
    pub(crate) fn new(
        endpoint: Endpoint,
        tls: Option<Arc<ClientConfig>>,
        connect_timeout: Duration,
    ) -> Result<Arc<Pool>, String> {
        Pool::with(endpoint, tls, Times { connect: connect_timeout, idle: IDLE, age: AGE, ping: PING })
    }

    fn with(endpoint: Endpoint, tls: Option<Arc<ClientConfig>>, times: Times) -> Result<Arc<Pool>, String> {
        let tls = match tls {
            Some(config) => {
                let host = endpoint.host.trim_start_matches('[').trim_end_matches(']').to_owned();
                let name = ServerName::try_from(host).map_err(|_| format!("{endpoint} has no valid host name"))?;
                Some((config, name))
            }
            None => None,
        };
        let authority = Authority::try_from(endpoint.authority()).map_err(|error| format!("{endpoint}: {error}"))?;
        let host = HeaderValue::from_str(authority.as_str()).map_err(|error| format!("{endpoint}: {error}"))?;
        let scheme = if endpoint.tls { Scheme::HTTPS } else { Scheme::HTTP };
        Ok(Arc::new(Pool::counted(endpoint, scheme, (authority, host), tls, times, Arc::default())))
    }

    /// Another one to the same endpoint, with connections of its own. Both count in one place, and number
    /// their attempts to connect in one row.
    fn sibling(&self) -> Arc<Pool> {
        let (endpoint, scheme) = (self.endpoint.clone(), self.scheme.clone());
        let authority = (self.authority.clone(), self.host.clone());
        Arc::new(Pool::counted(endpoint, scheme, authority, self.tls.clone(), self.times, Arc::clone(&self.counts)))
    }

    fn counted(
        endpoint: Endpoint,
        scheme: Scheme,
        (authority, host): (Authority, HeaderValue),
        tls: Option<Tls>,
        times: Times,
        counts: Arc<Counts>,
    ) -> Pool {
        let carries = if tls.is_some() { MAX_STREAMS } else { 1 };
        let state = Mutex::new(State::new(carries, &counts));
        Pool { endpoint, scheme, authority, host, tls, times, counts, state, home: OnceLock::new() }
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// How many connections there are, and what came of opening them since this was last asked.
    pub(crate) fn take_status(&self) -> PoolStatus {
        self.counts.take()
    }

    /// Sends one request on a connection of the pool. `make` makes it once there is a connection, so that a signature's
    /// date is fresh; it is told how often the request will have been sent then. What a connection did not take before it closed is sent on another one, and so is a stream that the
    /// peer refused unread; both a few times at most. A request that may have been processed is never sent twice. All
    /// waiting for connections takes no longer than one connect time-out, the answer's head no longer than `first_byte`.
    pub(crate) fn send(
        self: &Arc<Pool>,
        first_byte: Duration,
        effort: &mut Effort,
        make: impl FnMut(u32) -> Result<Outgoing, String>,
    ) -> impl Future<Output = Result<(Response<Incoming>, Lease), SendError>> {
        self.send_with(None, first_byte, effort, make)
    }

    /// The same for a request that may carry a client's events: these need HTTP/2, and of what an attempt has got of them, no
    /// other one can be sent it.
    pub(crate) async fn send_with(
        self: &Arc<Pool>,
        events: Option<&ClientEvents>,
        first_byte: Duration,
        effort: &mut Effort,
        mut make: impl FnMut(u32) -> Result<Outgoing, String>,
    ) -> Result<(Response<Incoming>, Lease), SendError> {
        let mut patience = self.times.connect;
        let mut answer_by = None;
        let mut repeats = 0;
        loop {
            let began = Instant::now();
            let lease = self.lease(patience).await;
            let waited = began.elapsed();
            effort.connecting += waited;
            patience = patience.saturating_sub(waited);
            let mut lease = lease?;
            if events.is_some() && !lease.is_stream() {
                return Err(SendError::OnlyHttp1 { endpoint: self.endpoint.to_string() });
            }
            let request = make(effort.attempts + 1).map_err(SendError::NotMade)?;
            let answer_by = *answer_by.get_or_insert_with(|| tokio::time::Instant::now() + first_byte);
            let before = lease.received();
            // Whoever leaves during it may have sent the request.
            effort.attempts += 1;
            let mut error = match tokio::time::timeout_at(answer_by, lease.try_send(request)).await {
                Ok(Some(Ok(response))) => return Ok((response, lease)),
                Ok(Some(Err(error))) => error,
                Ok(None) => {
                    effort.attempts -= 1;
                    return Err(self.not_taken("there is no connection".to_owned()));
                }
                Err(_) => {
                    // Where nothing comes at all, the path may have gone: the next request finds out by connecting.
                    let is_silent = lease.received() == before;
                    lease.discard(is_silent);
                    let seconds = first_byte.as_secs_f32();
                    return Err(SendError::Silent { endpoint: self.endpoint.to_string(), seconds });
                }
            };
            let reason = describe(error.error());
            let is_unsent = error.take_message().is_some();
            effort.attempts -= u32::from(is_unsent);
            let refused = refused_unread(error.error());
            let was_kept = lease.was_used();
            lease.discard(is_unsent || refused == Some(Refused::Connection));
            if !is_unsent && refused.is_none() {
                return Err(SendError::Broke { endpoint: self.endpoint.to_string(), reason });
            }
            if events.is_some_and(|events| !events.withdraw()) {
                return Err(SendError::NotRepeatable { endpoint: self.endpoint.to_string(), reason });
            }
            if repeats == MAX_REPEATS {
                return Err(self.not_taken(reason));
            }
            // A kept connection that has just ended says nothing about the peer; the next one may be used at once.
            if !(is_unsent && was_kept) {
                let pause = (PAUSE * 2_u32.pow(repeats)).min(patience);
                patience -= pause;
                effort.connecting += pause;
                tokio::time::sleep(pause).await;
            }
            repeats += 1;
            if repeats == MAX_REPEATS {
                // The peer may have closed all that are kept.
                self.lock().close_idle();
            }
        }
    }

    fn not_taken(&self, reason: String) -> SendError {
        SendError::NotTaken { endpoint: self.endpoint.to_string(), reason }
    }

    /// Origin form and a `Host` header.
    fn for_http1(&self, mut request: Outgoing) -> Outgoing {
        if request.uri().authority().is_some()
            && let Some(path) = request.uri().path_and_query().cloned()
        {
            *request.uri_mut() = Uri::from(path);
        }
        request.headers_mut().insert(HOST, self.host.clone());
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

    /// A connection for one request, which waits for it no longer than `patience`.
    async fn lease(self: &Arc<Pool>, patience: Duration) -> Result<Lease, SendError> {
        let (waiting, came) = {
            let mut state = self.lock();
            state.forget_the_gone();
            if state.waiting.is_empty()
                && let Some(connection) = state.take(self.times.idle, self.turns())
            {
                return Ok(self.leased(connection));
            }
            let (place, waiting) = oneshot::channel();
            let came = state.last_begun();
            state.waiting.push_back(Waiter { came, place });
            self.settle(&mut state);
            (waiting, came)
        };
        let outcome = match tokio::time::timeout(patience, waiting).await {
            Ok(Ok(outcome)) => outcome,
            // The next attempt that began after it came is the one that it waits for, if there has been one.
            Ok(Err(_)) | Err(_) => {
                let number = self.lock().first_begun_after(came);
                let handshake = Handshake { number, last: self.counts.begun() };
                Err(FailedHandshake { handshake, reason: self.too_late() })
            }
        };
        outcome.map_err(|failed| SendError::Connect { endpoint: self.endpoint.to_string(), failed })
    }

    fn too_late(&self) -> String {
        format!("no handshake within {} s", self.times.connect.as_secs_f32())
    }

    fn leased(self: &Arc<Pool>, connection: Connection) -> Lease {
        Lease { pool: Arc::clone(self), connection: Some(connection), has_been_used: false }
    }

    /// Serves those in line with what there is, and opens as many connections as the others need.
    fn settle(self: &Arc<Pool>, state: &mut State) {
        state.forget_the_gone();
        while !state.waiting.is_empty()
            && let Some(connection) = state.take(self.times.idle, self.turns())
            && let Some(waiter) = state.waiting.pop_front()
        {
            if let Err(Ok(mut unwanted)) = waiter.place.send(Ok(self.leased(connection)))
                && let Some(connection) = unwanted.connection.take()
            {
                state.put_back(connection, false, self.turns());
            }
        }
        let needed = state.waiting.len().div_ceil(state.carries);
        while state.opening < needed {
            let number = state.begin();
            self.home().spawn(Arc::clone(self).attempt(number));
        }
    }

    /// Closes connections that are old or have nothing to do, as long as there are connections.
    fn sweep_from_now_on(self: &Arc<Pool>, state: &mut State) {
        if std::mem::replace(&mut state.is_swept, true) {
            return;
        }
        let (pool, idle) = (Arc::downgrade(self), self.times.idle);
        self.home().spawn(async move {
            loop {
                tokio::time::sleep(idle / 5).await;
                let Some(pool) = pool.upgrade() else { return };
                let mut state = pool.lock();
                state.drop_stale(Instant::now(), idle);
                if state.is_empty() {
                    state.is_swept = false;
                    return;
                }
            }
        });
    }

    fn home(&self) -> &Handle {
        self.home.get_or_init(Handle::current)
    }

    /// How often the runtime that the connections run on has waited for events; 0 where that is not known.
    fn turns(&self) -> u64 {
        let alone = self.home.get().filter(|home| home.runtime_flavor() == RuntimeFlavor::CurrentThread);
        alone.map_or(0, |home| home.metrics().worker_park_count(0))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing between lock and unlock can leave the lists in a bad state.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lease {
    /// It is one stream of an HTTP/2 connection.
    pub(crate) fn is_stream(&self) -> bool {
        matches!(self.connection, Some(Connection::Stream { .. }))
    }

    /// Gives the connection back after a whole answer.
    pub(crate) fn give_back(mut self) {
        self.end(true);
    }

    async fn try_send(&mut self, request: Outgoing) -> Option<Result<Response<Incoming>, TrySendError<Outgoing>>> {
        self.has_been_used = true;
        match self.connection.as_mut()? {
            Connection::Own(own) => Some(own.sender.try_send_request(self.pool.for_http1(request)).await),
            Connection::Stream { sender, .. } => Some(sender.try_send_request(self.pool.for_http2(request)).await),
        }
    }

    /// How many bytes have come on its connection, for whichever request.
    pub(super) fn received(&self) -> Option<u64> {
        self.connection.as_ref().map(Connection::received)
    }

    /// Where its connection runs.
    pub(super) fn home(&self) -> Handle {
        self.pool.home().clone()
    }

    fn was_used(&self) -> bool {
        self.connection.as_ref().is_some_and(Connection::was_used)
    }

    /// The connection carried a failure. If that `concerns_all`, no other request is begun on it.
    pub(super) fn discard(mut self, concerns_all: bool) {
        if concerns_all && let Some(Connection::Stream { id, .. }) = &self.connection {
            self.pool.lock().retire(*id);
        }
        self.end(false);
    }

    fn end(&mut self, is_whole: bool) {
        let Some(connection) = self.connection.take() else { return };
        let mut state = self.pool.lock();
        match connection {
            Connection::Stream { id, .. } => state.stream_ended(id),
            connection if is_whole || !self.has_been_used => {
                state.put_back(connection, self.has_been_used, self.pool.turns());
            }
            Connection::Own(_) => return,
        }
        if !state.waiting.is_empty() {
            self.pool.settle(&mut state);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.end(false);
    }
}

/// What a peer has refused unread: one stream, or all that follows on the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refused {
    Stream,
    Connection,
}

/// The peer has said that it did nothing with the request: it was refused as a stream, or came after a graceful GOAWAY
/// (RFC 9113, 8.7).
fn refused_unread(error: &(dyn std::error::Error + 'static)) -> Option<Refused> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            return match error.reason() {
                _ if !error.is_remote() => None,
                Some(h2::Reason::NO_ERROR) if error.is_go_away() => Some(Refused::Connection),
                Some(h2::Reason::REFUSED_STREAM) if error.is_reset() => Some(Refused::Stream),
                _ => None,
            };
        }
        cause = error.source();
    }
    None
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
