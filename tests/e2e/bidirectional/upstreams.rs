//! Which upstream a stream goes to, with which key, and what is said where none can take it.

use http::Method;
use serde_json::json;
use simulator::{Effect, Fault, Options};

use super::*;

#[tokio::test]
async fn bearer_keys_are_refused_with_what_to_do() {
    let bedrock = bedrock().await;
    let daemon = Setup::tls(&bedrock).ready().await;
    bedrock.clear();
    let mut talk = Talk::open(&daemon, As::Nobody).await;
    talk.say("hello").await;
    let refusal = talk.refusal().await;
    let message = refusal["message"].as_str().unwrap();
    assert_eq!(talk.refused_as(), (400, "ValidationException"));
    assert!(message.contains("takes no API key") && message.contains("configure AWS keys (SigV4)"), "{message}");
    let record = record(&daemon).await;
    assert_eq!(
        (&record["outcome"], &record["statusCode"], &record["attempts"]),
        (&json!("refused"), &json!(400), &json!(0)),
        "{record}"
    );
    assert_eq!(received(&bedrock, OPERATION).len(), 0);
    // The upstream is none the worse for it.
    assert_eq!(daemon.admin_get("/ready").await.status, 200);
    assert_eq!(daemon.post(&converse_path(ON_DEMAND), converse("x")).await.status, 200);
}

#[tokio::test]
async fn of_several_upstreams_one_that_signs_is_taken() {
    let (first, second) =
        (bedrock().await, bedrock_with(Options { region: "us-west-2".into(), ..Options::default() }).await);
    let setup = Setup::tls(&first);
    let keys = setup.path().join("keys");
    std::fs::write(&keys, aws_keys()).unwrap();
    let mut text = String::new();
    for (at, (bedrock, region)) in [(&first, "us-east-1"), (&second, "us-west-2")].into_iter().enumerate() {
        let ca = setup.path().join(format!("the-ca-{at}.pem"));
        std::fs::write(&ca, bedrock.ca_pem()).unwrap();
        text.push_str(&upstream_of(region, bedrock, &ca));
    }
    text.push_str(&format!("credentials = {{ source = \"file\", file = \"{}\" }}\n", keys.display()));
    let daemon = setup.upstreams(&text).ready().await;
    let mut talk = Talk::open(&daemon, As::Nobody).await;
    talk.exchange("hello").await;
    talk.finish().await;
    while talk.hear().await.unwrap().is_some() {}
    assert_eq!((received(&first, OPERATION).len(), received(&second, OPERATION).len()), (0, 1));
    assert_eq!(talk.headers["x-bedrock-sidecar-region"], "us-west-2");
    let record = record(&daemon).await;
    assert_eq!(
        (&record["outcome"], &record["destinationRegion"], &record["attempts"]),
        (&json!("completed"), &json!("us-west-2"), &json!(1)),
        "{record}"
    );
}

fn upstream_of(region: &str, bedrock: &Simulator, ca: &std::path::Path) -> String {
    test_support::upstream(region, &bedrock.tls_endpoint(), Some(ca))
}

#[tokio::test]
async fn an_upstream_of_http1_is_refused_with_what_to_do() {
    for http2 in [None, Some(false)] {
        let bedrock = bedrock_with(Options { http2: http2.unwrap_or(true), ..Options::default() }).await;
        let setup = if http2.is_none() { Setup::plain(&bedrock) } else { Setup::tls(&bedrock) };
        let daemon = setup.secret(&aws_keys()).ready().await;
        let mut talk = Talk::open(&daemon, As::Nobody).await;
        let refusal = talk.refusal().await;
        let message = refusal["message"].as_str().unwrap();
        assert_eq!(talk.refused_as(), (400, "ValidationException"));
        assert!(message.contains("needs HTTP/2 upstream"), "{message}");
        let record = record(&daemon).await;
        assert_eq!((&record["outcome"], &record["attempts"]), (&json!("refused"), &json!(0)), "{record}");
        assert_eq!(received(&bedrock, OPERATION).len(), 0);
        assert_eq!(daemon.post(&converse_path(ON_DEMAND), converse("x")).await.status, 200);
    }
}

#[tokio::test]
async fn a_client_of_http1_and_one_that_sends_no_events_are_told_so() {
    let (bedrock, daemon) = pair().await;
    let path = format!("/model/{}/invoke-with-bidirectional-stream", encoded(SONIC));
    for events in [true, false] {
        let mut over_http1 = test_support::request(Method::POST, &path, "x");
        if events {
            over_http1.headers_mut().insert("content-type", "application/vnd.amazon.eventstream".parse().unwrap());
        }
        let answer = send(daemon.address(), over_http1).await;
        assert!(refused(&answer, 400, "ValidationException").contains("needs HTTP/2"));
        assert_eq!(daemon.record_of(&answer).await["outcome"], "refused");
    }
    let json = test_support::request(Method::POST, &path, "{}");
    let answer = Http2::to(daemon.address()).await.send(json).await;
    assert!(refused(&answer, 400, "ValidationException").contains("application/vnd.amazon.eventstream"));
    assert_eq!(daemon.record_of(&answer).await["outcome"], "refused");
    assert_eq!(received(&bedrock, OPERATION).len(), 0);
}

/// Policy decides by the head, as of any request.
#[tokio::test]
async fn policy_decides_about_streams() {
    let bedrock = bedrock().await;
    let setup = with_callers(Setup::tls(&bedrock).secret(&aws_keys()), KEYED);
    let daemon = setup.with(&format!("[models]\ndeny = [\"{SONIC}\"]\n")).ready().await;
    let mut talk = Talk::open(&daemon, As::Key(BILLING)).await;
    talk.refusal().await;
    assert_eq!(talk.refused_as(), (403, "AccessDeniedException"));
    let record = record(&daemon).await;
    assert_eq!((&record["outcome"], &record["modelId"]), (&json!("refused"), &json!(SONIC)), "{record}");
    assert_eq!(received(&bedrock, OPERATION).len(), 0);
}

/// What a client has said cannot be said again: the answer is the client's, and a fresh stream may find another upstream.
#[tokio::test]
async fn nothing_is_sent_twice_once_the_client_has_spoken() {
    let late = Options { head_after_first_event: true, ..Options::default() };
    let (first, second) =
        (bedrock_with(late).await, bedrock_with(Options { region: "us-west-2".into(), ..Options::default() }).await);
    let daemon = Setup::several(&[(&first, "us-east-1"), (&second, "us-west-2")]).secret(&aws_keys()).ready().await;
    first.inject(Fault::once(Effect::ServiceUnavailable).on(OPERATION));
    let mut talk = Talk::open(&daemon, As::Nobody).await;
    talk.say("hello").await;
    talk.refusal().await;
    assert_eq!(talk.status, 503);
    let record = record(&daemon).await;
    assert_eq!((&record["outcome"], &record["attempts"]), (&json!("upstream_error"), &json!(1)), "{record}");
    assert_eq!(received(&second, OPERATION).len(), 0);
    // One that has said nothing yet can go elsewhere.
    let before_a_word = bedrock().await;
    let daemon =
        Setup::several(&[(&before_a_word, "us-east-1"), (&second, "us-west-2")]).secret(&aws_keys()).ready().await;
    before_a_word.inject(Fault::once(Effect::ServiceUnavailable).on(OPERATION));
    let mut talk = Talk::open(&daemon, As::Nobody).await;
    talk.answered().await;
    assert_eq!(talk.status, 200);
    talk.exchange("hello").await;
    assert_eq!(received(&second, OPERATION).len(), 1);
}

/// The key that was refused is remembered, and not the one that has taken its place.
#[tokio::test]
async fn a_stale_key_of_a_stream_does_not_turn_requests_away_from_its_upstream() {
    let late = Options { head_after_first_event: true, ..Options::default() };
    let (first, second) =
        (bedrock_with(late).await, bedrock_with(Options { region: "us-west-2".into(), ..Options::default() }).await);
    let daemon = Setup::several(&[(&first, "us-east-1"), (&second, "us-west-2")]).secret(&aws_keys()).ready().await;
    let other = json!({
        "aws_access_key_id": simulator::DEFAULT_TEMPORARY_ACCESS_KEY_ID,
        "aws_secret_access_key": simulator::DEFAULT_TEMPORARY_SECRET_ACCESS_KEY,
        "aws_session_token": simulator::DEFAULT_SESSION_TOKEN,
    });
    std::fs::write(daemon.secret_path(), other.to_string()).unwrap();
    first.inject(Fault::once(Effect::UnrecognizedClient).on(OPERATION));
    let mut talk = Talk::open(&daemon, As::Nobody).await;
    talk.say("hello").await;
    talk.refusal().await;
    assert_eq!(talk.refused_as(), (403, "UnrecognizedClientException"));
    let record = record(&daemon).await;
    assert_eq!((&record["outcome"], &record["attempts"]), (&json!("upstream_error"), &json!(1)), "{record}");
    let answer = daemon.post(&converse_path(ON_DEMAND), converse("x")).await;
    assert_eq!((answer.status, answer.header("x-bedrock-sidecar-region")), (200, Some("us-east-1")));
    assert_eq!(received(&second, OPERATION).len(), 0);
}

/// A stream is signed to its end with the key that it began with.
#[tokio::test]
async fn a_key_that_is_rotated_meanwhile_changes_nothing_for_the_stream() {
    let bedrock = bedrock().await;
    let daemon = Setup::tls(&bedrock).secret(&aws_keys()).ready().await;
    let mut talk = Talk::open(&daemon, As::Nobody).await;
    talk.exchange("before").await;
    let other = json!({
        "aws_access_key_id": simulator::DEFAULT_TEMPORARY_ACCESS_KEY_ID,
        "aws_secret_access_key": simulator::DEFAULT_TEMPORARY_SECRET_ACCESS_KEY,
        "aws_session_token": simulator::DEFAULT_SESSION_TOKEN,
    });
    std::fs::write(daemon.secret_path(), other.to_string()).unwrap();
    until_async("the other key in use", || async {
        daemon.post(&converse_path(ON_DEMAND), converse("x")).await;
        let keys = received(&bedrock, "Converse");
        keys.last().and_then(|one| one.access_key_id.clone()).filter(|id| id.starts_with("ASIA"))
    })
    .await;
    talk.exchange("after").await;
    talk.finish().await;
    while talk.hear().await.unwrap().is_some() {}
    let sent = super::upstream(&bedrock).await;
    assert_eq!((contents(&sent).len(), sent.has_final_frame, sent.ended), (2, true, Ended::Completed));
    assert_eq!(sent.access_key_id.as_deref(), Some(simulator::DEFAULT_ACCESS_KEY_ID));
    let record = record(&daemon).await;
    assert_eq!(record["outcome"], "completed", "{record}");
}
