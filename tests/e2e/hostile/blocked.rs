//! Load that nothing in the daemon gets through: every thread that serves requests is blocked.

use std::time::Duration;

use test_support::*;

/// A model for which nobody's thread is blocked.
const OTHER: &str = "amazon.nova-micro-v1:0";
const THREADS: usize = 2;

#[tokio::test]
async fn the_admin_address_answers_while_every_thread_that_serves_requests_is_blocked() {
    if !cfg!(debug_assertions) {
        println!("NOT RUN: blocked threads (the build is optimised)");
        return;
    }
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock)
        .with(&format!("[runtime]\nthreads = {THREADS}"))
        .env("BEDROCK_SIDECAR_BLOCK", ON_DEMAND)
        .ready()
        .await;
    let answer = daemon.post(&converse_path(OTHER), converse("hello")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(daemon.record_of(&answer).await["outcome"], "completed");
    for blocked in 1..=THREADS {
        let address = daemon.address();
        tokio::spawn(async move { post(address, &converse_path(ON_DEMAND), converse("hello")).await });
        let said = || daemon.lines().iter().filter(|line| line["message"] == "a test has blocked this thread").count();
        eventually("the thread to be blocked", || said() == blocked).await;
    }
    let main = tokio::time::timeout(Duration::from_secs(2), daemon.get("/health")).await;
    assert!(main.is_err(), "this test blocks too few threads");
    for path in ["/health", "/ready", "/status", "/metrics"] {
        assert_eq!(daemon.admin_get(path).await.status, 200, "{path}");
    }
}
