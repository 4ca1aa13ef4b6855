//! Encodes header blocks, without Huffman coding and in whichever way a framing wants.

use bytes::{BufMut, BytesMut};
use http::{HeaderName, HeaderValue};

use super::frame::{self, CONTINUATION, END_HEADERS, END_STREAM, HEADERS, PADDED, SMALLEST_MAX_FRAME, WITH_PRIORITY};
use crate::framing::shape::Hpack;

pub(crate) fn encode(status: Option<u16>, headers: &[(HeaderName, HeaderValue)], way: Hpack) -> BytesMut {
    let mut block = BytesMut::new();
    if way == Hpack::Resized {
        integer(&mut block, 0x20, 5, 0);
        integer(&mut block, 0x20, 5, 4096);
    }
    match status {
        // The static table's entry 8.
        Some(200) if way == Hpack::Incremental => block.put_u8(0x88),
        Some(status) => literal(&mut block, way, b":status", status.to_string().as_bytes()),
        None => {}
    }
    for (name, value) in headers {
        literal(&mut block, way, name.as_str().as_bytes(), value.as_bytes());
    }
    block
}

fn literal(block: &mut BytesMut, way: Hpack, name: &[u8], value: &[u8]) {
    block.put_u8(match way {
        Hpack::Literal | Hpack::Resized => 0x00,
        Hpack::NeverIndexed => 0x10,
        Hpack::Incremental => 0x40,
    });
    for text in [name, value] {
        integer(block, 0, 7, text.len());
        block.put_slice(text);
    }
}

#[expect(clippy::cast_possible_truncation, reason = "each is below 256 where it is cast")]
fn integer(block: &mut BytesMut, first: u8, bits: u8, number: usize) {
    let most = (1 << bits) - 1;
    if number < most {
        block.put_u8(first | number as u8);
        return;
    }
    block.put_u8(first | most as u8);
    let mut left = number - most;
    while left >= 128 {
        block.put_u8((left % 128) as u8 | 0x80);
        left /= 128;
    }
    block.put_u8(left as u8);
}

/// HEADERS and as many CONTINUATION as it takes, with at most `most` bytes of block each.
pub(crate) fn put_headers(
    out: &mut BytesMut,
    stream: u32,
    mut block: BytesMut,
    most: usize,
    adorned: bool,
    ends: bool,
) {
    let most = if most == 0 { SMALLEST_MAX_FRAME - 256 } else { most };
    let mut kind = HEADERS;
    let mut flags = if ends { END_STREAM } else { 0 };
    loop {
        let piece = block.split_to(block.len().min(most));
        if block.is_empty() {
            flags |= END_HEADERS;
        }
        if adorned && kind == HEADERS {
            const PADDING: u8 = 37;
            let mut payload = BytesMut::new();
            payload.put_u8(PADDING);
            // Depends on stream 0, with a weight: meant for a client, without meaning, and allowed.
            payload.put_slice(&[0, 0, 0, 0, 15]);
            payload.put_slice(&piece);
            payload.put_bytes(0, PADDING.into());
            frame::put(out, kind, flags | PADDED | WITH_PRIORITY, stream, &payload);
        } else {
            frame::put(out, kind, flags, stream, &piece);
        }
        if block.is_empty() {
            return;
        }
        (kind, flags) = (CONTINUATION, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7541, C.1.2: 1337 in a prefix of five bits.
    #[test]
    fn a_long_integer_is_the_published_example() {
        let mut block = BytesMut::new();
        integer(&mut block, 0, 5, 1337);
        assert_eq!(block[..], [31, 154, 10]);
    }

    #[test]
    fn every_way_decodes_to_the_same_fields() {
        let long = "v".repeat(5_000);
        let headers = vec![
            (HeaderName::from_static("content-type"), HeaderValue::from_static("application/json")),
            (HeaderName::from_static("x-long"), HeaderValue::from_str(&long).unwrap()),
        ];
        for way in [Hpack::Literal, Hpack::NeverIndexed, Hpack::Incremental, Hpack::Resized] {
            let decoded = loona_hpack::Decoder::new().decode(&encode(Some(200), &headers, way)).unwrap();
            assert_eq!(decoded[0], (b":status".to_vec(), b"200".to_vec()), "{way:?}");
            assert_eq!(decoded[2], (b"x-long".to_vec(), long.as_bytes().to_vec()), "{way:?}");
        }
    }
}
