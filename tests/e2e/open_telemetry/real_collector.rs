//! A real OpenTelemetry Collector takes what the daemon sends, and reads in it what the daemon means.

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use test_support::*;
use tokio::io::{AsyncBufReadExt, BufReader};

use super::{ask, id_of, input_tokens, number};

const TEST: &str = "a_real_collector_reads_spans_and_metrics_as_they_are_meant";

/// A Collector as a process, and the exports that it has written, as OTLP/JSON.
struct RealCollector {
    address: SocketAddr,
    exports: Arc<Mutex<Vec<Value>>>,
    _process: tokio::process::Child,
}

impl RealCollector {
    /// On a port that was free a moment ago; if somebody else has taken it by now, on another one.
    async fn start(program: &str) -> RealCollector {
        for _ in 0..5 {
            let address = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
            let mut process = tokio::process::Command::new(program)
                .arg(address.to_string())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .kill_on_drop(true)
                .spawn()
                .unwrap();
            let mut log = BufReader::new(process.stderr.take().unwrap()).lines();
            let mut said = String::new();
            while let Some(line) = within("the collector to start", log.next_line()).await.unwrap() {
                said.push_str(&line);
                if !line.contains("Everything is ready") {
                    continue;
                }
                let exports = Arc::new(Mutex::new(Vec::new()));
                let (mut lines, into) = (BufReader::new(process.stdout.take().unwrap()).lines(), Arc::clone(&exports));
                tokio::spawn(async move {
                    while let Ok(Some(line)) = lines.next_line().await {
                        into.lock().unwrap().push(serde_json::from_str(&line).unwrap());
                    }
                });
                tokio::spawn(async move { while let Ok(Some(_)) = log.next_line().await {} });
                return RealCollector { address, exports, _process: process };
            }
            assert!(said.contains("address already in use"), "the collector does not start: {said}");
        }
        panic!("no free port");
    }

    /// All spans, each with the attributes of its resource beside it.
    fn spans(&self) -> Vec<(Value, Value)> {
        let mut spans = Vec::new();
        for resource in self.exports.lock().unwrap().iter().flat_map(|export| list(&export["resourceSpans"])) {
            for span in list(&resource["scopeSpans"]).iter().flat_map(|scope| list(&scope["spans"])) {
                spans.push((span, attributes(&resource["resource"])));
            }
        }
        spans
    }

    async fn span_of(&self, request_id: &str) -> (Value, Value) {
        let is_it = |(span, _): &(Value, Value)| attributes(span)["bedrock_sidecar.request_id"] == request_id;
        until(&format!("the span of {request_id}"), || self.spans().into_iter().find(is_it)).await
    }

    /// The metric in the latest export that has it.
    fn metric(&self, name: &str) -> Option<Value> {
        let exports = self.exports.lock().unwrap();
        let resources = exports.iter().rev().flat_map(|export| list(&export["resourceMetrics"]));
        let scopes = resources.flat_map(|resource| list(&resource["scopeMetrics"]));
        scopes.flat_map(|scope| list(&scope["metrics"])).find(|metric| metric["name"] == name)
    }

    fn points(&self, name: &str) -> Vec<Value> {
        self.metric(name).map(|metric| list(&metric["histogram"]["dataPoints"])).unwrap_or_default()
    }
}

fn list(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_default()
}

/// By name, each with its one value. OTLP/JSON has integers as text.
fn attributes(of: &Value) -> Value {
    let each = |attribute: Value| {
        let value = attribute["value"].as_object().unwrap().iter().next().map(|(kind, value)| match kind.as_str() {
            "intValue" => json!(value.as_str().unwrap().parse::<i64>().unwrap()),
            _ => value.clone(),
        });
        (attribute["key"].as_str().unwrap().to_owned(), value.unwrap())
    };
    list(&of["attributes"]).into_iter().map(each).collect::<serde_json::Map<_, _>>().into()
}

fn count(point: &Value) -> u64 {
    point["count"].as_str().unwrap().parse().unwrap()
}

#[ignore = "slow: builds a Collector"]
#[tokio::test]
async fn a_real_collector_reads_spans_and_metrics_as_they_are_meant() {
    let install = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/otelcol/install");
    let installed = tokio::task::spawn_blocking(move || Command::new(install).output().unwrap()).await.unwrap();
    if installed.status.code() == Some(3) {
        println!("NOT RUN: {TEST} ({})", String::from_utf8_lossy(&installed.stderr).trim());
        return;
    }
    assert!(installed.status.success(), "{installed:?}");
    let collector = RealCollector::start(String::from_utf8(installed.stdout).unwrap().trim()).await;
    let bedrock = bedrock().await;
    let telemetry = format!("[telemetry]\notlp_endpoint = \"http://{}\"\nmetrics_interval = \"1s\"", collector.address);
    let daemon = Setup::plain(&bedrock).with(&telemetry).ready().await;

    let parent = format!("00-{}-{}-01", super::TRACE, super::SPAN);
    let mut records = Vec::new();
    for (path, headers) in [
        (stream_path(ON_DEMAND), &[("traceparent", parent.as_str())][..]),
        (converse_path(ON_DEMAND), &[]),
        (converse_path("amazon.no-such-model-v1:0"), &[]),
    ] {
        let answer = send(daemon.address(), ask(&path, "one two three", headers)).await;
        records.push(daemon.record_of(&answer).await);
    }
    let outcomes: Vec<&Value> = records.iter().map(|record| &record["outcome"]).collect();
    assert_eq!(outcomes, ["completed", "completed", "upstream_error"]);

    for (at, record) in records.iter().enumerate() {
        let (span, resource) = collector.span_of(id_of(record)).await;
        let told = attributes(&span);
        assert_eq!(resource["service.name"], "bedrock-sidecar", "{resource}");
        assert_eq!(resource["host.id"], record["hostId"], "{resource}");
        assert_eq!(span["name"], format!("chat {}", record["modelId"].as_str().unwrap()), "{span}");
        assert_eq!(span["kind"], 3, "a client's: {span}");
        let own_trace = id_of(record).replace('-', "");
        let (trace, above) = if at == 0 { (super::TRACE, super::SPAN) } else { (own_trace.as_str(), "") };
        assert_eq!(
            (&span["traceId"], span["parentSpanId"].as_str().unwrap_or_default()),
            (&json!(trace), above),
            "{span}"
        );
        assert_eq!(told["gen_ai.provider.name"], "aws.bedrock", "{told}");
        assert_eq!(told["gen_ai.request.stream"], at == 0, "{told}");
        assert_eq!(told["bedrock_sidecar.outcome"], record["outcome"], "{told}");
        assert_eq!(told["bedrock_sidecar.attempts"], record["attempts"], "{told}");
        assert_eq!(told["http.response.status_code"], record["statusCode"], "{told}");
        assert_eq!(told["aws.request_id"], record["upstreamRequestId"], "{told}");
        let nanos = |field: &str| span[field].as_str().unwrap().parse::<u64>().unwrap();
        let whole = (nanos("endTimeUnixNano") - nanos("startTimeUnixNano")) / 1_000_000;
        assert!(whole.abs_diff(number(record, "latency")) <= 1000, "{whole} {record}");
        // Unset, or an error.
        let failed = record["success"] == false;
        assert_eq!(span["status"]["code"].as_u64().unwrap_or(0), if failed { 2 } else { 0 }, "{span}");
        assert_eq!(told.get("error.type").is_some(), failed, "{told}");
        if !failed {
            assert_eq!(told["gen_ai.usage.input_tokens"], input_tokens(record), "{told}");
            assert_eq!(told["gen_ai.usage.output_tokens"], record["outputTokens"], "{told}");
            assert_eq!(span["events"][0]["name"], "bedrock_sidecar.first_byte", "{span}");
        }
    }

    let tokens = |kind: &str| {
        let points = collector.points("gen_ai.client.token.usage").into_iter();
        let of_kind = points.filter(|point| attributes(point)["gen_ai.token.type"] == kind);
        of_kind.map(|point| point["sum"].as_f64().unwrap()).sum::<f64>()
    };
    let input: u64 = records.iter().map(input_tokens).sum();
    let output: u64 = records.iter().map(|record| number(record, "outputTokens")).sum();
    eventually("the tokens", || tokens("input") == input as f64 && tokens("output") == output as f64).await;
    let name = "gen_ai.client.operation.duration";
    eventually("three durations", || collector.points(name).iter().map(count).sum::<u64>() == 3).await;
    let duration = collector.metric(name).unwrap();
    assert_eq!((&duration["unit"], &duration["histogram"]["aggregationTemporality"]), (&json!("s"), &json!(2)));
    for point in collector.points(name) {
        let (buckets, bounds) = (list(&point["bucketCounts"]), list(&point["explicitBounds"]));
        assert_eq!((buckets.len(), &bounds[0]), (bounds.len() + 1, &json!(0.01)), "{point}");
        let sum: u64 = buckets.iter().map(|one| one.as_str().unwrap().parse::<u64>().unwrap()).sum();
        assert_eq!(sum, count(&point), "{point}");
    }

    // It has refused nothing.
    let page = daemon.metrics().await;
    for counter in ["otlp_export_failures_total", "otlp_spans_dropped_total"] {
        assert_eq!(metric(&page, &format!("bedrock_sidecar_{counter}")), Some(0.0), "{counter}");
    }
}
