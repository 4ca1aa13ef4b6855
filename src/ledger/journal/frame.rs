//! The frames of a journal file: twelve bytes of header, then the payload. A frame that was written in part or changed
//! fails its checksum, and reading goes on at the next valid frame.

use std::ops::Range;

/// Longest payload that is written or accepted, in bytes.
pub(crate) const MAX_PAYLOAD: usize = 256 * 1024;
/// Bytes before the payload: magic (2), kind (1), zero (1), payload length (4, little endian), CRC-32 of those eight
/// and the payload (4).
pub(crate) const HEADER_BYTES: usize = 12;

const MAGIC: [u8; 2] = [0xB5, 0xD1];

/// What a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameKind {
    /// A file begins: whose chain it continues and where that stood.
    Header,
    /// A request is about to go upstream.
    Open,
    /// A request has ended: the chain's hash and the final item.
    Close,
}

impl FrameKind {
    fn code(self) -> u8 {
        match self {
            FrameKind::Header => b'H',
            FrameKind::Open => b'O',
            FrameKind::Close => b'C',
        }
    }

    fn from_code(code: u8) -> Option<FrameKind> {
        [FrameKind::Header, FrameKind::Open, FrameKind::Close].into_iter().find(|kind| kind.code() == code)
    }
}

/// A frame that is kept.
#[derive(Debug)]
pub(crate) struct Frame(Box<[u8]>);

impl Frame {
    pub(crate) fn new(kind: FrameKind, payload: &[u8]) -> Frame {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + payload.len());
        encode(&mut bytes, kind, &[payload]);
        Frame(bytes.into_boxed_slice())
    }

    /// As it is in the journal.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Appends a frame to `buffer`; the payload is the concatenation of `parts`.
pub(crate) fn encode(buffer: &mut Vec<u8>, kind: FrameKind, parts: &[&[u8]]) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut head = [MAGIC[0], MAGIC[1], kind.code(), 0, 0, 0, 0, 0];
    head[4..].copy_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
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

/// The frames of a piece of a file.
#[derive(Debug, Default)]
pub struct Decoded {
    /// FrameKind and where the payload lies in the piece.
    pub frames: Vec<(FrameKind, Range<usize>)>,
    /// Where reading has to go on: behind the last frame, or at one that the piece cuts off.
    pub consumed: usize,
    /// Bytes that belong to no valid frame.
    pub skipped_bytes: usize,
    /// A valid frame was found behind such bytes: they are damage, not an incomplete last write.
    pub is_damaged: bool,
}

/// Finds the frames of `piece`. `last` says that the file ends with it, so an incomplete frame will not be completed.
pub fn decode(piece: &[u8], last: bool) -> Decoded {
    let mut found = Decoded::default();
    let mut invalid = 0;
    let mut at = 0;
    while at < piece.len() {
        match frame_at(&piece[at..]) {
            Found::Whole(kind, length) => {
                found.is_damaged |= invalid > 0;
                found.skipped_bytes += std::mem::take(&mut invalid);
                found.frames.push((kind, at + HEADER_BYTES..at + HEADER_BYTES + length));
                at += HEADER_BYTES + length;
            }
            Found::Incomplete if !last => break,
            Found::Incomplete | Found::Invalid => {
                let step = memchr::memchr(MAGIC[0], &piece[at + 1..]).map_or(piece.len() - at, |next| next + 1);
                invalid += step;
                at += step;
            }
        }
    }
    found.skipped_bytes += invalid;
    found.consumed = at;
    found
}

/// What a piece begins with.
enum Found {
    Whole(FrameKind, usize),
    Incomplete,
    Invalid,
}

fn frame_at(bytes: &[u8]) -> Found {
    let known = bytes.len().min(2);
    if bytes[..known] != MAGIC[..known] {
        return Found::Invalid;
    }
    let Some((head, rest)) = bytes.split_at_checked(HEADER_BYTES) else {
        return Found::Incomplete;
    };
    let length = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
    let Some(kind) = FrameKind::from_code(head[2]).filter(|_| length <= MAX_PAYLOAD && head[3] == 0) else {
        return Found::Invalid;
    };
    let Some(payload) = rest.get(..length) else {
        return Found::Incomplete;
    };
    let mut crc = crc32fast::Hasher::new();
    crc.update(&head[..8]);
    crc.update(payload);
    if crc.finalize().to_le_bytes() == head[8..12] { Found::Whole(kind, length) } else { Found::Invalid }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> (Vec<u8>, Vec<Vec<u8>>) {
        let mut bytes = Vec::new();
        let payloads: Vec<Vec<u8>> = (0..6_u8).map(|n| vec![n ^ 0xB5; usize::from(n) * 7]).collect();
        for (n, payload) in payloads.iter().enumerate() {
            let kind = [FrameKind::Header, FrameKind::Open, FrameKind::Close][n % 3];
            encode(&mut bytes, kind, &[&payload[..payload.len() / 2], &payload[payload.len() / 2..]]);
        }
        (bytes, payloads)
    }

    fn payloads(bytes: &[u8], found: &Decoded) -> Vec<Vec<u8>> {
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
                assert!(!found.is_damaged, "a torn end is no damage, cut at {cut}");
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
            assert!(found.skipped_bytes > 0);
        }
    }
}
