//! Judges the bytes of an HTTP/1 head.

use super::fault::{FAULT_HEADER, Fault, MAX_HEADERS};
use super::{Chunk, State};

/// Judges a head (without its last empty line) and says what follows it.
pub(super) fn check(head: &[u8]) -> Result<State, Fault> {
    let mut lines = Lines { rest: head };
    let line = lines.next().ok_or(Fault::RequestLine)??;
    let version = request_line(line)?;
    let (mut host, mut length, mut chunked) = (0, None, false);
    let (mut authorization, mut content_type, mut count) = (0, 0, 0);
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
        if name.is_empty() || !name.iter().all(|b| is_token(*b)) {
            return Err(Fault::HeaderLine);
        }
        if value.iter().any(|b| (*b < b' ' && *b != b'\t') || *b == 0x7f) {
            return Err(Fault::HeaderLine);
        }
        // After that check: a form feed is white space to `trim_ascii`, and none in HTTP.
        let value = value.trim_ascii();
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        match name.len() {
            4 if is("host") => host += 1,
            12 if is("content-type") => content_type += 1,
            13 if is("authorization") => authorization += 1,
            14 if is("content-length") => {
                let digits = !value.is_empty() && value.len() < 19 && value.iter().all(u8::is_ascii_digit);
                let number =
                    std::str::from_utf8(value).ok().filter(|_| digits).and_then(|text| text.parse::<u64>().ok());
                if length.replace(number.ok_or(Fault::Length)?).is_some() {
                    return Err(Fault::Length);
                }
            }
            17 if is("transfer-encoding") => {
                if chunked || !value.eq_ignore_ascii_case(b"chunked") || version == 0 {
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
    let method_ok = !method.is_empty() && method.iter().all(|b| is_token(*b));
    let visible = target.starts_with(b"/") && target.iter().all(|b| b.is_ascii_graphic() && *b != b'#');
    // The library knows other characters that a target cannot hold, and would answer them by an empty 400.
    let target_ok = visible && http::Uri::try_from(target).is_ok();
    match version {
        b"HTTP/1.1" if method_ok && target_ok => Ok(1),
        b"HTTP/1.0" if method_ok && target_ok => Ok(0),
        _ => Err(Fault::RequestLine),
    }
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
