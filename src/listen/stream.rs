//! Byte streams of whatever kind, and the two ways in which they end.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::server::TlsStream;

/// A connection to a client.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {
    /// When it is dropped now, the peer sees a reset and not an orderly close. Some SDKs (Go, Java) take an orderly close
    /// for the end of an answer whose last chunk is missing.
    fn reset_when_dropped(&self);
}

impl Duplex for TcpStream {
    fn reset_when_dropped(&self) {
        // Fails only on a socket that is gone already.
        let _ = socket2::SockRef::from(self).set_linger(Some(Duration::ZERO));
    }
}

impl Duplex for UnixStream {
    /// A unix socket has no reset; HTTP's own framing has to tell.
    fn reset_when_dropped(&self) {}
}

impl Duplex for Box<dyn Duplex> {
    fn reset_when_dropped(&self) {
        (**self).reset_when_dropped();
    }
}

impl<T: Duplex> Duplex for TlsStream<T> {
    fn reset_when_dropped(&self) {
        self.get_ref().0.reset_when_dropped();
    }
}
