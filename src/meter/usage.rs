//! Token counts under all the names that vendors give them. What is not there is unknown, never 0.

use serde_json::Value;

/// Counts as far as they are known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tokens {
    pub input: Option<u64>,
    pub output: Option<u64>,
    pub cache_read: Option<u64>,
    pub cache_write: Option<u64>,
}

impl Tokens {
    /// Later words replace earlier ones; silence replaces nothing.
    pub fn merge(&mut self, later: Tokens) {
        self.input = later.input.or(self.input);
        self.output = later.output.or(self.output);
        self.cache_read = later.cache_read.or(self.cache_read);
        self.cache_write = later.cache_write.or(self.cache_write);
    }

    pub fn is_empty(&self) -> bool {
        *self == Tokens::default()
    }
}

impl From<Tokens> for crate::audit::Usage {
    fn from(tokens: Tokens) -> crate::audit::Usage {
        crate::audit::Usage {
            input_tokens: tokens.input,
            output_tokens: tokens.output,
            cache_read_tokens: tokens.cache_read,
            cache_write_tokens: tokens.cache_write,
        }
    }
}

/// From the headers of InvokeModel's answer.
pub fn of_headers(headers: &http::HeaderMap) -> Tokens {
    let count = |name: &str| headers.get(name)?.to_str().ok()?.trim().parse().ok();
    Tokens {
        input: count("x-amzn-bedrock-input-token-count"),
        output: count("x-amzn-bedrock-output-token-count"),
        cache_read: count("x-amzn-bedrock-cache-read-input-token-count"),
        cache_write: count("x-amzn-bedrock-cache-write-input-token-count"),
    }
}

/// From a `usage` object (Converse, Anthropic, Amazon Nova, OpenAI, Mistral) or Bedrock's invocation metrics.
pub fn of_object(usage: &Value) -> Tokens {
    let count = |names: &[&str]| names.iter().find_map(|name| usage.get(name)?.as_u64());
    let detail = |name: &str| usage.get(name)?.get("cached_tokens")?.as_u64();
    Tokens {
        input: count(&["inputTokens", "input_tokens", "prompt_tokens", "inputTokenCount"]),
        output: count(&["outputTokens", "output_tokens", "completion_tokens", "outputTokenCount"]),
        cache_read: count(&["cacheReadInputTokens", "cacheReadInputTokenCount", "cache_read_input_tokens"])
            .or_else(|| detail("prompt_tokens_details"))
            .or_else(|| detail("input_tokens_details")),
        cache_write: count(&["cacheWriteInputTokens", "cacheWriteInputTokenCount", "cache_creation_input_tokens"]),
    }
}

/// From a whole answer or stream event: `usage` at the top, in `message` (Anthropic's first event), in `response` (OpenAI's
/// last), Bedrock's invocation metrics, or the counts that Llama and Titan put at the top.
pub fn of_answer(answer: &Value) -> Option<Tokens> {
    let mut tokens = Tokens::default();
    for usage in [
        &answer["usage"],
        &answer["message"]["usage"],
        &answer["response"]["usage"],
        &answer["amazon-bedrock-invocationMetrics"],
    ] {
        if usage.is_object() {
            tokens.merge(of_object(usage));
        }
    }
    let count = |name: &str| answer.get(name).and_then(Value::as_u64);
    tokens.merge(Tokens {
        input: count("prompt_token_count").or_else(|| count("inputTextTokenCount")),
        output: count("generation_token_count"),
        ..Tokens::default()
    });
    (!tokens.is_empty()).then_some(tokens)
}

/// Keys at the top of an answer that `of_answer` looks at.
pub const TOP_LEVEL_KEYS: [&str; 5] = [
    "usage",
    "prompt_token_count",
    "generation_token_count",
    "inputTextTokenCount",
    "amazon-bedrock-invocationMetrics",
];
