//! Connections to upstreams that are slow to answer, or do not: how long a request waits, and what its record says.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::Method;
use serde_json::json;
use test_support::*;
use tokio::net::TcpListener;

/// An upstream whose runtime host accepts connections and says nothing; its control plane is well.
async fn silent(bedrock: &simulator::Simulator) -> (String, Arc<AtomicUsize>) {
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
    let control = bedrock.plain_endpoint();
    let upstream = format!(
        "[[upstreams]]\nregion = \"us-east-1\"\nruntime_endpoint = \"https://{address}\"\ncontrol_endpoint = \"{control}\"\n"
    );
    (upstream, accepted)
}

#[tokio::test]
async fn all_who_wait_for_a_silent_upstream_hear_of_it_within_one_connect_time_out() {
    let bedrock = bedrock().await;
    let (upstream, accepted) = silent(&bedrock).await;
    let daemon = Setup::plain(&bedrock)
        .upstreams(&upstream)
        .with("[upstream_timeouts]\nconnect = \"2s\"\n[runtime]\nthreads = 2")
        .ready()
        .await;
    let mut all = tokio::task::JoinSet::new();
    for _ in 0..12 {
        let address = daemon.address();
        all.spawn(async move {
            let began = Instant::now();
            let answer = post(address, &converse_path(ON_DEMAND), converse("hello")).await;
            (answer, began.elapsed())
        });
    }
    let answers = all.join_all().await;
    assert_eq!(answers.len(), 12);
    for (answer, took) in &answers {
        let sentence = refused(answer, 503, "ServiceUnavailableException");
        assert!(sentence.contains("no handshake within 2 s"), "{sentence}");
        assert!(*took < Duration::from_millis(3900), "less than two time-outs: {took:?}");
        let record = daemon.record_of(answer).await;
        assert_eq!((&record["outcome"], &record["statusCode"]), (&json!("refused"), &json!(503)), "{record}");
        assert_eq!(record["attempts"], 0, "{record}");
        let latency = record["latency"].as_u64().unwrap();
        assert!((1800..3900).contains(&latency), "{record}");
        assert!(record["errorMessage"].as_str().unwrap().contains("no handshake within 2 s"), "{record}");
    }
    // Two threads make an attempt each, and another one for those who came during it. So does what probes by itself.
    assert!(accepted.load(Ordering::SeqCst) <= 6, "attempts are shared: {accepted:?}");
    let page = daemon.metrics().await;
    let failed = "bedrock_sidecar_upstream_handshakes_total{region=\"us-east-1\",plane=\"runtime\",result=\"failure\"}";
    assert!(metric(&page, failed).unwrap() >= 1.0, "{page}");
}

/// What was never sent costs nothing, whichever limit ends the wait: here the one for the first byte is the shorter.
#[tokio::test]
async fn a_request_that_never_left_is_not_counted_as_sent() {
    let bedrock = bedrock().await;
    let (upstream, _accepted) = silent(&bedrock).await;
    let daemon = Setup::plain(&bedrock)
        .upstreams(&upstream)
        .with("[upstream_timeouts]\nconnect = \"2s\"\nfirst_byte = \"1s\"\n[limits]\ntokens_per_day = 5000")
        .ready()
        .await;
    // Each reserves more than half of the day's tokens: they would not fit if the first one had been used up.
    for _ in 0..2 {
        let body = json!({
            "messages": [{"role": "user", "content": [{"text": "hello"}]}],
            "inferenceConfig": {"maxTokens": 3000}
        });
        let answer = daemon.post(&converse_path(ON_DEMAND), body.to_string()).await;
        let sentence = refused(&answer, 503, "ServiceUnavailableException");
        assert!(sentence.contains("no handshake"), "{sentence}");
        let record = daemon.record_of(&answer).await;
        assert_eq!((&record["outcome"], &record["attempts"]), (&json!("refused"), &json!(0)), "{record}");
    }
}

/// The client does not wait for the connection's end.
#[tokio::test]
async fn a_client_that_leaves_before_there_is_a_connection_has_sent_nothing() {
    let bedrock = bedrock().await;
    let (upstream, accepted) = silent(&bedrock).await;
    let daemon = Setup::plain(&bedrock)
        .upstreams(&upstream)
        .with("[upstream_timeouts]\nconnect = \"60s\"\n[limits]\ntokens_per_day = 5000")
        .ready()
        .await;
    // As above: the second one fits only if the first one has used nothing.
    for round in 1..=2 {
        let body = json!({
            "messages": [{"role": "user", "content": [{"text": "hello"}]}],
            "inferenceConfig": {"maxTokens": 3000}
        });
        let address = daemon.address();
        let mut client = Http1::to(address).await;
        let asked = request(Method::POST, &converse_path(ON_DEMAND), body.to_string());
        let waiting = tokio::spawn(async move { client.start(asked).await.map(drop) });
        eventually("the connection to be opened", || accepted.load(Ordering::SeqCst) > 0).await;
        until_async("the request to be in flight", || async {
            (metric(&daemon.metrics().await, "bedrock_sidecar_in_flight") == Some(1.0)).then_some(())
        })
        .await;
        waiting.abort();
        let _ = waiting.await;
        let left = until("its record", || {
            let records = daemon.records();
            (records.len() >= round).then(|| records.into_iter().next_back()).flatten()
        })
        .await;
        assert_eq!((&left["outcome"], &left["statusCode"]), (&json!("client_disconnected"), &json!(499)), "{left}");
        assert_eq!(left["attempts"], 0, "{left}");
    }
}

#[tokio::test]
async fn connections_and_handshakes_are_counted() {
    let bedrock = bedrock().await;
    let daemon = Setup::tls(&bedrock).ready().await;
    let answer = send(daemon.address(), request(Method::POST, &converse_path(ON_DEMAND), converse("hello"))).await;
    assert_eq!(answer.status, 200);
    assert_eq!(daemon.record_of(&answer).await["outcome"], "completed");
    let page = daemon.metrics().await;
    for (line, count) in [
        ("upstream_connections{region=\"us-east-1\",plane=\"runtime\",protocol=\"http2\"}", 1.0),
        ("upstream_connections{region=\"us-east-1\",plane=\"runtime\",protocol=\"http1\"}", 0.0),
        ("upstream_connections{region=\"us-east-1\",plane=\"control\",protocol=\"http2\"}", 1.0),
        ("upstream_handshakes_total{region=\"us-east-1\",plane=\"runtime\",result=\"success\"}", 1.0),
        ("upstream_handshakes_total{region=\"us-east-1\",plane=\"runtime\",result=\"failure\"}", 0.0),
    ] {
        assert_eq!(metric(&page, &format!("bedrock_sidecar_{line}")), Some(count), "{line}\n{page}");
    }
}

/// Each thread that serves requests has connections of its own, and so has what serves large bodies.
#[tokio::test]
async fn each_thread_has_its_own_connections_and_they_are_counted_together() {
    let bedrock = bedrock().await;
    let daemon = Setup::tls(&bedrock).with("[runtime]\nthreads = 2").ready().await;
    let mut clients = [Http1::to(daemon.address()).await, Http1::to(daemon.address()).await];
    for (client, length, count) in [(0, 200, 1.0), (1, 200, 2.0), (0, 300_000, 3.0), (1, 300_000, 3.0)] {
        let connection = &mut clients[client];
        for _ in 0..2 {
            let body = padded(&converse("hello"), length);
            let answer = connection.send(request(Method::POST, &converse_path(ON_DEMAND), body)).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            let record = daemon.record_of(&answer).await;
            assert_eq!((&record["outcome"], &record["requestSize"]), (&json!("completed"), &json!(length)), "{record}");
            let page = daemon.metrics().await;
            for line in [
                "connections{region=\"us-east-1\",plane=\"runtime\",protocol=\"http2\"}",
                "handshakes_total{region=\"us-east-1\",plane=\"runtime\",result=\"success\"}",
            ] {
                let line = format!("bedrock_sidecar_upstream_{line}");
                assert_eq!(metric(&page, &line), Some(count), "{line}\n{page}");
            }
        }
    }
}
