//! What is in the journal at the start: the last link of the chain, and the requests that have no end.

use std::collections::BTreeMap;
use std::io;

use serde::Deserialize;

use super::chain::Chain;
use super::journal::frame::FrameKind;
use super::journal::read::{Position, Reader, segment_path, segments};
use super::journal::{HASH_DIGITS, Header};
use super::state_dir::StateDir;

/// The journal as it was found.
#[derive(Debug, Default)]
pub(crate) struct Recovered {
    /// The chain as the last readable entry left it; none in an empty journal.
    pub(crate) chain: Option<Chain>,
    /// Openings without an end, by request id.
    pub(crate) open: BTreeMap<String, Vec<u8>>,
    /// The number the next file may have.
    pub(crate) next_number: u64,
    /// Ends that are not in the index yet, and the bytes of their items.
    pub(crate) ends: u64,
    pub(crate) end_bytes: u64,
}

/// The parts of an end's item that matter here.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct End {
    request_id: String,
    chain_seq: u64,
    chain_id: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Opening {
    request_id: String,
}

/// Reads the whole journal, of which the index has what is before `indexed`. Damaged files are copied aside and
/// reported; what can be read of them counts.
pub(crate) fn recover(state_dir: &StateDir, indexed: Position) -> io::Result<Recovered> {
    let mut recovered = Recovered::default();
    let directory = state_dir.journal();
    let numbers = segments(&directory)?;
    recovered.next_number = numbers.last().copied().unwrap_or(0).max(indexed.segment) + 1;
    let Some(first) = numbers.first() else {
        return Ok(recovered);
    };
    let mut reader = Reader::new(directory.clone(), Position { segment: *first, offset: 0 });
    let mut reported = None;
    loop {
        let from = reader.position;
        let chunk = reader.next_chunk(None)?;
        if chunk.is_damaged && reported != Some(chunk.segment) {
            reported = Some(chunk.segment);
            report_damage(state_dir, chunk.segment);
        } else if chunk.skipped_bytes > 0 {
            tracing::warn!(
                file = %segment_path(&directory, chunk.segment).display(),
                bytes = chunk.skipped_bytes,
                "the journal ends in an incomplete entry, as after a loss of power; the entry is ignored"
            );
        }
        for (kind, range) in chunk.frames {
            let unindexed = Position { segment: chunk.segment, offset: from.offset + range.start as u64 } > indexed;
            recovered.add_frame(kind, &reader.bytes[range], unindexed);
        }
        if chunk.at_end {
            return Ok(recovered);
        }
    }
}

impl Recovered {
    fn add_frame(&mut self, kind: FrameKind, payload: &[u8], unindexed: bool) {
        match kind {
            FrameKind::Header => {
                if let Ok(header) = serde_json::from_slice::<Header>(payload) {
                    self.chain = Some(header.chain);
                }
            }
            FrameKind::Open => {
                if let Ok(opening) = serde_json::from_slice::<Opening>(payload) {
                    self.open.insert(opening.request_id, payload.to_vec());
                }
            }
            FrameKind::Close => {
                let Some((hash, item)) = payload.split_at_checked(HASH_DIGITS) else { return };
                let Ok(end) = serde_json::from_slice::<End>(item) else { return };
                self.open.remove(&end.request_id);
                if let Some(chain) = &mut self.chain
                    && chain.chain_id == end.chain_id
                {
                    chain.seq = end.chain_seq;
                    chain.hash = String::from_utf8_lossy(hash).into_owned();
                }
                if unindexed {
                    self.ends += 1;
                    self.end_bytes += item.len() as u64;
                }
            }
        }
    }
}

fn report_damage(state_dir: &StateDir, segment: u64) {
    let path = segment_path(&state_dir.journal(), segment);
    match state_dir.set_aside(&path, true) {
        Ok(copy) => tracing::error!(
            file = %path.display(), copy = %copy.display(),
            "the journal is damaged: some records cannot be read; a copy was set aside, `bedrock-sidecar audit verify` names the records that are missing"
        ),
        Err(error) => tracing::error!(
            file = %path.display(), %error,
            "the journal is damaged: some records cannot be read, and no copy could be set aside; `bedrock-sidecar audit verify` names the records that are missing"
        ),
    }
}
