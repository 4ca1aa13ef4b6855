//! A walk over a JSON text that looks at two levels of keys, skips strings as strings, and keeps nothing.

use crate::service_tier::AskedTier;
use crate::structure;

/// What stands in a request body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Found<'a> {
    /// The largest bound on the answer's tokens.
    pub(super) output: Option<u64>,
    /// The shape is that of a request whose answer has no tokens: embeddings, ranks, images.
    pub(super) no_output: bool,
    /// Bytes of base64 in strings, and what they are worth in tokens.
    pub(super) media_bytes: u64,
    pub(super) media_tokens: u64,
    /// The service tier that is asked for.
    pub(super) tier: AskedTier<'a>,
}

/// The bounds, by vendor: Anthropic and Mistral, Converse and AI21, Llama, Titan, Nova, OpenAI (two), Anthropic's old one.
const BOUNDS: [&[u8]; 8] = [
    b"max_tokens",
    b"maxTokens",
    b"max_gen_len",
    b"maxTokenCount",
    b"max_new_tokens",
    b"max_completion_tokens",
    b"max_output_tokens",
    b"max_tokens_to_sample",
];

/// The objects at the top level in which a bound may stand.
const PARENTS: [&[u8]; 6] = [
    b"inferenceConfig",
    b"textGenerationConfig",
    b"additionalModelRequestFields",
    b"inference_config",
    b"generation_config",
    b"parameters",
];

/// Keys at the top level that only embeddings, rerankers and image models know.
const SILENT: [&[u8]; 12] = [
    b"inputText",
    b"inputImage",
    b"embeddingConfig",
    b"embeddingTypes",
    b"embedding_types",
    b"dimensions",
    b"normalize",
    b"texts",
    b"input_type",
    b"inputType",
    b"documents",
    b"taskType",
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Key {
    Other,
    Bound,
    Parent,
    /// Its value is a tier's name.
    Tier,
    /// Its value is an object whose `type` is a tier's name, as Converse has it.
    TierObject,
}

pub(super) fn scan(body: &[u8]) -> Found<'_> {
    let mut found = Found::default();
    let mut speaks = false;
    let mut depth = 0usize;
    // Whether the containers at depth 1 and 2 are objects whose keys matter.
    let mut matters = [false; 3];
    let mut in_tier = false;
    let mut key = Key::Other;
    let mut key_next = false;
    let mut at = 0;
    loop {
        if depth > 2 || !matters[depth] {
            at += structure::plain(&body[at..]);
        }
        let Some(&byte) = body.get(at) else { break };
        at += 1;
        match byte {
            b'"' => {
                let end = structure::closing_quote(&body[at..]).map_or(body.len(), |length| at + length);
                let text = &body[at..end];
                at = (end + 1).min(body.len());
                if key_next && depth <= 2 && matters[depth] {
                    key = classify(text, depth, in_tier);
                    if depth == 1 {
                        found.no_output |= is_one_of(text, &SILENT);
                        speaks |= is_one_of(text, &PARENTS) || is_one_of(text, &[b"messages", b"prompt"]);
                    }
                } else if key == Key::Tier {
                    found.tier = found.tier.and(AskedTier::of(text));
                } else if let Some(tokens) = media(text) {
                    found.media_bytes += text.len() as u64;
                    found.media_tokens += tokens;
                }
                key_next = false;
            }
            b'{' | b'[' => {
                depth += 1;
                let object = byte == b'{';
                match depth {
                    1 => matters[1] = object,
                    2 => {
                        in_tier = object && key == Key::TierObject;
                        matters[2] = object && matters[1] && (key == Key::Parent || in_tier);
                    }
                    _ => {}
                }
                key_next = object;
                key = Key::Other;
            }
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                key_next = false;
                key = Key::Other;
            }
            b',' => {
                key_next = true;
                key = Key::Other;
            }
            b':' => {
                if key == Key::Bound
                    && let Some(bound) = number(&body[at..])
                {
                    found.output = found.output.max(Some(bound));
                }
                let wanted = match key {
                    Key::Tier => b'"',
                    Key::TierObject => b'{',
                    Key::Parent => continue,
                    Key::Other | Key::Bound => {
                        key = Key::Other;
                        continue;
                    }
                };
                match body[at..].iter().find(|byte| !byte.is_ascii_whitespace()) {
                    Some(byte) if *byte == wanted => {}
                    Some(b'n') => key = Key::Other,
                    _ => {
                        found.tier = AskedTier::Unclear;
                        key = Key::Other;
                    }
                }
            }
            _ => {}
        }
    }
    found.no_output &= !speaks;
    found
}

fn classify(text: &[u8], depth: usize, in_tier: bool) -> Key {
    if depth == 2 && in_tier {
        if is_one_of(text, &[b"type"]) { Key::Tier } else { Key::Other }
    } else if is_one_of(text, &[b"service_tier"]) {
        Key::Tier
    } else if depth == 1 && is_one_of(text, &[b"serviceTier"]) {
        Key::TierObject
    } else if is_one_of(text, &BOUNDS) {
        Key::Bound
    } else if depth == 1 && is_one_of(text, &PARENTS) {
        Key::Parent
    } else {
        Key::Other
    }
}

fn is_one_of(text: &[u8], names: &[&[u8]]) -> bool {
    names.contains(&text) || (text.contains(&b'\\') && names.iter().any(|name| spells(text, name)))
}

/// Whether a JSON string with escapes spells an ASCII name.
fn spells(text: &[u8], name: &[u8]) -> bool {
    let mut rest = text;
    for &wanted in name {
        let (byte, used) = match rest {
            [b'\\', b'u', hex @ ..] => {
                let Some(code) = hex.get(..4).and_then(|hex| std::str::from_utf8(hex).ok()) else { return false };
                let Ok(code) = u32::from_str_radix(code, 16) else { return false };
                (u8::try_from(code).unwrap_or(0), 6)
            }
            // No name holds a character that has a short escape.
            [b'\\', ..] | [] => return false,
            [byte, ..] => (*byte, 1),
        };
        if byte != wanted {
            return false;
        }
        rest = &rest[used..];
    }
    rest.is_empty()
}

/// A number of 0 or more, rounded down; one that is too large for the type is the largest.
fn number(text: &[u8]) -> Option<u64> {
    let start = text.iter().position(|byte| !byte.is_ascii_whitespace())?;
    let text = &text[start..];
    let digits = text.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    if digits == 0 {
        return None;
    }
    let whole =
        text[..digits].iter().fold(0u64, |sum, digit| sum.saturating_mul(10).saturating_add(u64::from(digit - b'0')));
    match text.get(digits) {
        None | Some(b',' | b'}' | b']' | b' ' | b'\t' | b'\r' | b'\n') => Some(whole),
        Some(b'.' | b'e' | b'E') => {
            let end = text.iter().position(|byte| !matches!(byte, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-'));
            let number: f64 = std::str::from_utf8(text.get(..end.unwrap_or(text.len()))?).ok()?.parse().ok()?;
            Some(saturating(number))
        }
        Some(_) => None,
    }
}

/// Rounded down; what is too large is the largest.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the cast saturates, as is meant")]
fn saturating(number: f64) -> u64 {
    number as u64
}

/// What a string is worth in tokens if it holds base64; none for text.
fn media(text: &[u8]) -> Option<u64> {
    const SHORTEST: usize = 1_024;
    const IMAGE: u64 = 1_600;
    if text.len() < SHORTEST {
        return None;
    }
    let data = match text.strip_prefix(b"data:").and_then(|_| memchr::memchr(b',', &text[..256])) {
        Some(comma) => &text[comma + 1..],
        None => text,
    };
    let base64 =
        |text: &[u8]| text.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'=' | b'-' | b'_'));
    let middle = data.len() / 2;
    if !base64(&data[..64]) || !base64(&data[middle..middle + 64]) {
        return None;
    }
    // By the first bytes of PNG, JPEG, GIF and WebP. Models scale images down to about this much.
    let image = [&b"iVBOR"[..], b"/9j/", b"R0lGOD", b"UklGR"].iter().any(|magic| data.starts_with(magic));
    let length = text.len() as u64;
    // Documents: a page takes some 50 to 100 KB of base64 and is read as 1,500 to 3,000 tokens.
    Some(if image { IMAGE.min(length / 4) } else { length / 32 })
}
