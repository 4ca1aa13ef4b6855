//! The framing of Amazon event streams. A frame is: its whole length, the length of its headers and a CRC of both (4 bytes
//! each, big-endian), headers, payload, and a CRC of all that.

use bytes::{BufMut, Bytes, BytesMut};

/// The content type of such a stream.
pub(crate) const CONTENT_TYPE: &str = "application/vnd.amazon.eventstream";

/// The lengths and their CRC.
pub(crate) const PRELUDE: usize = 12;
/// The CRC at the end.
pub(crate) const TRAILER: usize = 4;

/// Types of a header's value.
pub(crate) const BYTES: u8 = 6;
pub(crate) const STRING: u8 = 7;
pub(crate) const TIMESTAMP: u8 = 8;

/// The lengths with which a frame begins.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Prelude {
    pub total: usize,
    pub headers: usize,
}

impl Prelude {
    /// None if the bytes, of which there are enough, do not begin a frame.
    pub(crate) fn of(bytes: &[u8]) -> Option<Prelude> {
        let (total, headers) = (number(bytes, 0) as usize, number(bytes, 4) as usize);
        let holds = number(bytes, 8) == crc32fast::hash(&bytes[..8]) && total >= PRELUDE + TRAILER + headers;
        holds.then_some(Prelude { total, headers })
    }
}

/// One header of a frame.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Header<'a> {
    pub name: &'a [u8],
    pub kind: u8,
    /// Empty for types whose value is of no use here.
    pub value: &'a [u8],
}

/// The first header, and what follows.
pub(crate) fn header(headers: &[u8]) -> Option<(Header<'_>, &[u8])> {
    let (&name_length, rest) = headers.split_first()?;
    let (name, rest) = rest.split_at_checked(name_length.into())?;
    let (&kind, rest) = rest.split_first()?;
    let fixed = match kind {
        0 | 1 => Some(0),
        2 => Some(1),
        3 => Some(2),
        4 => Some(4),
        5 | TIMESTAMP => Some(8),
        9 => Some(16),
        _ => None,
    };
    let (length, rest) = match fixed {
        Some(length) => (length, rest),
        None => {
            let (length, rest) = rest.split_at_checked(2)?;
            (u16::from_be_bytes([length[0], length[1]]).into(), rest)
        }
    };
    let (value, rest) = rest.split_at_checked(length)?;
    Some((Header { name, kind, value }, rest))
}

/// A frame that is there whole.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    bytes: Bytes,
    headers: usize,
}

impl Frame {
    /// None if the bytes are not exactly one frame, or if one of the CRCs is wrong.
    pub(crate) fn of(bytes: Bytes) -> Option<Frame> {
        let Prelude { total, headers } = Prelude::of(bytes.get(..PRELUDE)?)?;
        let end = total - TRAILER;
        let holds = total == bytes.len() && number(&bytes, end) == crc32fast::hash(&bytes[..end]);
        holds.then_some(Frame { bytes, headers })
    }

    /// The headers; none if they cannot be read.
    pub(crate) fn headers(&self) -> Option<Vec<Header<'_>>> {
        let mut rest = &self.bytes[PRELUDE..PRELUDE + self.headers];
        let mut headers = Vec::new();
        while !rest.is_empty() {
            let (found, after) = header(rest)?;
            headers.push(found);
            rest = after;
        }
        Some(headers)
    }

    pub(crate) fn payload(&self) -> Bytes {
        self.bytes.slice(PRELUDE + self.headers..self.bytes.len() - TRAILER)
    }

    /// All of it.
    pub(crate) fn into_bytes(self) -> Bytes {
        self.bytes
    }
}

/// Adds a header to those of a frame that is being made. Names and values are ours, and short.
pub(crate) fn push_header(headers: &mut Vec<u8>, name: &str, kind: u8, value: &[u8]) {
    headers.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
    headers.extend_from_slice(name.as_bytes());
    headers.push(kind);
    if kind != TIMESTAMP {
        headers.extend_from_slice(&u16::try_from(value.len()).unwrap_or(u16::MAX).to_be_bytes());
    }
    headers.extend_from_slice(value);
}

/// A frame with these headers, each written by [`push_header`].
pub(crate) fn frame(headers: &[u8], payload: &[u8]) -> Bytes {
    let [before, after] = around(headers, payload);
    [&before[..], payload, &after[..]].concat().into()
}

/// The same without a copy of the payload: what of the frame comes before it, and what follows.
pub(crate) fn around(headers: &[u8], payload: &[u8]) -> [Bytes; 2] {
    let total = PRELUDE + headers.len() + payload.len() + TRAILER;
    let mut before = BytesMut::with_capacity(PRELUDE + headers.len());
    for length in [total, headers.len()] {
        before.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    }
    before.put_u32(crc32fast::hash(&before));
    before.put_slice(headers);
    let mut checksum = crc32fast::Hasher::new();
    checksum.update(&before);
    checksum.update(payload);
    [before.freeze(), Bytes::copy_from_slice(&checksum.finalize().to_be_bytes())]
}

fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The smallest message, byte for byte as AWS's own test vectors have it (`empty_message`).
    #[test]
    fn the_empty_message_is_the_published_vector() {
        let empty: &'static [u8] = &[0, 0, 0, 0x10, 0, 0, 0, 0, 0x05, 0xc2, 0x48, 0xeb, 0x7d, 0x98, 0xc8, 0xff];
        assert_eq!(frame(&[], b""), empty);
        assert!(Frame::of(Bytes::from_static(empty)).unwrap().payload().is_empty());
    }

    #[test]
    fn what_was_written_is_read_back_and_no_byte_of_it_can_change() {
        let mut headers = Vec::new();
        push_header(&mut headers, ":date", TIMESTAMP, &7_i64.to_be_bytes());
        push_header(&mut headers, ":chunk-signature", BYTES, &[1, 2, 3]);
        let written = frame(&headers, b"payload");
        let read = Frame::of(written.clone()).unwrap();
        let found: Vec<(&[u8], u8, &[u8])> =
            read.headers().unwrap().into_iter().map(|header| (header.name, header.kind, header.value)).collect();
        assert_eq!(
            found,
            [(&b":date"[..], TIMESTAMP, &7_i64.to_be_bytes()[..]), (&b":chunk-signature"[..], BYTES, &[1, 2, 3][..])]
        );
        assert_eq!(read.payload(), "payload");
        for at in 0..written.len() {
            let mut other = written.to_vec();
            other[at] ^= 1;
            assert!(Frame::of(other.into()).is_none(), "{at}");
            assert!(Frame::of(written.slice(..at)).is_none(), "{at}");
        }
        assert!(Frame::of([&written[..], b"x"].concat().into()).is_none());
    }

    #[test]
    fn headers_that_cannot_be_read_are_no_headers() {
        for headers in [&b"\x05:date\x08\0\0"[..], b"\x05:da", b"\x01a\x07\0\x05b", b"\x01a\x07\0", b"\x01a"] {
            assert!(Frame::of(frame(headers, b"")).unwrap().headers().is_none(), "{headers:?}");
        }
    }
}
