//! Which host a span names: the one that the request was sent to.

use serde_json::json;
use simulator::{Effect, Fault, Options};
use test_support::*;

use super::collector::{Collector, Told};
use super::{id_of, telemetry};

fn upstream(region: &str, runtime: &str, control: &str) -> String {
    format!(
        "[[upstreams]]\nregion = \"{region}\"\nruntime_endpoint = \"{runtime}\"\ncontrol_endpoint = \"{control}\"\n"
    )
}

fn port(told: &Told) -> Option<&str> {
    told.attributes.get("server.port").map(String::as_str)
}

fn port_of(endpoint: &str) -> Option<&str> {
    endpoint.rsplit(':').next()
}

#[tokio::test]
async fn a_span_names_the_host_of_its_plane_and_of_its_upstream() {
    let (first, second, collector) = (bedrock().await, bedrock().await, Collector::start().await);
    let (at_runtime, at_control, at_second) = (first.plain_endpoint(), first.tls_endpoint(), second.plain_endpoint());
    let setup = Setup::alone();
    let ca = setup.path().join("ca.pem");
    std::fs::write(&ca, first.ca_pem()).unwrap();
    // Two upstreams of one region, as with two accounts.
    let upstreams = upstream("us-east-1", &at_runtime, &at_control)
        + &format!("ca_file = \"{}\"\n", ca.display())
        + &upstream("us-east-1", &at_second, &at_second);
    let daemon = setup.upstreams(&upstreams).with(&telemetry(&collector)).ready().await;
    let told = async |answer: &Answer| {
        let record = daemon.record_of(answer).await;
        assert_eq!((&record["outcome"], answer.status), (&json!("completed"), 200), "{record}");
        collector.span_of(id_of(&record)).await
    };
    let answer = daemon.get("/foundation-models").await;
    assert_eq!(port(&told(&answer).await), port_of(&at_control));
    let answer = daemon.post(&converse_path(NEEDS_CREATED_PROFILE), converse("hello")).await;
    let request = told(&answer).await;
    assert_eq!(port(&request), port_of(&at_runtime));
    let own = daemon.record("the profile", |record| record["operation"] == "CreateInferenceProfile").await;
    assert_eq!(own["outcome"], "completed", "{own}");
    let call = collector.span_of(id_of(&own)).await;
    assert_eq!(port(&call), port_of(&at_control));
    let made_for = (&request.span.trace_id, &request.span.span_id);
    assert_eq!((&call.span.trace_id, &call.span.parent_span_id), made_for, "it was made for that request");
    first.inject(Fault::once(Effect::UnrecognizedClient).times(0).on("Converse"));
    let answer = daemon.post(&converse_path(ON_DEMAND), converse("hello")).await;
    assert_eq!(port(&told(&answer).await), port_of(&at_second));
}

/// The first upstream refuses the key, the second one cannot be reached: the failure is the second one's, and nothing was sent
/// there.
#[tokio::test]
async fn of_an_upstream_to_which_nothing_was_sent_nothing_is_told() {
    let (east, collector) = (bedrock().await, Collector::start().await);
    let west = bedrock_with(Options { region: "us-west-2".into(), ..Options::default() }).await;
    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at_nobody = format!("http://{}", nobody.local_addr().unwrap());
    drop(nobody);
    let at_east = east.plain_endpoint();
    let upstreams =
        upstream("us-east-1", &at_east, &at_east) + &upstream("us-west-2", &at_nobody, &west.plain_endpoint());
    let daemon = Setup::alone().upstreams(&upstreams).with(&telemetry(&collector)).ready().await;
    east.inject(Fault::once(Effect::UnrecognizedClient).times(0).on("Converse"));
    let answer = daemon.post(&converse_path(NEEDS_CREATED_PROFILE), converse("hello")).await;
    refused(&answer, 503, "ServiceUnavailableException");
    let record = daemon.record_of(&answer).await;
    assert!(record["attempts"].as_u64().unwrap() > 0, "{record}");
    for (field, expected) in [
        ("destinationRegion", json!("us-west-2")),
        ("inferenceProfileUsed", json!(null)),
        ("outcome", json!("refused")),
    ] {
        assert_eq!(record[field], expected, "{field}: {record}");
    }
    assert!(!received(&west, "CreateInferenceProfile").is_empty(), "its profile was made");
    let told = collector.span_of(id_of(&record)).await;
    assert_eq!(port(&told), None, "{told:?}");
    assert!(!told.attributes.contains_key("server.address"), "{told:?}");
    let metrics = daemon.metrics().await;
    let unreached = "bedrock_sidecar_upstream_attempts_total{region=\"us-west-2\",result=\"unreached\"}";
    assert_eq!(metric(&metrics, unreached), Some(1.0));
}
