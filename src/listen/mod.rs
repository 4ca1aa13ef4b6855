//! Where requests come in: addresses and a unix socket, HTTP/1.1 and HTTP/2 on each, no more connections than allowed.

pub(crate) mod guard;
pub(crate) mod head;
pub(crate) mod stream;
pub(crate) mod tls;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::TokioTimer;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_rustls::TlsAcceptor;

use crate::caller::Peer;
use crate::panics;
use head::{Guarded, Protocol};
use tls::Material;

/// The queue of connections that the kernel completes before they are accepted.
const BACKLOG: u32 = 1024;
const MAX_STREAMS: u32 = 256;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// How a client reached us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Tcp,
    Unix,
    /// TLS, with the client's certificate checked if it showed one.
    Tls,
}

/// The other end of a connection.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    pub transport: Transport,
    pub peer: Peer,
}

/// A bound socket.
#[derive(Debug)]
pub(crate) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
    Tls(TcpListener, Arc<Material>),
}

/// A socket that could not be bound, and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{place} cannot be listened on: {source}{hint}")]
pub struct BindError {
    place: String,
    source: io::Error,
    hint: &'static str,
}

impl Listener {
    pub(crate) fn tcp(address: SocketAddr) -> Result<Listener, BindError> {
        bind_tcp(address).map(Listener::Tcp)
    }

    /// TLS with material that may be exchanged while it serves.
    pub(crate) fn tls(address: SocketAddr, material: Arc<Material>) -> Result<Listener, BindError> {
        bind_tcp(address).map(|listener| Listener::Tls(listener, material))
    }

    /// A socket that every local user may connect to; what is left of a former life is replaced.
    pub(crate) fn unix(path: &Path) -> Result<Listener, BindError> {
        use std::os::unix::fs::{FileTypeExt, PermissionsExt};
        let bind = || {
            if let Ok(metadata) = std::fs::symlink_metadata(path) {
                let is_socket = metadata.file_type().is_socket();
                if !is_socket || std::os::unix::net::UnixStream::connect(path).is_ok() {
                    return Err(io::Error::from(io::ErrorKind::AddrInUse));
                }
                std::fs::remove_file(path)?;
            }
            let listener = UnixListener::bind(path)?;
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))?;
            Ok(listener)
        };
        bind().map(|listener| Listener::Unix(listener, path.to_owned())).map_err(|source| {
            let hint = match source.kind() {
                io::ErrorKind::AddrInUse => "; another process serves it, or it is not a socket",
                io::ErrorKind::NotFound => "; its directory does not exist (RuntimeDirectory= makes it under systemd)",
                _ => "",
            };
            BindError { place: path.display().to_string(), source, hint }
        })
    }

    /// What was bound: `127.0.0.1:8790`, or the path.
    pub(crate) fn name(&self) -> String {
        match self {
            Listener::Tcp(listener) | Listener::Tls(listener, _) => {
                listener.local_addr().map_or_else(|error| error.to_string(), |a| a.to_string())
            }
            Listener::Unix(_, path) => path.display().to_string(),
        }
    }

    /// Accepts until `stop` says so; drops its connections when `cut` does. A connection takes its place among `places` before it is accepted, so that what
    /// cannot be served waits in the kernel's queue.
    pub(crate) async fn serve<F, S, B>(
        self,
        places: Arc<Semaphore>,
        drain: Arc<GracefulShutdown>,
        mut stop: watch::Receiver<bool>,
        cut: watch::Receiver<bool>,
        service: S,
    ) where
        S: Fn(Arc<Client>, http::Request<Incoming>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = http::Response<B>> + Send + 'static,
        B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let mut pause = Duration::from_millis(50);
        loop {
            let accepted = tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                accepted = self.accept(&places) => accepted,
            };
            match accepted {
                Ok((accepted, place)) => {
                    pause = Duration::from_millis(50);
                    let (service, watcher) = (service.clone(), drain.watcher());
                    let mut cut = cut.clone();
                    let connection = async move {
                        tokio::select! {
                            ended = panics::contained(connection(accepted, watcher, service)) => {
                                if let Ok(Err(error)) = ended {
                                    tracing::debug!(%error, "connection ended");
                                }
                            }
                            _ = cut.wait_for(|cut| *cut) => {}
                        }
                        drop(place);
                    };
                    tokio::spawn(connection);
                }
                // The peer is gone already; the next one may be fine.
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) => {}
                Err(error) => {
                    // Out of file descriptors or memory: it passes when connections end, and asking at once helps nobody.
                    tracing::warn!(%error, listener = %self.name(), "cannot accept; waiting");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(1));
                }
            }
        }
    }

    async fn accept(&self, places: &Arc<Semaphore>) -> io::Result<(Accepted, OwnedSemaphorePermit)> {
        let place = Arc::clone(places).acquire_owned().await.map_err(io::Error::other)?;
        let accepted = match self {
            Listener::Tcp(listener) => {
                let (stream, peer) = accept_tcp(listener).await?;
                Accepted { stream: Box::new(stream), client: Client { transport: Transport::Tcp, peer }, tls: None }
            }
            Listener::Tls(listener, material) => {
                let (stream, peer) = accept_tcp(listener).await?;
                let tls = Some(material.acceptor());
                Accepted { stream: Box::new(stream), client: Client { transport: Transport::Tls, peer }, tls }
            }
            Listener::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                let peer = Peer::of_unix(&stream);
                Accepted { stream: Box::new(stream), client: Client { transport: Transport::Unix, peer }, tls: None }
            }
        };
        Ok((accepted, place))
    }
}

/// A connection as it was accepted.
struct Accepted {
    stream: Stream,
    client: Client,
    /// The handshake that is still to be made, beside the accept loop.
    tls: Option<TlsAcceptor>,
}

async fn accept_tcp(listener: &TcpListener) -> io::Result<(TcpStream, Peer)> {
    let (stream, client) = listener.accept().await?;
    stream.set_nodelay(true)?;
    // At once: after the client has closed its end, the kernel no longer knows whose it was.
    let peer = Peer::of_tcp(client, stream.local_addr()?);
    Ok((stream, peer))
}

fn bind_tcp(address: SocketAddr) -> Result<TcpListener, BindError> {
    let bind = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    bind().map_err(|source| {
        let hint = match source.kind() {
            io::ErrorKind::AddrInUse => {
                "; another process has this port (ss -ltnp shows which), or bedrock-sidecar runs already"
            }
            io::ErrorKind::AddrNotAvailable => "; this host does not have that address",
            _ => "",
        };
        BindError { place: address.to_string(), source, hint }
    })
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Listener::Unix(_, path) = self {
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Transport {
    /// Whether a Host header may say so.
    pub(crate) fn answers_to(self, name: &str) -> bool {
        match self {
            Transport::Tcp => guard::is_loopback_name(name),
            // A browser cannot be led to a unix socket, nor past a certificate that it does not trust.
            Transport::Unix | Transport::Tls => true,
        }
    }
}

type Stream = Box<dyn stream::Duplex>;

async fn connection<F, S, B>(
    accepted: Accepted,
    watcher: Watcher,
    service: S,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>>
where
    S: Fn(Arc<Client>, http::Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = http::Response<B>> + Send + 'static,
    B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let Accepted { mut stream, mut client, tls } = accepted;
    if let Some(acceptor) = tls {
        let secured = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await??;
        client.peer = client.peer.with_certificate(tls::peer_names(secured.get_ref().1));
        stream = Box::new(secured);
    }
    let (protocol, start) = head::detect(&mut stream).await?;
    let io = Guarded::new(stream, protocol, start);
    let client = Arc::new(client);
    let service = service_fn(move |request| {
        let answer = service(Arc::clone(&client), request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    match protocol {
        Protocol::Http1 => {
            let connection =
                http1::Builder::new().timer(TokioTimer::new()).header_read_timeout(None).serve_connection(io, service);
            watcher.watch(connection).await?;
        }
        Protocol::Http2 => {
            let connection = http2::Builder::new(panics::Executor)
                .timer(TokioTimer::new())
                .max_concurrent_streams(MAX_STREAMS)
                .initial_stream_window_size(1024 * 1024)
                .initial_connection_window_size(16 * 1024 * 1024)
                .max_header_list_size(64 * 1024)
                .serve_connection(io, service);
            watcher.watch(connection).await?;
        }
    }
    Ok(())
}
