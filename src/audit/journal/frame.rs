//! How an entry lies in a journal file: twelve bytes of header, then the payload. A frame that was torn, cut or changed
//! fails its checksum, and reading goes on at the next frame that passes.

use std::ops::Range;

/// Longest payload that is written or believed, in bytes.
pub const MAX_PAYLOAD: usize = 256 * 1024;
/// Magic (2), kind (1), zero (1), payload length (4, little endian), CRC-32 of those eight and the payload (4).
pub const HEADER: usize = 12;

const MAGIC: [u8; 2] = [0xB5, 0xD1];

/// What an entry says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A file begins: whose chain it continues and where that stood.
    Header,
    /// A request is about to go upstream.
    Open,
    /// A request has ended: the chain's hash and the final item.
    Close,
}

impl Kind {
    fn code(self) -> u8 {
        match self {
            Kind::Header => b'H',
            Kind::Open => b'O',
            Kind::Close => b'C',
        }
    }

    fn of(code: u8) -> Option<Kind> {
        [Kind::Header, Kind::Open, Kind::Close].into_iter().find(|kind| kind.code() == code)
    }
}

/// Appends a frame to `buffer`; the payload is the concatenation of `parts`.
pub fn encode(buffer: &mut Vec<u8>, kind: Kind, parts: &[&[u8]]) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut head = [MAGIC[0], MAGIC[1], kind.code(), 0, 0, 0, 0, 0];
    head[4..].copy_from_slice(&(length as u32).to_le_bytes());
    let mut crc = crc32fast::Hasher::new();
    crc.update(&head);
    for part in parts {
        crc.update(part);
    }
    buffer.extend_from_slice(&head);
    buffer.extend_from_slice(&crc.finalize().to_le_bytes());
    for part in parts {
        buffer.extend_from_slice(part);
    }
}

/// Frames found in a piece of a file.
#[derive(Debug, Default)]
pub struct Found {
    /// Kind and where the payload lies in the piece.
    pub frames: Vec<(Kind, Range<usize>)>,
    /// Where reading has to go on: behind the last frame, or at one that the piece cuts off.
    pub consumed: usize,
    /// Bytes between frames that make no frame.
    pub garbage: usize,
    /// A frame was found behind such bytes: they are damage, not the torn end of a last write.
    pub damaged: bool,
}

/// Finds the frames of `piece`. `last` says that the file ends with it, so an incomplete frame will not be completed.
pub fn decode(piece: &[u8], last: bool) -> Found {
    let mut found = Found::default();
    let mut torn = 0;
    let mut at = 0;
    while at < piece.len() {
        match frame_at(&piece[at..]) {
            Frame::Whole(kind, length) => {
                found.damaged |= torn > 0;
                found.garbage += std::mem::take(&mut torn);
                found.frames.push((kind, at + HEADER..at + HEADER + length));
                at += HEADER + length;
            }
            Frame::Cut if !last => break,
            Frame::Cut | Frame::Broken => {
                let step = memchr::memchr(MAGIC[0], &piece[at + 1..]).map_or(piece.len() - at, |next| next + 1);
                torn += step;
                at += step;
            }
        }
    }
    found.garbage += torn;
    found.consumed = at;
    found
}

enum Frame {
    Whole(Kind, usize),
    Cut,
    Broken,
}

fn frame_at(bytes: &[u8]) -> Frame {
    let known = bytes.len().min(2);
    if bytes[..known] != MAGIC[..known] {
        return Frame::Broken;
    }
    let Some((head, rest)) = bytes.split_at_checked(HEADER) else {
        return Frame::Cut;
    };
    let length = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
    let Some(kind) = Kind::of(head[2]).filter(|_| length <= MAX_PAYLOAD && head[3] == 0) else {
        return Frame::Broken;
    };
    let Some(payload) = rest.get(..length) else {
        return Frame::Cut;
    };
    let mut crc = crc32fast::Hasher::new();
    crc.update(&head[..8]);
    crc.update(payload);
    if crc.finalize().to_le_bytes() == head[8..12] { Frame::Whole(kind, length) } else { Frame::Broken }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> (Vec<u8>, Vec<Vec<u8>>) {
        let mut bytes = Vec::new();
        let payloads: Vec<Vec<u8>> = (0..6_u8).map(|n| vec![n ^ 0xB5; usize::from(n) * 7]).collect();
        for (n, payload) in payloads.iter().enumerate() {
            let kind = [Kind::Header, Kind::Open, Kind::Close][n % 3];
            encode(&mut bytes, kind, &[&payload[..payload.len() / 2], &payload[payload.len() / 2..]]);
        }
        (bytes, payloads)
    }

    fn payloads(bytes: &[u8], found: &Found) -> Vec<Vec<u8>> {
        found.frames.iter().map(|(_, range)| bytes[range.clone()].to_vec()).collect()
    }

    #[test]
    fn whatever_is_cut_off_only_whole_frames_come_out_and_all_that_are_whole() {
        let (bytes, written) = sample();
        let ends: Vec<usize> = decode(&bytes, true).frames.iter().map(|(_, range)| range.end).collect();
        for cut in 0..=bytes.len() {
            let piece = &bytes[..cut];
            let whole = ends.iter().filter(|end| **end <= cut).count();
            for last in [true, false] {
                let found = decode(piece, last);
                assert_eq!(payloads(piece, &found), written[..whole], "cut at {cut}");
                assert!(!found.damaged, "a torn end is no damage, cut at {cut}");
            }
            assert_eq!(decode(piece, false).consumed, if whole == 0 { 0 } else { ends[whole - 1] });
        }
    }

    #[test]
    fn a_flipped_bit_costs_the_frame_it_is_in_and_no_other() {
        let (bytes, written) = sample();
        let frames = decode(&bytes, true).frames;
        for bit in 0..bytes.len() * 8 {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let hit = frames.iter().filter(|(_, range)| range.end <= bit / 8).count();
            let mut expected = written.clone();
            expected.remove(hit);
            let found = decode(&bytes, true);
            assert_eq!(payloads(&bytes, &found), expected, "bit {bit}");
            assert!(found.garbage > 0);
        }
    }
}
