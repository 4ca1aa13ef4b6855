//! `[headers]`: which of a client's headers go upstream beside Bedrock's own, and which are kept in records.

use http::Method;
use serde_json::{Value, json};
use simulator::Options;
use test_support::*;

fn ask(headers: &[(&'static str, &str)]) -> Request {
    let mut asked = request(Method::POST, &converse_path(ON_DEMAND), converse("hello"));
    for (name, value) in headers {
        asked.headers_mut().append(*name, value.parse().unwrap());
    }
    asked
}

fn tags(record: &Value) -> Value {
    serde_json::from_str(record["tags"].as_str().unwrap_or("null")).unwrap()
}

#[tokio::test]
async fn the_configuration_adds_headers_that_go_upstream() {
    let added_headers = vec!["traceparent".to_owned(), "x-acme-team".to_owned()];
    let bedrock = bedrock_with(Options { added_headers, ..Options::default() }).await;
    let daemon = Setup::tls(&bedrock).with("[headers]\nforward = [\"Traceparent\", \"x-acme-*\"]").ready().await;
    bedrock.clear();
    let asked = ask(&[("traceparent", "00-1"), ("x-acme-team", "a"), ("x-acme-team", "b"), ("baggage", "CANARY")]);
    assert_eq!(send(daemon.address(), asked).await.status, 200);
    let sent = &bedrock.requests()[0];
    assert_eq!(sent.leaks, Vec::<String>::new());
    assert_eq!(sent.header("traceparent"), Some("00-1"));
    let teams: Vec<_> = sent.headers.iter().filter(|(name, _)| name == "x-acme-team").map(|(_, v)| &**v).collect();
    assert_eq!(teams, ["a", "b"]);
    assert!(!format!("{:?}", sent.headers).contains("CANARY"));
}

#[tokio::test]
async fn withheld_headers_are_kept_in_the_record_if_the_configuration_says_so() {
    let bedrock = bedrock().await;
    let setup = Setup::tls(&bedrock).with("[headers]\nrecord = [\"x-claude-code-session-id\", \"X-Amzn-Trace-Id\"]");
    let daemon = setup.ready().await;
    bedrock.clear();
    let session = "s-1 \"quoted\"";
    let long = "r".repeat(5000);
    let asked = ask(&[("x-claude-code-session-id", session), ("x-amzn-trace-id", &long), ("baggage", "CANARY")]);
    let answer = send(daemon.address(), asked).await;
    assert_eq!(answer.status, 200);
    let expected = json!({ "x-claude-code-session-id": session, "x-amzn-trace-id": "r".repeat(256) });
    assert_eq!(tags(&daemon.record_of(&answer).await), expected);
    assert!(bedrock.requests().iter().all(|sent| sent.header("x-claude-code-session-id").is_none()));

    let mut refused = ask(&[("x-claude-code-session-id", "s-2")]);
    *refused.uri_mut() = "/nothing/here".parse().unwrap();
    let answer = send(daemon.address(), refused).await;
    assert_eq!(answer.status, 404);
    assert_eq!(tags(&daemon.record_of(&answer).await), json!({ "x-claude-code-session-id": "s-2" }));

    let answer = send(daemon.address(), ask(&[])).await;
    assert!(daemon.record_of(&answer).await.get("tags").is_none());

    let rest = r#"{"modelId":"MODEL","body":{"prompt":"hello"}}"#.replace("MODEL", ON_DEMAND);
    let mut asked = request(Method::POST, "/v1/bedrock/invoke-model", rest);
    asked.headers_mut().insert("x-claude-code-session-id", "s-3".parse().unwrap());
    let answer = send(daemon.address(), asked).await;
    assert_eq!(tags(&daemon.record_of(&answer).await), json!({ "x-claude-code-session-id": "s-3" }));
}

#[tokio::test]
async fn what_may_not_be_forwarded_or_recorded_is_a_mistake_in_the_configuration() {
    for (line, word) in [
        ("forward = [\"authorization\"]", "never goes upstream"),
        ("forward = [\"x-*\"]", "too little"),
        ("record = [\"x-session-token\"]", "may carry a secret"),
    ] {
        let output = Setup::alone().with(&format!("[headers]\n{line}")).command(&["check"]).await;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(78), "{said}");
        assert!(said.contains(word), "{said}");
    }
}

/// The ids of the client's own tracing, as AWS's SDKs and OpenTelemetry send them.
#[tokio::test]
async fn ids_of_traces_are_recorded_and_stay_here() {
    let bedrock = bedrock().await;
    let daemon = Setup::tls(&bedrock).with("[headers]\nrecord = [\"x-session\"]").ready().await;
    bedrock.clear();
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let root = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1";
    let asked = ask(&[("traceparent", parent), ("x-amzn-trace-id", root), ("x-session", "s"), ("tracestate", "a=1")]);
    let answer = send(daemon.address(), asked).await;
    assert_eq!(answer.status, 200);
    let expected = json!({ "x-session": "s", "traceparent": parent, "x-amzn-trace-id": root });
    assert_eq!(tags(&daemon.record_of(&answer).await), expected);
    let sent = bedrock.requests();
    assert!(sent.iter().all(|sent| sent.header("traceparent").is_none() && sent.header("x-amzn-trace-id").is_none()));

    let wrong = ask(&[("traceparent", "00-1-CANARY"), ("x-amzn-trace-id", "Root=CANARY; and more")]);
    let answer = send(daemon.address(), wrong).await;
    assert_eq!(answer.status, 200, "a wrong id is nobody's trouble");
    assert!(daemon.record_of(&answer).await.get("tags").is_none());
    assert!(!daemon.log_text().contains("CANARY"));
}

#[tokio::test]
async fn ids_of_traces_go_upstream_only_if_the_configuration_says_so() {
    let added_headers = vec!["traceparent".to_owned(), "x-amzn-trace-id".to_owned()];
    let bedrock = bedrock_with(Options { added_headers, ..Options::default() }).await;
    let daemon = Setup::tls(&bedrock).with("[headers]\nforward = [\"traceparent\", \"X-Amzn-Trace-Id\"]").ready().await;
    bedrock.clear();
    let (parent, root) =
        ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "Root=1-5759e988-bd862e3fe1be46a994272793");
    let answer = send(daemon.address(), ask(&[("traceparent", parent), ("x-amzn-trace-id", root)])).await;
    assert_eq!(answer.status, 200);
    let sent = &bedrock.requests()[0];
    assert_eq!([sent.header("traceparent"), sent.header("x-amzn-trace-id")], [Some(parent), Some(root)]);
    let expected = json!({ "traceparent": parent, "x-amzn-trace-id": root });
    assert_eq!(tags(&daemon.record_of(&answer).await), expected);
}
