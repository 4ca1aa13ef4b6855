//! `[telemetry]`: what a collector of OpenTelemetry gets, and what becomes of it when the collector does not take it.

mod collector;
mod real_collector;
mod servers;

use std::sync::Arc;

use collector::{Collector, Mood, Told};
use http::Method;
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use serde_json::Value;
use test_support::*;
use tokio_rustls::TlsAcceptor;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

fn telemetry(collector: &Collector) -> String {
    format!("[telemetry]\notlp_endpoint = \"http://{}\"\nmetrics_interval = \"1s\"", collector.address)
}

fn ask(path: &str, prompt: &str, headers: &[(&'static str, &str)]) -> Request {
    let mut asked = request(Method::POST, path, converse(prompt));
    for (name, value) in headers {
        asked.headers_mut().append(*name, value.parse().unwrap());
    }
    asked
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn number(record: &Value, field: &str) -> u64 {
    record[field].as_u64().unwrap_or(0)
}

/// What the record counts, as OpenTelemetry counts it.
fn input_tokens(record: &Value) -> u64 {
    ["inputTokens", "cacheReadTokens", "cacheWriteTokens"].iter().map(|field| number(record, field)).sum()
}

fn id_of(record: &Value) -> &str {
    record["requestId"].as_str().unwrap()
}

fn assert_is(told: &Told, name: &str, value: impl ToString) {
    assert_eq!(told.attributes.get(name), Some(&value.to_string()), "{name} of {told:?}");
}

#[tokio::test]
async fn a_request_is_a_span_in_its_callers_trace_with_what_its_record_has() {
    let (bedrock, collector) = (bedrock().await, Collector::start().await);
    let daemon = Setup::tls(&bedrock)
        .with(&telemetry(&collector))
        .env("OTEL_RESOURCE_ATTRIBUTES", "service.name=CANARY,team=CANARY")
        .env("OTEL_SERVICE_NAME", "CANARY")
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
        .ready()
        .await;
    let parent = format!("00-{TRACE}-{SPAN}-01");
    let answer =
        send(daemon.address(), ask(&stream_path(ON_DEMAND), "CANARY of a prompt", &[("traceparent", &parent)])).await;
    assert_eq!(answer.status, 200);
    let record = daemon.record_of(&answer).await;
    assert_eq!(record["outcome"], "completed", "{record}");

    let told = collector.span_of(id_of(&record)).await;
    assert_eq!((hex(&told.span.trace_id), hex(&told.span.parent_span_id)), (TRACE.to_owned(), SPAN.to_owned()));
    assert_eq!(told.span.name, format!("chat {ON_DEMAND}"));
    let whole = (told.span.end_time_unix_nano - told.span.start_time_unix_nano) / 1_000_000;
    assert!(whole.abs_diff(number(&record, "latency")) <= 1000, "{whole} {record}");
    assert_eq!(told.span.events[0].name, "bedrock_sidecar.first_byte");
    assert_is(&told, "gen_ai.operation.name", "chat");
    assert_is(&told, "gen_ai.provider.name", "aws.bedrock");
    assert_is(&told, "gen_ai.request.model", ON_DEMAND);
    assert_is(&told, "gen_ai.request.stream", true);
    assert_is(&told, "gen_ai.usage.input_tokens", input_tokens(&record));
    assert_is(&told, "gen_ai.usage.output_tokens", number(&record, "outputTokens"));
    assert_is(&told, "rpc.method", "ConverseStream");
    assert_is(&told, "http.response.status_code", 200);
    assert_is(&told, "aws.request_id", record["upstreamRequestId"].as_str().unwrap());
    assert_is(&told, "bedrock_sidecar.region", "us-east-1");
    assert_is(&told, "bedrock_sidecar.outcome", "completed");
    assert!(!told.attributes.contains_key("error.type"), "{told:?}");
    assert_eq!(told.resource["service.name"], "bedrock-sidecar");
    assert_eq!(told.resource["host.id"], record["hostId"].as_str().unwrap());
    assert!(told.resource.contains_key("service.version") && told.resource.contains_key("host.name"));
    assert!(!collector.has_seen("CANARY"), "what a prompt or the environment says is not told");
}

#[tokio::test]
async fn traces_are_continued_as_far_as_callers_record_them() {
    let (bedrock, collector) = (bedrock().await, Collector::start().await);
    let daemon = Setup::plain(&bedrock).with(&telemetry(&collector)).ready().await;
    let asked = async |headers: &[(&'static str, &str)]| {
        let answer = send(daemon.address(), ask(&converse_path(ON_DEMAND), "hello", headers)).await;
        daemon.record_of(&answer).await
    };
    let unwanted = asked(&[("traceparent", &format!("00-{TRACE}-{SPAN}-00"))]).await;
    let xray = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1";
    let xray = asked(&[("x-amzn-trace-id", xray)]).await;
    let own = asked(&[("traceparent", "00-1-CANARY")]).await;
    for record in [&unwanted, &xray, &own] {
        assert_eq!(record["outcome"], "completed", "{record}");
    }

    let told = collector.span_of(id_of(&xray)).await;
    assert_eq!(hex(&told.span.trace_id), "5759e988bd862e3fe1be46a994272793");
    assert_eq!(hex(&told.span.parent_span_id), "53995c3f42cd8ad8");
    let told = collector.span_of(id_of(&own)).await;
    assert_eq!(hex(&told.span.trace_id), id_of(&own).replace('-', ""), "a trace of its own has the request's id");
    assert!(told.span.parent_span_id.is_empty());
    // It came before the others, and was counted all the same.
    let ids: Vec<String> =
        collector.taken().iter().map(|told| told.attributes["bedrock_sidecar.request_id"].clone()).collect();
    assert!(!ids.iter().any(|id| id == id_of(&unwanted)), "{ids:?}");
    let counted = || collector.points("gen_ai.client.operation.duration").iter().map(|(_, point)| point.count).sum();
    until("three durations", || Some(counted()).filter(|count: &u64| *count == 3)).await;
}

#[tokio::test]
async fn metrics_add_up_to_the_records() {
    let (bedrock, collector) = (bedrock().await, Collector::start().await);
    let daemon = Setup::plain(&bedrock).with(&telemetry(&collector)).ready().await;
    let mut records = Vec::new();
    for (path, prompt) in [
        (converse_path(ON_DEMAND), "one two three"),
        (stream_path(ON_DEMAND), "one two"),
        (converse_path("amazon.no-such-model-v1:0"), "hello"),
    ] {
        let answer = daemon.post(&path, converse(prompt)).await;
        records.push(daemon.record_of(&answer).await);
    }
    assert_eq!(records[2]["success"], false, "{}", records[2]);

    let tokens = |kind: &str| {
        let points = collector.points("gen_ai.client.token.usage");
        let of_kind = points.into_iter().filter(|(attributes, _)| attributes["gen_ai.token.type"] == kind);
        of_kind.map(|(_, point)| point.sum.unwrap()).sum::<f64>()
    };
    let input: u64 = records.iter().map(input_tokens).sum();
    let output: u64 = records.iter().map(|record| number(record, "outputTokens")).sum();
    eventually("the tokens", || tokens("input") == input as f64 && tokens("output") == output as f64).await;
    let counted = |name: &str| collector.points(name).iter().map(|(_, point)| point.count).sum::<u64>();
    eventually("three durations", || counted("gen_ai.client.operation.duration") == 3).await;
    let durations = collector.points("gen_ai.client.operation.duration");
    let (attributes, _) = durations.iter().find(|(attributes, _)| attributes.contains_key("error.type")).unwrap();
    assert_eq!(attributes["gen_ai.request.model"], "other", "clients cannot make metrics grow");
    let (attributes, point) = durations.iter().find(|(attributes, _)| !attributes.contains_key("error.type")).unwrap();
    assert_eq!(attributes["gen_ai.provider.name"], "aws.bedrock");
    assert_eq!(attributes["server.address"], "127.0.0.1");
    assert_eq!(point.explicit_bounds.first(), Some(&0.01));
    assert_eq!(counted("gen_ai.client.operation.time_to_first_chunk"), 1, "of streams alone");
}

#[tokio::test]
async fn what_a_collector_refuses_is_counted_and_what_it_puts_off_is_sent_again() {
    let (bedrock, collector) = (bedrock().await, Collector::start().await);
    let only_traces = format!("[telemetry]\notlp_endpoint = \"http://{}\"\nsignals = [\"traces\"]", collector.address);
    let daemon = Setup::plain(&bedrock).with(&only_traces).ready().await;
    let asked = async || {
        let answer = daemon.post(&converse_path(ON_DEMAND), converse("hello")).await;
        assert_eq!(answer.status, 200);
        daemon.record_of(&answer).await
    };
    let dropped = async || metric(&daemon.metrics().await, "bedrock_sidecar_otlp_spans_dropped_total").unwrap();
    let until_dropped = async |count: f64| {
        until_async(&format!("{count} lost spans"), || async { (dropped().await == count).then_some(()) }).await;
    };

    collector.becomes(Mood::Answers(503, Some("1")));
    let late = asked().await;
    eventually("an export", || collector.posts() > 0).await;
    let line = daemon.says("the collector does not take telemetry").await;
    assert!(line["reason"].as_str().unwrap().contains("503") && line["signal"] == "traces", "{line}");
    collector.becomes(Mood::Takes);
    collector.span_of(id_of(&late)).await;
    daemon.says("the collector of telemetry takes it again").await;
    assert_eq!(dropped().await, 0.0);

    collector.becomes(Mood::Partly(1));
    asked().await;
    until_dropped(1.0).await;
    collector.becomes(Mood::Answers(400, None));
    asked().await;
    until_dropped(2.0).await;
    collector.becomes(Mood::Takes);
    let last = asked().await;
    collector.span_of(id_of(&last)).await;
    assert_eq!(dropped().await, 2.0);
    let failures = metric(&daemon.metrics().await, "bedrock_sidecar_otlp_export_failures_total").unwrap();
    assert!(failures >= 2.0, "{failures}");
    assert!(collector.points("gen_ai.client.operation.duration").is_empty(), "it is to get traces alone");
}

#[tokio::test]
async fn a_stop_sends_what_there_is() {
    let (bedrock, collector) = (bedrock().await, Collector::start().await);
    let hourly = telemetry(&collector).replace("\"1s\"", "\"1h\"");
    let mut daemon = Setup::plain(&bedrock).with(&hourly).ready().await;
    let mut records = Vec::new();
    for _ in 0..20 {
        let answer = daemon.post(&converse_path(ON_DEMAND), converse("hello")).await;
        records.push(daemon.record_of(&answer).await);
    }
    daemon.signal("TERM");
    assert!(daemon.ended().await.success());
    for record in &records {
        assert_eq!(record["outcome"], "completed");
        collector.span_of(id_of(record)).await;
    }
    let durations = collector.points("gen_ai.client.operation.duration");
    assert_eq!(durations.iter().map(|(_, point)| point.count).sum::<u64>(), 20, "{durations:?}");
}

/// Requests do not notice, and a stop does not wait.
#[tokio::test]
async fn a_silent_collector_holds_up_nobody_and_what_it_did_not_take_is_said() {
    let (bedrock, collector) = (bedrock().await, Collector::start().await);
    collector.becomes(Mood::Silent);
    let mut daemon = Setup::plain(&bedrock).with(&telemetry(&collector)).ready().await;
    for _ in 0..10 {
        let answer = daemon.post(&converse_path(ON_DEMAND), converse("hello")).await;
        assert_eq!(answer.status, 200);
        assert_eq!(daemon.record_of(&answer).await["outcome"], "completed");
    }
    eventually("an export", || collector.posts() > 0).await;
    daemon.signal("TERM");
    assert!(daemon.ended().await.success());
    // An export that is waited for fails after ten seconds, and that is said.
    let failed = daemon.lines().into_iter().find(|line| line["message"] == "the collector does not take telemetry");
    assert_eq!(failed, None, "the end waited for the collector");
    let line = daemon.says("the last spans were not sent: the collector did not take them").await;
    assert_eq!(line["lost_spans"], 10, "{line}");
}

#[tokio::test]
async fn metrics_that_are_not_taken_keep_no_span_from_being_sent_at_a_stop() {
    let (bedrock, collector) = (bedrock().await, Collector::start().await);
    collector.becomes(Mood::TracesAlone);
    let mut daemon = Setup::plain(&bedrock).with(&telemetry(&collector)).ready().await;
    let ask = async || {
        let answer = daemon.post(&converse_path(ON_DEMAND), converse("hello")).await;
        daemon.record_of(&answer).await
    };
    let first = ask().await;
    collector.span_of(id_of(&first)).await;
    // The page is under way, and stays so.
    eventually("an export of metrics", || collector.has_seen("gen_ai.client.operation.duration")).await;
    let last = ask().await;
    assert_eq!((&first["outcome"], &last["outcome"]), (&"completed".into(), &"completed".into()), "{first} {last}");
    daemon.signal("TERM");
    assert!(daemon.ended().await.success());
    collector.span_of(id_of(&last)).await;
}

#[tokio::test]
async fn a_reload_takes_another_collector_or_none() {
    let (bedrock, first, second) = (bedrock().await, Collector::start().await, Collector::start().await);
    let daemon = Setup::plain(&bedrock).with(&telemetry(&first)).ready().await;
    let asked = async || {
        let answer = daemon.post(&converse_path(ON_DEMAND), converse("hello")).await;
        let record = daemon.record_of(&answer).await;
        assert_eq!(record["outcome"], "completed");
        record
    };
    let before = asked().await;
    daemon.reload(&first.address.to_string(), &second.address.to_string()).await;
    let after = asked().await;
    first.span_of(id_of(&before)).await;
    second.span_of(id_of(&after)).await;
    let count = first.taken().len();
    daemon.reload(&telemetry(&second), "").await;
    asked().await;
    daemon.reload("[credentials]", &format!("{}\n[credentials]", telemetry(&first))).await;
    let again = asked().await;
    first.span_of(id_of(&again)).await;
    assert_eq!((first.taken().len(), second.taken().len()), (count + 1, 1), "one request was told to nobody");
}

#[tokio::test]
async fn a_collector_may_be_reached_by_tls_with_a_ca_of_its_own() {
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let config = ServerConfig::builder_with_provider(Arc::new(provider)).with_safe_default_protocol_versions().unwrap();
    let config = config.with_no_client_auth().with_single_cert(vec![certified.cert.der().clone()], key).unwrap();
    let collector = Collector::with_tls(TlsAcceptor::from(Arc::new(config))).await;

    let bedrock = bedrock().await;
    let setup = Setup::plain(&bedrock);
    let ca = setup.path().join("collector-ca.pem");
    std::fs::write(&ca, certified.cert.pem()).unwrap();
    let port = collector.address.port();
    let section = format!("[telemetry]\notlp_endpoint = \"https://localhost:{port}\"\nca_file = \"{}\"", ca.display());
    let daemon = setup.with(&section).ready().await;
    let answer = daemon.post(&converse_path(ON_DEMAND), converse("hello")).await;
    let record = daemon.record_of(&answer).await;
    assert_eq!(record["outcome"], "completed");
    collector.span_of(id_of(&record)).await;
}

#[tokio::test]
async fn a_collector_that_cannot_be_meant_is_a_mistake_in_the_configuration() {
    for (keys, word) in [
        ("otlp_endpoint = \"grpc://127.0.0.1:4317\"", "is not an endpoint"),
        ("metrics_interval = \"10s\"", "needs otlp_endpoint"),
        ("otlp_endpoint = \"https://localhost:4318\"\nca_file = \"/no/such/ca.pem\"", "cannot be used"),
    ] {
        let output = Setup::alone().with(&format!("[telemetry]\n{keys}")).command(&["check"]).await;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(78), "{said}");
        assert!(said.contains(word), "{said}");
    }
}
