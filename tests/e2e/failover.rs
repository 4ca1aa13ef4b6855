//! What the client gets when an upstream could not serve and the next one cannot either; and how often one is asked.

use http::Method;
use serde_json::json;
use simulator::framing::Choice;
use simulator::{AwsKey, Effect, Fault, Options, Simulator, ThrottleText, short_term_key};
use test_support::*;

fn ask() -> Request {
    request(Method::POST, &converse_path(ON_DEMAND), converse("hello"))
}

fn throttled() -> Fault {
    Fault::once(Effect::Throttle { text: ThrottleText::Tokens })
}

fn error(status: u16, error_type: &str) -> Fault {
    Fault::once(Effect::Error {
        status,
        error_type: error_type.into(),
        message: "x".into(),
        capital: false,
        headers: Default::default(),
    })
}

async fn regions() -> (Simulator, Simulator, Simulator) {
    let of = |region: &str| bedrock_with(Options { region: region.into(), ..Options::default() });
    (bedrock().await, of("us-west-2").await, of("us-east-2").await)
}

fn aws_keys() -> String {
    format!("{}:{}", simulator::DEFAULT_ACCESS_KEY_ID, simulator::DEFAULT_SECRET_ACCESS_KEY)
}

/// 429 tells the client to try again. That another region does not have the model tells it nothing.
#[tokio::test]
async fn a_throttled_answer_is_kept_when_the_next_region_does_not_have_what_was_asked_for() {
    let (east, west, _) = regions().await;
    let daemon = Setup::several(&[(&east, "us-east-1"), (&west, "us-west-2")]).secret(&aws_keys()).ready().await;
    for (status, error_type) in
        [(400, "ValidationException"), (403, "AccessDeniedException"), (404, "ResourceNotFoundException")]
    {
        east.inject(throttled());
        west.inject(error(status, error_type));
        let answer = send(daemon.address(), ask()).await;
        assert_eq!((answer.status, answer.header("x-bedrock-sidecar-region")), (429, Some("us-east-1")), "{status}");
        let record = daemon.record_of(&answer).await;
        for (field, expected) in [
            ("destinationRegion", json!("us-east-1")),
            ("statusCode", json!(429)),
            ("outcome", json!("upstream_error")),
            ("attempts", json!(2)),
            ("upstreamRequestId", json!(answer.header("x-amzn-requestid"))),
            ("responseSize", json!(answer.body.len())),
        ] {
            assert_eq!(record[field], expected, "{field} after {status}: {record}");
        }
    }
    // What the model itself says is an answer.
    east.inject(throttled());
    west.inject(error(424, "ModelErrorException"));
    assert_eq!(send(daemon.address(), ask()).await.status, 424);
}

#[tokio::test]
async fn the_region_after_one_that_does_not_have_the_model_is_tried_too() {
    let (east, west, third) = regions().await;
    let upstreams = [(&east, "us-east-1"), (&west, "us-west-2"), (&third, "us-east-2")];
    let daemon = Setup::several(&upstreams).secret(&aws_keys()).ready().await;
    east.inject(throttled());
    west.inject(error(404, "ResourceNotFoundException"));
    let answer = send(daemon.address(), ask()).await;
    assert_eq!((answer.status, answer.header("x-bedrock-sidecar-region")), (200, Some("us-east-2")), "{answer:?}");
    assert_eq!(daemon.record_of(&answer).await["attempts"], 3);
}

/// An ARN names its region. While that cannot be reached, another region's "no such model" is not the truth about it.
#[tokio::test]
async fn what_is_bound_to_a_region_that_cannot_be_reached_is_not_refused_by_another_one() {
    let (east, west, _) = regions().await;
    let daemon = Setup::several(&[(&east, "us-east-1"), (&west, "us-west-2")]).secret(&aws_keys()).ready().await;
    let arn = format!("arn:aws:bedrock:us-east-1::foundation-model/{ON_DEMAND}");
    east.refuse_connections(true);
    until_async("the upstream to be gone", || async {
        let answer = send(daemon.address(), ask()).await;
        (answer.header("x-bedrock-sidecar-region") == Some("us-west-2")).then_some(())
    })
    .await;
    // Refused connections at first, and then an upstream that is left alone for a while.
    for _ in 0..6 {
        let answer = daemon.post(&converse_path(&arn), converse("hello")).await;
        refused(&answer, 503, "ServiceUnavailableException");
        let record = daemon.record_of(&answer).await;
        assert_eq!((&record["outcome"], &record["statusCode"]), (&json!("upstream_broke"), &json!(503)), "{record}");
    }
    // What any region could have refused is refused.
    west.inject(error(400, "ValidationException"));
    assert_eq!(send(daemon.address(), ask()).await.status, 400);
}

#[tokio::test]
async fn a_throttled_answer_is_kept_when_there_is_no_credential_for_the_next_region() {
    let (east, west, _) = regions().await;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let key = short_term_key(&AwsKey::default_long_lived(), "us-east-1", now.try_into().unwrap(), 3600);
    let daemon = Setup::several(&[(&east, "us-east-1"), (&west, "us-west-2")]).secret(&key).ready().await;
    east.inject(throttled().on("Converse"));
    let answer = send(daemon.address(), ask()).await;
    assert_eq!((answer.status, answer.header("x-bedrock-sidecar-region")), (429, Some("us-east-1")), "{answer:?}");
    let record = daemon.record_of(&answer).await;
    assert_eq!(
        (&record["destinationRegion"], &record["outcome"]),
        (&json!("us-east-1"), &json!("upstream_error")),
        "{record}"
    );
}

/// A stream that the peer refuses unread is sent again, but not for ever, and every time counts.
#[tokio::test]
async fn a_request_that_the_upstream_refuses_unread_is_repeated_a_few_times_and_each_is_counted() {
    for framing in ["h2-rst-refused-stream-before", "h2-goaway-below"] {
        let (east, west, _) = regions().await;
        let daemon = Setup::several(&[(&east, "us-east-1"), (&west, "us-west-2")]).secret(&aws_keys()).ready().await;
        east.set_framing(Some(Choice::Always(simulator::framing::Framing::PLAIN)));
        let framing: simulator::framing::Framing = framing.parse().unwrap();
        // Connections that hyper serves in the simulator end first.
        until_async("a connection that is framed by hand", || async {
            send(daemon.address(), ask()).await;
            (!east.connections().is_empty()).then_some(())
        })
        .await;

        east.clear();
        east.inject(Fault::once(Effect::Framing { variant: framing }));
        let answer = send(daemon.address(), ask()).await;
        assert_eq!((answer.status, answer.header("x-bedrock-sidecar-region")), (200, Some("us-east-1")), "{framing}");
        assert_eq!(daemon.record_of(&answer).await["attempts"], 2, "{framing}");
        assert_eq!(received(&east, "Converse").len(), 2, "{framing}");

        east.clear();
        east.inject(Fault::once(Effect::Framing { variant: framing }).times(0));
        let answer = send(daemon.address(), ask()).await;
        assert_eq!((answer.status, answer.header("x-bedrock-sidecar-region")), (200, Some("us-west-2")), "{framing}");
        // What is begun on a connection that has just been told to go away is repeated without being sent.
        let sent = received(&east, "Converse").len();
        let least = if framing.to_string().contains("goaway") { 1 } else { 4 };
        assert!((least..=4).contains(&sent), "{framing}: once, and three times more: {sent}");
        assert_eq!(daemon.record_of(&answer).await["attempts"], sent + 1, "{framing}: and once elsewhere");

        west.refuse_connections(true);
        let answer = until_async("an upstream alone", || async {
            let answer = send(daemon.address(), ask()).await;
            (answer.status == 503).then_some(answer)
        })
        .await;
        assert!(refused(&answer, 503, "ServiceUnavailableException").len() > 20, "{answer:?}");
        let record = daemon.record_of(&answer).await;
        assert_eq!((&record["outcome"], &record["statusCode"]), (&json!("upstream_broke"), &json!(503)), "{record}");
    }
}
