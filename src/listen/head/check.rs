//! Judges the bytes of an HTTP/1 head.

use super::fault::{FAULT_HEADER, Fault, MAX_HEADERS};
use super::{Chunk, State};
use crate::ascii::Alphabet;

/// Judges a head (without its last empty line) and says what follows it.
pub(super) fn check(head: &[u8]) -> Result<State, Fault> {
    let mut lines = Lines { rest: head };
    let line = lines.next().ok_or(Fault::RequestLine)??;
    let version = request_line(line)?;
    let (mut host, mut length, mut chunked) = (0, None, false);
    let (mut authorization, mut content_type, mut count) = (0, 0, 0);
    // All at once, because a look at each value for itself takes longer.
    let may_hold_control = holds_control(head);
    for line in lines {
        let line = line?;
        count += 1;
        if count > MAX_HEADERS {
            return Err(Fault::TooLarge);
        }
        if matches!(line.first(), Some(b' ' | b'\t')) {
            return Err(Fault::Folded);
        }
        let colon = memchr::memchr(b':', line).ok_or(Fault::HeaderLine)?;
        let (name, value) = (&line[..colon], &line[colon + 1..]);
        if !is_token(name) || (may_hold_control && holds_control(value)) {
            return Err(Fault::HeaderLine);
        }
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        match name.len() {
            4 if is("host") => host += 1,
            12 if is("content-type") => content_type += 1,
            13 if is("authorization") => authorization += 1,
            14 if is("content-length") => {
                // A form feed is white space to `trim_ascii`, and none in HTTP; it has been refused above.
                let value = value.trim_ascii();
                let digits = !value.is_empty() && value.len() < 19 && value.iter().all(u8::is_ascii_digit);
                let number =
                    std::str::from_utf8(value).ok().filter(|_| digits).and_then(|text| text.parse::<u64>().ok());
                if length.replace(number.ok_or(Fault::Length)?).is_some() {
                    return Err(Fault::Length);
                }
            }
            17 if is("transfer-encoding") => {
                if chunked || !value.trim_ascii().eq_ignore_ascii_case(b"chunked") || version == 0 {
                    return Err(Fault::Encoding);
                }
                chunked = true;
            }
            28 if is(FAULT_HEADER) => return Err(Fault::HeaderLine),
            _ => {}
        }
    }
    if host != 1 {
        return Err(Fault::Host);
    }
    if authorization > 1 || content_type > 1 {
        return Err(Fault::Repeated);
    }
    match (length, chunked) {
        (Some(_), true) => Err(Fault::LengthAndEncoding),
        (_, true) => Ok(State::Chunked(Chunk::Size { value: 0, digits: 0 })),
        (length, false) => Ok(State::Body(length.unwrap_or(0))),
    }
}

/// Lines that end with CR LF, and nothing else that could be taken for an end.
struct Lines<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Lines<'a> {
    type Item = Result<&'a [u8], Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let Some(at) = memchr::memchr2(b'\r', b'\n', self.rest) else {
            return Some(Ok(std::mem::take(&mut self.rest)));
        };
        if !self.rest[at..].starts_with(b"\r\n") {
            return Some(Err(Fault::BareLineEnd));
        }
        let line = &self.rest[..at];
        self.rest = &self.rest[at + 2..];
        Some(Ok(line))
    }
}

/// Checks method, target and version; returns the minor version.
fn request_line(line: &[u8]) -> Result<u8, Fault> {
    let mut parts = line.split(|b| *b == b' ');
    let (Some(method), Some(target), Some(version), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Fault::RequestLine);
    };
    let is_good = is_token(method) && target.starts_with(b"/") && is_target(target);
    match version {
        b"HTTP/1.1" if is_good => Ok(1),
        b"HTTP/1.0" if is_good => Ok(0),
        _ => Err(Fault::RequestLine),
    }
}

/// Whether the library takes this for a target. It knows other characters that a target cannot hold, and would answer them by
/// an empty 400.
fn is_target(target: &[u8]) -> bool {
    if target.len() <= COMMON_TARGET && COMMON_IN_TARGETS.makes(target) {
        return true;
    }
    target.iter().all(|b| b.is_ascii_graphic() && *b != b'#') && http::Uri::try_from(target).is_ok()
}

fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && IN_TOKENS.makes(text)
}

/// A control character that no value of a header may hold, nor a head but for the ends of its lines. Without a way out of the
/// loop, which lets the compiler look at many bytes at once.
fn holds_control(text: &[u8]) -> bool {
    let is_control = |byte: u8| (byte < b' ') & !matches!(byte, b'\t' | b'\r' | b'\n') | (byte == 0x7f);
    text.iter().fold(false, |any, byte| any | is_control(*byte))
}

const IN_TOKENS: Alphabet = Alphabet::letters_digits_and(b"!#$%&'*+-.^_`|~");
/// What the targets of SDKs are made of.
const COMMON_IN_TARGETS: Alphabet = Alphabet::letters_digits_and(b"/-._~%:?=&");
/// Longer ones the library looks at itself.
const COMMON_TARGET: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_common_in_targets_the_library_takes_too() {
        for byte in 0..=u8::MAX {
            for target in [vec![b'/', byte], vec![b'/', byte, b'a'], vec![b'/', b'?', byte], vec![b'/', byte, byte]] {
                let is_common = COMMON_IN_TARGETS.makes(&target);
                assert!(!is_common || http::Uri::try_from(&target[..]).is_ok(), "{target:?}");
                let graphic = target.iter().all(|b| b.is_ascii_graphic() && *b != b'#');
                assert_eq!(is_target(&target), graphic && http::Uri::try_from(&target[..]).is_ok(), "{target:?}");
            }
        }
        let long = vec![b'/'; usize::from(u16::MAX)];
        assert_eq!(is_target(&long), http::Uri::try_from(&long[..]).is_ok());
    }

    #[test]
    fn tokens_and_values_hold_what_rfc_9110_lets_them() {
        for byte in 0..=u8::MAX {
            let is_part = byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
            assert_eq!(is_token(&[b'a', byte]), is_part, "{byte}");
            let is_control = !b"\t\r\n".contains(&byte) && byte.is_ascii_control();
            assert_eq!(holds_control(&[b'a', byte, b'b']), is_control, "{byte}");
        }
        assert!(!is_token(b""));
    }
}
