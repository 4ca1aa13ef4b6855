//! Amazon event streams, read from a copy of the passing bytes: which event each frame is, and the few payloads that matter.

use std::sync::LazyLock;

use memchr::memmem::Finder;

use super::streamed::{Streamed, for_each_text_member};
use super::value::Value;
use super::{Ending, Metered, usage};
use crate::eventstream::{Header, PRELUDE, Prelude, STRING, TRAILER, header};
use crate::record::Usage;
use crate::upstream::answer::word;

/// Frames of usage and exceptions are small; what is longer passes unread.
const MAX_FRAME: usize = 1024 * 1024;
/// So much memory is kept for the next frame that comes in pieces.
const KEPT: usize = 4 * 1024;

static USAGE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\"usage\""));
static USAGE_EVENT: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\"usageEvent\""));

/// Follows one stream.
#[derive(Debug, Default)]
pub(crate) struct EventStream {
    /// The beginning of a frame, as far as it has come. Each byte is copied here once, however small the pieces are.
    partial: Vec<u8>,
    /// Bytes of a frame too long to be read that are still to come.
    skip: usize,
    /// The payload of the last `chunk`, in which InvokeModelWithResponseStream puts its metrics. A copy: a part of the bytes
    /// that pass would keep all that were read with it, and the connection could not read into the same memory again.
    last_chunk: Vec<u8>,
    /// The chunk that was decoded last; kept for its memory.
    decoded: Vec<u8>,
    usage: Usage,
    service_tier: Option<String>,
    streamed: Streamed,
    exception: Option<String>,
    /// The bytes are no event stream, so nothing more is learned from them.
    lost: bool,
    /// The event with which streams of this kind end has come.
    has_ended: bool,
    /// The answer's half of a bidirectional stream. It has no final event; it may be speech; and it tells what the whole
    /// conversation has used so far, again and again.
    is_bidirectional: bool,
}

impl EventStream {
    /// Of a bidirectional stream.
    pub(crate) fn bidirectional() -> EventStream {
        EventStream { is_bidirectional: true, ..EventStream::default() }
    }

    /// No event has begun that has not ended, as far as is known.
    pub(crate) fn is_between_events(&self) -> bool {
        self.skip == 0 && self.partial.is_empty() && !self.lost
    }

    pub(crate) fn feed(&mut self, mut data: &[u8]) {
        let skipped = self.skip.min(data.len());
        self.skip -= skipped;
        data = &data[skipped..];
        if self.lost || data.is_empty() {
            return;
        }
        if !self.partial.is_empty() {
            data = self.complete(data);
        }
        if self.partial.is_empty() {
            self.frames(data);
        }
    }

    /// Adds to the frame that has begun what belongs to it, which is all of `data` if that does not end it. Returns the rest.
    fn complete<'a>(&mut self, data: &'a [u8]) -> &'a [u8] {
        let data = self.fill(data, PRELUDE);
        if self.partial.len() < PRELUDE {
            return data;
        }
        match Prelude::of(&self.partial) {
            None => {
                self.lost = true;
                self.partial = Vec::new();
                &[]
            }
            // Only the prelude can be here: a long frame is not collected.
            Some(Prelude { total, .. }) if total > MAX_FRAME => {
                let here = (total - self.partial.len()).min(data.len());
                self.skip = total - self.partial.len() - here;
                self.partial.clear();
                &data[here..]
            }
            Some(Prelude { total, headers }) => {
                let data = self.fill(data, total);
                if self.partial.len() == total {
                    let mut frame = std::mem::take(&mut self.partial);
                    self.frame(&frame, headers);
                    frame.clear();
                    frame.shrink_to(KEPT);
                    self.partial = frame;
                }
                data
            }
        }
    }

    fn fill<'a>(&mut self, data: &'a [u8], length: usize) -> &'a [u8] {
        let (wanted, rest) = data.split_at(length.saturating_sub(self.partial.len()).min(data.len()));
        self.partial.extend_from_slice(wanted);
        rest
    }

    fn frames(&mut self, mut data: &[u8]) {
        while data.len() >= PRELUDE {
            let Some(Prelude { total, headers }) = Prelude::of(data) else {
                self.lost = true;
                return;
            };
            if total > MAX_FRAME {
                let here = total.min(data.len());
                self.skip = total - here;
                data = &data[here..];
                continue;
            }
            let Some((frame, rest)) = data.split_at_checked(total) else { break };
            self.frame(frame, headers);
            data = rest;
        }
        self.partial.extend_from_slice(data);
    }

    fn frame(&mut self, frame: &[u8], headers: usize) {
        let payload = &frame[PRELUDE + headers..frame.len() - TRAILER];
        match Event::of(&frame[PRELUDE..PRELUDE + headers]) {
            Event::Chunk => self.chunk(payload),
            Event::Metadata => {
                self.has_ended = true;
                let json: Value<'_> = serde_json::from_slice(payload).unwrap_or_default();
                self.merge(usage::of_object(json.get("usage")));
                self.service_tier = usage::tier_of(&json).or(self.service_tier.take());
            }
            Event::Exception(name) => self.exception = Some(name),
            Event::Other => {
                self.streamed.event(payload);
            }
        }
    }

    /// A chunk holds an event of the model's own, which may tell usage long before the last one tells Bedrock's metrics.
    fn chunk(&mut self, payload: &[u8]) {
        use base64::Engine;
        let mut encoded = &b""[..];
        for_each_text_member(payload, |key, value| {
            if key == b"bytes" {
                encoded = value;
            }
        });
        let mut decoded = std::mem::take(&mut self.decoded);
        decoded.clear();
        let is_read = base64::engine::general_purpose::STANDARD.decode_vec(encoded, &mut decoded).is_ok();
        if self.is_bidirectional {
            if is_read && USAGE_EVENT.find(&decoded).is_some() {
                self.usage.merge(usage::of_conversation(&serde_json::from_slice(&decoded).unwrap_or_default()));
            }
            self.decoded = decoded;
            return;
        }
        if is_read {
            let tells_tier = self.streamed.event(&decoded) && self.service_tier.is_none();
            if tells_tier || USAGE.find(&decoded).is_some() {
                self.told(&decoded);
            }
        }
        self.decoded = decoded;
        self.last_chunk.clear();
        self.last_chunk.extend_from_slice(payload);
    }

    /// An event of the model's own that tells usage or tier.
    fn told(&mut self, event: &[u8]) {
        let Ok(event) = serde_json::from_slice(event) else { return };
        if let Some(usage) = usage::of_answer(&event) {
            self.merge(usage);
        }
        self.service_tier = usage::tier_of(&event).or(self.service_tier.take());
    }

    fn merge(&mut self, usage: Usage) {
        if usage.output_tokens.is_some() {
            self.streamed.counted();
        }
        self.usage.merge(usage);
    }

    /// What the stream said, up to where it came.
    pub(crate) fn finish(mut self) -> Metered {
        let ending = self.ending();
        if let Some(event) = decoded(&self.last_chunk) {
            self.told(&event);
        }
        let uncounted = self.streamed.tokens();
        Metered { usage: self.usage, service_tier: self.service_tier, exception: self.exception, ending, uncounted }
    }

    fn ending(&self) -> Ending {
        let last_chunk_is_final = || is_final_chunk(&self.last_chunk);
        if self.skip > 0 || !self.partial.is_empty() {
            Ending::WithinEvent
        } else if self.is_bidirectional
            || self.lost
            || self.has_ended
            || self.exception.is_some()
            || last_chunk_is_final()
        {
            Ending::Whole
        } else {
            Ending::WithoutFinalEvent
        }
    }
}

/// InvokeModelWithResponseStream ends with the chunk that bears Bedrock's metrics; Anthropic's own end is a `message_stop`.
fn is_final_chunk(payload: &[u8]) -> bool {
    use base64::Engine;
    let chunk: Value<'_> = serde_json::from_slice(payload).unwrap_or_default();
    let bytes =
        chunk.get("bytes").as_str().and_then(|text| base64::engine::general_purpose::STANDARD.decode(text).ok());
    let bytes = bytes.unwrap_or_default();
    let event: Value<'_> = serde_json::from_slice(&bytes).unwrap_or_default();
    event.has("amazon-bedrock-invocationMetrics") || event.get("type").as_str() == Some("message_stop")
}

/// The model's event that a chunk holds.
fn decoded(payload: &[u8]) -> Option<Vec<u8>> {
    use base64::Engine;
    let chunk: Value<'_> = serde_json::from_slice(payload).ok()?;
    base64::engine::general_purpose::STANDARD.decode(chunk.get("bytes").as_str()?).ok()
}

enum Event {
    Chunk,
    Metadata,
    Exception(String),
    Other,
}

impl Event {
    fn of(mut headers: &[u8]) -> Event {
        let (mut kind, mut name) = (&b""[..], &b""[..]);
        while let Some((Header { name: key, kind: of, value }, rest)) = header(headers) {
            match (key, of) {
                (b":message-type", STRING) => kind = value,
                (b":event-type" | b":exception-type" | b":error-code", STRING) => name = value,
                _ => {}
            }
            headers = rest;
        }
        match (kind, name) {
            (b"exception" | b"error", name) => Event::Exception(word(&String::from_utf8_lossy(name))),
            (_, b"chunk") => Event::Chunk,
            (_, b"metadata") => Event::Metadata,
            _ => Event::Other,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn frame(headers: &[(&str, &str)], payload: &[u8]) -> Vec<u8> {
        let mut encoded = Vec::new();
        for (name, value) in headers {
            encoded.push(u8::try_from(name.len()).unwrap());
            encoded.extend_from_slice(name.as_bytes());
            encoded.push(7);
            encoded.extend_from_slice(&u16::try_from(value.len()).unwrap().to_be_bytes());
            encoded.extend_from_slice(value.as_bytes());
        }
        let mut frame = Vec::new();
        let length = |bytes: usize| u32::try_from(bytes).unwrap().to_be_bytes();
        frame.extend_from_slice(&length(PRELUDE + encoded.len() + payload.len() + TRAILER));
        frame.extend_from_slice(&length(encoded.len()));
        frame.extend_from_slice(&crc32fast::hash(&frame).to_be_bytes());
        frame.extend_from_slice(&encoded);
        frame.extend_from_slice(payload);
        frame.extend_from_slice(&crc32fast::hash(&frame).to_be_bytes());
        frame
    }

    fn event(name: &str, payload: &str) -> Vec<u8> {
        frame(
            &[(":event-type", name), (":content-type", "application/json"), (":message-type", "event")],
            payload.as_bytes(),
        )
    }

    fn read(bytes: &[u8], piece: usize) -> Metered {
        let mut stream = EventStream::default();
        for part in bytes.chunks(piece) {
            stream.feed(part);
        }
        stream.finish()
    }

    #[test]
    fn metadata_is_found_however_the_bytes_are_cut() {
        let mut bytes = event("messageStart", r#"{"role":"assistant"}"#);
        bytes.extend(event(
            "metadata",
            r#"{"usage":{"inputTokens":3,"outputTokens":5,"cacheReadInputTokens":7},"metrics":{"latencyMs":1}}"#,
        ));
        for piece in 1..=bytes.len() {
            let Metered { usage, exception, ending, .. } = read(&bytes, piece);
            assert_eq!(ending, Ending::Whole);
            assert_eq!(
                (usage.input_tokens, usage.output_tokens, usage.cache_read_tokens, usage.cache_write_tokens),
                (Some(3), Some(5), Some(7), None)
            );
            assert_eq!(exception, None);
        }
    }

    /// A frame in the smallest pieces is collected in place. It used to be copied anew with every piece, which made half a
    /// megabyte cost 128 GiB of copies.
    #[test]
    fn a_frame_in_tiny_pieces_is_not_copied_with_each_of_them() {
        let bytes = event("chunk", &"x".repeat(MAX_FRAME / 2));
        let mut stream = EventStream::default();
        let (mut moves, mut place) = (0, std::ptr::null());
        for byte in &bytes {
            stream.feed(std::slice::from_ref(byte));
            moves += u32::from(stream.partial.as_ptr() != place);
            place = stream.partial.as_ptr();
        }
        assert!(moves < 64, "the collected bytes were moved {moves} times for {} pieces", bytes.len());
        assert_eq!(stream.finish().ending, Ending::WithoutFinalEvent);
    }

    #[test]
    fn the_last_chunk_tells_the_metrics() {
        use base64::Engine;
        let chunk = |text: &str| {
            let encoded = base64::engine::general_purpose::STANDARD.encode(text);
            event("chunk", &format!(r#"{{"bytes":"{encoded}","p":"abc"}}"#))
        };
        let mut bytes = chunk(r#"{"type":"content_block_delta"}"#);
        bytes.extend(chunk(r#"{"type":"message_stop","amazon-bedrock-invocationMetrics":{"inputTokenCount":11,"outputTokenCount":13,"invocationLatency":5,"firstByteLatency":3}}"#));
        for piece in [1, 7, 64, bytes.len()] {
            let Metered { usage, ending, .. } = read(&bytes, piece);
            assert_eq!((usage.input_tokens, usage.output_tokens), (Some(11), Some(13)));
            assert_eq!(ending, Ending::Whole);
        }
        let cut = read(&bytes[..bytes.len() - 1], 10);
        assert_eq!(cut.usage.input_tokens, None, "a stream that was cut short has no usage");
        assert_eq!(cut.ending, Ending::WithinEvent);
    }

    #[test]
    fn what_streams_after_the_last_count_is_estimated() {
        use base64::Engine;
        let chunk = |text: &str| {
            event("chunk", &format!(r#"{{"bytes":"{}"}}"#, base64::engine::general_purpose::STANDARD.encode(text)))
        };
        let mut invoked = chunk(r#"{"type":"message_start","message":{"usage":{"input_tokens":3,"output_tokens":1}}}"#);
        let mut conversed = event("messageStart", r#"{"role":"assistant"}"#);
        for _ in 0..100 {
            invoked.extend(chunk(r#"{"type":"content_block_delta","delta":{"type":"text_delta","text":"six by"}}"#));
            conversed
                .extend(event("contentBlockDelta", r#"{"contentBlockIndex":0,"delta":{"text":"six by"},"p":"ab"}"#));
        }
        for piece in [1, 64, 4096] {
            let read_invoked = read(&invoked, piece);
            let usage = read_invoked.usage;
            assert_eq!((usage.input_tokens, usage.output_tokens, read_invoked.uncounted), (Some(3), Some(1), 200));
            let read_conversed = read(&conversed, piece);
            assert!(read_conversed.usage.is_empty());
            assert_eq!(read_conversed.uncounted, 200);
        }
        conversed.extend(event("metadata", r#"{"usage":{"inputTokens":3,"outputTokens":5}}"#));
        assert_eq!(read(&conversed, 4096).uncounted, 0);
    }

    #[test]
    fn the_tier_is_found_in_every_shape() {
        use base64::Engine;
        let chunk = |text: &str| {
            event("chunk", &format!(r#"{{"bytes":"{}"}}"#, base64::engine::general_purpose::STANDARD.encode(text)))
        };
        for (bytes, tier) in [
            (event("metadata", r#"{"usage":{"inputTokens":3},"serviceTier":{"type":"flex"}}"#), Some("flex")),
            (
                [
                    chunk(
                        r#"{"type":"message_start","message":{"usage":{"input_tokens":3,"service_tier":"priority"}}}"#,
                    ),
                    chunk(r#"{"type":"message_stop"}"#),
                ]
                .concat(),
                Some("priority"),
            ),
            ([chunk(r#"{"choices":[],"service_tier":"flex"}"#), chunk("{}")].concat(), Some("flex")),
            (event("contentBlockDelta", r#"{"delta":{"text":"x"},"service_tier":"flex"}"#), None),
            (event("metadata", r#"{"usage":{"inputTokens":3}}"#), None),
        ] {
            for piece in [1, 7, 4096] {
                assert_eq!(read(&bytes, piece).service_tier.as_deref(), tier);
            }
        }
    }

    #[test]
    fn exceptions_long_frames_and_garbage() {
        let exception = frame(&[(":message-type", "exception"), (":exception-type", "throttlingException")], b"{}");
        let read_exception = read(&exception, 9);
        assert_eq!(read_exception.exception.as_deref(), Some("throttlingException"));
        assert_eq!(read_exception.ending, Ending::Whole);
        let mut bytes = event("chunk", &"x".repeat(2 * MAX_FRAME));
        bytes.extend(event("metadata", r#"{"usage":{"inputTokens":1}}"#));
        assert_eq!(read(&bytes, 4096).usage.input_tokens, Some(1));
        let long = frame(
            &[(":event-type", "metadata")],
            format!("{{\"usage\":{{\"inputTokens\":1}}{}}}", " ".repeat(MAX_FRAME)).as_bytes(),
        );
        for piece in [4096, long.len()] {
            assert!(read(&long, piece).usage.is_empty(), "a long frame is unread however it is cut");
        }
        for piece in [5, 10, 100] {
            let garbage = read(&[0xff; 100], piece);
            assert!(garbage.usage.is_empty() && garbage.exception.is_none());
            assert_eq!(garbage.ending, Ending::Whole, "nothing can be said of its end");
        }
    }

    #[test]
    fn a_stream_without_its_final_event_is_known_from_one_that_was_cut() {
        let start = event("messageStart", r#"{"role":"assistant"}"#);
        let stop = event("messageStop", r#"{"stopReason":"end_turn"}"#);
        for piece in [1, 5, 1000] {
            assert_eq!(read(&start, piece).ending, Ending::WithoutFinalEvent);
            assert_eq!(read(&[start.clone(), stop.clone()].concat(), piece).ending, Ending::WithoutFinalEvent);
            for cut in 1..start.len() {
                assert_eq!(read(&start[..cut], piece).ending, Ending::WithinEvent, "{cut}");
            }
        }
        let long = event("chunk", &"x".repeat(2 * MAX_FRAME));
        assert_eq!(read(&long[..long.len() - 1], 4096).ending, Ending::WithinEvent);
    }

    /// Nova Sonic tells again and again what the conversation has used, and says what it says as sound.
    #[test]
    fn of_a_conversation_the_last_total_counts_and_nothing_else() {
        use base64::Engine;
        let chunk = |said: &str| {
            let bytes = base64::engine::general_purpose::STANDARD.encode(said);
            event("chunk", &format!(r#"{{"bytes":"{bytes}"}}"#))
        };
        let sound = format!(r#"{{"event":{{"audioOutput":{{"content":"{}"}}}}}}"#, "QUJD".repeat(1_000));
        let usage = |input: u32, output: u32| {
            let delta = r#""details":{"delta":{"input":{"speechTokens":7}}}"#;
            format!(
                r#"{{"event":{{"usageEvent":{{{delta},"totalInputTokens":{input},"totalOutputTokens":{output}}}}}}}"#
            )
        };
        let events = [chunk(&usage(10, 0)), chunk(&sound), chunk(&usage(25, 40)), chunk(&sound)].concat();
        for piece in [1, 7, 4096] {
            let mut stream = EventStream::bidirectional();
            for part in events.chunks(piece) {
                stream.feed(part);
            }
            assert!(stream.is_between_events());
            let metered = stream.finish();
            assert_eq!((metered.usage.input_tokens, metered.usage.output_tokens), (Some(25), Some(40)));
            assert_eq!((metered.ending, metered.uncounted, metered.exception), (Ending::Whole, 0, None));
        }
        let mut cut = EventStream::bidirectional();
        cut.feed(&events[..events.len() - 1]);
        assert!(!cut.is_between_events());
        assert_eq!(cut.finish().ending, Ending::WithinEvent);
    }
}
