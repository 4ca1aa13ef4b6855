//! Token counts under all the names that vendors give them. What is not there is unknown, never 0.

use serde_json::Value;

use crate::record::Usage;

impl Usage {
    /// Later words replace earlier ones; silence replaces nothing.
    pub(crate) fn merge(&mut self, later: Usage) {
        self.input_tokens = later.input_tokens.or(self.input_tokens);
        self.output_tokens = later.output_tokens.or(self.output_tokens);
        self.cache_read_tokens = later.cache_read_tokens.or(self.cache_read_tokens);
        self.cache_write_tokens = later.cache_write_tokens.or(self.cache_write_tokens);
    }

    pub(crate) fn is_empty(&self) -> bool {
        *self == Usage::default()
    }
}

/// From the headers of InvokeModel's answer.
pub fn of_headers(headers: &http::HeaderMap) -> Usage {
    let count = |name: &str| headers.get(name)?.to_str().ok()?.trim().parse().ok();
    Usage {
        input_tokens: count("x-amzn-bedrock-input-token-count"),
        output_tokens: count("x-amzn-bedrock-output-token-count"),
        cache_read_tokens: count("x-amzn-bedrock-cache-read-input-token-count"),
        cache_write_tokens: count("x-amzn-bedrock-cache-write-input-token-count"),
    }
}

/// From a `usage` object (Converse, Anthropic, Amazon Nova, OpenAI, Mistral) or Bedrock's invocation metrics.
pub fn of_object(usage: &Value) -> Usage {
    let count = |names: &[&str]| names.iter().find_map(|name| usage.get(name)?.as_u64());
    let detail = |name: &str| usage.get(name)?.get("cached_tokens")?.as_u64();
    Usage {
        input_tokens: count(&["inputTokens", "input_tokens", "prompt_tokens", "inputTokenCount"]),
        output_tokens: count(&["outputTokens", "output_tokens", "completion_tokens", "outputTokenCount"]),
        cache_read_tokens: count(&["cacheReadInputTokens", "cacheReadInputTokenCount", "cache_read_input_tokens"])
            .or_else(|| detail("prompt_tokens_details"))
            .or_else(|| detail("input_tokens_details")),
        cache_write_tokens: count(&[
            "cacheWriteInputTokens",
            "cacheWriteInputTokenCount",
            "cache_creation_input_tokens",
        ]),
    }
}

/// From a whole answer or stream event: `usage` at the top, in `message` (Anthropic's first event), in `response`
/// (OpenAI's last), Bedrock's invocation metrics, or the counts that Llama and Titan put at the top.
pub fn of_answer(answer: &Value) -> Option<Usage> {
    let mut usage = Usage::default();
    for counts in [
        &answer["usage"],
        &answer["message"]["usage"],
        &answer["response"]["usage"],
        &answer["amazon-bedrock-invocationMetrics"],
    ] {
        if counts.is_object() {
            usage.merge(of_object(counts));
        }
    }
    let count = |name: &str| answer.get(name).and_then(Value::as_u64);
    usage.merge(Usage {
        input_tokens: count("prompt_token_count").or_else(|| count("inputTextTokenCount")),
        output_tokens: count("generation_token_count"),
        ..Usage::default()
    });
    (!usage.is_empty()).then_some(usage)
}

/// Keys at the top of an answer that `of_answer` looks at.
pub const TOP_LEVEL_KEYS: [&str; 5] = [
    "usage",
    "prompt_token_count",
    "generation_token_count",
    "inputTextTokenCount",
    "amazon-bedrock-invocationMetrics",
];
