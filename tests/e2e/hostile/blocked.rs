//! Load that nothing in the daemon gets through: a thread that serves requests is blocked.

use std::time::Duration;

use http::Method;
use test_support::*;

/// A model for which nobody's thread is blocked.
const OTHER: &str = "amazon.nova-micro-v1:0";

/// A daemon that blocks the thread on which it works on a request for ON_DEMAND.
async fn blocking(setup: Setup) -> Option<Daemon> {
    if !cfg!(debug_assertions) {
        println!("NOT RUN: blocked threads (the build is optimised)");
        return None;
    }
    Some(setup.env("BEDROCK_SIDECAR_BLOCK", ON_DEMAND).ready().await)
}

#[tokio::test]
async fn the_admin_address_answers_while_the_thread_that_serves_requests_is_blocked() {
    let bedrock = bedrock().await;
    let Some(daemon) = blocking(Setup::plain(&bedrock).one_thread()).await else { return };
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
    let bedrock = bedrock().await;
    let Some(daemon) = blocking(Setup::plain(&bedrock).one_thread()).await else { return };
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

/// Who has begun to wait on that thread must not be the one that looks after all who wait.
#[tokio::test]
async fn a_blocked_thread_holds_up_nobody_elses_place_in_the_limits_queue() {
    let bedrock = bedrock().await;
    let two_threads = "[runtime]\nthreads = 2\n[limits]\nconcurrent_requests = 2\nmax_wait = \"60s\"";
    let Some(daemon) = blocking(Setup::plain(&bedrock).with(two_threads)).await else { return };
    let mut clients = Vec::new();
    for _ in 0..6 {
        let mut client = Http1::to(daemon.address()).await;
        let answer = client.send(request(Method::POST, &converse_path(OTHER), converse("hello"))).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(daemon.record_of(&answer).await["outcome"], "completed");
        clients.push(client);
    }
    // They are on the two threads by turns.
    let mut turn = clients.into_iter();
    let mut next = || turn.next().unwrap();
    let (mut waits, mut holds, mut blocks, mut waits_too, _idle, mut holds_too) =
        (next(), next(), next(), next(), next(), next());
    let waiting = async |count: u64| {
        until_async("the queue", || async {
            (daemon.admin_get("/status").await.json()["limits"]["waiting"] == count).then_some(())
        })
        .await;
    };
    bedrock.gate().close();
    let stream = || request(Method::POST, &stream_path(OTHER), converse("events 2"));
    let first = tokio::spawn(async move { holds.send(stream()).await });
    let second = tokio::spawn(async move { holds_too.send(stream()).await });
    eventually("both places to be taken", || bedrock.gate().state().waiting == 2).await;
    let ask = |model: &str| request(Method::POST, &converse_path(model), converse("hello"));
    let (of_blocked, of_other, blocking) = (ask(OTHER), ask(OTHER), ask(ON_DEMAND));
    tokio::spawn(async move { waits.start(of_blocked).await.map(drop) });
    waiting(1).await;
    tokio::spawn(async move { blocks.start(blocking).await.map(drop) });
    daemon.says("a test has blocked this thread").await;
    let third = tokio::spawn(async move { waits_too.send(of_other).await });
    waiting(2).await;
    bedrock.gate().open();
    for one in [first, second, third] {
        let answer = within("a request of the other thread", one).await.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(daemon.record_of(&answer).await["outcome"], "completed");
    }
}
