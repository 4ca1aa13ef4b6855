//! A JSON answer of any size, read in passing and in constant memory for the few top-level values that tell usage.

use serde_json::{Map, Value};

use super::Metered;
use super::usage::{self, TOP_LEVEL_KEYS};

/// Longer than any usage object.
const MAX_VALUE: usize = 8 * 1024;
/// Longer than any key of interest.
const MAX_KEY: usize = 64;

/// Follows one JSON document.
#[derive(Debug, Default)]
pub(crate) struct JsonAnswer {
    depth: u32,
    in_string: bool,
    escaped: bool,
    /// At depth 1 the next string is a key.
    expects_key: bool,
    key: Vec<u8>,
    /// The value of a key of interest, as far as it has come.
    value: Option<Vec<u8>>,
    found: Map<String, Value>,
}

impl JsonAnswer {
    pub(crate) fn feed(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            let used = if self.in_string { self.string(data) } else { self.structure(data[0]) };
            data = &data[used..];
        }
    }

    /// Inside a string: up to and with its end or an escape.
    fn string(&mut self, data: &[u8]) -> usize {
        let used = if self.escaped {
            self.escaped = false;
            1
        } else {
            match memchr::memchr2(b'"', b'\\', data) {
                None => data.len(),
                Some(at) => {
                    if data[at] == b'"' {
                        self.in_string = false;
                    } else {
                        self.escaped = true;
                    }
                    at + 1
                }
            }
        };
        if self.depth == 1 && self.expects_key && self.key.len() <= MAX_KEY {
            self.key.extend_from_slice(&data[..used.min(MAX_KEY + 1)]);
        }
        self.keep(&data[..used]);
        used
    }

    fn structure(&mut self, byte: u8) -> usize {
        if self.depth == 1 && matches!(byte, b',' | b'}') {
            self.value_ends();
        }
        match byte {
            b'"' => {
                self.in_string = true;
                if self.depth == 1 && self.expects_key {
                    self.key.clear();
                }
            }
            b'{' | b'[' => {
                self.depth = self.depth.saturating_add(1);
                self.expects_key = self.depth == 1;
            }
            b'}' | b']' => self.depth = self.depth.saturating_sub(1),
            b',' if self.depth == 1 => self.expects_key = true,
            b':' if self.depth == 1 && self.expects_key => {
                self.expects_key = false;
                // The closing quote is part of what was kept.
                let key = self.key.strip_suffix(b"\"").unwrap_or(&self.key);
                if TOP_LEVEL_KEYS.iter().any(|name| name.as_bytes() == key) {
                    self.value = Some(Vec::new());
                }
                return 1;
            }
            _ => {}
        }
        self.keep(&[byte]);
        1
    }

    fn keep(&mut self, data: &[u8]) {
        if let Some(value) = &mut self.value {
            if value.len() + data.len() > MAX_VALUE {
                self.value = None;
            } else {
                value.extend_from_slice(data);
            }
        }
    }

    fn value_ends(&mut self) {
        let Some(value) = self.value.take() else { return };
        let key = self.key.strip_suffix(b"\"").unwrap_or(&self.key);
        if let (Ok(key), Ok(value)) = (std::str::from_utf8(key), serde_json::from_slice(&value)) {
            self.found.insert(key.to_owned(), value);
        }
    }

    pub(crate) fn finish(self) -> Metered {
        let answer = Value::Object(self.found);
        let usage = usage::of_answer(&answer).unwrap_or_default();
        Metered { usage, service_tier: usage::tier_of(&answer), ..Metered::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Usage;

    fn read(text: &str, piece: usize) -> Usage {
        read_all(text, piece).usage
    }

    fn read_all(text: &str, piece: usize) -> Metered {
        let mut answer = JsonAnswer::default();
        for part in text.as_bytes().chunks(piece) {
            answer.feed(part);
        }
        answer.finish()
    }

    #[test]
    fn usage_is_found_wherever_it_stands_and_however_it_is_cut() {
        let converse = r#"{"metrics":{"latencyMs":1},"output":{"message":{"content":[{"text":"a \"usage\": {\"inputTokens\": 99} \\"}],"usage":{"inputTokens":98}}},"usage":{"inputTokens":3,"outputTokens":5,"totalTokens":8,"cacheWriteInputTokens":2},"stopReason":"end_turn"}"#;
        let anthropic = r#"{ "usage" : { "input_tokens": 3, "output_tokens": 5, "cache_creation_input_tokens": 2 } , "content":[]}"#;
        let openai = r#"{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":5},"x":[1,2]}"#;
        for text in [converse, anthropic, openai] {
            for piece in 1..=text.len() {
                let usage = read(text, piece);
                assert_eq!((usage.input_tokens, usage.output_tokens), (Some(3), Some(5)), "{text} cut at {piece}");
            }
        }
        assert_eq!(read(converse, 9).cache_write_tokens, Some(2));
        let llama = r#"{"generation":"x","prompt_token_count":3,"generation_token_count":5,"stop_reason":"stop"}"#;
        assert_eq!((read(llama, 4).input_tokens, read(llama, 4).output_tokens), (Some(3), Some(5)));
    }

    #[test]
    fn the_tier_is_found_in_every_shape() {
        for (text, tier) in [
            (r#"{"serviceTier":{"type":"flex"},"usage":{"inputTokens":1}}"#, Some("flex")),
            (r#"{"usage":{"inputTokens":1},"serviceTier":{"type":"priority"}}"#, Some("priority")),
            (r#"{"id":"x","service_tier":"flex","usage":{"prompt_tokens":1}}"#, Some("flex")),
            (r#"{"usage":{"input_tokens":1,"service_tier":"standard"}}"#, Some("standard")),
            (r#"{"service_tier":"auto"}"#, None),
            (r#"{"service_tier":"Flex"}"#, None),
            (r#"{"service_tier":null,"serviceTier":{"type":7}}"#, None),
            (r#"{"serviceTier":"flex"}"#, None),
            (r#"{"metadata":{"service_tier":"flex"},"content":[{"service_tier":"flex"}]}"#, None),
        ] {
            for piece in [1, 3, 1000] {
                assert_eq!(read_all(text, piece).service_tier.as_deref(), tier, "{text}");
            }
        }
    }

    #[test]
    fn what_is_not_there_stays_unknown() {
        for text in [
            "",
            "[]",
            "null",
            "{}",
            r#"{"usage":null}"#,
            r#"{"a":{"usage":{"inputTokens":1}}}"#,
            r#"[{"usage":{"inputTokens":1}}]"#,
            "}}}}",
            r#"{"usage":{"inputTokens":1"#,
        ] {
            assert!(read(text, 3).is_empty(), "{text}");
        }
        let huge = format!(r#"{{"usage":{{"x":"{}","inputTokens":1}}}}"#, "y".repeat(MAX_VALUE));
        assert!(read(&huge, 100).is_empty());
    }
}
