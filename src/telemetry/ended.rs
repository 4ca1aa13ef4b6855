//! What is told of a request: names, numbers and outcomes of its record. Sentences are not among them.

use std::borrow::Cow;
use std::time::Duration;

use super::Parent;
use crate::config::Endpoint;
use crate::record::{Outcome, Record, Usage};
use crate::timings::Timings;

/// A request that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub request_id: [u8; 16],
    pub parent: Option<Parent>,
    pub started_ms: i64,
    pub timings: Timings,
    /// From the request's head to the first byte of the answer's body.
    pub first_byte: Option<Duration>,
    pub operation: Cow<'static, str>,
    /// As it was asked for.
    pub model: String,
    /// The same, where it is a model that is known: metrics must not grow by what clients invent.
    pub known_model: Option<String>,
    pub profile: Option<String>,
    pub region: String,
    /// The host that the request was sent to.
    pub server: Option<Endpoint>,
    pub upstream_request_id: Option<String>,
    pub caller: Option<String>,
    pub streaming: bool,
    pub usage: Usage,
    pub cost_nano_usd: Option<u64>,
    pub service_tier: Option<String>,
    pub status: u16,
    pub attempts: u32,
    pub outcome: Outcome,
    /// The class of a refusal of the daemon's own, or "".
    pub refusal: &'static str,
}

impl Ended {
    /// `server` is the host that it was sent to; `refusal` the class of error with which the daemon has answered itself, or "".
    pub(crate) fn of(
        record: &Record,
        timings: &Timings,
        refusal: &'static str,
        known_model: Option<String>,
        parent: Option<Parent>,
        server: Option<&Endpoint>,
    ) -> Ended {
        Ended {
            request_id: uuid::Uuid::parse_str(&record.request_id).unwrap_or_else(|_| uuid::Uuid::now_v7()).into_bytes(),
            parent,
            started_ms: record.started_ms,
            timings: *timings,
            first_byte: record.first_byte_latency.map(Duration::from_millis),
            operation: record.operation.clone(),
            model: record.model_id.clone(),
            known_model,
            profile: record.inference_profile_used.clone(),
            region: record.destination_region.clone(),
            server: server.cloned(),
            upstream_request_id: record.upstream_request_id.clone(),
            caller: record.caller.clone(),
            streaming: record.streaming,
            usage: record.usage,
            cost_nano_usd: record.cost_nano_usd,
            service_tier: record.service_tier.clone(),
            status: record.status_code,
            attempts: record.attempts,
            outcome: record.outcome,
            refusal,
        }
    }

    /// Whether its span is wanted: the caller's own trace is recorded, or there is none.
    pub(super) fn is_sampled(&self) -> bool {
        self.parent.is_none_or(|parent| parent.is_sampled)
    }

    /// What OpenTelemetry calls the operation; none if it runs no model.
    pub(super) fn gen_ai_operation(&self) -> Option<&'static str> {
        match &*self.operation {
            "Converse" | "ConverseStream" | "ChatCompletions" | "Responses" | "OpenAICompactResponse" | "Messages" => {
                Some("chat")
            }
            "InvokeModel" | "InvokeModelWithResponseStream" | "StartAsyncInvoke" => Some(by_model(&self.model)),
            _ => None,
        }
    }

    /// What OpenTelemetry calls the error with which it ended: the class of error, the status, or how it ended.
    pub(super) fn error_type(&self) -> Option<String> {
        match self.outcome {
            Outcome::Completed => None,
            _ if !self.refusal.is_empty() => Some(self.refusal.to_owned()),
            Outcome::UpstreamError if self.status >= 400 => Some(self.status.to_string()),
            outcome => Some(outcome.as_str().to_owned()),
        }
    }

    /// All tokens of the input. Unlike AWS, OpenTelemetry counts those of the prompt cache among them.
    pub(super) fn input_tokens(&self) -> Option<u64> {
        let Usage { input_tokens, cache_read_tokens, cache_write_tokens, .. } = self.usage;
        let parts = [input_tokens, cache_read_tokens, cache_write_tokens];
        input_tokens.map(|_| parts.into_iter().flatten().fold(0, u64::saturating_add))
    }
}

/// InvokeModel takes what the model takes; the names of models that do not chat tell it.
fn by_model(model: &str) -> &'static str {
    let has = |words: &[&str]| words.iter().any(|word| model.contains(word));
    if has(&["embed"]) {
        "embeddings"
    } else if has(&["image", "canvas", "reel", "stability.", "video"]) {
        "generate_content"
    } else {
        "chat"
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::telemetry) fn ended(record: &Record, parent: Option<Parent>) -> Ended {
        let timings = Timings { whole: Duration::from_millis(1500), ..Timings::default() };
        Ended::of(record, &timings, "", Some("known".into()), parent, Some(&Endpoint::https("host.test")))
    }

    #[test]
    fn operations_have_the_names_of_opentelemetry() {
        for (operation, model, expected) in [
            ("Converse", "amazon.nova-lite-v1:0", Some("chat")),
            ("InvokeModel", "us.anthropic.claude-sonnet-4-6", Some("chat")),
            ("InvokeModel", "amazon.titan-embed-text-v2:0", Some("embeddings")),
            ("InvokeModel", "amazon.nova-canvas-v1:0", Some("generate_content")),
            ("StartAsyncInvoke", "amazon.nova-reel-v1:1", Some("generate_content")),
            ("CountTokens", "amazon.nova-lite-v1:0", None),
            ("ListFoundationModels", "", None),
            ("Unknown", "", None),
        ] {
            let record = Record { operation: operation.into(), model_id: model.into(), ..Record::default() };
            assert_eq!(ended(&record, None).gen_ai_operation(), expected, "{operation} {model}");
        }
    }

    #[test]
    fn an_error_has_a_type_and_an_answer_has_none() {
        let of = |outcome, status_code| Record { outcome, status_code, ..Record::default() };
        let kind = |outcome, status| ended(&of(outcome, status), None).error_type();
        assert_eq!(kind(Outcome::Completed, 200), None);
        assert_eq!(kind(Outcome::UpstreamError, 429).as_deref(), Some("429"));
        assert_eq!(kind(Outcome::UpstreamError, 200).as_deref(), Some("upstream_error"));
        assert_eq!(kind(Outcome::ClientDisconnected, 499).as_deref(), Some("client_disconnected"));
        let refused = Ended { refusal: "AccessDeniedException", ..ended(&of(Outcome::Refused, 403), None) };
        assert_eq!(refused.error_type().as_deref(), Some("AccessDeniedException"));
    }

    #[test]
    fn the_prompt_cache_is_part_of_the_input() {
        let tokens = |input_tokens, cache_read_tokens, cache_write_tokens| {
            let usage = Usage { input_tokens, cache_read_tokens, cache_write_tokens, ..Usage::default() };
            ended(&Record { usage, ..Record::default() }, None).input_tokens()
        };
        assert_eq!(tokens(Some(5), Some(11), Some(13)), Some(29));
        assert_eq!(tokens(Some(5), None, None), Some(5));
        assert_eq!(tokens(None, Some(11), None), None, "a part is not the whole");
    }
}
