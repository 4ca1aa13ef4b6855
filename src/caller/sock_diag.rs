//! Asks the kernel about TCP sockets of this host (sock_diag(7), `struct inet_diag_req_v2`).
//!
//! One request and one answer of fixed layout: less code than a netlink crate would need to be called, and no `unsafe`.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};

use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const IPPROTO_TCP: u8 = 6;
const HEADER: usize = 16;
const REQUEST: usize = HEADER + 56;
const ANSWER: usize = HEADER + 72;

const ESTABLISHED: u8 = 1;
const FIN_WAIT1: u8 = 4;
const FIN_WAIT2: u8 = 5;
const CLOSE_WAIT: u8 = 8;

/// Asks over one socket that stays open: a process without a free descriptor must not forget who its clients are.
#[derive(Debug)]
pub(super) struct SockDiag(Mutex<Line>);

#[derive(Debug)]
struct Line {
    socket: OwnedFd,
    /// Of the last request. An answer bears the number of its request, so that one which came late is known as such.
    sequence: u32,
}

/// A socket as `struct inet_diag_msg` describes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Row {
    state: u8,
    pub uid: u32,
    /// 0 when its process has closed it. The uid then says 0 as well: that is nobody, not root.
    pub inode: u32,
    /// Bytes that the other end has not acknowledged.
    pub unsent: u32,
}

impl Row {
    /// Open, in a connection that has once been complete. A listener or a connection attempt on the same addresses is
    /// somebody else's.
    pub(super) fn is_connected(&self) -> bool {
        self.inode != 0 && [ESTABLISHED, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT].contains(&self.state)
    }

    /// The other end has sent all that it will send.
    pub(super) fn is_half_closed(&self) -> bool {
        self.state == CLOSE_WAIT
    }
}

impl SockDiag {
    /// Opens the socket, and tries whether the kernel answers.
    pub(super) fn open() -> io::Result<SockDiag> {
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            Some(netlink::SOCK_DIAG),
        )?;
        let diag = SockDiag(Mutex::new(Line { socket, sequence: 0 }));
        let nobody = SocketAddr::from(([127, 0, 0, 1], 1));
        diag.row(nobody, nobody)?;
        Ok(diag)
    }

    /// The socket that is bound to `local` and connected to `remote`, in this network namespace; none when there is no
    /// such socket, or no longer.
    pub(super) fn row(&self, local: SocketAddr, remote: SocketAddr) -> io::Result<Option<Row>> {
        let wanted = Connection::new(local, remote);
        let mut line = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // An answer can be lost when the kernel is short of memory.
        line.ask(&wanted).or_else(|_| line.ask(&wanted))
    }
}

impl Line {
    /// The kernel works the answer out within `sendto`, so nothing here waits.
    fn ask(&mut self, wanted: &Connection) -> io::Result<Option<Row>> {
        self.sequence = self.sequence.wrapping_add(1);
        let request = wanted.request(self.sequence);
        sendto(&self.socket, &request, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        loop {
            let mut answer = [0; 512];
            let (length, _) = recv(&self.socket, &mut answer[..], RecvFlags::DONTWAIT)?;
            if let Some(row) = wanted.row(self.sequence, &answer[..length])? {
                return Ok(row);
            }
        }
    }
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

    fn request(&self, sequence: u32) -> [u8; REQUEST] {
        let v6 = self.local.0.is_ipv6() || self.remote.0.is_ipv6();
        let family = if v6 { AddressFamily::INET6 } else { AddressFamily::INET };
        let mut request = [0; REQUEST];
        request[0..4].copy_from_slice(&u32::try_from(REQUEST).unwrap_or(u32::MAX).to_ne_bytes());
        request[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        request[6..8].copy_from_slice(&NLM_F_REQUEST.to_ne_bytes());
        request[8..12].copy_from_slice(&sequence.to_ne_bytes());
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

    /// Reads `struct inet_diag_msg`; none if it answers another request.
    fn row(&self, sequence: u32, answer: &[u8]) -> io::Result<Option<Option<Row>>> {
        let word = |at: usize| answer.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_ne_bytes);
        let half = |at: usize| answer.get(at..at + 2).and_then(|b| b.try_into().ok());
        let short = || io::Error::new(io::ErrorKind::InvalidData, "the kernel's answer is too short");
        let kind = half(4).map(u16::from_ne_bytes).ok_or_else(short)?;
        if word(8).ok_or_else(short)? != sequence {
            return Ok(None);
        }
        if kind == NLMSG_ERROR {
            let code = word(HEADER).ok_or_else(short)?.cast_signed().wrapping_neg();
            let error = rustix::io::Errno::from_raw_os_error(code);
            return if error == rustix::io::Errno::NOENT { Ok(Some(None)) } else { Err(error.into()) };
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
        let unsent = word(76).ok_or_else(short)?;
        let (uid, inode) = (word(80).ok_or_else(short)?, word(84).ok_or_else(short)?);
        // A listener on the local address answers for connections that are not there.
        Ok(Some(Some(Row { state: answer[HEADER + 1], uid, inode, unsent }).filter(|_| same)))
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
impl SockDiag {
    /// A kernel that cannot be asked.
    pub(super) fn unusable() -> SockDiag {
        let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None).unwrap();
        SockDiag(Mutex::new(Line { socket, sequence: 0 }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(connection: &Connection, state: u8, uid: u32, inode: u32) -> Vec<u8> {
        let request = connection.request(7);
        let mut answer = vec![0; ANSWER];
        answer[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        answer[8..12].copy_from_slice(&7_u32.to_ne_bytes());
        answer[16] = request[16];
        answer[17] = state;
        answer[20..56].copy_from_slice(&request[24..60]);
        answer[76..80].copy_from_slice(&5_u32.to_ne_bytes());
        answer[80..84].copy_from_slice(&uid.to_ne_bytes());
        answer[84..88].copy_from_slice(&inode.to_ne_bytes());
        answer
    }

    #[test]
    fn only_a_live_socket_of_this_connection_has_an_owner() {
        let ours = Connection::new("127.0.0.1:4000".parse().unwrap(), "127.0.0.1:8790".parse().unwrap());
        let other = Connection::new("127.0.0.1:4001".parse().unwrap(), "127.0.0.1:8790".parse().unwrap());
        let owner = |answer: &[u8]| {
            ours.row(7, answer).unwrap().expect("an answer").filter(Row::is_connected).map(|row| (row.uid, row.unsent))
        };
        assert_eq!(owner(&answer(&ours, 1, 1007, 99)), Some((1007, 5)));
        assert_eq!(owner(&answer(&ours, 1, 0, 99)), Some((0, 5)));
        assert_eq!(owner(&answer(&ours, 1, 0, 0)), None, "closed");
        assert_eq!(owner(&answer(&ours, 10, 1007, 99)), None, "a listener");
        assert_eq!(owner(&answer(&ours, 2, 1007, 99)), None, "an attempt");
        assert_eq!(owner(&answer(&other, 1, 1007, 99)), None, "another connection");
    }

    #[test]
    fn an_answer_to_another_request_is_passed_over() {
        let ours = Connection::new("127.0.0.1:4000".parse().unwrap(), "127.0.0.1:8790".parse().unwrap());
        assert_eq!(ours.row(8, &answer(&ours, 1, 1007, 99)).unwrap(), None);
    }

    #[test]
    fn short_answers_are_errors() {
        let ours = Connection::new("[::1]:4000".parse().unwrap(), "[::1]:8790".parse().unwrap());
        let whole = answer(&ours, 1, 1007, 99);
        for length in 0..whole.len() {
            assert!(ours.row(7, &whole[..length]).is_err(), "{length}");
        }
    }

    #[test]
    fn mapped_addresses_are_asked_for_as_ipv4() {
        let mapped = Connection::new("[::ffff:127.0.0.1]:4000".parse().unwrap(), "127.0.0.1:8790".parse().unwrap());
        assert_eq!(mapped, Connection::new("127.0.0.1:4000".parse().unwrap(), "127.0.0.1:8790".parse().unwrap()));
        assert_eq!(u16::from(mapped.request(1)[16]), AddressFamily::INET.as_raw());
    }
}
