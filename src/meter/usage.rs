//! Token counts under all the names that vendors give them. What is not there is unknown, never 0.

use http::header::HeaderName;

use super::value::Value;
use crate::record::Usage;
use crate::service_tier;

impl Usage {
    /// Later words replace earlier ones; silence replaces nothing. A later input that is the earlier one with its cached
    /// part, which the later word does not tell apart, says nothing new.
    pub(crate) fn merge(&mut self, later: Usage) {
        let cached = self.cache_read_tokens.filter(|_| later.cache_read_tokens.is_none());
        let with_cached = self.input_tokens.zip(cached).map(|(input, cached)| input.saturating_add(cached));
        if later.input_tokens != with_cached {
            self.input_tokens = later.input_tokens.or(self.input_tokens);
        }
        self.output_tokens = later.output_tokens.or(self.output_tokens);
        self.cache_read_tokens = later.cache_read_tokens.or(self.cache_read_tokens);
        self.cache_write_tokens = later.cache_write_tokens.or(self.cache_write_tokens);
        self.cache_write_1h_tokens = later.cache_write_1h_tokens.or(self.cache_write_1h_tokens);
    }

    pub(crate) fn is_empty(&self) -> bool {
        *self == Usage::default()
    }
}

/// From the headers of InvokeModel's answer.
pub(crate) fn of_headers(headers: &http::HeaderMap) -> Usage {
    let count = |name: HeaderName| of_text(headers.get(name)?.to_str().ok()?.trim());
    Usage {
        input_tokens: count(const { HeaderName::from_static("x-amzn-bedrock-input-token-count") }),
        output_tokens: count(const { HeaderName::from_static("x-amzn-bedrock-output-token-count") }),
        cache_read_tokens: count(const { HeaderName::from_static("x-amzn-bedrock-cache-read-input-token-count") }),
        cache_write_tokens: count(const { HeaderName::from_static("x-amzn-bedrock-cache-write-input-token-count") }),
        cache_write_1h_tokens: None,
    }
}

/// From a `usage` object (Converse, Anthropic, Amazon Nova, OpenAI, Mistral) or Bedrock's invocation metrics.
///
/// OpenAI counts cached tokens among those of the input and tells them apart in `…_tokens_details`; they are taken out
/// here. All others count them beside the input.
pub(super) fn of_object(usage: &Value<'_>) -> Usage {
    let count = |names: &[&str]| names.iter().find_map(|name| usage.get(name).count());
    let included = |name: &str| usage.get(name).get("cached_tokens").count();
    let beside = count(&["cacheReadInputTokens", "cacheReadInputTokenCount", "cache_read_input_tokens"]);
    let included =
        included("prompt_tokens_details").or_else(|| included("input_tokens_details").filter(|_| beside.is_none()));
    let written = written(usage);
    let input = count(&["inputTokens", "input_tokens", "prompt_tokens", "inputTokenCount"]);
    Usage {
        input_tokens: input.map(|input| input.saturating_sub(included.unwrap_or(0))),
        output_tokens: count(&["outputTokens", "output_tokens", "completion_tokens", "outputTokenCount"]),
        cache_read_tokens: beside.or(included),
        cache_write_tokens: count(&[
            "cacheWriteInputTokens",
            "cacheWriteInputTokenCount",
            "cache_creation_input_tokens",
        ])
        .or(written.map(|written| written.all)),
        cache_write_1h_tokens: written.map(|written| written.for_an_hour),
    }
}

/// What was written to the cache, by how long it is kept.
#[derive(Debug, Clone, Copy)]
struct Written {
    all: u64,
    for_an_hour: u64,
}

/// Converse has a list of `cacheDetails`, Anthropic an object `cache_creation`.
fn written(usage: &Value<'_>) -> Option<Written> {
    let parts: Vec<(bool, u64)> = match (usage.get("cacheDetails"), usage.get("cache_creation")) {
        (Value::List(details), _) => {
            let part =
                |part: &Value<'_>| Some((part.get("ttl").as_str() == Some("1h"), part.get("inputTokens").count()?));
            details.iter().filter_map(part).collect()
        }
        (_, creation) => [("ephemeral_5m_input_tokens", false), ("ephemeral_1h_input_tokens", true)]
            .into_iter()
            .filter_map(|(name, hour)| Some((hour, creation.get(name).count()?)))
            .collect(),
    };
    let sum = |wanted: fn(bool) -> bool| {
        parts.iter().filter(|(hour, _)| wanted(*hour)).fold(0u64, |sum, (_, tokens)| sum.saturating_add(*tokens))
    };
    (!parts.is_empty()).then(|| Written { all: sum(|_| true), for_an_hour: sum(|hour| hour) })
}

/// From a whole answer or stream event: `usage` at the top, in `message` (Anthropic's first event), in `response`
/// (OpenAI's last), Bedrock's invocation metrics, or the counts that Llama and Titan put at the top.
pub(super) fn of_answer(answer: &Value<'_>) -> Option<Usage> {
    let mut usage = Usage::default();
    for counts in [
        answer.get("usage"),
        answer.get("message").get("usage"),
        answer.get("response").get("usage"),
        answer.get("amazon-bedrock-invocationMetrics"),
    ] {
        if counts.is_object() {
            usage.merge(of_object(counts));
        }
    }
    let count = |name: &str| answer.get(name).count();
    usage.merge(Usage {
        input_tokens: count("prompt_token_count").or_else(|| count("inputTextTokenCount")),
        output_tokens: count("generation_token_count"),
        ..Usage::default()
    });
    (!usage.is_empty()).then_some(usage)
}

/// From an event of Nova Sonic: what the conversation has used so far.
pub(super) fn of_conversation(event: &Value<'_>) -> Usage {
    let totals = event.get("event").get("usageEvent");
    let count = |name: &str| totals.get(name).count();
    Usage { input_tokens: count("totalInputTokens"), output_tokens: count("totalOutputTokens"), ..Usage::default() }
}

/// The service tier that a whole answer or stream event reports: Converse's, OpenAI's (in `response` where that holds the
/// answer), Anthropic's (in `message` at a stream's start).
pub(super) fn tier_of(answer: &Value<'_>) -> Option<String> {
    [
        answer.get("serviceTier").get("type"),
        answer.get("service_tier"),
        answer.get("response").get("service_tier"),
        answer.get("usage").get("service_tier"),
        answer.get("message").get("usage").get("service_tier"),
    ]
    .into_iter()
    .find_map(|tier| service_tier::served(tier.as_str()?))
    .map(str::to_owned)
}

/// The count that a header holds, which has whole numbers.
fn of_text(text: &str) -> Option<u64> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().unwrap_or(u64::MAX))
}

/// Keys at the top of an answer that `of_answer` and `tier_of` look at.
pub(crate) const TOP_LEVEL_KEYS: [&str; 7] = [
    "serviceTier",
    "service_tier",
    "usage",
    "prompt_token_count",
    "generation_token_count",
    "inputTextTokenCount",
    "amazon-bedrock-invocationMetrics",
];

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of_object(usage: &serde_json::Value) -> Usage {
        super::of_object(&serde_json::from_str(&usage.to_string()).unwrap())
    }

    fn of_answer(answer: &str) -> Option<Usage> {
        super::of_answer(&serde_json::from_str(answer).unwrap())
    }

    fn counts(usage: Usage) -> [Option<u64>; 4] {
        [usage.input_tokens, usage.output_tokens, usage.cache_read_tokens, usage.cache_write_tokens]
    }

    #[test]
    fn cached_tokens_are_no_input_whoever_counts_them() {
        for (what, usage, expected) in [
            (
                "chat completions",
                json!({"prompt_tokens": 1000, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 900}}),
                [Some(100), Some(5), Some(900), None],
            ),
            (
                "chat completions without a cache",
                json!({"prompt_tokens": 1000, "completion_tokens": 5, "prompt_tokens_details": null}),
                [Some(1000), Some(5), None, None],
            ),
            (
                "responses",
                json!({"input_tokens": 1000, "output_tokens": 5, "input_tokens_details": {"cached_tokens": 900}}),
                [Some(100), Some(5), Some(900), None],
            ),
            (
                "more than all of it",
                json!({"prompt_tokens": 10, "prompt_tokens_details": {"cached_tokens": 11}}),
                [Some(0), None, Some(11), None],
            ),
            (
                "Anthropic",
                json!({"input_tokens": 100, "cache_read_input_tokens": 900, "cache_creation_input_tokens": 7, "output_tokens": 5}),
                [Some(100), Some(5), Some(900), Some(7)],
            ),
            (
                "Converse",
                json!({"inputTokens": 100, "outputTokens": 5, "cacheReadInputTokens": 900, "cacheWriteInputTokens": 7}),
                [Some(100), Some(5), Some(900), Some(7)],
            ),
        ] {
            assert_eq!(counts(of_object(&usage)), expected, "{what}");
        }
    }

    #[test]
    fn cache_writes_are_told_apart_by_how_long_they_are_kept() {
        for (usage, expected) in [
            (
                json!({"inputTokens": 1, "cacheWriteInputTokens": 30, "cacheDetails": [
                    {"ttl": "5m", "inputTokens": 10}, {"ttl": "1h", "inputTokens": 20}]}),
                (Some(30), Some(20)),
            ),
            (json!({"inputTokens": 1, "cacheDetails": [{"ttl": "1h", "inputTokens": 20}]}), (Some(20), Some(20))),
            (json!({"inputTokens": 1, "cacheWriteInputTokens": 0, "cacheDetails": []}), (Some(0), None)),
            (
                json!({"input_tokens": 1, "cache_creation_input_tokens": 30, "cache_creation": {
                    "ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 20}}),
                (Some(30), Some(20)),
            ),
            (json!({"input_tokens": 1, "cache_creation": {"ephemeral_5m_input_tokens": 10}}), (Some(10), Some(0))),
            (json!({"input_tokens": 1, "cache_creation_input_tokens": 30, "cache_creation": null}), (Some(30), None)),
        ] {
            let read = of_object(&usage);
            assert_eq!((read.cache_write_tokens, read.cache_write_1h_tokens), expected, "{usage}");
        }
    }

    /// What no count can be is ignored, and no number makes anything overflow.
    #[test]
    fn strange_numbers_are_taken_for_what_they_can_mean() {
        let cases = [
            ("-1", None),
            ("-1.5", None),
            ("\"7\"", None),
            ("null", None),
            ("true", None),
            ("[7]", None),
            ("{\"a\":7}", None),
            ("0", Some(0)),
            ("7.0", Some(7)),
            ("6.5", Some(7)),
            ("1e3", Some(1000)),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", Some(u64::MAX)),
            ("1e300", Some(u64::MAX)),
        ];
        for (written, expected) in cases {
            for (shape, places) in [
                (
                    r#"{"usage":{"inputTokens":N,"outputTokens":N,"cacheReadInputTokens":N,"cacheWriteInputTokens":N}}"#,
                    [true; 4],
                ),
                (
                    r#"{"message":{"usage":{"input_tokens":N,"output_tokens":N,"cache_read_input_tokens":N,"cache_creation_input_tokens":N}}}"#,
                    [true; 4],
                ),
                (r#"{"usage":{"prompt_tokens":N,"completion_tokens":N}}"#, [true, true, false, false]),
                (r#"{"response":{"usage":{"input_tokens":N,"output_tokens":N}}}"#, [true, true, false, false]),
                (
                    r#"{"amazon-bedrock-invocationMetrics":{"inputTokenCount":N,"outputTokenCount":N,"cacheReadInputTokenCount":N,"cacheWriteInputTokenCount":N}}"#,
                    [true; 4],
                ),
                (r#"{"prompt_token_count":N,"generation_token_count":N}"#, [true, true, false, false]),
                (r#"{"inputTextTokenCount":N}"#, [true, false, false, false]),
                (
                    r#"{"usage":{"cacheDetails":[{"ttl":"5m","inputTokens":N},{"ttl":"1h","inputTokens":N}]}}"#,
                    [false, false, false, false],
                ),
            ] {
                let read = of_answer(&shape.replace('N', written)).unwrap_or_default();
                if shape.contains("cacheDetails") {
                    let both = expected.map(|one: u64| one.saturating_mul(2));
                    assert_eq!((read.cache_write_tokens, read.cache_write_1h_tokens), (both, expected), "{written}");
                } else {
                    assert_eq!(counts(read), places.map(|there| expected.filter(|_| there)), "{written} in {shape}");
                }
            }
            let openai = r#"{"usage":{"prompt_tokens":9,"prompt_tokens_details":{"cached_tokens":N}}}"#;
            let read = of_answer(&openai.replace('N', written)).unwrap();
            let input = 9u64.saturating_sub(expected.unwrap_or(0));
            assert_eq!((read.input_tokens, read.cache_read_tokens), (Some(input), expected), "{written}");
        }
    }

    #[test]
    fn headers_hold_whole_numbers() {
        for (text, expected) in [
            ("7", Some(7)),
            (" 7 ", Some(7)),
            ("18446744073709551616", Some(u64::MAX)),
            ("-1", None),
            ("+1", None),
            ("1.5", None),
            ("seven", None),
            ("", None),
        ] {
            let mut headers = http::HeaderMap::new();
            headers.insert("x-amzn-bedrock-input-token-count", text.parse().unwrap());
            assert_eq!(of_headers(&headers).input_tokens, expected, "{text:?}");
        }
    }

    #[test]
    fn a_count_with_the_cached_part_does_not_hide_the_one_without() {
        let body = json!({
            "usage": {"prompt_tokens": 1000, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 900}},
            "amazon-bedrock-invocationMetrics": {"inputTokenCount": 1000, "outputTokenCount": 5},
        });
        assert_eq!(counts(of_answer(&body.to_string()).unwrap()), [Some(100), Some(5), Some(900), None]);
        let mut anthropic = of_object(&json!({"input_tokens": 100, "cache_read_input_tokens": 900}));
        anthropic.merge(of_object(&json!({"input_tokens": 130, "cache_read_input_tokens": 910, "output_tokens": 5})));
        assert_eq!(counts(anthropic), [Some(130), Some(5), Some(910), None], "counts that grow are taken");
    }
}
