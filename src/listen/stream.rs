//! Byte streams of whatever kind, and the two ways in which they end.

use std::io;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::server::TlsStream;

use crate::caller::Peers;

/// A connection to a client.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {
    /// When it is dropped now, the peer sees a reset and not an orderly close. Some SDKs (Go, Java) take an orderly close
    /// for the end of an answer whose last chunk is missing.
    fn reset_when_dropped(&self);

    /// Whether a client that has finished sending has left altogether, as far as the kernel of this host knows: nobody reads
    /// an answer. True where nobody knows.
    fn has_left(&self, _peers: &Peers) -> bool {
        true
    }
}

/// A connection that no runtime watches: the one that serves it need not be the one that has accepted it.
#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

impl Socket {
    /// # Errors
    /// The kernel does not let go of it.
    pub(crate) fn of_tcp(stream: TcpStream) -> io::Result<Socket> {
        stream.into_std().map(Socket::Tcp)
    }

    /// # Errors
    /// As those of [`Socket::of_tcp`].
    pub(crate) fn of_unix(stream: UnixStream) -> io::Result<Socket> {
        stream.into_std().map(Socket::Unix)
    }

    /// The connection, watched by the runtime that runs this.
    ///
    /// # Errors
    /// The kernel has no memory to watch it.
    pub(crate) fn registered(self) -> io::Result<Box<dyn Duplex>> {
        let stream: Box<dyn Duplex> = match self {
            Socket::Tcp(socket) => Box::new(TcpStream::from_std(socket)?),
            Socket::Unix(socket) => Box::new(UnixStream::from_std(socket)?),
        };
        Ok(stream)
    }
}

impl Duplex for TcpStream {
    fn reset_when_dropped(&self) {
        // Fails only on a socket that is gone already.
        let _ = socket2::SockRef::from(self).set_linger(Some(Duration::ZERO));
    }

    fn has_left(&self, peers: &Peers) -> bool {
        match (self.peer_addr(), self.local_addr()) {
            (Ok(client), Ok(server)) => peers.has_left(client, server),
            _ => true,
        }
    }
}

impl Duplex for UnixStream {
    /// A unix socket has no reset; HTTP's own framing has to tell.
    fn reset_when_dropped(&self) {}

    fn has_left(&self, _peers: &Peers) -> bool {
        let mut polled = [PollFd::new(self, PollFlags::empty())];
        let result = rustix::event::poll(&mut polled, Some(&rustix::event::Timespec::default()));
        result.is_err() || polled[0].revents().intersects(PollFlags::HUP | PollFlags::ERR)
    }
}

impl Duplex for Box<dyn Duplex> {
    fn reset_when_dropped(&self) {
        (**self).reset_when_dropped();
    }

    fn has_left(&self, peers: &Peers) -> bool {
        (**self).has_left(peers)
    }
}

impl<T: Duplex> Duplex for TlsStream<T> {
    fn reset_when_dropped(&self) {
        self.get_ref().0.reset_when_dropped();
    }

    fn has_left(&self, peers: &Peers) -> bool {
        self.get_ref().0.has_left(peers)
    }
}
