//! Where requests come in: addresses and a unix socket, HTTP/1.1 and HTTP/2 on each, no more connections than allowed.

pub(crate) mod activity;
mod answer;
mod connection;
pub(crate) mod descriptors;
pub(crate) mod farewell;
pub(crate) mod guard;
pub(crate) mod head;
pub(crate) mod places;
pub(crate) mod requests;
mod shares;
pub(crate) mod stream;
pub(crate) mod tls;
mod unix;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use hyper::body::Incoming;
use rustix::event::{PollFd, PollFlags};
use socket2::{SockFilter, SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpSocket, UnixListener};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_rustls::TlsAcceptor;

use crate::caller::{NoPeer, Peer, Peers, User};
use crate::lifecycle::Inherited;
use crate::lifecycle::roll_call::Calls;
use crate::metrics::Metrics;
use crate::panics;
use crate::settings::listen::{Timeouts, UnixSocket};
use crate::workers::Workers;
use connection::Accepted;
use farewell::Farewell;
use places::{Permit, Place, Places, Seat, Seldom};
use stream::Socket;
use tls::Material;

/// The queue of connections that the kernel completes before they are accepted, up to its own net.core.somaxconn. When it
/// is full, whoever connects is dropped and tries again after 1, 3, 7 and 15 s.
const BACKLOG: u32 = 4096;
/// A host that has gone without a word is noticed after about two minutes.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_RETRIES: u32 = 4;

/// Between two tries to accept while that fails.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How long a listener that closes takes in those who are being connected. To close it would reset them.
const LAST_TURN: Duration = Duration::from_millis(50);
/// Lets every packet through but those that begin a connection: a client repeats its SYN after a second.
const NO_SYN: [SockFilter; 4] = [
    // The byte with the flags of the TCP header (BPF_LD | BPF_B | BPF_ABS).
    SockFilter::new(0x30, 0, 0, 13),
    // Is SYN set (BPF_JMP | BPF_JSET | BPF_K)? Then the next one, else the last one.
    SockFilter::new(0x45, 0, 1, 2),
    SockFilter::new(0x06, 0, 0, 0),
    SockFilter::new(0x06, 0, 0, u32::MAX),
];

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
    /// With the path that clients name.
    Unix(UnixListener, PathBuf, SocketFile),
    Tls(TcpListener, Arc<Material>),
}

/// The file of a unix socket, which goes when nobody accepts there any more. None if it is the service manager's.
#[derive(Debug)]
pub(crate) struct SocketFile(Option<PathBuf>);

/// A socket that could not be bound, and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{place} cannot be listened on: {source}{hint}")]
pub struct BindError {
    place: String,
    source: io::Error,
    hint: &'static str,
}

impl Listener {
    pub(crate) fn tcp(address: SocketAddr, inherited: &mut Inherited) -> Result<Listener, BindError> {
        listen_tcp(address, inherited).map(Listener::Tcp)
    }

    /// TLS with material that may be exchanged while it serves.
    pub(crate) fn tls(
        address: SocketAddr,
        material: Arc<Material>,
        inherited: &mut Inherited,
    ) -> Result<Listener, BindError> {
        listen_tcp(address, inherited).map(|listener| Listener::Tls(listener, material))
    }

    /// A socket file with the mode and group that it is to have; what is left of a former life is replaced. An inherited
    /// one has those that its owner gave it.
    pub(crate) fn unix(socket: &UnixSocket, inherited: &mut Inherited) -> Result<Listener, BindError> {
        let path = &socket.path;
        if let Some(passed) = inherited.unix(path) {
            let listener = unix::adopt(passed);
            return listener
                .map(|listener| Listener::Unix(listener, path.clone(), SocketFile(None)))
                .map_err(|source| BindError { place: path.display().to_string(), source, hint: "" });
        }
        let bound = unix::bind(socket);
        let file = || SocketFile(Some(path.clone()));
        bound.map(|listener| Listener::Unix(listener, path.clone(), file())).map_err(|source| {
            let hint = match source.kind() {
                io::ErrorKind::AddrInUse => "; another process serves it, or it is not a socket",
                io::ErrorKind::NotFound => "; its directory does not exist (RuntimeDirectory= makes it under systemd)",
                io::ErrorKind::PermissionDenied if socket.group.is_some() => {
                    "; its directory must be writable, and the daemon a member of unix_socket_group (under systemd: SupplementaryGroups= and SystemCallFilter=@chown, or a socket unit with SocketGroup=)"
                }
                io::ErrorKind::PermissionDenied => "; the daemon's user must be allowed to write in its directory",
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
            Listener::Unix(_, path, _) => path.display().to_string(),
        }
    }

    /// A TCP socket for the runtime that is entered, instead of the one that it was bound on.
    ///
    /// # Errors
    /// There is no descriptor for it.
    pub(crate) fn moved(self) -> io::Result<Listener> {
        let Listener::Tcp(listener) = &self else { return Ok(self) };
        let socket: std::net::TcpListener = listener.as_fd().try_clone_to_owned()?.into();
        TcpListener::from_std(socket).map(Listener::Tcp)
    }

    /// Accepts until it is dropped, or `farewell` lets it close. Its connections end when `farewell` says so, and are
    /// dropped when `cut` does. Where not even a newcomer could be seated, nothing is accepted: connections then wait in
    /// the kernel's queue.
    pub(crate) async fn serve<F, S, B>(
        mut self,
        shared: Arc<Shared>,
        farewell: Arc<Farewell>,
        cut: watch::Receiver<bool>,
        mut calls: Calls,
        service: S,
    ) where
        S: Fn(Arc<Client>, http::Request<Incoming>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = http::Response<B>> + Send + 'static,
        B: Answer,
    {
        let mut pause = shared.first_pause;
        // Nothing is accepted until then.
        let mut paused = None;
        let mut end = None;
        loop {
            let accepted = tokio::select! {
                biased;
                () = calls.answer() => continue,
                () = farewell.closes(), if end.is_none() => {
                    self.shut();
                    end = Some(Instant::now() + LAST_TURN);
                    continue;
                }
                accepted = self.accept(&shared), if paused.is_none() => accepted,
                () = at(end) => return,
                () = at(paused) => {
                    paused = None;
                    continue;
                }
            };
            match accepted {
                Ok((accepted, permit)) => {
                    pause = shared.first_pause;
                    let seat = shared.places.seat(permit, User::of(&accepted.client.peer));
                    // Dropped at once, the connection closes at once.
                    if matches!(seat, Seat::Refused) {
                        continue;
                    }
                    let (service, own, drain) = (service.clone(), Arc::clone(&shared), farewell.heard());
                    let (mut leaving, mut cut) = (drain.clone(), cut.clone());
                    let connection = move |place: Place| async move {
                        tokio::select! {
                            ended = panics::contained(connection::serve(accepted, &place, &own, drain, service)) => {
                                if let Ok(Err(error)) = ended {
                                    tracing::debug!(%error, "connection ended");
                                }
                            }
                            _ = cut.wait_for(|cut| *cut) => {}
                        }
                        drop(place);
                    };
                    match seat {
                        Seat::Place(place) => shared.take(connection(place)),
                        in_line => {
                            let shared = Arc::clone(&shared);
                            tokio::spawn(async move {
                                let place = tokio::select! {
                                    biased;
                                    place = in_line.place() => place,
                                    // Who still stands in line gets no place any more.
                                    _ = leaving.wait_for(|drain| *drain) => None,
                                };
                                if let Some(place) = place {
                                    shared.take(connection(place));
                                }
                            });
                        }
                    }
                }
                // The peer is gone already; the next one may be fine.
                Err(NotAccepted::Peer(NoPeer::Gone)) => shared.metrics.connection_refused("gone"),
                Err(NotAccepted::Peer(NoPeer::Kernel(error))) => {
                    shared.metrics.connection_refused("unidentified");
                    if shared.unidentified_logged.is_due() {
                        tracing::error!(%error, "the kernel does not say who has connected; the connection is closed");
                    }
                }
                Err(NotAccepted::Io(error))
                    if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) => {}
                Err(NotAccepted::Io(error)) => {
                    // Out of file descriptors or memory: it passes when connections end, and asking at once helps nobody.
                    tracing::warn!(%error, listener = %self.name(), "cannot accept; waiting");
                    paused = Some(Instant::now() + pause);
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// Lets nobody else in. Those who are connected already are still accepted.
    fn shut(&mut self) {
        match self {
            Listener::Tcp(listener) | Listener::Tls(listener, _) => {
                // Where a sandbox forbids it, whoever comes in the meantime is served too.
                let _ = SockRef::from(&*listener).attach_filter(&NO_SYN);
            }
            Listener::Unix(_, _, file) => file.remove(),
        }
    }

    async fn accept(&self, shared: &Shared) -> Result<(Accepted, Permit), NotAccepted> {
        let permit = shared.places.open(|| self.somebody_waits()).await;
        let accepted = match self {
            Listener::Tcp(listener) => accept_tcp(listener, shared, Transport::Tcp, None).await?,
            Listener::Tls(listener, material) => {
                let mut accepted = accept_tcp(listener, shared, Transport::Tls, None).await?;
                accepted.tls = Some(material.acceptor());
                accepted
            }
            Listener::Unix(listener, path, _) => {
                let (stream, _) = listener.accept().await?;
                let peer = Peer::of_unix(&stream, path);
                let client = Client { transport: Transport::Unix, peer };
                Accepted { socket: Socket::of_unix(stream)?, client, ends: None, tls: None }
            }
        };
        Ok((accepted, permit))
    }

    /// Whether a connection stands in the kernel's queue.
    fn somebody_waits(&self) -> bool {
        let listener = match self {
            Listener::Tcp(listener) | Listener::Tls(listener, _) => listener.as_fd(),
            Listener::Unix(listener, ..) => listener.as_fd(),
        };
        let mut waiting = [PollFd::from_borrowed_fd(listener, PollFlags::IN)];
        rustix::event::poll(&mut waiting, Some(&rustix::event::Timespec::default())).is_ok_and(|ready| ready > 0)
    }
}

/// What the listeners of one kind have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    pub places: Arc<Places>,
    timeouts: ArcSwap<Timeouts>,
    pub peers: Arc<Peers>,
    pub metrics: Arc<Metrics>,
    /// After a failure to accept; those that follow it at once double the pause.
    pub first_pause: Duration,
    /// None where connections are served by the runtime that accepts them.
    workers: Option<Arc<Workers>>,
    unidentified_logged: Seldom,
}

impl Shared {
    pub(crate) fn new(
        places: Arc<Places>,
        timeouts: Timeouts,
        peers: &Arc<Peers>,
        metrics: &Arc<Metrics>,
        workers: Option<&Arc<Workers>>,
    ) -> Arc<Shared> {
        let (peers, metrics) = (Arc::clone(peers), Arc::clone(metrics));
        let timeouts = ArcSwap::from_pointee(timeouts);
        let unidentified_logged = Seldom::default();
        Arc::new(Shared {
            places,
            timeouts,
            peers,
            metrics,
            first_pause: FIRST_PAUSE,
            workers: workers.cloned(),
            unidentified_logged,
        })
    }

    fn take(&self, connection: impl Future<Output = ()> + Send + 'static) {
        match &self.workers {
            Some(workers) => workers.serve(connection),
            None => drop(tokio::spawn(connection)),
        }
    }

    /// For a connection that begins now.
    pub(crate) fn timeouts(&self) -> Timeouts {
        **self.timeouts.load()
    }

    /// Connections that are there keep those that they began with.
    pub(crate) fn set_timeouts(&self, timeouts: Timeouts) {
        self.timeouts.store(Arc::new(timeouts));
    }
}

/// The body of an answer.
pub(crate) trait Answer:
    http_body::Body<Data = bytes::Bytes, Error: std::error::Error + Send + Sync + 'static>
    + Unpin
    + Send
    + std::fmt::Debug
    + 'static
{
    /// It ends now, because the client takes nothing of it.
    fn client_stalled(&mut self);

    /// From now on, the end of a large answer is its delivery: `delivered`, `client_stalled` or the drop tells of it.
    fn confirm_delivery(&mut self);

    /// Whether the HTTP library has all of it, and it waits for that.
    fn awaits_delivery(&self) -> bool;

    /// The socket has taken all of it.
    fn delivered(&mut self);
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
enum NotAccepted {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Peer(#[from] NoPeer),
}

/// Waits for a moment; for ever, if there is none.
async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

async fn accept_tcp(
    listener: &TcpListener,
    shared: &Shared,
    transport: Transport,
    tls: Option<TlsAcceptor>,
) -> Result<Accepted, NotAccepted> {
    let (stream, client) = listener.accept().await?;
    stream.set_nodelay(true)?;
    let server = stream.local_addr()?;
    // At once: after the client has closed its end, the kernel no longer knows whose it was.
    let peer = shared.peers.of_tcp(&stream, client, server)?;
    let socket = Socket::of_tcp(stream)?;
    Ok(Accepted { socket, client: Client { transport, peer }, ends: Some((client, server)), tls })
}

fn listen_tcp(address: SocketAddr, inherited: &mut Inherited) -> Result<TcpListener, BindError> {
    // What is accepted inherits it.
    let probes = TcpKeepalive::new().with_time(KEEPALIVE_AFTER).with_interval(KEEPALIVE_INTERVAL);
    let probes = probes.with_retries(KEEPALIVE_RETRIES);
    let mut bind = || {
        if let Some(passed) = inherited.tcp(address) {
            passed.set_tcp_keepalive(&probes)?;
            passed.set_nonblocking(true)?;
            return TcpListener::from_std(passed.into());
        }
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        SockRef::from(&socket).set_tcp_keepalive(&probes)?;
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

impl SocketFile {
    /// Once: another listener may have put its own there since.
    fn remove(&mut self) {
        if let Some(path) = self.0.take() {
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        self.remove();
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
