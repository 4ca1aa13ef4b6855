//! Who is at the other end of a connection, as the kernel and the TLS handshake say. Asked once per connection, right
//! after `accept`: what a client does later cannot change it.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Once;

use super::sock_diag;

/// The other end of a connection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Peer {
    /// The owner of the peer's socket; none when the kernel does not say: a client on another host or in another network
    /// namespace, or one that has closed its socket already.
    pub uid: Option<u32>,
    /// The peer's group, which only a unix socket tells.
    pub gid: Option<u32>,
    /// The client's IP address; for a unix socket the path of the socket. The audit item's `sourceIP`.
    pub source: String,
    /// What the verified client certificate is called: `CN=…`, `DNS:…`, `URI:…`; empty without one.
    pub certificate_names: Vec<String>,
}

impl Peer {
    /// The peer of an accepted TCP connection: `client` is its `peer_addr`, `server` its `local_addr`.
    pub fn of_tcp(client: SocketAddr, server: SocketAddr) -> Peer {
        let uid = sock_diag::owner(client, server).unwrap_or_else(|error| {
            // The kernel or the unit's sandbox has no sock_diag: it will fail for the next connection too.
            static WARNED: Once = Once::new();
            WARNED.call_once(|| {
                tracing::warn!(%error, "the kernel does not say which users connect by TCP (does RestrictAddressFamilies= lack AF_NETLINK?); entries with users and groups fit nobody");
            });
            None
        });
        Peer { uid, source: client.ip().to_canonical().to_string(), ..Peer::default() }
    }

    /// The peer of an accepted unix connection, from SO_PEERCRED: the process that called `connect`.
    pub fn of_unix(stream: &tokio::net::UnixStream) -> Peer {
        let path = stream.local_addr().ok();
        let path = path.as_ref().and_then(|address| address.as_pathname());
        let source = path.unwrap_or(Path::new("unix")).display().to_string();
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
