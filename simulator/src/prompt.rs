//! The stand-in's "thinking": an answer that follows from the prompt alone, so that a direct call and one through the
//! daemon can be compared byte for byte. Words in a prompt direct it:
//! `repeat N` (an answer of N bytes), `events N` (N pieces), `pace MS` (between events), `think MS` (before the first byte),
//! `cached N` (OpenAI: N tokens more of the input, read from the cache).

use std::time::Duration;

use serde_json::Value;

/// An answer in pieces, one piece a streamed event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) pieces: Vec<String>,
    pub(crate) input_tokens: u64,
    /// Tokens of the input beside those, read from the cache.
    pub(crate) cached: u64,
    /// Whether `max_tokens` cut it.
    pub(crate) cut: bool,
    pub(crate) pace: Duration,
    pub(crate) think: Duration,
}

impl Answer {
    /// Answers `prompt`; `whole` is all the text the model reads, for counting.
    pub(crate) fn to(prompt: &str, whole: &str, max_tokens: Option<u64>) -> Answer {
        let directed = |word| directive(prompt, word);
        let mut pieces: Vec<String> = if let Some(bytes) = directed("repeat") {
            filler(usize::try_from(bytes).unwrap_or(usize::MAX))
        } else if let Some(count) = directed("events") {
            (0..count).map(|number| format!("word{number} ")).collect()
        } else {
            let words = prompt.split_whitespace();
            std::iter::once("echo:".to_owned()).chain(words.map(|word| format!(" {word}"))).collect()
        };
        let limit = max_tokens.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
        let cut = pieces.len() > limit;
        pieces.truncate(limit);
        Answer {
            pieces,
            input_tokens: count(whole),
            cached: directed("cached").unwrap_or(0),
            cut,
            pace: Duration::from_millis(directed("pace").unwrap_or(0)),
            think: Duration::from_millis(directed("think").unwrap_or(0)),
        }
    }

    pub(crate) fn text(&self) -> String {
        self.pieces.concat()
    }

    pub(crate) fn output_tokens(&self) -> u64 {
        self.pieces.len() as u64
    }

    /// Made up, but always the same for the same answer.
    pub(crate) fn latency(&self) -> u64 {
        self.output_tokens() + 7
    }
}

/// Tokens of a text: its words.
pub(crate) fn count(text: &str) -> u64 {
    (text.split_whitespace().count() as u64).max(1)
}

/// No answer may be larger than this, whatever a prompt asks.
const MAX_DIRECTED: u64 = 64 * 1024 * 1024;

fn directive(prompt: &str, wanted: &str) -> Option<u64> {
    let mut words = prompt.split_whitespace();
    while let Some(word) = words.next() {
        if word == wanted {
            return words.next()?.parse().ok().map(|number: u64| number.min(MAX_DIRECTED));
        }
    }
    None
}

fn filler(bytes: usize) -> Vec<String> {
    const PIECE: usize = 4096;
    (0..bytes).step_by(PIECE).map(|start| "x".repeat(PIECE.min(bytes - start))).collect()
}

/// All the text in a JSON value, under keys that hold text, joined by spaces. What is not text (images) is not counted.
pub(crate) fn all_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(all_text).filter(|text| !text.is_empty()).collect::<Vec<_>>().join(" "),
        Value::Object(members) => members
            .iter()
            .filter(|(name, value)| {
                matches!(
                    name.as_str(),
                    "text"
                        | "content"
                        | "toolResult"
                        | "json"
                        | "input"
                        | "toolUse"
                        | "output"
                        | "guardContent"
                        | "arguments"
                ) && !value.is_number()
            })
            .map(|(_, value)| all_text(value))
            .filter(|text| !text.is_empty())
            .collect::<Vec<_>>()
            .join(" "),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_follow_the_prompt() {
        assert_eq!(Answer::to("hello there", "hello there", None).text(), "echo: hello there");
        let cut = Answer::to("a b c", "a b c", Some(2));
        assert_eq!((cut.text().as_str(), cut.cut), ("echo: a", true));
        assert_eq!(Answer::to("repeat 10000", "repeat 10000", None).text().len(), 10_000);
        assert_eq!(Answer::to("events 20 pace 50", "", None).pieces.len(), 20);
    }
}
