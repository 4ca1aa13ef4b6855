use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::Mutex;

use socket2::{Domain, Socket, Type};
use tokio::io::AsyncReadExt;

use super::*;
use crate::app::tests::Parts;
use crate::caller::Peers;
use crate::listen::places::{Kind, Places};
use crate::workers::Workers;

const HEALTH: &[u8] = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

fn front(parts: &Parts) -> Front {
    let metrics = &parts.lasting.metrics;
    let (peers, timeouts) = (Arc::new(Peers::open().unwrap()), parts.settings.listen.timeouts);
    let loops = Arc::<RollCall>::default();
    let workers = Workers::start(parts.settings.threads, &loops).unwrap();
    let shared = |kind| {
        let places = Places::new(kind, 64, 64, Arc::clone(metrics));
        Shared::new(places, timeouts, &peers, metrics, Some(&workers).filter(|_| kind == Kind::Main))
    };
    let road = Arc::new(ArcSwap::new(Arc::clone(&parts.built.road)));
    Front::new(road, shared(Kind::Main), shared(Kind::Admin), watch::Sender::new(false), loops, workers)
}

/// The kernel connects clients before the daemon knows of them. To close the socket then would reset them, with the
/// requests that they have sent.
#[tokio::test]
async fn who_is_connected_when_a_listener_closes_is_served() {
    let parts = Parts::new().await;
    let mut front = front(&parts);
    for bound in bind(&parts.settings.listen, &mut Inherited::default()).unwrap() {
        front.open(bound).unwrap();
    }
    // This thread runs the accept loops too, so they have not seen these.
    let mut tcp = std::net::TcpStream::connect(&front.open[0].name).unwrap();
    let mut unix = UnixStream::connect(&front.open[1].name).unwrap();
    tcp.write_all(HEALTH).unwrap();
    unix.write_all(HEALTH).unwrap();
    let (address, path) = (front.close(0), front.close(0));

    let (mut by_tcp, mut by_unix) = (String::new(), String::new());
    tcp.set_nonblocking(true).unwrap();
    unix.set_nonblocking(true).unwrap();
    tokio::net::TcpStream::from_std(tcp).unwrap().read_to_string(&mut by_tcp).await.unwrap();
    tokio::net::UnixStream::from_std(unix).unwrap().read_to_string(&mut by_unix).await.unwrap();
    for answer in [by_tcp, by_unix] {
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
    while front.closing.join_next().await.is_some() {}
    assert!(std::net::TcpStream::connect(address).is_err());
    assert!(!std::path::Path::new(&path).exists());
    front.all_have_left().await;
}

/// Nobody is let in while a listener closes, and what another one has put at the path since stays there.
#[tokio::test]
async fn a_listener_that_closes_lets_nobody_else_in() {
    let parts = Parts::new().await;
    let mut front = front(&parts);
    let listen = &parts.settings.listen;
    for bound in bind(listen, &mut Inherited::default()).unwrap() {
        front.open(bound).unwrap();
    }
    let (address, path) = (front.close(0), front.close(0));
    tokio::task::yield_now().await;
    let patience = Duration::from_millis(20);
    let late = std::net::TcpStream::connect_timeout(&address.parse().unwrap(), patience);
    assert!(late.is_err(), "{late:?}");
    assert!(UnixStream::connect(&path).is_err());
    let unix = places(listen).into_iter().find(|place| matches!(place, Place::Unix(_))).unwrap();
    front.open(bind_one(unix, &mut Inherited::default()).unwrap()).unwrap();
    while front.closing.join_next().await.is_some() {}
    assert!(UnixStream::connect(&path).is_ok(), "the new one's file is there");
    assert_eq!(front.names(), [path]);
}

/// Two reloads, and the second goes back to the address that the first has left.
#[tokio::test]
async fn an_address_is_free_again_once_its_listener_has_closed() {
    let parts = Parts::new().await;
    let mut front = front(&parts);
    for bound in bind(&parts.settings.listen, &mut Inherited::default()).unwrap() {
        front.open(bound).unwrap();
    }
    let mut listen = parts.settings.listen.clone();
    listen.addresses = vec![front.close(0).parse().unwrap()];
    front.closed().await;
    let changes = front.standing().changes(&listen).unwrap();

    // It is bound, and nobody is let in by the rules of before.
    let road = Arc::clone(&parts.built.road);
    let changes = front.open_new_admin(changes).unwrap();
    assert!(!front.names().contains(&listen.addresses[0].to_string().as_str()));
    front.apply(changes, road);
    assert!(front.names().contains(&listen.addresses[0].to_string().as_str()));
}

/// What this thread logs.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Without descriptors, say. The pause before it tries again is long here, so that nobody waits for its end by chance.
#[tokio::test]
async fn a_listener_that_cannot_accept_closes_and_is_called_without_waiting_for_its_next_try() {
    let parts = Parts::new().await;
    let mut front = front(&parts);
    Arc::get_mut(&mut front.main).unwrap().first_pause = Duration::from_secs(3_600);
    // To accept at a socket that does not listen fails at once.
    let deaf = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    deaf.set_nonblocking(true).unwrap();
    let listener = Listener::Tcp(tokio::net::TcpListener::from_std(deaf.into()).unwrap());
    let place = places(&parts.settings.listen).remove(0);
    let log = Log::default();
    let kept = log.clone();
    let _logging =
        tracing::subscriber::set_default(tracing_subscriber::fmt().with_writer(move || kept.clone()).finish());
    front.open(Bound { place, listener, is_inherited: false, material: None }).unwrap();
    let patience = Duration::from_secs(60);
    let pauses = async {
        while !String::from_utf8_lossy(&log.0.lock().unwrap()).contains("cannot accept") {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(patience, pauses).await.expect("it cannot accept");
    tokio::time::timeout(patience, front.loops.all_answer()).await.expect("the watchdog is not kept waiting");
    front.close(0);
    tokio::time::timeout(patience, front.closed()).await.expect("it closes");
}
