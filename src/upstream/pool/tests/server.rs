//! A server in the test's own process, and a pool to it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::{BodyExt, Either, Full};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio::sync::{Notify, Semaphore};
use tokio_rustls::TlsAcceptor;

use super::super::*;

pub(super) const FIRST_BYTE: Duration = Duration::from_secs(30);
pub(super) const PATIENT: Times = Times { connect: Duration::from_secs(20), idle: IDLE, age: AGE, ping: PING };

/// An answer that begins here does not go on.
pub(super) const STALLS: &str = "/stalls";

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
pub(super) struct Seen {
    pub connections: AtomicUsize,
    pub open: AtomicUsize,
    pub requests: AtomicUsize,
    /// Each answer takes one of these.
    pub answers: Semaphore,
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

    pub(super) async fn until(&self, what: &str, is_so: impl Fn(&Seen) -> bool) {
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

pub(super) fn certificate() -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    (made.cert.der().clone(), PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap())
}

/// A pool to `address` that trusts `certificate`.
pub(super) fn pool(address: SocketAddr, certificate: Option<&CertificateDer<'static>>, times: Times) -> Arc<Pool> {
    let endpoint = Endpoint { tls: certificate.is_some(), host: address.ip().to_string(), port: address.port() };
    let tls = certificate.map(|one| crate::upstream::tls::config(Some(std::slice::from_ref(one))).unwrap());
    Pool::with(endpoint, tls, times).unwrap()
}

/// A server over TLS. `most_streams`: HTTP/2 with so many streams to a connection; `None`: HTTP/1.1.
pub(super) async fn server(most_streams: Option<u32>, times: Times, answers: usize) -> (Arc<Pool>, Arc<Seen>) {
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

pub(super) fn make(_attempt: u32) -> Result<Outgoing, String> {
    Ok(Request::post("/model/x/converse").body(Bytes::from_static(b"{}").into()).unwrap())
}

/// One request to its end.
pub(super) async fn ask(pool: &Arc<Pool>) -> Result<Effort, SendError> {
    let mut effort = Effort::default();
    let (response, lease) = pool.send(FIRST_BYTE, &mut effort, make).await?;
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "answer");
    lease.give_back();
    Ok(effort)
}

/// Many at once.
pub(super) fn ask_many(pool: &Arc<Pool>, count: usize) -> tokio::task::JoinSet<Result<Effort, SendError>> {
    let mut all = tokio::task::JoinSet::new();
    for _ in 0..count {
        let pool = Arc::clone(pool);
        all.spawn(async move { ask(&pool).await });
    }
    all
}
