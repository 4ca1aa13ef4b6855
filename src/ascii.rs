//! How the parts of a request's head are read that are of ASCII: by bytes, because every request has many of them.

/// Which bytes may stand somewhere.
pub(crate) struct Alphabet([bool; 256]);

impl Alphabet {
    pub(crate) const fn letters_digits_and(others: &[u8]) -> Alphabet {
        Alphabet::of(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ").and(b"abcdefghijklmnopqrstuvwxyz").and(b"0123456789").and(others)
    }

    pub(crate) const fn of(bytes: &[u8]) -> Alphabet {
        Alphabet([false; 256]).and(bytes)
    }

    pub(crate) const fn and(mut self, bytes: &[u8]) -> Alphabet {
        let mut at = 0;
        while at < bytes.len() {
            self.0[bytes[at] as usize] = true;
            at += 1;
        }
        self
    }

    /// Whether a text is made of these bytes. Eight are looked at in one step.
    pub(crate) fn makes(&self, text: &[u8]) -> bool {
        let (steps, rest) = text.as_chunks::<8>();
        let holds = |all, byte: &u8| all & self.0[usize::from(*byte)];
        steps.iter().all(|step| step.iter().fold(true, holds)) && rest.iter().fold(true, holds)
    }
}

/// The text before the first byte of this kind, which is of ASCII, and the text behind it.
pub(crate) fn split_once(text: &str, at: u8) -> Option<(&str, &str)> {
    debug_assert!(at.is_ascii());
    let place = memchr::memchr(at, text.as_bytes())?;
    Some((&text[..place], &text[place + 1..]))
}

/// The parts of a text between all bytes of this kind, which is of ASCII.
pub(crate) fn split(text: &str, at: u8) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let (part, more) = split_once(text, at).map_or((text, None), |(part, more)| (part, Some(more)));
        rest = more;
        Some(part)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_byte_that_is_not_in_it_is_found_wherever_it_stands() {
        let alphabet = Alphabet::letters_digits_and(b"-");
        for byte in 0..=u8::MAX {
            let is_in = byte.is_ascii_alphanumeric() || byte == b'-';
            for at in 0..20 {
                let mut text = [b'-'; 20];
                text[at] = byte;
                assert_eq!(alphabet.makes(&text), is_in, "{byte} at {at}");
                assert_eq!(alphabet.makes(&text[..=at]), is_in, "{byte} at the end, {at}");
            }
        }
        assert!(alphabet.makes(b""));
    }

    #[test]
    fn texts_are_split_as_the_standard_library_does() {
        for text in ["", "/", "a", "a/b", "/a//b/", "é/ü", "a%b"] {
            assert_eq!(split_once(text, b'/'), text.split_once('/'), "{text}");
            assert!(split(text, b'/').eq(text.split('/')), "{text}");
        }
    }
}
