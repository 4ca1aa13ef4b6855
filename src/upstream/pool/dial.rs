//! From a name to a TCP connection: the name's addresses take turns, and one that does not answer does not use up the time
//! of the others (RFC 8305, "Happy Eyeballs").

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// How long an address is waited for before the next one is tried beside it (RFC 8305, 8: "Connection Attempt Delay").
const DELAY: Duration = Duration::from_millis(250);

/// Connects to one of the addresses of `host`. `turn` says which of them comes first.
///
/// # Errors
/// The name cannot be resolved, or no address can be connected to: then the last address's error.
pub(super) async fn dial(host: &str, port: u16, turn: u64) -> io::Result<TcpStream> {
    let found = tokio::net::lookup_host((host, port)).await?.collect();
    race(in_turn(found, turn)).await
}

/// Both families alternate, from the one that the resolver prefers. Within a family the addresses take turns.
fn in_turn(found: Vec<SocketAddr>, turn: u64) -> Vec<SocketAddr> {
    let prefers_6 = found.first().is_some_and(SocketAddr::is_ipv6);
    let (mut first, mut second): (Vec<_>, Vec<_>) = found.into_iter().partition(|one| one.is_ipv6() == prefers_6);
    let mut order = Vec::with_capacity(first.len() + second.len());
    for family in [&mut first, &mut second] {
        let by = usize::try_from(turn % family.len().max(1) as u64).unwrap_or(0);
        family.rotate_left(by);
    }
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    loop {
        let pair = [first.next(), second.next()];
        if pair == [None, None] {
            return order;
        }
        order.extend(pair.into_iter().flatten());
    }
}

/// The first connection that stands. The next address is tried when one has failed, or has kept silent for `DELAY`.
async fn race(addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
    let mut addresses = addresses.into_iter();
    let mut connecting = JoinSet::new();
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no addresses");
    loop {
        if let Some(address) = addresses.next() {
            connecting.spawn(TcpStream::connect(address));
        } else if connecting.is_empty() {
            return Err(failure);
        }
        let ended = match addresses.len() {
            0 => connecting.join_next().await,
            _ => tokio::time::timeout(DELAY, connecting.join_next()).await.ok().flatten(),
        };
        match ended {
            Some(Ok(Ok(stream))) => return Ok(stream),
            Some(Ok(Err(error))) => failure = error,
            Some(Err(_)) | None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn addresses(list: &[&str]) -> Vec<SocketAddr> {
        list.iter().map(|one| one.parse().unwrap()).collect()
    }

    #[test]
    fn addresses_take_turns_and_families_alternate() {
        let four = || addresses(&["10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1"]);
        assert_eq!(in_turn(four(), 0), four());
        assert_eq!(in_turn(four(), 4), addresses(&["10.0.0.2:1", "10.0.0.3:1", "10.0.0.1:1"]));
        let both = addresses(&["[::1]:1", "[::2]:1", "10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1"]);
        let expected = addresses(&["[::2]:1", "10.0.0.2:1", "[::1]:1", "10.0.0.3:1", "10.0.0.1:1"]);
        assert_eq!(in_turn(both, 1), expected);
        assert_eq!(in_turn(Vec::new(), 7), Vec::new());
    }

    /// An address that answers no SYN: its queue of connections is full.
    fn silent() -> (SocketAddr, Vec<socket2::Socket>) {
        let new = || socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        let listener = new();
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        let mut held = vec![listener];
        for _ in 0..8 {
            let client = new();
            client.set_nonblocking(true).unwrap();
            let _ = client.connect(&address.into());
            held.push(client);
        }
        (address, held)
    }

    #[tokio::test]
    async fn a_silent_address_does_not_use_up_the_time_of_the_others() {
        let (dead, _held) = silent();
        let alive = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = alive.local_addr().unwrap();
        let alone = tokio::time::timeout(Duration::from_millis(700), race(vec![dead])).await;
        assert!(alone.is_err(), "the address must be silent: {alone:?}");
        let began = Instant::now();
        let stream = race(vec![dead, address]).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), address);
        assert!(began.elapsed() >= DELAY, "the first one is given its time");
    }

    #[tokio::test]
    async fn after_a_refusal_the_next_address_is_tried_at_once_and_the_last_error_is_told() {
        let closed = {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            listener.local_addr().unwrap()
        };
        let alive = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = alive.local_addr().unwrap();
        let stream = race(vec![closed, closed, address]).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), address);
        let error = race(vec![closed, closed]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(race(Vec::new()).await.unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
