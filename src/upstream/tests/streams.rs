//! What a stream that its upstream does not take says of that upstream.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::bidirectional::{Heard, Progress};

/// An upstream that refuses each stream as soon as it has got something of it, and how many connections it has had.
async fn refusing() -> (Upstream, Arc<AtomicUsize>, tempfile::NamedTempFile) {
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let certificate = made.cert.der().clone();
    let mut config = rustls::ServerConfig::builder_with_provider(crate::crypto::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (upstream, file) = on(listener.local_addr().unwrap().port(), Some(certificate), Duration::from_secs(20));
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            count.fetch_add(1, Ordering::SeqCst);
            let stream = acceptor.accept(socket).await.unwrap();
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    tokio::spawn(async move {
                        let mut body = request.into_body();
                        let _ = body.data().await;
                        respond.send_reset(h2::Reason::REFUSED_STREAM);
                    });
                }
            });
        }
    });
    (upstream, connections, file)
}

#[tokio::test]
async fn a_stream_that_cannot_be_sent_again_leaves_its_upstream_as_good_as_it_was() {
    let (upstream, connections, _file) = refusing().await;
    // So many unreached ones in a row would open the breaker.
    for _ in 0..4 {
        let (says, heard) = mpsc::channel(1);
        let events = ClientEvents::new(heard, Progress::default(), CancellationToken::new());
        says.send(Heard::Event(Bytes::from_static(b"an event"))).await.unwrap();
        let request = UpstreamRequest {
            plane: Plane::Runtime,
            method: Method::POST,
            path: PathAndQuery::from_static("/model/x/invoke-with-bidirectional-stream"),
            headers: Arc::default(),
            body: Bytes::new(),
            body_hash: BodyHash::default(),
            events: Some(events),
        };
        let mut effort = Effort::default();
        let Err(Failure::NotRepeatable(why)) = upstream.exchange(&request, &mut effort).await else {
            panic!("it was sent again, or told as something else")
        };
        assert!(why.contains("refused"), "the peer's own reason: {why}");
        assert_eq!(effort.attempts, 1);
        assert!(upstream.objection().is_none(), "{:?}", upstream.objection());
    }
    assert_eq!(connections.load(Ordering::SeqCst), 1, "no other connection was asked for");
    assert_eq!(upstream.breaker(Plane::Runtime).status(Instant::now()).position, breaker::Position::Closed);
}

#[test]
fn what_was_not_tried_tells_nothing() {
    let refusal = || Refusal::new(RefusalKind::Validation, "x");
    for failure in [Failure::Unfit(refusal()), Failure::NoCredential(refusal()), Failure::NotRepeatable(String::new())]
    {
        assert_eq!(seen(&Err(failure)), None);
    }
    assert_eq!(seen(&Err(Failure::Broke(String::new()))), Some(Seen::Failed));
}
