//! SIGTERM, SIGINT and SIGHUP, with a stream under way.

use http::Method;
use serde_json::json;
use test_support::*;

#[tokio::test]
async fn sigterm_and_sigint_let_a_stream_come_to_its_end() {
    let bedrock = bedrock().await;
    for signal in ["TERM", "INT"] {
        bedrock.gate().open();
        let mut daemon = Setup::tls(&bedrock).ready().await;
        let whole = daemon.post(&stream_path(ON_DEMAND), converse("events 12")).await;
        bedrock.gate().close();
        let asked = || request(Method::POST, &stream_path(ON_DEMAND), converse("events 12"));
        let mut one = Http1::to(daemon.address()).await;
        let two = Http2::to(daemon.address()).await;
        let mut idle = Http1::to(daemon.address()).await;
        assert_eq!(idle.send(request(Method::GET, "/health", "")).await.status, 200);
        let mut streams =
            [Reader::new(one.start(asked()).await.unwrap()), Reader::new(two.start(asked()).await.unwrap())];
        daemon.signal(signal);
        let line = daemon.says("draining").await;
        assert!(line["connections"].as_u64().unwrap() >= 2, "{line}");
        assert!(daemon.is_running(), "two streams are still open");
        bedrock.gate().open();
        for stream in &mut streams {
            stream.end().await.unwrap();
            assert_eq!(stream.bytes, whole.body, "whole");
        }
        assert_eq!(daemon.ended().await.code(), Some(0), "{signal}");
        daemon.says("stopped").await;
        assert_eq!(daemon.records().iter().filter(|record| record["outcome"] == "completed").count(), 3);
    }
}

#[tokio::test]
async fn what_outlasts_the_drain_is_cut_off() {
    let bedrock = bedrock().await;
    let mut daemon = Setup::plain(&bedrock).with("[drain]\ntimeout = \"1s\"").ready().await;
    bedrock.gate().close();
    let mut connection = Http1::to(daemon.address()).await;
    let asked = request(Method::POST, &stream_path(ON_DEMAND), converse("events 12"));
    let mut stream = Reader::new(connection.start(asked).await.unwrap());
    daemon.signal("TERM");
    assert_eq!(daemon.ended().await.code(), Some(0));
    assert!(stream.end().await.is_err(), "not a clean end");
    daemon.says("requests were still in flight when drain.timeout had passed; they are cut off").await;
    // The client has not left, and the upstream has not broken.
    let record = daemon.record_with_id(&stream.request_id).await;
    assert_eq!((&record["outcome"], &record["statusCode"]), (&json!("interrupted"), &json!(200)), "{record}");
    assert!(record["errorMessage"].as_str().unwrap().contains("drain.timeout"), "{record}");
}

#[tokio::test]
async fn sighup_takes_over_a_good_file_without_breaking_a_stream() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).ready().await;
    bedrock.gate().close();
    let mut connection = Http1::to(daemon.address()).await;
    let asked = request(Method::POST, &stream_path(ON_DEMAND), converse("events 12"));
    let mut stream = Reader::new(connection.start(asked).await.unwrap());

    let config = daemon.directory.path().join("config.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, format!("{text}\n[models]\ndeny = [\"amazon.nova-lite*\"]\n")).unwrap();
    daemon.signal("HUP");
    daemon.says("configuration reloaded").await;
    let answer = daemon.post(&converse_path(ON_DEMAND), converse("x")).await;
    assert!(refused(&answer, 403, "AccessDeniedException").contains("models.deny"));
    bedrock.gate().open();
    stream.end().await.unwrap();
    assert!(frames(&stream.bytes).len() > 12);
}

#[tokio::test]
async fn sighup_with_a_bad_file_keeps_the_old_settings_and_says_so() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).ready().await;
    let config = daemon.directory.path().join("config.toml");
    let good = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, format!("{good}\n[models]\nallow = [\"\"]\n")).unwrap();
    daemon.signal("HUP");
    let line = daemon.says("the new configuration cannot be used; the old one stays in force").await;
    let reason = line["reason"].as_str().unwrap();
    let lines = good.lines().count() + 3;
    assert!(reason.starts_with(&format!("{}:{lines}:10: an empty pattern", config.display())), "{reason}");
    assert_eq!(line["level"], "ERROR");
    assert_eq!(daemon.post(&converse_path(ON_DEMAND), converse("x")).await.status, 200);
    // And a good one is taken again afterwards.
    std::fs::write(&config, &good).unwrap();
    daemon.signal("HUP");
    daemon.says("configuration reloaded").await;
    assert_eq!(daemon.post(&converse_path(ON_DEMAND), converse("x")).await.status, 200);
}
