//! Errors in the daemon's own code, which a variable of the environment asks for. Optimised builds cannot be asked.

use std::os::unix::process::ExitStatusExt;

use test_support::*;

/// A model that nobody is to panic over.
const OTHER: &str = "amazon.nova-micro-v1:0";

/// A daemon that panics at a place over a model.
async fn panicking(bedrock: &simulator::Simulator, place: &str) -> Option<Daemon> {
    panicking_at(bedrock, &format!("{place}:{ON_DEMAND}")).await
}

async fn panicking_at(bedrock: &simulator::Simulator, place: &str) -> Option<Daemon> {
    if !cfg!(debug_assertions) {
        println!("NOT RUN: panics (the build is optimised)");
        return None;
    }
    Some(Setup::plain(bedrock).env("BEDROCK_SIDECAR_PANIC", place).ready().await)
}

#[tokio::test]
async fn a_panic_ends_its_request_alone_and_leaves_a_record() {
    let bedrock = bedrock().await;
    let Some(daemon) = panicking(&bedrock, "proxy").await else { return };
    // The third one is served beside the thread of its connection.
    for (round, length) in [(1, 200), (2, 200), (3, 300_000)] {
        let answer = daemon.post(&converse_path(ON_DEMAND), padded(&converse("CANARY"), length)).await;
        let sentence = refused(&answer, 500, "InternalServerException");
        assert!(sentence.contains("an error in the daemon's own code"), "{sentence}");
        let record = daemon.record_of(&answer).await;
        assert_eq!((&record["outcome"], &record["statusCode"]), (&"interrupted".into(), &500.into()));
        assert_eq!(record["requestSize"], length, "{record}");
        assert_eq!(daemon.post(&converse_path(OTHER), converse("hello")).await.status, 200, "others go on");
        assert_eq!(metric(&daemon.metrics().await, "bedrock_sidecar_panics_total"), Some(f64::from(round)));
    }
    let said = daemon.says("an error in the daemon's own code").await;
    assert!(said["place"].as_str().unwrap().contains("src/proxy.rs:"), "{said}");
    assert!(!daemon.log_text().contains("CANARY"));
    assert_eq!(metric(&daemon.metrics().await, "bedrock_sidecar_in_flight"), Some(0.0), "nothing is held");
}

/// Before it has a record, as far away from its connection as it is served.
#[tokio::test]
async fn a_panic_at_the_beginning_of_a_request_with_a_large_body_ends_that_request_alone() {
    let bedrock = bedrock().await;
    let place = format!("service:{}", converse_path(ON_DEMAND));
    let Some(daemon) = panicking_at(&bedrock, &place).await else { return };
    for round in 1..=2 {
        let answer = daemon.post(&converse_path(ON_DEMAND), padded(&converse("hello"), 300_000)).await;
        let sentence = refused(&answer, 500, "InternalServerException");
        assert!(sentence.contains("an error in the daemon's own code"), "{sentence}");
        let answer = daemon.post(&converse_path(OTHER), padded(&converse("hello"), 300_000)).await;
        assert_eq!(answer.status, 200, "others go on");
        let record = daemon.record_of(&answer).await;
        assert_eq!((&record["outcome"], &record["requestSize"]), (&"completed".into(), &300_000.into()), "{record}");
        assert_eq!(metric(&daemon.metrics().await, "bedrock_sidecar_panics_total"), Some(f64::from(round)));
    }
    assert_eq!(metric(&daemon.metrics().await, "bedrock_sidecar_in_flight"), Some(0.0), "nothing is held");
}

#[tokio::test]
async fn a_panic_over_an_answer_breaks_that_answer() {
    let bedrock = bedrock().await;
    let Some(daemon) = panicking(&bedrock, "relay").await else { return };
    for _ in 0..2 {
        let address = daemon.address();
        let asked = async move { post(address, &converse_path(ON_DEMAND), converse("hello")).await.status };
        assert!(tokio::spawn(asked).await.is_err(), "the client sees a broken answer");
        assert_eq!(daemon.post(&converse_path(OTHER), converse("hello")).await.status, 200, "others go on");
    }
    let record = daemon.record("the broken one", |record| record["modelId"] == ON_DEMAND).await;
    assert_eq!((&record["outcome"], &record["statusCode"]), (&"interrupted".into(), &200.into()));
    assert!(record["errorMessage"].as_str().unwrap().contains("the daemon's own code"), "{record}");
}

/// What it may have left half-made there, nobody goes on with.
#[tokio::test]
async fn a_panic_in_the_ledger_ends_the_process() {
    let bedrock = bedrock().await;
    let Some(mut daemon) = panicking(&bedrock, "ledger").await else { return };
    let address = daemon.address();
    let asked = tokio::spawn(async move { post(address, &converse_path(ON_DEMAND), converse("hello")).await.status });
    assert_eq!(daemon.ended().await.signal(), Some(6), "{}", daemon.log_text());
    assert!(asked.await.is_err());
    assert!(daemon.says("an error in the daemon's own code").await["effect"] == "the process ends");
    assert_eq!(received(&bedrock, "Converse").len(), 0, "nothing went upstream unrecorded");
}
