//! What a stop owes to clients that are just sending.

use http::Method;
use test_support::*;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// It was accepted: to close it would lose the request that its client is about to send.
#[tokio::test]
async fn a_connection_that_has_just_been_made_is_served() {
    let bedrock = bedrock().await;
    let mut daemon = Setup::plain(&bedrock).ready().await;
    let mut fresh = TcpStream::connect(daemon.address()).await.unwrap();
    until_async("the connection to be accepted", || async {
        (metric(&daemon.metrics().await, "bedrock_sidecar_connections{listener=\"main\"}") == Some(1.0)).then_some(())
    })
    .await;
    daemon.signal("TERM");
    daemon.says("draining").await;
    let whole = raw::converse(daemon.address(), ON_DEMAND, "once", "");
    fresh.write_all(whole.as_bytes()).await.unwrap();
    let answer = raw::rest(&mut fresh).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("\r\nconnection: close\r\n"), "{answer}");
    assert_eq!(daemon.ended().await.code(), Some(0));
    assert_eq!(daemon.records().iter().filter(|record| record["outcome"] == "completed").count(), 1);
}

/// A client of HTTP/1.1 learns from an answer that its connection ends, and not in the middle of its next request.
#[tokio::test]
async fn a_kept_connection_ends_with_an_answer() {
    let bedrock = bedrock().await;
    let mut daemon = Setup::plain(&bedrock).ready().await;
    let mut kept = Http1::to(daemon.address()).await;
    let asked = || request(Method::POST, &converse_path(ON_DEMAND), converse("x"));
    let before = kept.send(asked()).await;
    assert_eq!((before.status, before.header("connection")), (200, None));
    daemon.signal("TERM");
    daemon.says("draining").await;
    let last = kept.send(asked()).await;
    assert_eq!((last.status, last.header("connection")), (200, Some("close")));
    assert_eq!(daemon.ended().await.code(), Some(0));
    assert_eq!(daemon.records().iter().filter(|record| record["outcome"] == "completed").count(), 2);
}
