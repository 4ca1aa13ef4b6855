//! How much of an answer has streamed past since the upstream last counted it: what a request costs at least whose stream
//! does not come to its end. The walk over an event is no JSON parser; it needs no memory and takes any bytes.

use std::ops::Range;

use crate::structure;

/// Bytes of text that count as a token. Text in Latin letters has about 4, in Chinese or Japanese about 3: the smaller
/// number counts rather too much than too little.
const BYTES_A_TOKEN: u64 = 3;

/// The members under which the models' events carry what was generated.
const TEXT_KEYS: [&[u8]; 13] = [
    b"text",
    b"content",
    b"thinking",
    b"reasoning",
    b"reasoning_content",
    b"refusal",
    b"input",
    b"partial_json",
    b"arguments",
    b"outputText",
    b"generation",
    b"completion",
    b"transcript",
];

/// What has streamed.
#[derive(Debug, Default)]
pub(crate) struct Streamed {
    text: u64,
    events: u64,
}

impl Streamed {
    /// An event's JSON has passed. Returns whether it has a member, at whatever depth, that names a service tier.
    pub(crate) fn event(&mut self, json: &[u8]) -> bool {
        let (mut text, mut delta, mut is_response, mut names_tier) = (0, 0, false, false);
        for_each_text_member(json, |key, value| match key {
            b"delta" => delta += value.len() as u64,
            b"type" => is_response |= value.starts_with(b"response."),
            b"service_tier" => names_tier = true,
            key if TEXT_KEYS.contains(&key) => text += value.len() as u64,
            _ => {}
        });
        // The Responses API repeats the whole text at the end of each part.
        let generated = if is_response { delta } else { text + delta };
        self.text += generated;
        self.events += u64::from(generated > 0);
        names_tier
    }

    /// The upstream has counted what it generated up to here.
    pub(crate) fn counted(&mut self) {
        *self = Streamed::default();
    }

    /// Tokens, by the bytes of text; an event with text has one at least.
    pub(crate) fn tokens(&self) -> u64 {
        self.text.div_ceil(BYTES_A_TOKEN).max(self.events)
    }
}

/// Calls for each member whose value is a string, at every depth. Escapes are left as they are.
pub(crate) fn for_each_text_member<'a>(json: &'a [u8], mut found: impl FnMut(&'a [u8], &'a [u8])) {
    let mut at = 0;
    while let Some(start) = memchr::memchr(b'"', &json[at..]).map(|offset| at + offset) {
        let Some(key) = string(json, start) else { return };
        at = key.end + 1;
        let colon = after_space(json, at);
        if json.get(colon) != Some(&b':') {
            continue;
        }
        at = after_space(json, colon + 1);
        if json.get(at) != Some(&b'"') {
            continue;
        }
        let Some(value) = string(json, at) else { return };
        at = value.end + 1;
        found(&json[key], &json[value]);
    }
}

/// What stands between the quote at `start` and the one that closes it.
fn string(json: &[u8], start: usize) -> Option<Range<usize>> {
    let start = start + 1;
    Some(start..start + structure::closing_quote(&json[start..])?)
}

fn after_space(json: &[u8], from: usize) -> usize {
    let rest = json.get(from..).unwrap_or_default();
    from + rest.iter().take_while(|byte| byte.is_ascii_whitespace()).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(events: &[&str]) -> u64 {
        let mut streamed = Streamed::default();
        events.iter().for_each(|event| {
            streamed.event(event.as_bytes());
        });
        streamed.tokens()
    }

    #[test]
    fn the_text_of_every_shape_of_event_counts() {
        for event in [
            r#"{"contentBlockIndex":0,"delta":{"text":"abcdef"},"p":"abcdefghijklmn"}"#,
            r#"{"contentBlockIndex":0,"delta":{"toolUse":{"input":"abcdef"}}}"#,
            r#"{"contentBlockIndex":0,"delta":{"reasoningContent":{"text":"abcdef"}}}"#,
            r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"abcdef"}}"#,
            r#"{"type":"content_block_delta","index":0,"delta":{"type":"input_json_delta","partial_json":"{\"a\":"}}"#,
            r#"{"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"abcdef"}}"#,
            r#"{"id":"chatcmpl-1","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content" : "abcdef"}}]}"#,
            r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"arguments":"abcdef"}}]}}]}"#,
            r#"{"type":"response.output_text.delta","item_id":"msg_1","delta":"abcdef","obfuscation":"xyzxyzxyz"}"#,
            r#"{"outputText":"abcdef","index":0}"#,
            r#"{"generation":"abcdef","stop_reason":null}"#,
            r#"{"outputs":[{"text":"abcdef","stop_reason":null}]}"#,
        ] {
            assert!((2..=3).contains(&tokens(&[event])), "{event}: {}", tokens(&[event]));
        }
        assert_eq!(tokens(&[r#"{"delta":{"text":"a"}}"#; 10]), 10, "a token an event at least");
        assert_eq!(tokens(&[r#"{"delta":{"text":"日本語の文字"}}"#]), 6);
    }

    #[test]
    fn what_was_not_generated_does_not_count() {
        for event in [
            "",
            "[DONE]",
            "\"",
            "\"a\\",
            r#"{"type":"message_stop"}"#,
            r#"{"role":"assistant"}"#,
            r#"{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}"#,
            r#"{"type":"response.output_text.done","text":"all of it once more"}"#,
            r#"{"text":7,"content":["a"],"delta":{"text"#,
        ] {
            assert_eq!(tokens(&[event]), 0, "{event}");
        }
        let mut streamed = Streamed::default();
        streamed.event(br#"{"text":"abc"}"#);
        streamed.counted();
        assert_eq!(streamed.tokens(), 0);
    }
}
