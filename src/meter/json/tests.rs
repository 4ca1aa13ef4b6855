//! Answers of all shapes, and the walk held against one that jumps over nothing.

use serde_json::{Map, Value};

use super::{JsonAnswer, MAX_KEY, MAX_VALUE, Metered, TOP_LEVEL_KEYS};
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
    let anthropic =
        r#"{ "usage" : { "input_tokens": 3, "output_tokens": 5, "cache_creation_input_tokens": 2 } , "content":[]}"#;
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

/// The same walk without a jump: what each byte means.
#[derive(Default)]
struct ByteByByte {
    depth: u32,
    in_string: bool,
    escaped: bool,
    expects_key: bool,
    key: Vec<u8>,
    value: Option<Vec<u8>>,
    found: Map<String, Value>,
}

impl ByteByByte {
    fn read(text: &[u8]) -> Metered {
        let mut walk = ByteByByte::default();
        text.iter().for_each(|byte| walk.byte(*byte));
        let member = |name: &'static str| Some((name, walk.found.get(name)?.to_string().into_bytes()));
        let found = TOP_LEVEL_KEYS.into_iter().filter_map(member).collect();
        JsonAnswer { found, ..JsonAnswer::default() }.finish()
    }

    fn byte(&mut self, byte: u8) {
        let is_member = self.depth == 1;
        if self.in_string {
            let ends = byte == b'"' && !self.escaped;
            self.escaped = byte == b'\\' && !self.escaped;
            self.in_string = !ends;
            if is_member && self.expects_key && !ends {
                self.key.push(byte);
            }
        } else {
            if is_member && matches!(byte, b',' | b'}') {
                self.value_ends();
            }
            match byte {
                b'"' => {
                    self.in_string = true;
                    if is_member && self.expects_key {
                        self.key.clear();
                    }
                }
                b'{' | b'[' => {
                    self.depth += 1;
                    self.expects_key = self.depth == 1;
                }
                b'}' | b']' => self.depth = self.depth.saturating_sub(1),
                b',' if is_member => self.expects_key = true,
                b':' if is_member && self.expects_key => {
                    self.expects_key = false;
                    if TOP_LEVEL_KEYS.iter().any(|name| name.as_bytes() == self.key) {
                        self.value = Some(Vec::new());
                    }
                    return;
                }
                _ => {}
            }
        }
        if let Some(value) = &mut self.value {
            value.push(byte);
        }
    }

    fn value_ends(&mut self) {
        let Some(value) = self.value.take().filter(|value| value.len() <= MAX_VALUE) else { return };
        if let Ok(value) = serde_json::from_slice(&value) {
            self.found.insert(String::from_utf8(self.key.clone()).unwrap(), value);
        }
    }
}

/// The seeds of the fuzz target, and documents in which much is jumped over.
fn documents() -> Vec<Vec<u8>> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds/json_answer");
    let seeds = std::fs::read_dir(folder).unwrap().map(|seed| std::fs::read(seed.unwrap().path()).unwrap());
    let numbers = "-0.0123456,".repeat(20);
    let own = [
        format!(r#"{{"embedding":[{numbers}0.5],"inputTextTokenCount":7}}"#),
        format!(r#"{{"embeddings":[[{numbers}1],[{numbers}2]],"usage":{{"prompt_tokens":9}},"x":[{numbers}1]}}"#),
        format!(r#"[{numbers}{{"usage":{{"inputTokens":1}}}},"usage":{{"inputTokens":2}}]"#),
        format!(r#"{{"usage":{{"inputTokens":3,"x":[{numbers}"\\\"",{{}}]}},"{}":1}}"#, "k".repeat(MAX_KEY + 2)),
    ];
    seeds.chain(own.map(String::into_bytes)).collect()
}

#[test]
fn no_jump_and_no_cut_changes_what_an_answer_says() {
    let documents = documents();
    let read = |text: &[u8], cut: &dyn Fn(&mut JsonAnswer)| {
        let mut answer = JsonAnswer::default();
        cut(&mut answer);
        assert_eq!(answer.finish(), ByteByByte::read(text), "{}", text.escape_ascii());
    };
    let pieces =
        |text: &[u8], length: usize| read(text, &|answer| text.chunks(length).for_each(|part| answer.feed(part)));
    for text in &documents {
        for at in 0..=text.len() {
            read(text, &|answer| [&text[..at], &text[at..]].into_iter().for_each(|part| answer.feed(part)));
        }
        (1..=text.len()).for_each(|length| pieces(text, length));
    }
    // xorshift64: the same sequence on every run.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut below = |bound: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % bound.max(1) as u64).unwrap()
    };
    for _ in 0..5_000 {
        let mut text = documents[below(documents.len())].clone();
        for _ in 0..=below(3) {
            let (at, byte) = (below(text.len()), b"\"\\{}[]:, 7"[below(10)]);
            match below(3) {
                0 => text[at] = byte,
                1 => text.insert(at, byte),
                _ => drop(text.remove(at)),
            }
            if text.is_empty() {
                break;
            }
        }
        [1, 2, 3, 7, 8, 9, 16, 17, 24, 25, 1_000_000].into_iter().for_each(|length| pieces(&text, length));
    }
}
