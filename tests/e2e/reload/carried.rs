//! What a reload carries over: connections, what is known of models, and the streams in flight.

use http::Method;
use simulator::Options;
use test_support::*;

use super::ask;

const LEARNED: &str = "bedrock_sidecar_profile_resolutions_total{how=\"learned\"}";

/// A profile that was made for a model, and the connections to Bedrock.
#[tokio::test]
async fn learned_profiles_and_connections_survive_a_reload() {
    let bedrock = bedrock_with(Options { http2: false, ..Options::default() }).await;
    let daemon = Setup::tls(&bedrock).one_thread().with("[limits]\nconcurrent_requests = 9").ready().await;
    let path = converse_path(NEEDS_CREATED_PROFILE);
    assert_eq!(daemon.post(&path, converse("created")).await.status, 200);
    let before = metric(&daemon.metrics().await, LEARNED).unwrap_or(0.0);
    let created = received(&bedrock, "CreateInferenceProfile").len();
    let connection = received(&bedrock, "Converse")[0].connection;
    daemon.reload("concurrent_requests = 9", "concurrent_requests = 8").await;
    let answer = daemon.post(&path, converse("learned")).await;
    assert_eq!(answer.status, 200);
    daemon.record_of(&answer).await;
    assert_eq!(metric(&daemon.metrics().await, LEARNED), Some(before + 1.0));
    assert_eq!(received(&bedrock, "CreateInferenceProfile").len(), created);
    assert_eq!(received(&bedrock, "Converse")[1].connection, connection, "the pool is the same");

    // Rules on models may change; what is known of models does not depend on them.
    daemon.reload("concurrent_requests = 8", "concurrent_requests = 8\n[models]\ndeny = [\"cohere.*\"]").await;
    let answer = daemon.post(&path, converse("learned")).await;
    assert_eq!(answer.status, 200);
    daemon.record_of(&answer).await;
    assert_eq!(metric(&daemon.metrics().await, LEARNED), Some(before + 2.0));
    assert_eq!(received(&bedrock, "Converse")[2].connection, connection, "the pool is the same");
}

/// Another region is put before the one that a stream comes from.
#[tokio::test]
async fn a_stream_survives_that_its_upstream_is_replaced() {
    let east = bedrock().await;
    let west = bedrock_with(Options { region: "us-west-2".into(), ..Options::default() }).await;
    let daemon = Setup::plain(&east).ready().await;
    let whole = daemon.post(&stream_path(ON_DEMAND), converse("events 12")).await;
    east.gate().close();
    let mut connection = Http1::to(daemon.address()).await;
    let asked = request(Method::POST, &stream_path(ON_DEMAND), converse("events 12"));
    let mut stream = Reader::new(connection.start(asked).await.unwrap());
    let text = std::fs::read_to_string(daemon.config_path()).unwrap();
    let old = text.lines().filter(|line| line.contains("us-east-1") || line.contains("_endpoint")).collect::<Vec<_>>();
    let new = upstream("us-west-2", &west.plain_endpoint(), None).replace("[[upstreams]]\n", "");
    daemon.reload(&old.join("\n"), &new).await;
    let answer = send(daemon.address(), ask("west")).await;
    assert_eq!((answer.status, answer.header("x-bedrock-sidecar-region")), (200, Some("us-west-2")), "{answer:?}");
    assert_eq!(daemon.record_of(&answer).await["destinationRegion"], "us-west-2");
    east.gate().open();
    stream.end().await.unwrap();
    assert_eq!(stream.bytes, whole.body, "not a byte of the stream was lost");
    assert_eq!(daemon.record_with_id(&stream.request_id).await["destinationRegion"], "us-east-1");
}

/// What is told of an upstream ends with it: an alarm must not go by the last number of one that nobody asks any more.
#[tokio::test]
async fn metrics_of_an_upstream_that_is_gone_go_with_it() {
    let east = bedrock().await;
    let west = bedrock_with(Options { region: "us-west-2".into(), ..Options::default() }).await;
    let of = |bedrock: &simulator::Simulator, region| upstream(region, &bedrock.plain_endpoint(), None);
    let (first, second) = (of(&east, "us-east-1"), of(&west, "us-west-2"));
    let limit = "[limits]\ntokens_per_day = 5000";
    let daemon = Setup::plain(&east).upstreams(&format!("{first}{second}")).with(limit).ready().await;
    let told = |page: &str, name: &str, region: &str| {
        let begins = format!("bedrock_sidecar_{name}{{region=\"{region}\"");
        page.lines().any(|line| line.starts_with(&begins))
    };
    let names = ["upstream_connections", "upstream_breaker_state", "models_listing_age_seconds"];
    let page = daemon.metrics().await;
    for name in names {
        assert!(told(&page, name, "us-east-1") && told(&page, name, "us-west-2"), "{name}:\n{page}");
    }
    assert!(page.contains("bedrock_sidecar_limit_used_ratio{limit=\"tokens_per_day\""), "{page}");
    daemon.reload(&second, "").await;
    daemon.reload(limit, "").await;
    let page = daemon.metrics().await;
    for name in names {
        assert!(told(&page, name, "us-east-1") && !told(&page, name, "us-west-2"), "{name}:\n{page}");
    }
    assert!(!page.contains("bedrock_sidecar_limit_used_ratio{"), "{page}");
    let answer = send(daemon.address(), ask("goes on")).await;
    assert_eq!((answer.status, &daemon.record_of(&answer).await["destinationRegion"]), (200, &"us-east-1".into()));
}
