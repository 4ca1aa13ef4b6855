//! A TCP connection to an upstream that can be looked at while another task drives it, and its options.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

/// A quiet connection is probed after so long, and again at this interval.
const PROBE_AFTER: Duration = Duration::from_secs(15);
const PROBE_INTERVAL: Duration = Duration::from_secs(5);
/// A peer that has confirmed nothing for so long, neither bytes nor probes, is gone (`TCP_USER_TIMEOUT`).
const UNCONFIRMED: Duration = Duration::from_secs(30);

/// What lies in a connection's receive buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pending {
    Nothing,
    Bytes,
    /// The peer has closed or reset the connection.
    End,
}

impl Pending {
    fn of(peeked: io::Result<usize>) -> Pending {
        match peeked {
            Ok(0) => Pending::End,
            Ok(_) => Pending::Bytes,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Pending::Nothing,
            Err(_) => Pending::End,
        }
    }
}

fn peek(stream: &TcpStream) -> io::Result<usize> {
    SockRef::from(stream).peek(&mut [MaybeUninit::uninit()])
}

/// All clones are the same connection.
#[derive(Debug, Clone)]
pub(super) struct Socket(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    stream: Mutex<TcpStream>,
    /// Bytes that have come.
    received: AtomicU64,
}

impl Socket {
    pub(super) fn new(stream: TcpStream) -> io::Result<Socket> {
        stream.set_nodelay(true)?;
        let socket = SockRef::from(&stream);
        socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(PROBE_AFTER).with_interval(PROBE_INTERVAL))?;
        socket.set_tcp_user_timeout(Some(UNCONFIRMED))?;
        Ok(Socket(Arc::new(Shared { stream: Mutex::new(stream), received: AtomicU64::new(0) })))
    }

    /// What has come and was not read yet. The driver of a connection learns of its end only when it next runs.
    pub(super) fn pending(&self) -> Pending {
        Pending::of(peek(&self.stream()))
    }

    /// The same without asking the kernel, unless the runtime has heard of something.
    pub(super) fn heard(&self) -> Pending {
        let stream = self.stream();
        Pending::of(stream.try_io(Interest::READABLE, || peek(&stream)))
    }

    /// How many bytes have come so far.
    pub(super) fn received(&self) -> u64 {
        self.0.received.load(Ordering::Relaxed)
    }

    fn stream(&self) -> MutexGuard<'_, TcpStream> {
        // Only the driver reads and writes; a panic there ends the connection.
        self.0.stream.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut *self.stream()).poll_read(cx, buffer);
        let came = buffer.filled().len() - before;
        self.0.received.fetch_add(came as u64, Ordering::Relaxed);
        polled
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.stream()).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.stream()).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream().is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream()).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn what_has_come_is_heard_of_after_a_turn_of_the_runtime() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut socket = Socket::new(stream).unwrap();
        let (mut peer, _) = listener.accept().unwrap();
        let both = |socket: &Socket| (socket.pending(), socket.heard());
        assert_eq!(both(&socket), (Pending::Nothing, Pending::Nothing));

        peer.write_all(b"HTTP").unwrap();
        assert_eq!(both(&socket), (Pending::Bytes, Pending::Nothing));
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(both(&socket), (Pending::Bytes, Pending::Bytes));
        assert_eq!(socket.read(&mut [0; 8]).await.unwrap(), 4);
        assert_eq!(both(&socket), (Pending::Nothing, Pending::Nothing));

        drop(peer);
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(both(&socket), (Pending::End, Pending::End));
    }

    #[tokio::test]
    async fn a_connection_that_was_reset_has_ended() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let socket = Socket::new(stream).unwrap();
        let (peer, _) = listener.accept().unwrap();
        SockRef::from(&peer).set_linger(Some(Duration::ZERO)).unwrap();
        drop(peer);
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(socket.heard(), Pending::End);
    }

    /// What they lead to is tried in a network namespace (tests/chaos/partition.rs).
    #[tokio::test]
    async fn a_connection_has_the_kernel_look_whether_its_peer_is_still_there() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let socket = Socket::new(stream).unwrap();
        let stream = socket.stream();
        assert!(stream.nodelay().unwrap());
        let socket = SockRef::from(&*stream);
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), PROBE_AFTER);
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), PROBE_INTERVAL);
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(UNCONFIRMED));
    }
}
