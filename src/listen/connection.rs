//! One connection, from its first byte to its end.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONNECTION, HeaderValue};
use hyper::body::Incoming;
use hyper::rt::bounds::Http2ServerConnExec;
use hyper::server::conn::{http1, http2};
use hyper::service::{HttpService, service_fn};
use hyper_util::rt::TokioTimer;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use super::activity::Activity;
use super::answer::{Stalled, Watched};
use super::head::{self, Guarded, Protocol};
use super::places::Place;
use super::stream::{Duplex, Socket};
use super::{Answer, Client, Shared, tls};
use crate::panics;
use crate::settings::listen::Timeouts;

const MAX_STREAMS: u32 = 100;
/// What HTTP/2 takes of bodies that nobody has read yet, of one stream and of all streams of a connection.
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 2 * 1024 * 1024;
/// What one HTTP/2 stream's answer takes while its client does not read, and what an HTTP/1 connection reads or writes at
/// once.
const MAX_SEND_BUFFER: usize = 64 * 1024;
const MAX_BUFFER: usize = 128 * 1024;
/// The HTTP library answers a longer head itself, and nothing of it can be recorded. So it gets twice what is served.
const MAX_HEADER_LIST: u32 = 128 * 1024;
const _: () = assert!(MAX_HEADER_LIST as usize == 2 * head::MAX_HEAD);
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two pings of an HTTP/2 connection on which nothing comes.
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// What a client gets to take note that its idle connection ends.
const GRACE: Duration = Duration::from_secs(2);
/// What a client gets for the request that it is sending while the daemon begins to stop, or right after an answer that had
/// begun before and could not say that it is the last one.
const LAST_REQUEST: Duration = Duration::from_secs(1);
/// The shortest time between two looks at a connection.
const LEAST_WAIT: Duration = Duration::from_millis(10);

type Error = Box<dyn std::error::Error + Send + Sync>;
type Stream = Box<dyn Duplex>;

/// A connection as it was accepted.
pub(super) struct Accepted {
    pub socket: Socket,
    pub client: Client,
    /// The client's address and ours, of a TCP connection.
    pub ends: Option<(SocketAddr, SocketAddr)>,
    /// The handshake that is still to be made, beside the accept loop.
    pub tls: Option<TlsAcceptor>,
}

/// Serves a connection until it ends, `drain` says that it shall, or a time limit has passed.
pub(super) async fn serve<F, S, B>(
    accepted: Accepted,
    place: &Place,
    shared: &Shared,
    drain: watch::Receiver<bool>,
    service: S,
) -> Result<(), Error>
where
    S: Fn(Arc<Client>, http::Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = http::Response<B>> + Send + 'static,
    B: Answer,
{
    let Accepted { socket, mut client, ends, tls } = accepted;
    let stream = socket.registered()?;
    let activity = Arc::clone(&place.activity);
    let timeouts = shared.timeouts();
    let (stream, protocol, start) = tokio::select! {
        biased;
        begun = begin(stream, &mut client, tls, timeouts) => begun?,
        () = activity.until_told() => return Ok(()),
        // Its client has connected, and may be about to send.
        () = after(drain.clone(), LAST_REQUEST) => return Ok(()),
    };
    let io = Guarded::new(stream, protocol, start).watched(
        Arc::clone(&activity),
        Arc::clone(&shared.peers),
        timeouts.header,
    );
    let client = Arc::new(client);
    let watched = Arc::clone(&activity);
    let is_draining = drain.clone();
    let service = service_fn(move |mut request: http::Request<Incoming>| {
        if !http_body::Body::is_end_stream(request.body()) {
            request.extensions_mut().insert(watched.arrival());
        }
        let (progress, watched) = (watched.request(), Arc::clone(&watched));
        let (answer, is_draining) = (service(Arc::clone(&client), request), is_draining.clone());
        async move {
            let watch = |body| Watched::new(body, progress, &watched, protocol);
            let mut answer = answer.await.map(watch);
            // Thus an HTTP/1 client learns that the connection ends, before it sends one more request.
            if protocol == Protocol::Http1 && *is_draining.borrow() {
                answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(answer)
        }
    });
    let course = Course { activity, shared, timeouts, ends, drain, protocol };
    match protocol {
        Protocol::Http1 => {
            let mut builder = http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(None).max_buf_size(MAX_BUFFER);
            course.follow(builder.serve_connection(io, service)).await
        }
        Protocol::Http2 => {
            let mut builder = http2::Builder::new(panics::Executor);
            builder
                .timer(TokioTimer::new())
                .max_concurrent_streams(MAX_STREAMS)
                .max_send_buf_size(MAX_SEND_BUFFER)
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .max_header_list_size(MAX_HEADER_LIST)
                .keep_alive_interval(PING_INTERVAL)
                // A client that does not read does not answer pings either: that is the write timeout's matter.
                .keep_alive_timeout(timeouts.write.max(PING_INTERVAL));
            course.follow(builder.serve_connection(io, service)).await
        }
    }
}

/// The TLS handshake, if there is one, and the bytes that tell the protocol.
async fn begin(
    mut stream: Stream,
    client: &mut Client,
    tls: Option<TlsAcceptor>,
    timeouts: Timeouts,
) -> Result<(Stream, Protocol, bytes::BytesMut), Error> {
    if let Some(acceptor) = tls {
        let secured = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await??;
        client.peer.certificate_names = tls::peer_names(secured.get_ref().1);
        stream = Box::new(secured);
    }
    let (protocol, start) = head::detect(&mut stream, timeouts.idle, timeouts.header).await?;
    Ok((stream, protocol, start))
}

/// Waits until the daemon stops, and then so long.
async fn after(mut drain: watch::Receiver<bool>, pause: Duration) {
    // A sender that is gone stops too.
    let _ = drain.wait_for(|drain| *drain).await;
    tokio::time::sleep(pause).await;
}

/// A connection of either protocol.
trait Connection: Future<Output = hyper::Result<()>> {
    /// It takes no more requests, and ends when the last answer has.
    fn finish(self: Pin<&mut Self>);
}

impl<I, S, B> Connection for http1::Connection<I, S>
where
    S: HttpService<Incoming, ResBody = B>,
    S::Error: Into<Error>,
    I: hyper::rt::Read + hyper::rt::Write + Unpin,
    B: http_body::Body + 'static,
    B::Error: Into<Error>,
{
    fn finish(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

impl<I, S, B, E> Connection for http2::Connection<I, S, E>
where
    S: HttpService<Incoming, ResBody = B>,
    S::Error: Into<Error>,
    I: hyper::rt::Read + hyper::rt::Write + Unpin,
    B: http_body::Body + 'static,
    B::Error: Into<Error>,
    E: Http2ServerConnExec<S::Future, B>,
{
    fn finish(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

/// What can end a connection from this side.
struct Course<'a> {
    activity: Arc<Activity>,
    shared: &'a Shared,
    timeouts: Timeouts,
    ends: Option<(SocketAddr, SocketAddr)>,
    drain: watch::Receiver<bool>,
    protocol: Protocol,
}

impl Course<'_> {
    async fn follow(self, connection: impl Connection) -> Result<(), Error> {
        let mut connection = pin!(connection);
        let timeouts = self.timeouts;
        let (mut finishing, mut unsent) = (None::<Instant>, None);
        // HTTP/2 has words of its own for a client that is just sending.
        let leave = match self.protocol {
            Protocol::Http1 => LAST_REQUEST,
            Protocol::Http2 => Duration::ZERO,
        };
        let mut drained = pin!(after(self.drain.clone(), leave));
        let (mut leaves, mut has_left) = (false, false);
        loop {
            if self.is_stalled(&mut unsent) {
                self.activity.cut_all();
                self.shared.metrics.connection_cut("write_timeout");
                return Err(Stalled.into());
            }
            for _ in 0..self.activity.cut_waiting(timeouts.write) {
                self.shared.metrics.connection_cut("write_timeout");
            }
            let idle = self.activity.idle();
            if finishing.is_none() && idle.is_some_and(|idle| idle >= timeouts.idle) {
                self.shared.metrics.connection_cut("idle");
                connection.as_mut().finish();
                finishing = Some(Instant::now());
            }
            if leaves && !has_left && (leave.is_zero() || idle.is_some_and(|idle| idle >= leave)) {
                has_left = true;
                connection.as_mut().finish();
                finishing.get_or_insert_with(Instant::now);
            }
            // A client that has nothing to come and does not answer is not waited for.
            if finishing.is_some_and(|since| since.elapsed() >= GRACE) && idle.is_some_and(|idle| idle >= GRACE) {
                return Ok(());
            }
            let mut wait = self.wait(idle, finishing.is_some());
            if leaves && !has_left {
                wait = wait.min(LAST_REQUEST / 4);
            }
            tokio::select! {
                biased;
                ended = connection.as_mut() => return Ok(ended?),
                () = drained.as_mut(), if !leaves => leaves = true,
                () = self.activity.until_told(), if finishing.is_none() => {
                    connection.as_mut().finish();
                    finishing = Some(Instant::now());
                }
                // Whoever needs the place waits already.
                () = self.activity.until_late() => return Ok(()),
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Whether the client's kernel has taken nothing for too long.
    fn is_stalled(&self, before: &mut Option<u32>) -> bool {
        let Some(blocked) = self.activity.blocked() else {
            *before = None;
            return false;
        };
        // A socket has room again only when a good part of its buffer is free. A slow client may take bytes for minutes
        // before that.
        let now = self.ends.and_then(|(client, server)| self.shared.peers.unsent(client, server));
        let moves = before.zip(now).is_some_and(|(before, now)| now < before);
        *before = now;
        if moves {
            self.activity.moves();
        }
        !moves && blocked >= self.timeouts.write
    }

    /// Until something may have to be done.
    fn wait(&self, idle: Option<Duration>, finishing: bool) -> Duration {
        let timeouts = self.timeouts;
        let look = timeouts.write / 4;
        let wait = match idle {
            Some(_) if finishing => GRACE / 4,
            Some(idle) => timeouts.idle.saturating_sub(idle).min(timeouts.write),
            None => look,
        };
        let until_stalled = self.activity.blocked().map(|blocked| timeouts.write.saturating_sub(blocked).min(look));
        wait.min(until_stalled.unwrap_or(wait)).max(LEAST_WAIT)
    }
}

#[cfg(test)]
mod tests {
    use super::super::answer::PIECE;
    use super::*;

    /// That HTTP/2 clients are told so is shown by `tests/e2e/hostile/http2.rs`.
    #[test]
    fn what_a_connection_holds_is_what_the_docs_say() {
        let docs = include_str!("../../docs/performance.md");
        let (kib, mib) = (1024, 1024 * 1024);
        for row in [
            format!(
                "| HTTP/1.1 connection | {0} KiB read and {0} KiB to be written, beside a head of {1} KiB |",
                MAX_BUFFER / kib,
                head::MAX_HEAD / kib
            ),
            format!(
                "| HTTP/2 connection | {} MiB received and not yet taken; {MAX_STREAMS} streams |",
                CONNECTION_WINDOW / mib
            ),
            format!(
                "| HTTP/2 stream | {} MiB of those {} MiB, {} KiB of its answer to be sent and a piece of {} KiB, a head of {} KiB |",
                STREAM_WINDOW / mib,
                CONNECTION_WINDOW / mib,
                MAX_SEND_BUFFER / kib,
                PIECE / kib,
                MAX_HEADER_LIST as usize / kib
            ),
        ] {
            assert!(docs.contains(&row), "docs/performance.md does not say {row:?}");
        }
    }
}
