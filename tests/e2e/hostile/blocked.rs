//! Load that nothing in the daemon gets through: a thread that serves requests is blocked.

use std::time::Duration;

use http::Method;
use test_support::*;

/// A model for which nobody's thread is blocked.
const OTHER: &str = "amazon.nova-micro-v1:0";

#[tokio::test]
async fn the_admin_address_answers_while_the_thread_that_serves_requests_is_blocked() {
    if !cfg!(debug_assertions) {
        println!("NOT RUN: blocked threads (the build is optimised)");
        return;
    }
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).one_thread().env("BEDROCK_SIDECAR_BLOCK", ON_DEMAND).ready().await;
    let answer = daemon.post(&converse_path(OTHER), converse("hello")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(daemon.record_of(&answer).await["outcome"], "completed");
    let address = daemon.address();
    tokio::spawn(async move { post(address, &converse_path(ON_DEMAND), converse("hello")).await });
    daemon.says("a test has blocked this thread").await;
    let main = tokio::time::timeout(Duration::from_secs(2), daemon.get("/health")).await;
    assert!(main.is_err(), "the thread is not blocked");
    for path in ["/health", "/ready", "/status", "/metrics"] {
        assert_eq!(daemon.admin_get(path).await.status, 200, "{path}");
    }
}

/// What takes time in proportion to a large body is done elsewhere, and here it never ends.
#[tokio::test]
async fn a_large_body_holds_up_nobody_else_on_the_thread_of_its_connection() {
    if !cfg!(debug_assertions) {
        println!("NOT RUN: blocked threads (the build is optimised)");
        return;
    }
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).one_thread().env("BEDROCK_SIDECAR_BLOCK", ON_DEMAND).ready().await;
    let address = daemon.address();
    // There is one such thread, and both have been accepted by it.
    let (mut large, mut small) = (Http1::to(address).await, Http1::to(address).await);
    for connection in [&mut large, &mut small] {
        let answer = connection.send(request(Method::POST, &converse_path(OTHER), converse("hello"))).await;
        assert_eq!(daemon.record_of(&answer).await["outcome"], "completed");
    }
    let body = padded(&converse("hello"), 300_000);
    tokio::spawn(async move { large.start(request(Method::POST, &converse_path(ON_DEMAND), body)).await });
    daemon.says("a test has blocked this thread").await;
    for _ in 0..3 {
        let answer = small.send(request(Method::POST, &converse_path(OTHER), converse("hello"))).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(daemon.record_of(&answer).await["outcome"], "completed");
    }
}
