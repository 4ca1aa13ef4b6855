//! The span of a request, under the names of OpenTelemetry's semantic conventions for GenAI and AWS Bedrock.

use opentelemetry::{KeyValue, Value};
use opentelemetry_proto::tonic::trace::v1::span::{Event, SpanKind};
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{Span, SpanFlags, Status};

use super::Ended;
use crate::record::Outcome;

/// What GenAI's conventions call Bedrock.
pub(super) const PROVIDER: &str = "aws.bedrock";

/// W3C's flag of a trace that is recorded.
const SAMPLED: u32 = 1;

/// A trace that no caller has begun has the request's id, and each span the last half of it.
pub(super) fn of(ended: &Ended) -> Span {
    let parent = ended.parent;
    let [start, whole] = [nanos_of(ended.started_ms), nanos(ended.timings.whole)];
    let first_byte = ended.first_byte.map(|after| Event {
        time_unix_nano: start.saturating_add(nanos(after).min(whole)),
        name: "bedrock_sidecar.first_byte".to_owned(),
        ..Event::default()
    });
    let is_remote =
        if parent.is_some_and(|parent| parent.is_remote) { SpanFlags::ContextIsRemoteMask as u32 } else { 0 };
    let code = if ended.outcome == Outcome::Completed { StatusCode::Unset } else { StatusCode::Error };
    Span {
        trace_id: parent.map_or(ended.request_id, |parent| parent.trace_id).to_vec(),
        span_id: ended.request_id[8..].to_vec(),
        parent_span_id: parent.and_then(|parent| parent.span_id).map(Vec::from).unwrap_or_default(),
        flags: SAMPLED | SpanFlags::ContextHasIsRemoteMask as u32 | is_remote,
        name: name(ended),
        kind: SpanKind::Client.into(),
        start_time_unix_nano: start,
        end_time_unix_nano: start.saturating_add(whole),
        attributes: attributes(ended).iter().map(Into::into).collect(),
        events: first_byte.into_iter().collect(),
        status: Some(Status { code: code.into(), message: String::new() }),
        ..Span::default()
    }
}

/// `chat amazon.nova-lite-v1:0`, or AWS's name of an operation that runs no model.
fn name(ended: &Ended) -> String {
    match ended.gen_ai_operation() {
        Some(operation) if ended.model.is_empty() => operation.to_owned(),
        Some(operation) => format!("{operation} {}", ended.model),
        None => ended.operation.to_string(),
    }
}

fn attributes(ended: &Ended) -> Vec<KeyValue> {
    let mut all = Attributes::default();
    if let Some(operation) = ended.gen_ai_operation() {
        all.add("gen_ai.operation.name", Some(operation));
        all.add("gen_ai.provider.name", Some(PROVIDER));
        all.add("gen_ai.request.stream", Some(ended.streaming));
    }
    all.add("gen_ai.request.model", some(&ended.model));
    all.count("gen_ai.usage.input_tokens", ended.input_tokens());
    all.count("gen_ai.usage.output_tokens", ended.usage.output_tokens);
    all.count("gen_ai.usage.cache_read.input_tokens", ended.usage.cache_read_tokens);
    all.count("gen_ai.usage.cache_creation.input_tokens", ended.usage.cache_write_tokens);
    let first_chunk = ended.first_byte.filter(|_| ended.streaming);
    all.add("gen_ai.response.time_to_first_chunk", first_chunk.map(|after| after.as_secs_f64()));
    all.add("rpc.system.name", Some("aws-api"));
    all.add("rpc.method", Some(ended.operation.to_string()));
    if let Some(server) = &ended.server {
        all.add("server.address", Some(server.host.clone()));
        all.add("server.port", Some(i64::from(server.port)));
    }
    all.add("aws.request_id", ended.upstream_request_id.clone());
    all.add("http.response.status_code", Some(i64::from(ended.status)));
    all.add("error.type", ended.error_type());
    all.add("bedrock_sidecar.request_id", Some(uuid::Uuid::from_bytes(ended.request_id).to_string()));
    all.add("bedrock_sidecar.outcome", Some(ended.outcome.as_str()));
    all.add("bedrock_sidecar.caller", ended.caller.clone());
    all.add("bedrock_sidecar.region", some(&ended.region));
    all.add("bedrock_sidecar.inference_profile", ended.profile.clone());
    all.add("bedrock_sidecar.service_tier", ended.service_tier.clone());
    all.add("bedrock_sidecar.attempts", Some(i64::from(ended.attempts)));
    all.add("bedrock_sidecar.cost_usd", ended.cost_nano_usd.map(|nano| nano as f64 / 1e9));
    all.add("bedrock_sidecar.queued", Some(ended.timings.queued.as_secs_f64()));
    all.add("bedrock_sidecar.connecting", Some(ended.timings.connecting.as_secs_f64()));
    all.0
}

/// What is not known is left out.
#[derive(Debug, Default)]
struct Attributes(Vec<KeyValue>);

impl Attributes {
    fn add<V: Into<Value>>(&mut self, key: &'static str, value: Option<V>) {
        self.0.extend(value.map(|value| KeyValue::new(key, value)));
    }

    fn count(&mut self, key: &'static str, value: Option<u64>) {
        self.add(key, value.and_then(|count| i64::try_from(count).ok()));
    }
}

fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

fn nanos(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn nanos_of(ms: i64) -> u64 {
    u64::try_from(ms).unwrap_or(0).saturating_mul(1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Record;
    use crate::telemetry::Parent;
    use crate::telemetry::ended::tests::ended;

    fn record() -> Record {
        Record {
            request_id: "01934f6e-8a00-7000-8000-0123456789ab".to_owned(),
            started_ms: 1_795_560_627_123,
            operation: "ConverseStream".into(),
            model_id: "amazon.nova-lite-v1:0".to_owned(),
            first_byte_latency: Some(250),
            error_message: Some("CANARY".to_owned()),
            user_arn: "CANARY".to_owned(),
            tags: Some("CANARY".to_owned()),
            ..Record::default()
        }
    }

    #[test]
    fn a_span_is_a_child_of_the_callers_or_begins_the_trace_of_its_request() {
        let own = of(&ended(&record(), None));
        assert_eq!(own.trace_id[..4], [0x01, 0x93, 0x4f, 0x6e]);
        assert_eq!(own.span_id, [0x80, 0, 0x01, 0x23, 0x45, 0x67, 0x89, 0xab]);
        assert!(own.parent_span_id.is_empty() && own.flags == 0x101);
        let parent = Parent { trace_id: [7; 16], span_id: Some([8; 8]), is_sampled: true, is_remote: true };
        let child = of(&ended(&record(), Some(parent)));
        assert_eq!((child.trace_id, child.parent_span_id), (vec![7; 16], vec![8; 8]));
        assert_eq!((child.span_id, child.flags), (own.span_id.clone(), 0x301));
        // What the daemon does itself for a request is a child of the request's span, wherever that belongs.
        for (request, trace_id) in [(&own, own.trace_id.clone()), (&of(&ended(&record(), Some(parent))), vec![7; 16])] {
            let caller = Some(parent).filter(|_| trace_id == [7; 16]);
            let call =
                of(&ended(&Record::default(), Some(Parent::of_request(record().request_id.parse().unwrap(), caller))));
            assert_eq!((call.trace_id, &call.parent_span_id, call.flags), (trace_id, &request.span_id, 0x101));
        }
    }

    #[test]
    fn times_are_those_of_the_request() {
        let span = of(&ended(&record(), None));
        assert_eq!(span.start_time_unix_nano, 1_795_560_627_123_000_000);
        assert_eq!(span.end_time_unix_nano - span.start_time_unix_nano, 1_500_000_000);
        assert_eq!(span.events[0].time_unix_nano - span.start_time_unix_nano, 250_000_000);
    }

    #[test]
    fn no_sentence_and_no_name_of_a_role_is_told() {
        assert!(!format!("{:?}", of(&ended(&record(), None))).contains("CANARY"));
    }
}
