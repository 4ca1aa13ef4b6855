//! How streams end: by the client, by the upstream, cleanly or not.

use serde_json::json;

use super::*;

async fn record_of(daemon: &Daemon, talk: &Talk) -> Value {
    daemon.record_with_id(talk.headers["x-bedrock-sidecar-request-id"].to_str().unwrap()).await
}

#[tokio::test]
async fn a_client_that_resets_its_stream_resets_the_upstream_s() {
    let (bedrock, daemon) = pair().await;
    for who in [As::Key(BILLING), As::Nobody] {
        // NO_ERROR is what the SDK for JavaScript leaves with; it is no end of the stream.
        for (after, reason) in [(0, h2::Reason::CANCEL), (1, h2::Reason::CANCEL), (0, h2::Reason::NO_ERROR)] {
            bedrock.clear();
            let mut talk = Talk::open(&daemon, who).await;
            talk.exchange("hello").await;
            if after == 1 {
                talk.say("quiet").await;
            }
            talk.sends.send_reset(reason);
            let sent = upstream(&bedrock).await;
            assert_eq!((sent.ended, sent.has_final_frame), (Ended::ClientWentAway, false), "{who:?} {reason:?}");
            let record = record_of(&daemon, &talk).await;
            assert_eq!(
                (&record["outcome"], &record["statusCode"]),
                (&json!("client_disconnected"), &json!(499)),
                "{record}"
            );
            assert_eq!(record["responseSize"], json!(talk.came), "{record}");
            assert_eq!((&record["inputTokens"], &record["outputTokens"]), (&json!(1), &json!(2)), "{record}");
        }
    }
}

#[tokio::test]
async fn a_client_whose_connection_ends_resets_the_upstream_s_stream() {
    let (bedrock, daemon) = pair().await;
    let mut talk = Talk::open(&daemon, As::Nobody).await;
    talk.exchange("hello").await;
    let headers = std::mem::take(&mut talk.headers);
    drop(talk);
    assert_eq!(upstream(&bedrock).await.ended, Ended::ClientWentAway);
    let record = daemon.record_with_id(headers["x-bedrock-sidecar-request-id"].to_str().unwrap()).await;
    assert_eq!(record["outcome"], "client_disconnected", "{record}");
}

/// Before the upstream has answered, too.
#[tokio::test]
async fn a_client_that_leaves_before_the_answer_is_not_waited_for() {
    let bedrock = bedrock_with(simulator::Options { head_after_first_event: true, ..Default::default() }).await;
    let daemon = with_callers(Setup::tls(&bedrock).secret(&aws_keys()), KEYED).ready().await;
    let mut talk = Talk::open(&daemon, As::Nobody).await;
    eventually("the request upstream", || received(&bedrock, OPERATION).len() == 1).await;
    talk.sends.send_reset(h2::Reason::CANCEL);
    let record = record(&daemon).await;
    assert_eq!((&record["outcome"], &record["statusCode"]), (&json!("client_disconnected"), &json!(499)), "{record}");
}

/// The client has not left, and has done nothing wrong, whether the upstream has answered or not.
#[tokio::test]
async fn what_outlasts_the_drain_is_recorded_as_cut_by_us() {
    for late_head in [false, true] {
        let options = simulator::Options { head_after_first_event: late_head, ..Default::default() };
        let bedrock = bedrock_with(options).await;
        let setup = with_callers(Setup::tls(&bedrock).secret(&aws_keys()), KEYED);
        let mut daemon = setup.with("[drain]\ntimeout = \"1s\"\n").ready().await;
        let mut talk = Talk::open(&daemon, As::Nobody).await;
        match late_head {
            false => talk.exchange("hello").await,
            true => eventually("the request upstream", || received(&bedrock, OPERATION).len() == 1).await,
        }
        daemon.signal("TERM");
        assert_eq!(daemon.ended().await.code(), Some(0));
        let record = record(&daemon).await;
        assert_eq!(record["outcome"], "interrupted", "{record}");
        assert!(record["errorMessage"].as_str().unwrap().contains("drain.timeout"), "{record}");
    }
}

#[tokio::test]
async fn an_upstream_that_ends_its_half_ends_the_exchange() {
    let (bedrock, daemon) = pair().await;
    let mut talk = Talk::open(&daemon, As::Key(BILLING)).await;
    talk.exchange("hello").await;
    talk.say("hang up").await;
    assert!(talk.hear().await.unwrap().is_none(), "a clean end, while the client could still speak");
    assert_eq!(upstream(&bedrock).await.ended, Ended::Completed);
    let record = record_of(&daemon, &talk).await;
    assert_eq!((&record["outcome"], &record["statusCode"]), (&json!("completed"), &json!(200)), "{record}");
    assert_eq!((&record["requestSize"], &record["responseSize"]), (&json!(talk.sent), &json!(talk.came)), "{record}");
    assert_eq!(record["ended"], "before_client", "{record}");
}

#[tokio::test]
async fn an_exception_of_the_upstream_passes_and_is_recorded() {
    let (bedrock, daemon) = pair().await;
    let mut talk = Talk::open(&daemon, As::Key(BILLING)).await;
    talk.exchange("hello").await;
    talk.say("exception").await;
    assert_eq!(talk.exception().await, ("modelStreamErrorException".to_owned(), "The model stumbled.".to_owned()));
    assert_eq!(upstream(&bedrock).await.ended, Ended::Completed);
    let record = record_of(&daemon, &talk).await;
    assert_eq!(
        (&record["outcome"], &record["errorMessage"]),
        (&json!("upstream_error"), &json!("modelStreamErrorException")),
        "{record}"
    );
}

#[tokio::test]
async fn an_upstream_that_resets_its_stream_breaks_the_client_s() {
    let (bedrock, daemon) = pair().await;
    let mut talk = Talk::open(&daemon, As::Key(BILLING)).await;
    talk.exchange("hello").await;
    talk.say("reset").await;
    assert!(talk.hear().await.is_err(), "never a clean end");
    assert_eq!(upstream(&bedrock).await.ended, Ended::Cut);
    let record = record_of(&daemon, &talk).await;
    assert_eq!((&record["outcome"], &record["statusCode"]), (&json!("upstream_broke"), &json!(200)), "{record}");
    assert_eq!((&record["inputTokens"], &record["responseSize"]), (&json!(1), &json!(talk.came)), "{record}");
}

/// What has a place under the limits keeps it as long as anybody may speak.
#[tokio::test]
async fn limits_hold_a_stream_until_its_end() {
    let bedrock = bedrock().await;
    let setup = with_callers(Setup::tls(&bedrock).secret(&aws_keys()), KEYED);
    let daemon = setup.with("[limits]\nconcurrent_requests = 1\n").ready().await;
    let mut first = Talk::open(&daemon, As::Nobody).await;
    first.exchange("hello").await;
    let mut second = Talk::open(&daemon, As::Nobody).await;
    second.refusal().await;
    assert_eq!(second.refused_as(), (429, "ThrottlingException"));
    assert_eq!(record_of(&daemon, &second).await["outcome"], "refused");
    first.exchange("still there").await;
    first.finish().await;
    while first.hear().await.unwrap().is_some() {}
    assert_eq!(record_of(&daemon, &first).await["outcome"], "completed");
    let mut third = Talk::open(&daemon, As::Nobody).await;
    third.exchange("hello").await;
    assert_eq!(received(&bedrock, OPERATION).len(), 2, "the refused one did not go upstream");
}
