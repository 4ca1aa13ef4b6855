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

/// A key that matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Name {
    /// A bound on the answer's tokens.
    Bound,
    /// An object at the top level in which a bound may stand.
    Parent,
    /// A key at the top level that only embeddings, rerankers and image models know.
    Silent,
    /// A prompt, at the top level.
    Prompt,
    Tier,
    TierObject,
    /// In the object that names a tier.
    Type,
}

impl Name {
    /// The bounds by vendor: Anthropic and Mistral, Converse and AI21, Llama, Titan, Nova, OpenAI (two), Anthropic's old one.
    fn of(key: &[u8]) -> Option<Name> {
        match key {
            b"max_tokens"
            | b"maxTokens"
            | b"max_gen_len"
            | b"maxTokenCount"
            | b"max_new_tokens"
            | b"max_completion_tokens"
            | b"max_output_tokens"
            | b"max_tokens_to_sample" => Some(Name::Bound),
            b"inferenceConfig"
            | b"textGenerationConfig"
            | b"additionalModelRequestFields"
            | b"inference_config"
            | b"generation_config"
            | b"parameters" => Some(Name::Parent),
            b"inputText" | b"inputImage" | b"embeddingConfig" | b"embeddingTypes" | b"embedding_types"
            | b"dimensions" | b"normalize" | b"texts" | b"input_type" | b"inputType" | b"documents" | b"taskType" => {
                Some(Name::Silent)
            }
            b"messages" | b"prompt" => Some(Name::Prompt),
            b"service_tier" => Some(Name::Tier),
            b"serviceTier" => Some(Name::TierObject),
            b"type" => Some(Name::Type),
            _ => None,
        }
    }

    /// The same of a key as it stands in JSON, where escapes may write a part of it.
    fn written(text: &[u8]) -> Option<Name> {
        Name::of(text).or_else(|| {
            let mut key = [0; Name::LONGEST];
            Name::of(unescaped(text.contains(&b'\\').then_some(text)?, &mut key)?)
        })
    }

    const LONGEST: usize = 28;

    /// Whether it matters at this depth.
    fn matters(self, depth: usize, in_tier: bool) -> bool {
        match self {
            Name::Type => in_tier && depth == 2,
            _ if in_tier && depth == 2 => false,
            Name::Bound | Name::Tier => true,
            Name::Parent | Name::Silent | Name::Prompt | Name::TierObject => depth == 1,
        }
    }
}

pub(super) fn scan(body: &[u8]) -> Found<'_> {
    let mut found = Found::default();
    let mut speaks = false;
    let mut depth = 0usize;
    // Whether the containers at depth 1 and 2 are objects whose keys matter.
    let mut matters = [false; 3];
    let mut in_tier = false;
    let mut key = None;
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
                    key = Name::written(text).filter(|name| name.matters(depth, in_tier));
                    found.no_output |= key == Some(Name::Silent);
                    speaks |= matches!(key, Some(Name::Parent | Name::Prompt));
                } else if matches!(key, Some(Name::Tier | Name::Type)) {
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
                        in_tier = object && key == Some(Name::TierObject);
                        matters[2] = object && matters[1] && (key == Some(Name::Parent) || in_tier);
                    }
                    _ => {}
                }
                key_next = object;
                key = None;
            }
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                key_next = false;
                key = None;
            }
            b',' => {
                key_next = true;
                key = None;
            }
            b':' => {
                if key == Some(Name::Bound)
                    && let Some(bound) = number(&body[at..])
                {
                    found.output = found.output.max(Some(bound));
                }
                let wanted = match key {
                    Some(Name::Tier | Name::Type) => b'"',
                    Some(Name::TierObject) => b'{',
                    Some(Name::Parent) => continue,
                    _ => {
                        key = None;
                        continue;
                    }
                };
                match body[at..].iter().find(|byte| !byte.is_ascii_whitespace()) {
                    Some(byte) if *byte == wanted => {}
                    Some(b'n') => key = None,
                    _ => {
                        found.tier = AskedTier::Unclear;
                        key = None;
                    }
                }
            }
            _ => {}
        }
    }
    found.no_output &= !speaks;
    found
}

/// A key whose escapes write ASCII characters by their numbers. None if it has others, which no name that matters has, or is
/// longer than all of these.
fn unescaped<'a>(text: &[u8], key: &'a mut [u8; Name::LONGEST]) -> Option<&'a [u8]> {
    let mut length = 0;
    let mut rest = text;
    while let Some(&first) = rest.first() {
        let (byte, used) = match rest {
            [b'\\', b'u', hex @ ..] => {
                let code = std::str::from_utf8(hex.get(..4)?).ok()?;
                (u8::try_from(u32::from_str_radix(code, 16).ok()?).ok()?, 6)
            }
            [b'\\', ..] => return None,
            _ => (first, 1),
        };
        *key.get_mut(length)? = byte;
        length += 1;
        rest = &rest[used..];
    }
    Some(&key[..length])
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
