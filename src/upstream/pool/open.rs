//! Opening one connection: TCP, TLS, the protocol that ALPN decides, and the task that drives it.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, watch};
use tokio_rustls::TlsConnector;

use super::super::outgoing::{OutgoingBody, cut_of_new_task};
use super::Pool;
use super::dial::dial;
use super::socket::{Pending, Socket};
use super::status::Protocol;
use crate::panics;

/// What one stream may have in flight; a slow client stops its own stream and no other.
const STREAM_WINDOW: u32 = 256 * 1024;
/// What all streams of one connection may have in flight: the windows of `MAX_STREAMS` streams.
const CONNECTION_WINDOW: u32 = 100 * STREAM_WINDOW;

pub(super) type Failed = Box<dyn std::error::Error + Send + Sync>;

/// A connection that has just been opened.
#[derive(Debug)]
pub(super) enum Opened {
    Http1(http1::SendRequest<OutgoingBody>, Socket),
    /// With the number of streams that the peer allows; it may change its mind.
    Http2(http2::SendRequest<OutgoingBody>, Socket, watch::Receiver<usize>),
}

impl Opened {
    fn has_ended(&self) -> bool {
        let (Opened::Http1(_, socket) | Opened::Http2(_, socket, _)) = self;
        socket.pending() == Pending::End
    }
}

/// Runs hyper's tasks for one connection, and tells whenever one has run: hyper itself does not say when SETTINGS have come.
#[derive(Debug, Clone, Default)]
struct Progress(Arc<Notify>);

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Progress {
    fn execute(&self, future: F) {
        let mut future = Box::pin(future);
        let progress = Arc::clone(&self.0);
        let future = poll_fn(move |cx| {
            let polled = future.as_mut().poll(cx);
            progress.notify_one();
            polled
        });
        match cut_of_new_task() {
            None => panics::Executor.execute(future),
            Some(cut) => panics::Executor.execute(async move {
                tokio::select! {
                    biased;
                    () = future => {}
                    () = cut.cancelled() => {}
                }
            }),
        }
    }
}

impl Pool {
    pub(super) async fn open(self: &Arc<Pool>, turn: u64) -> Result<Opened, Failed> {
        let host = self.endpoint.host.trim_start_matches('[').trim_end_matches(']');
        let socket = Socket::new(dial(host, self.endpoint.port, turn).await?)?;
        let Some((config, name)) = &self.tls else {
            return Ok(Opened::Http1(self.http1(socket.clone()).await?, socket));
        };
        let stream = TlsConnector::from(Arc::clone(config)).connect(name.clone(), socket.clone()).await?;
        if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
            let (sender, most) = self.http2(stream).await?;
            return Ok(Opened::Http2(sender, socket, most));
        }
        Ok(Opened::Http1(self.http1(stream).await?, socket))
    }

    pub(super) async fn http1<T>(&self, stream: T) -> Result<http1::SendRequest<OutgoingBody>, Failed>
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        self.drive(Protocol::Http1, connection);
        Ok(sender)
    }

    /// The connection can be used once the peer's SETTINGS have come: they say how many streams it allows.
    pub(super) async fn http2<T>(
        self: &Arc<Pool>,
        stream: T,
    ) -> Result<(http2::SendRequest<OutgoingBody>, watch::Receiver<usize>), Failed>
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let progress = Progress::default();
        let (sender, mut connection) = http2::Builder::new(progress.clone())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .initial_max_send_streams(0)
            .keep_alive_interval(self.times.ping)
            .keep_alive_timeout(self.times.ping)
            .keep_alive_while_idle(true)
            .max_header_list_size(64 * 1024)
            .handshake(TokioIo::new(stream))
            .await?;
        let (allowed, mut most) = watch::channel(0);
        let pool: Weak<Pool> = Arc::downgrade(self);
        let driven = async move {
            while connection.current_max_send_streams() == 0 {
                tokio::select! {
                    ended = &mut connection => return ended,
                    () = progress.0.notified() => {}
                }
            }
            poll_fn(|cx| {
                let polled = Pin::new(&mut connection).poll(cx);
                let now = connection.current_max_send_streams();
                let has_changed = allowed.send_if_modified(|before| std::mem::replace(before, now) != now);
                if has_changed && let Some(pool) = pool.upgrade() {
                    pool.settle(&mut pool.lock());
                }
                polled
            })
            .await
        };
        self.drive(Protocol::Http2, driven);
        most.wait_for(|most| *most > 0).await.map_err(|_| "the peer closed the connection before its SETTINGS came")?;
        Ok((sender, most))
    }

    /// Runs a connection to its end. An error in the code that does it ends this connection alone: the requests on it get
    /// an error, and the pool hands it out no more.
    fn drive(&self, protocol: Protocol, connection: impl Future<Output = hyper::Result<()>> + Send + 'static) {
        let counted = self.counts.connection(protocol);
        tokio::spawn(async move {
            let _counted = counted;
            if let Ok(Err(error)) = panics::contained(connection).await {
                tracing::debug!(%error, "upstream connection ended");
            }
        });
    }

    /// One attempt to open a connection, the `number`th, for those who wait for one.
    pub(super) async fn attempt(self: Arc<Pool>, number: u64) {
        let opening = panics::contained(self.open(number));
        let opened = match tokio::time::timeout(self.times.connect, opening).await {
            Ok(Ok(Ok(opened))) if opened.has_ended() => Err("the peer closed the connection at once".to_owned()),
            Ok(Ok(opened)) => opened.map_err(|error| super::describe(&*error)),
            Ok(Err(_panicked)) => Err(panics::MESSAGE.to_owned()),
            Err(_) => Err(self.too_late()),
        };
        let outcome = if opened.is_ok() { &self.counts.succeeded } else { &self.counts.failed };
        outcome.fetch_add(1, Ordering::Relaxed);
        let mut state = self.lock();
        state.opening -= 1;
        match opened {
            Ok(opened) => {
                state.add(opened, &self.times);
                self.sweep_from_now_on(&mut state);
            }
            Err(reason) => state.fail(number, &reason),
        }
        self.settle(&mut state);
    }
}
