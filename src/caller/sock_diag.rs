//! Asks the kernel which user owns the other end of a local TCP connection (sock_diag(7), `struct inet_diag_req_v2`).
//!
//! One request and one answer of fixed layout: less code than a netlink crate would need to be called, and no `unsafe`.

use std::io;
use std::net::{IpAddr, SocketAddr};

use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const IPPROTO_TCP: u8 = 6;
const HEADER: usize = 16;
const REQUEST: usize = HEADER + 56;
const ANSWER: usize = HEADER + 72;
/// Marks the answer as the one to this request; the socket lives for one request only.
const SEQUENCE: u32 = 0x6265_6472;

/// ESTABLISHED, FIN_WAIT1, FIN_WAIT2 and CLOSE_WAIT: states in which a connection has once been complete. A listener or
/// a connection attempt on the same addresses is somebody else's.
const CONNECTED: [u8; 4] = [1, 4, 5, 8];

/// The owner of the socket that is bound to `local` and connected to `remote`, both on this host and in this network
/// namespace. None when there is no such socket, or no longer.
///
/// The kernel works the answer out within `sendto`, so nothing here waits.
pub(super) fn owner(local: SocketAddr, remote: SocketAddr) -> io::Result<Option<u32>> {
    let wanted = Connection::new(local, remote);
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        Some(netlink::SOCK_DIAG),
    )?;
    sendto(&socket, &wanted.request(), SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    let mut answer = [0; 512];
    let (length, _) = recv(&socket, &mut answer[..], RecvFlags::DONTWAIT)?;
    wanted.owner(&answer[..length])
}

/// A connection as `struct inet_diag_sockid` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Connection {
    local: (IpAddr, u16),
    remote: (IpAddr, u16),
    interface: u32,
}

impl Connection {
    fn new(local: SocketAddr, remote: SocketAddr) -> Connection {
        // An IPv6 socket that speaks IPv4 is found by its IPv4 addresses.
        let plain = |address: SocketAddr| (address.ip().to_canonical(), address.port());
        let interface = match local {
            SocketAddr::V6(local) => local.scope_id(),
            SocketAddr::V4(_) => 0,
        };
        Connection { local: plain(local), remote: plain(remote), interface }
    }

    fn request(&self) -> [u8; REQUEST] {
        let v6 = self.local.0.is_ipv6() || self.remote.0.is_ipv6();
        let family = if v6 { AddressFamily::INET6 } else { AddressFamily::INET };
        let mut request = [0; REQUEST];
        request[0..4].copy_from_slice(&u32::try_from(REQUEST).unwrap_or(u32::MAX).to_ne_bytes());
        request[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        request[6..8].copy_from_slice(&NLM_F_REQUEST.to_ne_bytes());
        request[8..12].copy_from_slice(&SEQUENCE.to_ne_bytes());
        request[16] = u8::try_from(family.as_raw()).unwrap_or_default();
        request[17] = IPPROTO_TCP;
        request[20..24].copy_from_slice(&u32::MAX.to_ne_bytes());
        request[24..26].copy_from_slice(&self.local.1.to_be_bytes());
        request[26..28].copy_from_slice(&self.remote.1.to_be_bytes());
        request[28..44].copy_from_slice(&octets(self.local.0, v6));
        request[44..60].copy_from_slice(&octets(self.remote.0, v6));
        request[60..64].copy_from_slice(&self.interface.to_ne_bytes());
        // INET_DIAG_NOCOOKIE: whichever socket it is.
        request[64..72].fill(0xff);
        request
    }

    /// Reads `struct inet_diag_msg`. A socket whose process has closed it is reported with uid 0 and inode 0: that is
    /// nobody, not root.
    fn owner(&self, answer: &[u8]) -> io::Result<Option<u32>> {
        let word = |at: usize| answer.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_ne_bytes);
        let half = |at: usize| answer.get(at..at + 2).and_then(|b| b.try_into().ok());
        let short = || io::Error::new(io::ErrorKind::InvalidData, "the kernel's answer is too short");
        let kind = half(4).map(u16::from_ne_bytes).ok_or_else(short)?;
        if word(8) != Some(SEQUENCE) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "an answer to another request"));
        }
        if kind == NLMSG_ERROR {
            let code = word(HEADER).ok_or_else(short)?.cast_signed().wrapping_neg();
            let error = rustix::io::Errno::from_raw_os_error(code);
            return if error == rustix::io::Errno::NOENT { Ok(None) } else { Err(error.into()) };
        }
        if kind != SOCK_DIAG_BY_FAMILY || answer.len() < ANSWER {
            return Err(short());
        }
        let address = |at: usize| -> Option<IpAddr> {
            let bytes: [u8; 16] = answer.get(at..at + 16)?.try_into().ok()?;
            if u16::from(answer[HEADER]) == AddressFamily::INET6.as_raw() {
                return Some(IpAddr::from(bytes).to_canonical());
            }
            let [a, b, c, d, ..] = bytes;
            Some(IpAddr::from([a, b, c, d]))
        };
        let end = |ip: usize, port: usize| Some((address(ip)?, half(port).map(u16::from_be_bytes)?));
        let same = end(24, 20) == Some(self.local) && end(40, 22) == Some(self.remote);
        let (uid, inode) = (word(80).ok_or_else(short)?, word(84).ok_or_else(short)?);
        let state = answer[HEADER + 1];
        Ok(Some(uid).filter(|_| same && inode != 0 && CONNECTED.contains(&state)))
    }
}

fn octets(ip: IpAddr, v6: bool) -> [u8; 16] {
    match ip {
        IpAddr::V6(ip) => ip.octets(),
        IpAddr::V4(ip) if v6 => ip.to_ipv6_mapped().octets(),
        IpAddr::V4(ip) => {
            let mut octets = [0; 16];
            octets[..4].copy_from_slice(&ip.octets());
            octets
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(connection: &Connection, state: u8, uid: u32, inode: u32) -> Vec<u8> {
        let request = connection.request();
        let mut answer = vec![0; ANSWER];
        answer[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        answer[8..12].copy_from_slice(&SEQUENCE.to_ne_bytes());
        answer[16] = request[16];
        answer[17] = state;
        answer[20..56].copy_from_slice(&request[24..60]);
        answer[80..84].copy_from_slice(&uid.to_ne_bytes());
        answer[84..88].copy_from_slice(&inode.to_ne_bytes());
        answer
    }

    #[test]
    fn only_a_live_socket_of_this_connection_has_an_owner() {
        let ours = Connection::new("127.0.0.1:4000".parse().unwrap(), "127.0.0.1:8790".parse().unwrap());
        let other = Connection::new("127.0.0.1:4001".parse().unwrap(), "127.0.0.1:8790".parse().unwrap());
        assert_eq!(ours.owner(&answer(&ours, 1, 1007, 99)).unwrap(), Some(1007));
        assert_eq!(ours.owner(&answer(&ours, 1, 0, 99)).unwrap(), Some(0));
        assert_eq!(ours.owner(&answer(&ours, 1, 0, 0)).unwrap(), None, "closed");
        assert_eq!(ours.owner(&answer(&ours, 10, 1007, 99)).unwrap(), None, "a listener");
        assert_eq!(ours.owner(&answer(&ours, 2, 1007, 99)).unwrap(), None, "an attempt");
        assert_eq!(ours.owner(&answer(&other, 1, 1007, 99)).unwrap(), None, "another connection");
    }

    #[test]
    fn short_answers_are_errors() {
        let ours = Connection::new("[::1]:4000".parse().unwrap(), "[::1]:8790".parse().unwrap());
        let whole = answer(&ours, 1, 1007, 99);
        for length in 0..whole.len() {
            assert!(ours.owner(&whole[..length]).is_err(), "{length}");
        }
    }

    #[test]
    fn mapped_addresses_are_asked_for_as_ipv4() {
        let mapped = Connection::new("[::ffff:127.0.0.1]:4000".parse().unwrap(), "127.0.0.1:8790".parse().unwrap());
        assert_eq!(mapped, Connection::new("127.0.0.1:4000".parse().unwrap(), "127.0.0.1:8790".parse().unwrap()));
        assert_eq!(u16::from(mapped.request()[16]), AddressFamily::INET.as_raw());
    }
}
