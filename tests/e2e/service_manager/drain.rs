//! What a stop owes to clients that are just sending, and to those that come while others are still served.

use std::time::Duration;

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

/// The head of an answer that had begun cannot say so any more: its client's next request is still served.
#[tokio::test]
async fn a_kept_connection_does_not_end_right_after_a_long_stream() {
    let bedrock = bedrock().await;
    let mut daemon = Setup::plain(&bedrock).ready().await;
    bedrock.gate().close();
    let mut kept = Http1::to(daemon.address()).await;
    let asked = request(Method::POST, &stream_path(ON_DEMAND), converse("events 12"));
    let mut stream = Reader::new(kept.start(asked).await.unwrap());
    daemon.signal("TERM");
    daemon.says("draining").await;
    // Longer than an idle connection is left open.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    bedrock.gate().open();
    stream.end().await.unwrap();
    let last = kept.send(request(Method::POST, &converse_path(ON_DEMAND), converse("x"))).await;
    assert_eq!((last.status, last.header("connection")), (200, Some("close")));
    assert_eq!(daemon.ended().await.code(), Some(0));
    assert_eq!(daemon.record_with_id(&stream.request_id).await["outcome"], "completed");
    assert_eq!(daemon.record_of(&last).await["outcome"], "completed");
}

/// Connections on which nothing has come, or only a part of a request, end soon, however long the drain may last.
#[tokio::test]
async fn silent_connections_do_not_hold_the_drain() {
    let bedrock = bedrock().await;
    let setup = Setup::plain(&bedrock).with("[drain]\ntimeout = \"10m\"");
    let socket = setup.path().join("s.sock");
    let listen = format!(
        "addresses = [\"127.0.0.1:0\"]\nadmin_address = \"127.0.0.1:0\"\nunix_socket = \"{}\"\n",
        socket.display()
    );
    let mut daemon = setup.listen(&listen).ready().await;
    let silent = TcpStream::connect(daemon.address()).await.unwrap();
    let local = tokio::net::UnixStream::connect(&socket).await.unwrap();
    let admin = TcpStream::connect(daemon.admin).await.unwrap();
    let mut begun = TcpStream::connect(daemon.address()).await.unwrap();
    begun.write_all(b"POST /model/x/converse HTTP/1.1\r\nHost: localho").await.unwrap();
    let two = Http2::to(daemon.address()).await;
    until_async("all to be accepted", || async {
        let page = daemon.metrics().await;
        (metric(&page, "bedrock_sidecar_connections{listener=\"main\"}") == Some(4.0)).then_some(())
    })
    .await;
    daemon.signal("TERM");
    assert_eq!(daemon.ended().await.code(), Some(0));
    daemon.says("stopped").await;
    drop((silent, local, admin, begun, two));
}

/// Nobody else listens on an address that only this daemon holds: while a stream is waited for, others are served there.
#[tokio::test]
async fn its_own_addresses_serve_until_what_was_in_flight_has_ended() {
    let bedrock = bedrock().await;
    let mut daemon = Setup::plain(&bedrock).with("[drain]\ntimeout = \"10m\"").ready().await;
    bedrock.gate().close();
    let mut connection = Http1::to(daemon.address()).await;
    let asked = request(Method::POST, &stream_path(ON_DEMAND), converse("events 12"));
    let mut stream = Reader::new(connection.start(asked).await.unwrap());
    daemon.signal("TERM");
    daemon.says("draining").await;
    let late = daemon.post(&converse_path(ON_DEMAND), converse("late")).await;
    assert_eq!(late.status, 200, "{late:?}");
    let ready = daemon.admin_get("/ready").await;
    assert_eq!(ready.status, 503, "whoever can choose goes elsewhere");
    assert!(ready.text().contains("the daemon is stopping."), "{}", ready.text());
    bedrock.gate().open();
    stream.end().await.unwrap();
    assert_eq!(daemon.ended().await.code(), Some(0));
    assert_eq!(daemon.record_with_id(&stream.request_id).await["outcome"], "completed");
    assert_eq!(daemon.record_of(&late).await["outcome"], "completed");
}

/// What comes so late is cut off with the rest, and recorded as that.
#[tokio::test]
async fn what_is_left_at_the_end_is_recorded_as_cut_by_us() {
    let bedrock = bedrock().await;
    let mut daemon = Setup::plain(&bedrock).with("[drain]\ntimeout = \"3s\"").ready().await;
    bedrock.gate().close();
    let asked = || request(Method::POST, &stream_path(ON_DEMAND), converse("events 12"));
    let (mut one, two) = (Http1::to(daemon.address()).await, Http2::to(daemon.address()).await);
    let mut streams =
        vec![Reader::new(one.start(asked()).await.unwrap()), Reader::new(two.start(asked()).await.unwrap())];
    daemon.signal("TERM");
    daemon.says("draining").await;
    let mut late = Http1::to(daemon.address()).await;
    streams.push(Reader::new(late.start(asked()).await.unwrap()));
    assert_eq!(daemon.ended().await.code(), Some(0));
    for stream in &mut streams {
        assert!(stream.end().await.is_err(), "not a clean end");
        let record = daemon.record_with_id(&stream.request_id).await;
        assert_eq!(record["outcome"], "interrupted", "{record}");
        assert!(record["errorMessage"].as_str().unwrap().contains("drain.timeout"), "{record}");
    }
}
