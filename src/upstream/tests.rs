//! What calls come to when an upstream is slow, silent, or stops in the middle.

mod streams;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

#[test]
fn own_calls_wait_for_no_model() {
    let of = |first_byte, idle| settings::Timeouts {
        connect: Duration::from_secs(5),
        first_byte: Duration::from_secs(first_byte),
        idle: Duration::from_secs(idle),
    };
    assert_eq!(own_timeouts(of(900, 600)), of(20, 20));
    assert_eq!(own_timeouts(of(3, 2)), of(3, 2));
}

/// An upstream whose host accepts connections and says nothing.
async fn silent(connect: Duration) -> (Upstream, tokio::net::TcpListener, tempfile::NamedTempFile) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (upstream, file) = on(listener.local_addr().unwrap().port(), None, connect);
    (upstream, listener, file)
}

/// An upstream with AWS keys whose host is on this port, and which waits so long for each of its steps.
fn on(
    port: u16,
    certificate: Option<rustls::pki_types::CertificateDer<'static>>,
    connect: Duration,
) -> (Upstream, tempfile::NamedTempFile) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "AKIAKEY:s").unwrap();
    let source = settings::SecretLocation::File(file.path().to_owned());
    let wanted = settings::Credentials { source, refresh_interval: Duration::from_secs(300) };
    let endpoint = crate::config::Endpoint { tls: true, host: "127.0.0.1".to_owned(), port };
    let upstream = settings::Upstream {
        endpoints: Planes::each(|_| endpoint.clone()),
        ca: certificate.map(|one| [one].into()),
        ..settings::Upstream::of_region("us-east-1", &wanted, &settings::Mantle::default())
    };
    let credentials = Arc::new(Credentials::new(&wanted, ["us-east-1".to_owned()].into()));
    let timeouts = settings::Timeouts { connect, first_byte: connect, idle: connect };
    (Upstream::new(&upstream, timeouts, credentials).unwrap(), file)
}

#[tokio::test]
async fn a_handshake_that_many_wait_for_fails_once_as_far_as_the_breaker_is_concerned() {
    use breaker::Position;
    let (upstream, _listener, _file) = silent(Duration::from_secs(1)).await;
    let upstream = Arc::new(upstream);
    let position = || upstream.breaker(Plane::Runtime).status(Instant::now()).position;
    let mut all = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let upstream = Arc::clone(&upstream);
        all.spawn(async move { upstream.probe().await });
    }
    assert!(all.join_all().await.iter().all(Result::is_err));
    assert_eq!(position(), Position::Closed, "{:?}", upstream.take_pool_status(Plane::Runtime));
    // One after the other, each has a handshake of its own.
    for _ in 0..3 {
        assert!(upstream.probe().await.is_err());
    }
    assert_eq!(position(), Position::Open);
    // A reload that changes whom the credential is for has not made the host well.
    let other = upstream.with_credentials(Arc::clone(upstream.credentials()));
    assert_eq!(other.breaker(Plane::Runtime).status(Instant::now()).position, Position::Open);
}

/// Each thread has an attempt of its own, and all of them are one incident.
#[tokio::test]
async fn handshakes_of_several_threads_that_fail_together_do_not_open_the_breaker() {
    use crate::lifecycle::roll_call::RollCall;
    use crate::workers::{self, Workers};
    use breaker::Position;
    use tokio::sync::oneshot;
    let (upstream, _listener, _file) = silent(Duration::from_secs(1)).await;
    let upstream = Arc::new(upstream);
    let workers = Workers::start(std::num::NonZeroUsize::new(3).unwrap(), &RollCall::default()).unwrap();
    let mut open = Vec::new();
    let mut probe = || {
        let (tell, told) = oneshot::channel();
        let (end, ended) = oneshot::channel::<()>();
        let upstream = Arc::clone(&upstream);
        workers.serve(async move {
            let _ = tell.send((workers::here().map(|here| here.own), upstream.probe().await.is_err()));
            let _ = ended.await;
        });
        open.push(end);
        told
    };
    let position = || upstream.breaker(Plane::Runtime).status(Instant::now()).position;
    let all: Vec<_> = (0..21).map(|_| probe()).collect();
    let mut seen = std::collections::BTreeSet::new();
    for one in all {
        let (worker, has_failed) = one.await.unwrap();
        assert!(has_failed);
        seen.insert(worker);
    }
    assert_eq!(seen, [Some(0), Some(1), Some(2)].into());
    assert_eq!(position(), Position::Closed, "{:?}", upstream.take_pool_status(Plane::Runtime));
    // One after the other, on whichever thread.
    for _ in 0..3 {
        assert!(probe().await.unwrap().1);
    }
    assert_eq!(position(), Position::Open);
}

/// What is read of an error whose server falls silent in the middle of its body, and then closes.
async fn error_that_stalls(status: u16) -> Result<AnswerBody, String> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 1024];
        let _ = stream.read(&mut request).await.unwrap();
        let head = format!("HTTP/1.1 {status} X\r\ncontent-length: 100\r\n\r\nwhat came");
        stream.write_all(head.as_bytes()).await.unwrap();
        std::future::pending::<()>().await;
    });
    let endpoint = crate::config::Endpoint { tls: false, host: "127.0.0.1".to_owned(), port };
    let pool = Pool::new(endpoint, None, Duration::from_secs(20)).unwrap();
    let make = |_| Ok(http::Request::get("/").header("host", "x").body(Bytes::new().into()).unwrap());
    let (response, lease) = pool.send(Duration::from_secs(20), &mut Effort::default(), make).await.unwrap();
    let body = UpstreamBody::new(response.into_body(), lease, Duration::from_secs(1));
    read_error(StatusCode::from_u16(status).unwrap(), body, Duration::from_millis(50)).await
}

#[tokio::test]
async fn an_error_that_does_not_end_is_not_waited_for_and_never_looks_whole() {
    for status in [429, 500, 503] {
        let Ok(AnswerBody::Passing(mut body)) = error_that_stalls(status).await else { panic!("{status}") };
        assert_eq!(http_body::Body::size_hint(&body).exact(), Some(100), "{status}");
        let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(first, "what came", "{status}");
        assert!(body.frame().await.unwrap().is_err(), "{status}");
    }
    for status in [400, 401, 403, 404] {
        let why = error_that_stalls(status).await.unwrap_err();
        assert!(why.contains("did not end"), "{status}: {why}");
    }
}
