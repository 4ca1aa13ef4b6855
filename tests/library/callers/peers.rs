//! Who is at the other end of a real socket: both address families, other users, clients that leave early.
//!
//! Other users need root (`setpriv`); without it those tests print that they were not run. They start this binary again
//! in the part that the variable `CALLERS_PART` names.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Child;
use std::time::{Duration, Instant};

use bedrock_sidecar::caller::{NoPeer, Peer, Peers};
use socket2::{Domain, SockAddr, Socket, Type};
use test_support::users::{can_be_others, own_uid, this_test_as};

/// Users that no passwd file knows.
const ALICE: u32 = 40_001;
const BOB: u32 = 40_002;

/// Who has connected; nobody when the connection is not to be served.
fn peer(listener: &TcpListener) -> (Peer, TcpStream) {
    let (stream, client) = listener.accept().unwrap();
    (found(&Peers::open().unwrap(), &stream, client), stream)
}

fn found(peers: &Peers, stream: &TcpStream, client: SocketAddr) -> Peer {
    match peers.of_tcp(stream, client, stream.local_addr().unwrap()) {
        Ok(peer) => peer,
        Err(NoPeer::Gone) => Peer::default(),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn ipv4_and_ipv6_peers_have_a_uid() {
    for address in ["127.0.0.1:0", "127.9.8.7:0", "[::1]:0"] {
        let listener = TcpListener::bind(address).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (peer, _stream) = peer(&listener);
        assert_eq!(peer.uid, Some(own_uid()), "{address}");
        assert_eq!(peer.source, client.local_addr().unwrap().ip().to_string());
    }
}

#[test]
fn mapped_ipv4_peers_have_a_uid_on_either_side() {
    // A listener for both families sees an IPv4 client under a mapped address.
    let listener = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
    listener.set_only_v6(false).unwrap();
    listener.bind(&SockAddr::from("[::]:0".parse::<SocketAddr>().unwrap())).unwrap();
    listener.listen(8).unwrap();
    let listener = TcpListener::from(listener);
    let port = listener.local_addr().unwrap().port();
    let _client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let (found, stream) = peer(&listener);
    assert!(stream.peer_addr().unwrap().is_ipv6());
    assert_eq!((found.uid, found.source.as_str()), (Some(own_uid()), "127.0.0.1"));

    // An IPv6 socket that speaks IPv4 to an IPv4 listener.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mapped = format!("[::ffff:127.0.0.1]:{}", listener.local_addr().unwrap().port());
    let client = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
    client.set_only_v6(false).unwrap();
    client.connect(&SockAddr::from(mapped.parse::<SocketAddr>().unwrap())).unwrap();
    assert_eq!(peer(&listener).0.uid, Some(own_uid()));
}

#[test]
fn a_peer_that_has_closed_is_unknown() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let listener = TcpListener::bind(address).unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        client.write_all(b"POST / HTTP/1.1\r\n\r\n").unwrap();
        drop(client);
        assert_eq!(peer(&listener).0.uid, None, "{address}");
    }
}

#[test]
fn a_peer_that_has_only_finished_writing_is_known() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(peer(&listener).0.uid, Some(own_uid()));
}

#[test]
fn a_connection_that_is_not_on_this_host_is_unknown() {
    let peers = Peers::open().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (stream, _) = listener.accept().unwrap();
    for other in ["192.0.2.1:4000", "[2001:db8::1]:4000"] {
        assert_eq!(found(&peers, &stream, other.parse().unwrap()).uid, None);
    }
    // The port of a listener is not a connection.
    assert_eq!(found(&peers, &stream, listener.local_addr().unwrap()).uid, None);
}

/// A connection that was reset waits to be accepted, with its data, while another user connects from the same port.
#[test]
fn a_dead_connection_is_not_the_one_that_has_taken_its_port() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let from = |port: u16| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.bind(&SockAddr::from(SocketAddr::from(([127, 0, 0, 1], port)))).unwrap();
        socket.connect(&SockAddr::from(address)).unwrap();
        TcpStream::from(socket)
    };
    let mut attacker = from(0);
    let port = attacker.local_addr().unwrap().port();
    attacker.write_all(b"POST / HTTP/1.1\r\n\r\n").unwrap();
    socket2::SockRef::from(&attacker).set_linger(Some(Duration::ZERO)).unwrap();
    drop(attacker);
    let _victim = from(port);

    let peers = Peers::open().unwrap();
    let (dead, client) = listener.accept().unwrap();
    assert_eq!(client.port(), port);
    let judged = peers.of_tcp(&dead, client, address);
    assert!(matches!(judged, Err(NoPeer::Gone)), "{judged:?}");
    let (alive, client) = listener.accept().unwrap();
    assert_eq!(client.port(), port);
    assert_eq!(peers.of_tcp(&alive, client, address).unwrap().uid, Some(own_uid()));
    // Both are accepted now, and their addresses are the same: only the inode tells them apart.
    let judged = peers.of_tcp(&dead, client, address);
    assert!(matches!(judged, Err(NoPeer::Gone)), "{judged:?}");
}

#[test]
fn looking_leaks_no_descriptor_and_is_quick() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (_, stream) = peer(&listener);
    let peers = Peers::open().unwrap();
    let (client, server) = (client.local_addr().unwrap(), stream.local_addr().unwrap());
    let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let (before, start) = (open(), Instant::now());
    for _ in 0..2000 {
        assert_eq!(peers.of_tcp(&stream, client, server).unwrap().uid, Some(own_uid()));
    }
    println!("Peers::of_tcp: {} ns", start.elapsed().as_nanos() / 2000);
    // Other tests open a few meanwhile.
    assert!(open() < before + 200);
}

#[tokio::test]
async fn unix_peers_have_uid_and_gid() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bedrock.sock");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let client = tokio::net::UnixStream::connect(&path).await.unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    drop(client);
    // SO_PEERCRED was taken at connect: closing changes nothing.
    let peer = Peer::of_unix(&stream, &path);
    assert_eq!(peer.uid, Some(own_uid()));
    assert_eq!(peer.gid, Some(rustix::process::getegid().as_raw()));
    assert_eq!(peer.source, path.to_str().unwrap());
}

#[test]
fn other_users_are_told_apart() {
    if !can_be_others("other_users_are_told_apart") {
        return;
    }
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let listener = TcpListener::bind(address).unwrap();
        for uid in [ALICE, BOB] {
            let mut client = part("connect", uid, &listener.local_addr().unwrap().to_string());
            let (found, stream) = peer(&listener);
            assert_eq!(found.uid, Some(uid), "{address}");
            drop(stream);
            client.wait().unwrap();
        }
    }
}

#[test]
fn other_users_are_told_apart_by_a_daemon_that_is_not_root() {
    if !can_be_others("other_users_are_told_apart_by_a_daemon_that_is_not_root") {
        return;
    }
    let mut daemon = part("serve", BOB, "");
    let mut lines = BufReader::new(daemon.stdout.take().unwrap()).lines().map_while(Result::ok);
    let mut said = |key: &str| lines.find_map(|line| line.split_once(key).map(|(_, said)| said.to_owned())).unwrap();
    let address = said("LISTENING ");
    let mut client = part("connect", ALICE, &address);
    assert_eq!(said("PEER "), format!("Some({ALICE})"));
    // Root is told as root, because it is.
    let _stream = TcpStream::connect(&address).unwrap();
    assert_eq!(said("PEER "), "Some(0)");
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    client.wait().unwrap();
}

#[test]
fn who_leaves_early_is_itself_or_unknown_and_never_root() {
    if !can_be_others("who_leaves_early_is_itself_or_unknown_and_never_root") {
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = part("hit_and_run", ALICE, &listener.local_addr().unwrap().to_string());
    let (mut known, mut unknown) = (0, 0);
    for _ in 0..1000 {
        let (found, mut stream) = peer(&listener);
        // Every request has arrived, whoever sent it.
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert_eq!(text, "x");
        match found.uid {
            Some(ALICE) => known += 1,
            None => unknown += 1,
            Some(other) => panic!("a client of uid {ALICE} reads as {other}"),
        }
    }
    println!("connect, write, close: {known} known, {unknown} unknown");
    client.wait().unwrap();
}

#[tokio::test]
async fn unix_peers_of_other_users_are_told_apart() {
    if !can_be_others("unix_peers_of_other_users_are_told_apart") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bedrock.sock");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    for open in [dir.path(), &path] {
        std::fs::set_permissions(open, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    }
    let mut client = part("unix", BOB, path.to_str().unwrap());
    let (stream, _) = listener.accept().await.unwrap();
    let peer = Peer::of_unix(&stream, &path);
    assert_eq!((peer.uid, peer.gid), (Some(BOB), Some(BOB)));
    client.kill().unwrap();
    client.wait().unwrap();
}

/// This executable again, as another user, in one of the parts below.
fn part(name: &str, uid: u32, address: &str) -> Child {
    this_test_as(uid, "callers::peers::another_process")
        .env("CALLERS_PART", name)
        .env("CALLERS_ADDRESS", address)
        .spawn()
        .unwrap()
}

/// Not a test of its own: the other side of those above.
#[test]
fn another_process() {
    let (Ok(part), Ok(address)) = (std::env::var("CALLERS_PART"), std::env::var("CALLERS_ADDRESS")) else { return };
    match part.as_str() {
        "connect" => {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            let _ = stream.read(&mut [0]);
        }
        "hit_and_run" => {
            for _ in 0..1000 {
                TcpStream::connect(&address).unwrap().write_all(b"x").unwrap();
            }
        }
        "unix" => {
            let mut stream = std::os::unix::net::UnixStream::connect(address).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            let _ = stream.read(&mut [0]);
        }
        "serve" => {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            println!("LISTENING {}", listener.local_addr().unwrap());
            loop {
                println!("PEER {:?}", peer(&listener).0.uid);
            }
        }
        other => panic!("no part {other}"),
    }
}
