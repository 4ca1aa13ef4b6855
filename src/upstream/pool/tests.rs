//! The pool against servers in the test's own process.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use http_body::Body as _;
use http_body_util::{BodyExt, Either};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpListener;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Notify, Semaphore, watch};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::upstream::body::{BodyError, UpstreamBody};

const FIRST_BYTE: Duration = Duration::from_secs(30);
const PATIENT: Times = Times { connect: Duration::from_secs(20), idle: IDLE, age: AGE, ping: PING };

/// An answer that begins here does not go on.
const STALLS: &str = "/stalls";

#[derive(Debug)]
struct Stalling;

impl http_body::Body for Stalling {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
        Poll::Pending
    }
}

/// What a server in this process has seen, and when it answers.
#[derive(Debug)]
struct Seen {
    connections: AtomicUsize,
    open: AtomicUsize,
    requests: AtomicUsize,
    /// Each answer takes one of these.
    answers: Semaphore,
    changed: Notify,
}

impl Seen {
    fn new(answers: usize) -> Arc<Seen> {
        Arc::new(Seen {
            connections: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            requests: AtomicUsize::new(0),
            answers: Semaphore::new(answers),
            changed: Notify::new(),
        })
    }

    async fn until(&self, what: &str, is_so: impl Fn(&Seen) -> bool) {
        let wait = async {
            loop {
                let changed = self.changed.notified();
                if is_so(self) {
                    return;
                }
                changed.await;
            }
        };
        assert!(tokio::time::timeout(Duration::from_secs(20), wait).await.is_ok(), "{what}: {self:?}");
    }

    fn count(&self, counter: &AtomicUsize) {
        counter.fetch_add(1, Ordering::SeqCst);
        self.changed.notify_waiters();
    }
}

fn certificate() -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    (made.cert.der().clone(), PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap())
}

/// A pool to `address` that trusts `certificate`.
fn pool(address: SocketAddr, certificate: Option<&CertificateDer<'static>>, times: Times) -> Arc<Pool> {
    let endpoint = Endpoint { tls: certificate.is_some(), host: address.ip().to_string(), port: address.port() };
    let tls = certificate.map(|one| crate::upstream::tls::config(Some(std::slice::from_ref(one))).unwrap());
    Pool::with(endpoint, tls, times).unwrap()
}

/// A server over TLS. `most_streams`: HTTP/2 with so many streams to a connection; `None`: HTTP/1.1.
async fn server(most_streams: Option<u32>, times: Times, answers: usize) -> (Arc<Pool>, Arc<Seen>) {
    let (certificate, key) = certificate();
    let mut config = rustls::ServerConfig::builder_with_provider(crate::crypto::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .unwrap();
    config.alpn_protocols = vec![if most_streams.is_some() { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let pool = pool(listener.local_addr().unwrap(), Some(&certificate), times);
    let seen = Seen::new(answers);
    let saw = Arc::clone(&seen);
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let (acceptor, saw) = (acceptor.clone(), Arc::clone(&saw));
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(socket).await else { return };
                saw.count(&saw.connections);
                saw.open.fetch_add(1, Ordering::SeqCst);
                let seen = Arc::clone(&saw);
                let answer = service_fn(move |request: Request<Incoming>| {
                    let seen = Arc::clone(&seen);
                    async move {
                        let stalls = request.uri().path() == STALLS;
                        let _ = request.into_body().collect().await;
                        seen.count(&seen.requests);
                        seen.answers.acquire().await.unwrap().forget();
                        let body = if stalls { Either::Right(Stalling) } else { Either::Left(Full::from("answer")) };
                        Ok::<_, Infallible>(Response::new(body))
                    }
                });
                let io = TokioIo::new(stream);
                match most_streams {
                    Some(most) => {
                        let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                        let _ = builder.max_concurrent_streams(most).serve_connection(io, answer).await;
                    }
                    None => {
                        let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, answer).await;
                    }
                }
                saw.open.fetch_sub(1, Ordering::SeqCst);
                saw.changed.notify_waiters();
            });
        }
    });
    (pool, seen)
}

fn make(_attempt: u32) -> Result<Outgoing, String> {
    Ok(Request::post("/model/x/converse").body(Full::new(Bytes::from_static(b"{}"))).unwrap())
}

/// One request to its end.
async fn ask(pool: &Arc<Pool>) -> Result<Effort, SendError> {
    let mut effort = Effort::default();
    let (response, lease) = pool.send(FIRST_BYTE, &mut effort, make).await?;
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "answer");
    lease.give_back();
    Ok(effort)
}

/// Many at once.
fn ask_many(pool: &Arc<Pool>, count: usize) -> tokio::task::JoinSet<Result<Effort, SendError>> {
    let mut all = tokio::task::JoinSet::new();
    for _ in 0..count {
        let pool = Arc::clone(pool);
        all.spawn(async move { ask(&pool).await });
    }
    all
}

#[tokio::test]
async fn those_who_wait_share_a_connection_that_can_carry_them() {
    let (pool, seen) = server(Some(100), PATIENT, 0).await;
    let all = ask_many(&pool, 60);
    seen.until("all are in progress", |seen| seen.requests.load(Ordering::SeqCst) == 60).await;
    assert_eq!(seen.connections.load(Ordering::SeqCst), 1);
    seen.answers.add_permits(60);
    assert!(all.join_all().await.iter().all(Result::is_ok));
    let status = pool.take_status();
    assert_eq!((status.http1, status.http2, status.succeeded, status.failed), (0, 1, 1, 0));
    assert_eq!(pool.take_status().succeeded, 0, "told once");
}

/// No request is kept waiting out of sight, on a connection whose streams are all taken.
#[tokio::test]
async fn a_peer_that_allows_few_streams_gets_more_connections() {
    for most in [1, 5] {
        let (pool, seen) = server(Some(most), PATIENT, 0).await;
        let all = ask_many(&pool, 20);
        seen.until("all are in progress", |seen| seen.requests.load(Ordering::SeqCst) == 20).await;
        let connections = seen.connections.load(Ordering::SeqCst);
        assert!(connections >= 20 / most as usize && connections <= 20, "{most}: {connections}");
        seen.answers.add_permits(20);
        assert!(all.join_all().await.iter().all(Result::is_ok));
    }
}

#[tokio::test]
async fn a_peer_of_http1_gets_a_connection_for_each_request_and_they_are_used_again() {
    let (pool, seen) = server(None, PATIENT, 0).await;
    for round in 1..=2 {
        let all = ask_many(&pool, 8);
        seen.until("all are in progress", |seen| seen.requests.load(Ordering::SeqCst) == 8 * round).await;
        seen.answers.add_permits(8);
        assert!(all.join_all().await.iter().all(Result::is_ok));
        assert_eq!(seen.connections.load(Ordering::SeqCst), 8, "round {round}");
    }
    assert_eq!(pool.take_status().http1, 8);
}

#[tokio::test]
async fn a_connection_that_becomes_free_goes_to_who_waits() {
    let (pool, seen) = server(Some(1), PATIENT, 1).await;
    ask(&pool).await.unwrap();
    // The server opens no further connections, as far as this pool is concerned.
    pool.lock().opening = 1_000_000;
    let all = ask_many(&pool, 3);
    seen.until("one is in progress", |seen| seen.requests.load(Ordering::SeqCst) == 2).await;
    seen.answers.add_permits(3);
    assert!(all.join_all().await.iter().all(Result::is_ok));
    assert_eq!(seen.connections.load(Ordering::SeqCst), 1);
}

/// A listener that accepts and says nothing.
async fn silent() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let accepted = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&accepted);
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((socket, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            held.push(socket);
        }
    });
    (address, accepted)
}

#[tokio::test]
async fn nobody_waits_for_longer_than_one_connect_time_out() {
    let (address, accepted) = silent().await;
    let times = Times { connect: Duration::from_secs(1), ..PATIENT };
    let pool = pool(address, Some(&certificate().0), times);
    let began = Instant::now();
    let outcomes = ask_many(&pool, 30).join_all().await;
    assert!(began.elapsed() < Duration::from_millis(1900), "{:?}", began.elapsed());
    for outcome in outcomes {
        let error = outcome.unwrap_err();
        assert!(matches!(error, SendError::Connect { .. }), "{error}");
        assert!(error.to_string().contains("no handshake within 1 s"), "{error}");
    }
    assert!(accepted.load(Ordering::SeqCst) <= 2, "{accepted:?}");
}

#[tokio::test]
async fn a_failed_attempt_fails_those_who_came_before_it_began_and_nobody_else() {
    let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let pool = pool(address, Some(&certificate().0), PATIENT);
    let outcomes = ask_many(&pool, 50).join_all().await;
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Err(SendError::Connect { .. }))), "{outcomes:?}");
    let attempts = pool.take_status().failed;
    assert!((1..=50).contains(&attempts), "{attempts}");

    // By hand: of three who wait, two came before the attempt began.
    let mut state = pool.lock();
    let mut places = Vec::new();
    for came in [6, 6, 7] {
        let (place, waiting) = oneshot::channel();
        state.waiting.push_back(Waiter { came, place });
        places.push(waiting);
    }
    state.fail(7, "refused");
    let failed: Vec<bool> = places.iter_mut().map(|waiting| waiting.try_recv().is_ok()).collect();
    assert_eq!(failed, [true, true, false]);
}

/// A port behind which nothing serves: a few tries, and a pause between them.
#[tokio::test]
async fn a_port_that_accepts_and_closes_is_tried_a_few_times() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let accepted = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&accepted);
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            drop(socket);
        }
    });
    let plain = pool(address, None, PATIENT);
    for _ in 0..20 {
        let before = accepted.load(Ordering::SeqCst);
        ask(&plain).await.unwrap_err();
        let tried = accepted.load(Ordering::SeqCst) - before;
        assert!(tried <= 1 + MAX_REPEATS as usize, "{tried}");
    }
    let secured = pool(address, Some(&certificate().0), PATIENT);
    let error = ask(&secured).await.unwrap_err();
    assert!(matches!(error, SendError::Connect { .. }), "{error}");
}

/// The server ends the connection without a word while the driver of this side does not run.
#[tokio::test]
async fn a_kept_connection_that_was_closed_meanwhile_is_not_used() {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let pool = pool(listener.local_addr().unwrap(), None, PATIENT);
    let (close, closing) = std::sync::mpsc::channel::<()>();
    let (closed, has_closed) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        loop {
            let (mut socket, _) = listener.accept().unwrap();
            let mut head = [0; 4096];
            let mut read = 0;
            while !head[..read].ends_with(b"{}") {
                read += socket.read(&mut head[read..]).unwrap();
            }
            socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nanswer").unwrap();
            if closing.recv().is_err() {
                return;
            }
            drop(socket);
            closed.send(()).unwrap();
        }
    });
    for _ in 0..20 {
        ask(&pool).await.unwrap();
        // This thread drives everything of the pool, and stands still until the connection has ended.
        close.send(()).unwrap();
        has_closed.recv().unwrap();
    }
}

/// One request that gets no answer in time.
async fn ask_in_vain(pool: &Arc<Pool>, first_byte: Duration) {
    let error = pool.send(first_byte, &mut Effort::default(), make).await.map(|_| ()).unwrap_err();
    assert!(matches!(error, SendError::Silent { .. }), "{error}");
}

/// The path may have gone without a word: whether it has is learnt by opening another connection.
#[tokio::test]
async fn a_connection_that_keeps_silent_takes_no_more_requests() {
    for most in [Some(100), None] {
        let (pool, seen) = server(most, PATIENT, 1).await;
        ask(&pool).await.unwrap();
        ask_in_vain(&pool, Duration::from_millis(100)).await;
        seen.answers.add_permits(2);
        ask(&pool).await.unwrap();
        assert_eq!(seen.connections.load(Ordering::SeqCst), 2, "{most:?}");
    }
}

#[tokio::test]
async fn a_connection_that_is_slow_with_one_answer_is_used_on() {
    let (pool, seen) = server(Some(100), PATIENT, 0).await;
    let other = ask_many(&pool, 1);
    seen.until("the first one", |seen| seen.requests.load(Ordering::SeqCst) == 1).await;
    let slow = {
        let pool = Arc::clone(&pool);
        tokio::spawn(async move { ask_in_vain(&pool, Duration::from_secs(3)).await })
    };
    seen.until("the slow one", |seen| seen.requests.load(Ordering::SeqCst) == 2).await;
    // It goes to who came first, so bytes come after the slow one was sent.
    seen.answers.add_permits(1);
    assert!(other.join_all().await.iter().all(Result::is_ok));
    slow.await.unwrap();
    seen.answers.add_permits(2);
    ask(&pool).await.unwrap();
    assert_eq!(seen.connections.load(Ordering::SeqCst), 1);
}

/// An answer that has begun and does not go on, read by somebody who waits no longer than `idle`.
async fn stalled(pool: &Arc<Pool>, idle: Duration) -> UpstreamBody {
    let make = |_| Ok(Request::post(STALLS).body(Full::default()).unwrap());
    let (response, lease) = pool.send(FIRST_BYTE, &mut Effort::default(), make).await.unwrap();
    UpstreamBody::new(response.into_body(), lease, idle)
}

/// As after a silent change of the path, in the middle of an answer.
#[tokio::test]
async fn a_connection_that_falls_silent_amid_an_answer_takes_no_more_requests() {
    let (pool, seen) = server(Some(100), PATIENT, 3).await;
    ask(&pool).await.unwrap();
    let mut body = stalled(&pool, Duration::from_millis(100)).await;
    assert!(matches!(body.frame().await, Some(Err(BodyError::Idle(_)))));
    ask(&pool).await.unwrap();
    assert_eq!(seen.connections.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_connection_on_which_one_answer_stalls_is_used_on_as_long_as_others_go_on() {
    let (pool, seen) = server(Some(100), PATIENT, 3).await;
    let mut body = stalled(&pool, Duration::from_millis(100)).await;
    // Its patience begins to run out, and bytes come for somebody else.
    assert!(std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut body).poll_frame(cx).is_pending())).await);
    ask(&pool).await.unwrap();
    assert!(matches!(body.frame().await, Some(Err(BodyError::Idle(_)))));
    ask(&pool).await.unwrap();
    assert_eq!(seen.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_connection_of_age_takes_no_more_requests_but_ends_what_it_has() {
    let times = Times { age: Duration::from_millis(200), ..PATIENT };
    let (pool, seen) = server(Some(100), times, 0).await;
    let long = ask_many(&pool, 1);
    seen.until("the long one", |seen| seen.requests.load(Ordering::SeqCst) == 1).await;
    let mut more = 0;
    while seen.connections.load(Ordering::SeqCst) < 2 {
        let pool = Arc::clone(&pool);
        more += 1;
        assert!(more < 2000, "the first connection is used for ever");
        // Whoever leaves says nothing about the connection.
        let asked = tokio::spawn(async move {
            let (mut effort, first_byte) = (Effort::default(), FIRST_BYTE);
            tokio::time::timeout(Duration::from_millis(5), pool.send(first_byte, &mut effort, make)).await.is_ok()
        });
        let _ = asked.await.unwrap();
    }
    seen.answers.add_permits(10_000);
    assert!(long.join_all().await.iter().all(Result::is_ok), "what the old one carries comes to its end");
    seen.until("the old one's end", |seen| seen.open.load(Ordering::SeqCst) < seen.connections.load(Ordering::SeqCst))
        .await;
}

#[tokio::test]
async fn a_connection_with_nothing_to_do_is_closed() {
    for most in [Some(100), None] {
        let times = Times { idle: Duration::from_millis(200), ..PATIENT };
        let (pool, seen) = server(most, times, 2).await;
        ask(&pool).await.unwrap();
        seen.until("its end", |seen| seen.open.load(Ordering::SeqCst) == 0).await;
        ask(&pool).await.unwrap();
        assert_eq!(seen.connections.load(Ordering::SeqCst), 2, "{most:?}");
    }
}

/// A path to `server` that can go without a word: then nothing passes on its connections, and none of them ends.
async fn path_to(server: u16) -> (SocketAddr, watch::Sender<bool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (gone, is_gone) = watch::channel(false);
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let far = tokio::net::TcpStream::connect(("127.0.0.1", server)).await.unwrap();
            let ((from_near, to_near), (from_far, to_far)) = (near.into_split(), far.into_split());
            tokio::spawn(pass(from_near, to_far, is_gone.clone()));
            tokio::spawn(pass(from_far, to_near, is_gone.clone()));
        }
    });
    (address, gone)
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut is_gone: watch::Receiver<bool>) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        tokio::select! {
            biased;
            () = async { drop(is_gone.wait_for(|gone| *gone).await) } => std::future::pending().await,
            read = from.read(&mut buffer) => match read {
                Ok(read @ 1..) if to.write_all(&buffer[..read]).await.is_ok() => {}
                _ => return,
            },
        }
    }
}

/// Found by pings, before a request is sent into it.
#[tokio::test]
async fn a_path_that_goes_silently_is_found_out_while_nothing_is_under_way() {
    let times = Times { ping: Duration::from_millis(500), ..PATIENT };
    let (direct, seen) = server(Some(100), times, 2).await;
    let (address, gone) = path_to(direct.endpoint.port).await;
    let endpoint = Endpoint { port: address.port(), ..direct.endpoint.clone() };
    let pool = Pool::with(endpoint, direct.tls.clone().map(|(config, _)| config), times).unwrap();
    ask(&pool).await.unwrap();
    gone.send(true).unwrap();
    let found_out = async {
        while pool.take_status().http2 > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(
        tokio::time::timeout(Duration::from_secs(20), found_out).await.is_ok(),
        "a connection into nowhere is kept"
    );
    gone.send(false).unwrap();
    ask(&pool).await.unwrap();
    assert_eq!(seen.requests.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn failed_attempts_are_told_once() {
    let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let pool = pool(address, None, PATIENT);
    ask(&pool).await.unwrap_err();
    assert!(pool.take_status().failed >= 1);
    assert_eq!(pool.take_status().failed, 0);
}

/// A stream that panics when it is read once it is told to.
#[derive(Debug)]
struct Panicky<T> {
    inner: T,
    now: Arc<AtomicBool>,
    was_contained: Arc<AtomicBool>,
}

impl<T: AsyncRead + Unpin> AsyncRead for Panicky<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buffer);
        if buffer.filled().len() > before && self.now.load(Ordering::SeqCst) {
            self.was_contained.store(crate::panics::is_contained(), Ordering::SeqCst);
            panic!("as asked");
        }
        polled
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Panicky<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// An error in the code that drives a connection ends the requests on it, and no others are begun there.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_panic_in_a_connections_driver_ends_that_connection_alone() {
    for http2 in [true, false] {
        let (pool, seen) = server(http2.then_some(100), PATIENT, 0).await;
        let (now, was_contained) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let tcp = tokio::net::TcpStream::connect(("127.0.0.1", pool.endpoint.port)).await.unwrap();
        let socket = socket::Socket::new(tcp).unwrap();
        let (config, name) = pool.tls.clone().unwrap();
        let tls = tokio_rustls::TlsConnector::from(config).connect(name, socket.clone()).await.unwrap();
        let stream = Panicky { inner: tls, now: Arc::clone(&now), was_contained: Arc::clone(&was_contained) };
        let opened = if http2 {
            let (sender, most) = pool.http2(stream).await.unwrap();
            open::Opened::Http2(sender, socket, most)
        } else {
            open::Opened::Http1(pool.http1(stream).await.unwrap(), socket)
        };
        pool.lock().add(opened, &PATIENT);

        let first = ask_many(&pool, if http2 { 20 } else { 1 });
        let begun = first.len();
        seen.until("all are in progress", |seen| seen.requests.load(Ordering::SeqCst) == begun).await;
        assert_eq!(seen.connections.load(Ordering::SeqCst), 1);
        now.store(true, Ordering::SeqCst);
        // The first answer makes the driver panic; others ask meanwhile, over and over.
        let (asking, stop) = (Arc::clone(&pool), Arc::new(AtomicBool::new(false)));
        let stopped = Arc::clone(&stop);
        let others = tokio::spawn(async move {
            let mut outcomes = Vec::new();
            while !stopped.load(Ordering::SeqCst) {
                outcomes.push(ask(&asking).await);
            }
            outcomes
        });
        seen.answers.add_permits(1_000_000);
        for outcome in first.join_all().await {
            assert!(matches!(outcome, Err(SendError::Broke { .. })), "{outcome:?}");
        }
        assert!(was_contained.load(Ordering::SeqCst), "a panic here would end the process");
        let after = ask_many(&pool, 50).join_all().await;
        assert!(after.iter().all(Result::is_ok), "{after:?}");
        stop.store(true, Ordering::SeqCst);
        let failed: Vec<_> = others.await.unwrap().into_iter().filter_map(Result::err).collect();
        // One may have been on its way when the connection ended; nobody was given it afterwards.
        assert!(failed.len() <= 1, "{failed:?}");
        seen.until("the broken one's end", |seen| {
            seen.open.load(Ordering::SeqCst) < seen.connections.load(Ordering::SeqCst)
        })
        .await;
    }
}
