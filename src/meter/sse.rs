//! Server-sent events of the OpenAI and Anthropic shapes, read from a copy of the passing bytes.

use std::sync::LazyLock;

use memchr::memmem::Finder;

use super::streamed::Streamed;
use super::value::Value;
use super::{Ending, Metered, usage};
use crate::record::Usage;
use crate::upstream::answer::word;

/// A line longer than this passes unread.
const MAX_LINE: usize = 1024 * 1024;

/// What stands in events that say more than text.
static TELLING: LazyLock<[Finder<'static>; 5]> =
    LazyLock::new(|| ["\"usage\"", "invocationMetrics", "\"error\"", "message_stop", "\"response."].map(Finder::new));

/// Follows one stream.
#[derive(Debug, Default)]
pub(crate) struct ServerSentEvents {
    line: Vec<u8>,
    skipping: bool,
    usage: Usage,
    service_tier: Option<String>,
    streamed: Streamed,
    exception: Option<String>,
    /// The event with which streams of this kind end has come.
    has_ended: bool,
}

impl ServerSentEvents {
    pub(crate) fn feed(&mut self, mut data: &[u8]) {
        while let Some(end) = memchr::memchr(b'\n', data) {
            let (part, rest) = data.split_at(end);
            data = &rest[1..];
            if self.line.is_empty() && !self.skipping {
                self.read(part);
            } else {
                self.hold(part);
                let line = std::mem::take(&mut self.line);
                self.read(&line);
            }
            self.skipping = false;
        }
        self.hold(data);
    }

    fn hold(&mut self, part: &[u8]) {
        if self.line.len() + part.len() > MAX_LINE {
            self.skipping = true;
            self.line = Vec::new();
        } else if !self.skipping {
            self.line.extend_from_slice(part);
        }
    }

    fn read(&mut self, line: &[u8]) {
        let data = line.strip_prefix(b"data:").filter(|_| line.len() <= MAX_LINE);
        let Some(data) = data.map(<[u8]>::trim_ascii) else { return };
        if data == b"[DONE]" {
            self.has_ended = true;
            return;
        }
        let names_tier = self.streamed.event(data);
        // OpenAI's chunks repeat the tier, each of them.
        let tells_tier = names_tier && self.service_tier.is_none();
        if !tells_tier && TELLING.iter().all(|word| word.find(data).is_none()) {
            return;
        }
        let Ok(event) = serde_json::from_slice::<Value<'_>>(data) else { return };
        if let Some(usage) = usage::of_answer(&event) {
            if usage.output_tokens.is_some() {
                self.streamed.counted();
            }
            self.usage.merge(usage);
        }
        self.service_tier = usage::tier_of(&event).or(self.service_tier.take());
        let ends = ["message_stop", "response.completed", "response.incomplete", "response.failed"];
        self.has_ended |= event.get("type").as_str().is_some_and(|kind| ends.contains(&kind));
        let error = event.get("error");
        if error.is_object() {
            let kind = error.get("type").as_str().or_else(|| error.get("code").as_str()).unwrap_or("error");
            self.exception = Some(word(kind));
        }
    }

    /// What the stream said, up to where it came.
    pub(crate) fn finish(mut self) -> Metered {
        let line = std::mem::take(&mut self.line);
        self.read(&line);
        let ending = if self.has_ended || self.exception.is_some() {
            Ending::Whole
        } else if self.skipping || is_cut(&line) {
            Ending::WithinEvent
        } else {
            Ending::WithoutFinalEvent
        };
        let uncounted = self.streamed.tokens();
        Metered { usage: self.usage, service_tier: self.service_tier, exception: self.exception, ending, uncounted }
    }
}

/// A last line without its line end is cut off, unless it holds a whole event.
fn is_cut(line: &[u8]) -> bool {
    let data = line.strip_prefix(b"data:").unwrap_or(b"x");
    !line.is_empty() && serde_json::from_slice::<serde::de::IgnoredAny>(data).is_err()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, piece: usize) -> Metered {
        let mut stream = ServerSentEvents::default();
        for part in text.as_bytes().chunks(piece) {
            stream.feed(part);
        }
        stream.finish()
    }

    #[test]
    fn usage_of_both_shapes_however_the_bytes_are_cut() {
        let anthropic = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":3,\"cache_read_input_tokens\":1,\"output_tokens\":1}}}\n\nevent: message_delta\r\ndata: {\"type\":\"message_delta\",\"usage\":{\"output_tokens\":5}}\r\n\n";
        let openai = "data: {\"choices\":[{\"delta\":{\"content\":\"x\"}}],\"usage\":null}\n\ndata: {\"choices\":[],\"usage\":{\"prompt_tokens\":4,\"completion_tokens\":5,\"prompt_tokens_details\":{\"cached_tokens\":1}}}\n\ndata: [DONE]\n\n";
        let responses = "data: {\"type\":\"response.completed\",\"response\":{\"usage\":{\"input_tokens\":4,\"output_tokens\":5,\"input_tokens_details\":{\"cached_tokens\":1}}}}";
        for text in [anthropic, openai, responses] {
            for piece in 1..text.len() {
                let Metered { usage, exception, .. } = read(text, piece);
                assert_eq!(
                    (usage.input_tokens, usage.output_tokens, usage.cache_read_tokens),
                    (Some(3), Some(5), Some(1)),
                    "{text}"
                );
                assert_eq!(exception, None);
            }
        }
    }

    #[test]
    fn what_streams_after_the_last_count_is_estimated() {
        let start = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":3,\"output_tokens\":4}}}\n\n";
        let word = "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"word \"}}\n\n";
        let counted = "event: message_delta\ndata: {\"type\":\"message_delta\",\"usage\":{\"output_tokens\":5003}}\n\n";
        for piece in [1, 7, 4096] {
            let broken = read(&[start, &word.repeat(5000)].concat(), piece);
            assert_eq!((broken.usage.output_tokens, broken.uncounted), (Some(4), 8334), "25,000 bytes");
            let whole = read(&[start, &word.repeat(5000), counted].concat(), piece);
            assert_eq!((whole.usage.output_tokens, whole.uncounted), (Some(5003), 0));
        }
    }

    #[test]
    fn the_tier_is_found_in_every_shape() {
        for (text, tier) in [
            ("data: {\"choices\":[],\"service_tier\":\"flex\"}\n\ndata: [DONE]\n\n", Some("flex")),
            (
                "data: {\"choices\":[],\"service_tier\":\"auto\"}\n\ndata: {\"service_tier\":\"default\",\"usage\":null}\n\n",
                Some("default"),
            ),
            (
                "data: {\"type\":\"response.created\",\"response\":{\"service_tier\":\"auto\"}}\n\n\
                 data: {\"type\":\"response.completed\",\"response\":{\"service_tier\":\"priority\"}}\n\n",
                Some("priority"),
            ),
            (
                "data: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":3,\"service_tier\":\"standard\"}}}\n\n\
                 data: {\"type\":\"message_delta\",\"usage\":{\"output_tokens\":3}}\n\n",
                Some("standard"),
            ),
            ("data: {\"choices\":[{\"delta\":{\"content\":\"\\\"service_tier\\\":\\\"flex\\\"\"}}]}\n\n", None),
            ("data: {\"choices\":[{\"service_tier\":\"flex\"}]}\n\n", None),
        ] {
            for piece in [1, 3, 1000] {
                assert_eq!(read(text, piece).service_tier.as_deref(), tier, "{text}");
            }
        }
    }

    #[test]
    fn errors_are_named_and_long_lines_pass() {
        let Metered { exception, .. } = read(
            "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"x\"}}\n\n",
            10,
        );
        assert_eq!(exception.as_deref(), Some("overloaded_error"));
        let long =
            format!("data: {{\"usage\":\"{}\"}}\ndata: {{\"usage\":{{\"input_tokens\":1}}}}\n", "x".repeat(MAX_LINE));
        assert_eq!(read(&long, 4096).usage.input_tokens, Some(1));
        let long = format!("data: {{\"usage\":{{\"input_tokens\":1}}{}}}\n", " ".repeat(MAX_LINE));
        for piece in [4096, long.len()] {
            assert!(read(&long, piece).usage.is_empty(), "a long line is unread however it is cut");
        }
    }

    #[test]
    fn the_final_event_is_known() {
        for (text, ending) in [
            ("data: {\"choices\":[]}\n\ndata: [DONE]\n\n", Ending::Whole),
            ("data: {\"choices\":[]}\n\ndata: [DONE]", Ending::Whole),
            ("data: {\"choices\":[{\"delta\":{\"content\":\"[DONE] message_stop\"}}]}\n\n", Ending::WithoutFinalEvent),
            ("event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n", Ending::Whole),
            ("data: {\"type\":\"response.completed\",\"response\":{}}\n\n", Ending::Whole),
            ("data: {\"type\":\"response.created\",\"response\":{}}\n\n", Ending::WithoutFinalEvent),
            ("data: {\"type\":\"content_bl", Ending::WithinEvent),
            ("event: mess", Ending::WithinEvent),
        ] {
            for piece in [1, 3, 1000] {
                assert_eq!(read(text, piece).ending, ending, "{text}");
            }
        }
    }
}
