//! Where requests come in: addresses and a unix socket, HTTP/1.1 and HTTP/2 on each, no more connections than allowed.

pub mod guard;
pub mod head;
pub mod tls;

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
use hyper_util::rt::{TokioExecutor, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, UnixListener};
use tokio::sync::{Semaphore, watch};

use head::{Guarded, Protocol};

/// The queue of connections that the kernel completes before they are accepted.
const BACKLOG: u32 = 1024;
const MAX_STREAMS: u32 = 256;

/// How a client reached us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Tcp,
    Unix,
}

/// The other end of a connection.
#[derive(Debug, Clone)]
pub struct Client {
    pub way: Way,
    /// The client's IP address, or the path of our unix socket.
    pub source: String,
}

/// A bound socket.
#[derive(Debug)]
pub enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
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
    pub fn tcp(address: SocketAddr) -> Result<Listener, BindError> {
        let bind = || {
            let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            socket.listen(BACKLOG)
        };
        bind().map(Listener::Tcp).map_err(|source| {
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

    /// A socket that every local user may connect to; what is left of a former life is replaced.
    pub fn unix(path: &Path) -> Result<Listener, BindError> {
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
    pub fn name(&self) -> String {
        match self {
            Listener::Tcp(listener) => listener.local_addr().map_or_else(|error| error.to_string(), |a| a.to_string()),
            Listener::Unix(_, path) => path.display().to_string(),
        }
    }

    /// Accepts until `stop` says so. A connection takes its place among `places` before it is accepted, so that what
    /// cannot be served waits in the kernel's queue.
    pub async fn serve<F, S, B>(
        self,
        places: Arc<Semaphore>,
        drain: Arc<GracefulShutdown>,
        mut stop: watch::Receiver<bool>,
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
                Ok((stream, client, place)) => {
                    pause = Duration::from_millis(50);
                    let (service, watcher) = (service.clone(), drain.watcher());
                    let connection = async move {
                        if let Err(error) = connection(stream, client, watcher, service).await {
                            tracing::debug!(%error, "connection ended");
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

    async fn accept(&self, places: &Arc<Semaphore>) -> io::Result<(Stream, Client, tokio::sync::OwnedSemaphorePermit)> {
        let place = Arc::clone(places).acquire_owned().await.map_err(io::Error::other)?;
        match self {
            Listener::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                stream.set_nodelay(true)?;
                let client = Client { way: Way::Tcp, source: peer.ip().to_canonical().to_string() };
                Ok((Box::new(stream), client, place))
            }
            Listener::Unix(listener, path) => {
                let (stream, _) = listener.accept().await?;
                let client = Client { way: Way::Unix, source: path.display().to_string() };
                Ok((Box::new(stream), client, place))
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Listener::Unix(_, path) = self {
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Way {
    /// Whether a Host header may say so.
    pub fn answers_to(self, name: &str) -> bool {
        match self {
            Way::Tcp => guard::is_loopback_name(name),
            Way::Unix => true,
        }
    }
}

/// A byte stream of whatever kind.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}
type Stream = Box<dyn Duplex>;

async fn connection<F, S, B>(
    mut stream: Stream,
    client: Client,
    watcher: Watcher,
    service: S,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>>
where
    S: Fn(Arc<Client>, http::Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = http::Response<B>> + Send + 'static,
    B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
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
            let connection = http2::Builder::new(TokioExecutor::new())
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
