//! Who shares what is bounded for each user: connections, requests at once, memory for bodies, places in a line, questions
//! and look-ups.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, Ipv6Addr};

use super::Peer;

/// One of those who share a bound.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum User {
    /// A user of this host, by the kernel's word.
    Local(u32),
    /// Whoever shows a client certificate with these names, of which this is a hash: who collides shares a bound, no more.
    Certificate(u64),
    /// A host elsewhere: its IPv4 address, or the first 64 bits of its IPv6 address, of which it can choose the rest.
    Host(IpAddr),
    /// Somebody of this host whom the kernel does not tell. All of them are one.
    #[default]
    Unknown,
}

impl User {
    /// Of a connection. Before the TLS handshake nobody has shown a certificate, so that until then the host counts.
    pub fn of(peer: &Peer) -> User {
        match peer.uid {
            None if !peer.certificate_names.is_empty() => {
                let mut hasher = DefaultHasher::new();
                peer.certificate_names.hash(&mut hasher);
                User::Certificate(hasher.finish())
            }
            uid => User::at(uid, &peer.source),
        }
    }

    /// By uid, or else by the address that a connection has come from.
    pub fn at(uid: Option<u32>, source: &str) -> User {
        if let Some(uid) = uid {
            return User::Local(uid);
        }
        match source.parse::<IpAddr>().map(|ip| ip.to_canonical()) {
            Ok(ip) if !ip.is_loopback() => User::Host(network(ip)),
            _ => User::Unknown,
        }
    }
}

fn network(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(source: &str) -> User {
        User::of(&Peer { source: source.to_owned(), ..Peer::default() })
    }

    #[test]
    fn hosts_are_users_where_no_uid_is_known_and_loopback_is_one() {
        assert_eq!(at("127.0.0.1"), User::Unknown);
        assert_eq!((at("127.0.0.2"), at("::1"), at("/run/socket")), (User::Unknown, User::Unknown, User::Unknown));
        assert_ne!(at("10.0.0.1"), at("10.0.0.2"));
        assert_eq!(at("::ffff:10.0.0.1"), at("10.0.0.1"));
        let local = Peer { uid: Some(7), source: "10.0.0.1".to_owned(), ..Peer::default() };
        assert_eq!(User::of(&local), User::Local(7));
    }

    #[test]
    fn an_ipv6_host_has_one_network() {
        assert_eq!(at("2001:db8:0:1::1"), at("2001:db8:0:1:ffff:ffff:ffff:ffff"));
        assert_ne!(at("2001:db8:0:1::1"), at("2001:db8:0:2::1"));
    }

    #[test]
    fn a_certificate_is_one_user_wherever_it_is_shown_and_a_local_user_stays_one() {
        let shows = |name: &str, source: &str, uid| {
            let peer = Peer { uid, source: source.to_owned(), ..Peer::default() };
            User::of(&peer.with_certificate(vec![format!("CN={name}"), "O=x".to_owned()]))
        };
        assert_eq!(shows("a", "10.0.0.1", None), shows("a", "10.0.0.2", None));
        assert_ne!(shows("a", "10.0.0.1", None), shows("b", "10.0.0.1", None));
        assert_eq!(shows("a", "127.0.0.1", Some(7)), User::Local(7));
    }
}
