//! Listening, accepting, and one task a connection.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::exchange::{self, Connection};
use crate::framing;
use crate::route::Host;
use crate::state::State;
use crate::tls::Identity;
use crate::wire::{Control, Socket, Talker};

/// Serves one address until its task is aborted, which also ends every connection.
pub(crate) async fn serve(
    state: Arc<State>,
    host: Host,
    listener: TcpListener,
    address: SocketAddr,
    tls: Option<Arc<Identity>>,
) {
    let mut listener = Some(listener);
    let mut connections = JoinSet::new();
    let mut refusing = state.refusing.subscribe();
    loop {
        if *refusing.borrow_and_update() {
            listener = None;
            connections.abort_all();
        }
        let Some(open) = &listener else {
            // Only the sender's own end could fail this, and then this task ends with it.
            if refusing.wait_for(|refusing| !refusing).await.is_err() {
                return;
            }
            match bind(address).await {
                Ok(bound) => listener = Some(bound),
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
            continue;
        };
        tokio::select! {
            accepted = open.accept() => match accepted {
                Ok((stream, _)) => {
                    let tls = tls.as_ref().map(|identity| identity.acceptor());
                    connections.spawn(connection(Arc::clone(&state), host, stream, tls));
                }
                // Out of descriptors, say: not a reason to stop.
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            },
            _ = refusing.changed() => {}
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
        }
    }
}

/// Binds an address with `SO_REUSEADDR`, so that a port can come back after a time of refusal.
pub(crate) async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { tokio::net::TcpSocket::new_v4()? } else { tokio::net::TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(4096)
}

async fn connection(state: Arc<State>, host: Host, stream: TcpStream, tls: Option<TlsAcceptor>) {
    let _ = stream.set_nodelay(true);
    let control = Arc::new(Control::default());
    let number = state.connections.fetch_add(1, Ordering::Relaxed) + 1;
    let framed = state.framing.choice().is_some();
    let client_port = stream.peer_addr().map_or(0, |address| address.port());
    let connection =
        Connection { tls: tls.is_some(), host, number, client_port, control: Arc::clone(&control), framed };
    match tls {
        None => {
            let http2 = speaks_http2(&stream).await;
            let socket = Socket::new(stream, Arc::clone(&control));
            drive(state, Talker::new(socket, control), connection, http2).await;
        }
        Some(acceptor) => {
            let socket = Socket::new(stream, Arc::clone(&control));
            // A client that refuses the certificate ends here; it has sent no request that could be recorded.
            let Ok(stream) = acceptor.accept(socket).await else { return };
            let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            drive(state, Talker::new(stream, control), connection, http2).await;
        }
    }
}

/// HTTP/2 with prior knowledge begins with `PRI`, which no HTTP/1.1 method does.
async fn speaks_http2(stream: &TcpStream) -> bool {
    let mut start = [0; 3];
    loop {
        match stream.peek(&mut start).await {
            Ok(3) => return &start == b"PRI",
            Ok(0) | Err(_) => return false,
            Ok(some) if !b"PRI".starts_with(&start[..some]) => return false,
            Ok(_) => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    }
}

async fn drive<S>(state: Arc<State>, stream: S, connection: Connection, http2: bool)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    match (connection.framed, http2) {
        (true, true) => return framing::h2::serve(state, stream, connection).await,
        (true, false) => return framing::h1::serve(state, stream, connection).await,
        (false, _) => {}
    }
    let control = Arc::clone(&connection.control);
    let mut choices = state.framing.changes();
    let service = service_fn(move |request| {
        let exchange = exchange::answer(Arc::clone(&state), connection.clone(), request);
        async move { Ok::<_, Infallible>(exchange.await) }
    });
    let io = TokioIo::new(stream);
    // Both arms are the same but for a type that has no common trait.
    if http2 {
        let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .max_header_list_size(128 * 1024)
            .max_concurrent_streams(2000)
            // Wide enough that images do not wait for window updates.
            .initial_stream_window_size(1024 * 1024)
            .initial_connection_window_size(8 * 1024 * 1024);
        let served = builder.serve_connection(io, service);
        tokio::pin!(served);
        loop {
            tokio::select! {
                _ = served.as_mut() => return,
                () = control.killed() => return,
                () = control.going_away() => served.as_mut().graceful_shutdown(),
                // The client's next connection is framed by hand.
                Ok(()) = choices.changed() => {
                    if choices.borrow_and_update().is_some() {
                        served.as_mut().graceful_shutdown();
                    }
                }
            }
        }
    } else {
        let served = hyper::server::conn::http1::Builder::new().serve_connection(io, service);
        tokio::pin!(served);
        loop {
            tokio::select! {
                _ = served.as_mut() => return,
                () = control.killed() => return,
                () = control.going_away() => served.as_mut().graceful_shutdown(),
                // The client's next connection is framed by hand.
                Ok(()) = choices.changed() => {
                    if choices.borrow_and_update().is_some() {
                        served.as_mut().graceful_shutdown();
                    }
                }
            }
        }
    }
}
