//! The bytes that give JSON its structure, and how to get from one to the next. Of texts and numbers, which are most of a
//! body, no reader here looks at every byte.

/// So many bytes are looked at in one step, with the vector instructions that every processor has.
const STEP: usize = 16;
/// So many are looked at one by one before, because quotes and brackets often stand close together.
const NEAR: usize = 8;

/// How many bytes stand before the next quote or bracket. Outside of strings nothing else says where a value ends.
#[inline]
pub(crate) fn plain(text: &[u8]) -> usize {
    match text.iter().take(NEAR).position(|byte| is_quote_or_bracket(*byte)) {
        Some(at) => at,
        None => far(text),
    }
}

/// The same in steps, where none is near.
fn far(text: &[u8]) -> usize {
    let near = text.len().min(NEAR);
    let (steps, _) = text[near..].as_chunks::<STEP>();
    // Without a way out of the inner loop, which lets the compiler look at many bytes at once.
    let holds_one = |step: &[u8; STEP]| step.iter().fold(false, |any, byte| any | is_quote_or_bracket(*byte));
    let clear = near + STEP * steps.iter().take_while(|step| !holds_one(step)).count();
    let rest = &text[clear..];
    clear + rest.iter().position(|byte| is_quote_or_bracket(*byte)).unwrap_or(rest.len())
}

fn is_quote_or_bracket(byte: u8) -> bool {
    // Square and curly brackets differ in one bit.
    (byte == b'"') | (byte | 0x20 == b'{') | (byte | 0x20 == b'}')
}

/// Where the quote stands that closes a string, in a text that begins within it, after its first quote.
#[inline]
pub(crate) fn closing_quote(text: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        at += memchr::memchr2(b'"', b'\\', text.get(at..)?)?;
        if text[at] == b'"' {
            return Some(at);
        }
        at += 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_and_brackets_are_found_wherever_they_stand() {
        for byte in 0..=u8::MAX {
            let is_one = br#""{}[]"#.contains(&byte);
            for at in 0..3 * STEP {
                let mut text = [b' '; 3 * STEP];
                text[at] = byte;
                assert_eq!(plain(&text), if is_one { at } else { text.len() }, "{byte} at {at}");
                assert_eq!(plain(&text[..at]), at);
            }
        }
    }

    #[test]
    fn a_string_ends_with_the_first_quote_that_is_not_escaped() {
        for (text, end) in [
            (r#"""#, Some(0)),
            (r#"a\"b"c""#, Some(4)),
            (r#"\\""#, Some(2)),
            (r#"\\\""#, None),
            (r"\", None),
            ("", None),
        ] {
            assert_eq!(closing_quote(text.as_bytes()), end, "{text}");
        }
    }
}
