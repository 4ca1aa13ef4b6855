//! Who is at the other end of a connection, as the kernel and the TLS handshake say. Asked once per connection, right
//! after `accept`: what a client does later cannot change it.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::Path;

use super::sock_diag::{Row, SockDiag};

/// The other end of a connection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Peer {
    /// The owner of the peer's socket; none when the kernel does not say: a client on another host or in another network
    /// namespace.
    pub uid: Option<u32>,
    /// The peer's group, which only a unix socket tells.
    pub gid: Option<u32>,
    /// The client's IP address; for a unix socket the path of the socket. The audit item's `sourceIP`.
    pub source: String,
    /// What the verified client certificate is called: `CN=…`, `DNS:…`, `URI:…`; empty without one.
    pub certificate_names: Vec<String>,
}

/// Finds out who has connected by TCP.
#[derive(Debug)]
pub struct Peers(Option<SockDiag>);

/// Why nobody can be served on a connection.
#[derive(Debug, thiserror::Error)]
pub enum NoPeer {
    /// It has ended already, or nobody is left to read an answer.
    #[error("the client has left already")]
    Gone,
    /// The kernel could not be asked.
    #[error("the kernel did not say who has connected: {0}")]
    Kernel(#[from] io::Error),
}

impl Peers {
    /// Asks the kernel, over a socket that is opened here and kept.
    ///
    /// # Errors
    /// The kernel or a sandbox has no sock_diag.
    pub fn open() -> io::Result<Peers> {
        SockDiag::open().map(|diag| Peers(Some(diag)))
    }

    /// Knows nobody: where the kernel does not tell.
    pub fn blind() -> Peers {
        Peers(None)
    }

    /// The peer of an accepted TCP connection: `client` is its `peer_addr`, `server` its `local_addr`.
    ///
    /// Addresses and ports do not name a connection for ever. One that was reset before it was accepted still has its
    /// data and the client's old address, while somebody else may have connected from there. So the accepted socket must
    /// be alive, by its inode, *after* the client's end was looked up. While it lives, no other connection can have
    /// these addresses; and a dead one does not come back.
    ///
    /// # Errors
    /// The connection is to be closed unserved.
    pub fn of_tcp(&self, accepted: impl AsFd, client: SocketAddr, server: SocketAddr) -> Result<Peer, NoPeer> {
        let peer = |uid| Peer { uid, source: client.ip().to_canonical().to_string(), ..Peer::default() };
        let Some(diag) = &self.0 else { return Ok(peer(None)) };
        let theirs = diag.row(client, server)?;
        let ours = diag.row(server, client)?;
        // The kernel reports the low half of an inode's number.
        let low = rustix::fs::fstat(accepted).map_err(io::Error::from)?.st_ino & u64::from(u32::MAX);
        let ours = ours.filter(|row| row.is_connected() && u64::from(row.inode) == low).ok_or(NoPeer::Gone)?;
        if let Some(live) = theirs.filter(Row::is_connected) {
            return Ok(peer(Some(live.uid)));
        }
        // The client has closed its end, not only finished writing. One on another host may look the same from here.
        if ours.is_half_closed() && (theirs.is_some() || client.ip().to_canonical().is_loopback()) {
            return Err(NoPeer::Gone);
        }
        Ok(peer(None))
    }

    /// Whether the process that has connected has closed its end, and not only finished sending. True also where the
    /// kernel does not tell: a client on another host, or no kernel to ask.
    pub(crate) fn has_left(&self, client: SocketAddr, server: SocketAddr) -> bool {
        let Some(diag) = &self.0 else { return true };
        // One error is no answer; the next look may have one.
        diag.row(client, server).is_ok_and(|row| !row.is_some_and(|row| row.is_connected()))
    }

    /// Bytes that were written to a connection and that the client's kernel has not taken; none when unknown.
    pub(crate) fn unsent(&self, client: SocketAddr, server: SocketAddr) -> Option<u32> {
        self.0.as_ref()?.row(server, client).ok()?.map(|row| row.unsent)
    }
}

impl Peer {
    /// The peer of an accepted unix connection, from SO_PEERCRED: the process that called `connect`. `path` is the
    /// socket's.
    pub fn of_unix(stream: &tokio::net::UnixStream, path: &Path) -> Peer {
        let source = path.display().to_string();
        match stream.peer_cred() {
            Ok(credentials) => {
                Peer { uid: Some(credentials.uid()), gid: Some(credentials.gid()), source, ..Peer::default() }
            }
            Err(error) => {
                tracing::debug!(%error, "the kernel does not say which user has connected");
                Peer { source, ..Peer::default() }
            }
        }
    }

    /// Adds what the TLS handshake has verified.
    pub fn with_certificate(mut self, names: Vec<String>) -> Peer {
        self.certificate_names = names;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_served_while_the_kernel_does_not_answer() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let _client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, client) = listener.accept().unwrap();
        let server = accepted.local_addr().unwrap();
        let judged = Peers(Some(SockDiag::unusable())).of_tcp(&accepted, client, server);
        assert!(matches!(judged, Err(NoPeer::Kernel(_))), "{judged:?}");
        assert_eq!(Peers::blind().of_tcp(&accepted, client, server).unwrap().uid, None);
    }
}
