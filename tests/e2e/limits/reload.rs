//! Limits that change while the daemon runs.

use http::Method;
use serde_json::json;
use test_support::users::own_uid;
use test_support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{admitted, held, host, storm, throttled};

#[tokio::test]
async fn a_reload_changes_limits_at_once_and_leaves_streams_alone() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).with("[limits]\nconcurrent_requests = 1\n").ready().await;
    let path = converse_path(ON_DEMAND);
    let whole = daemon.post(&stream_path(ON_DEMAND), converse("events 5")).await;
    let (_connection, mut reader) = held(&bedrock, &daemon, converse("events 5")).await;
    bedrock.gate().release(2);
    reader.until(40).await.unwrap();
    throttled(&daemon.post(&path, converse("x")).await);
    daemon.reload("concurrent_requests = 1", "concurrent_requests = 2").await;
    assert_eq!(daemon.post(&path, converse("x")).await.status, 200, "raised");
    assert_eq!(host(&daemon).await["running"], 1, "the stream keeps its place");
    daemon.reload("concurrent_requests = 2", "concurrent_requests = 1").await;
    throttled(&daemon.post(&path, converse("x")).await);
    daemon.reload("concurrent_requests = 1", "requests_per_minute = 1\nrequest_burst = 2").await;
    let answers = storm(&daemon, 10, || request(Method::POST, &path, converse("x"))).await;
    assert!((1..=2).contains(&admitted(&answers)), "a new limit holds at once: {}", admitted(&answers));
    // A file that cannot be used changes nothing.
    let config = daemon.directory.path().join("config.toml");
    let good = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, good.replace("request_burst = 2", "request_burst = \"many\"")).unwrap();
    daemon.signal("HUP");
    daemon.says("the new configuration cannot be used; the old one stays in force").await;
    throttled(&daemon.post(&path, converse("x")).await);
    bedrock.gate().open();
    reader.end().await.unwrap();
    assert_eq!(reader.bytes, whole.body, "not a byte of the stream was lost");
    assert_eq!(host(&daemon).await["running"], 0);
}

/// A body that comes slowly belongs to a request of before the reload. It brings none of the limits of then along.
#[tokio::test]
async fn a_request_from_before_a_reload_gives_its_caller_no_new_burst() {
    let bedrock = bedrock().await;
    let ann = format!("[[callers]]\nname = \"ann\"\nusers = [\"{}\"]\n", own_uid());
    let daemon = Setup::plain(&bedrock).with(&format!("{ann}# no limit\n")).ready().await;
    let path = converse_path(ON_DEMAND);
    let body = converse("x");
    let mut slow = Vec::new();
    for _ in 0..3 {
        let mut stream = TcpStream::connect(daemon.address()).await.unwrap();
        let head = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&body.as_bytes()[..1]).await.unwrap();
        slow.push(stream);
    }
    until_async("the bodies' beginnings", || async {
        (metric(&daemon.metrics().await, "bedrock_sidecar_in_flight") == Some(3.0)).then_some(())
    })
    .await;
    assert_eq!(daemon.post(&path, body.clone()).await.status, 200);
    daemon.reload("# no limit", "requests_per_minute = 1\nrequest_burst = 2").await;
    let mut admitted = 0;
    for mut stream in slow {
        stream.write_all(&body.as_bytes()[1..]).await.unwrap();
        let mut status = [0; 12];
        within("an answer", stream.read_exact(&mut status)).await.unwrap();
        admitted += usize::from(status.ends_with(b"200"));
        admitted += usize::from(daemon.post(&path, body.clone()).await.status == 200);
    }
    assert_eq!(admitted, 2, "the burst, once");
    let refused = daemon.record("a refusal", |record| record["statusCode"] == 429).await;
    assert_eq!((&refused["caller"], &refused["outcome"]), (&json!("ann"), &json!("refused")), "{refused}");
}
