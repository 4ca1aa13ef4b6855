//! What a former life left in the journal: where the chain stands and which requests have no end.

use std::collections::BTreeMap;
use std::io;

use serde::Deserialize;

use super::chain::Chain;
use super::home::Home;
use super::journal::frame::Kind;
use super::journal::read::{Position, Reader, segment_path, segments};
use super::journal::{HASH_DIGITS, Header};

/// The journal as it was found.
#[derive(Debug, Default)]
pub struct Recovered {
    /// The chain as the last readable entry left it; none in an empty journal.
    pub chain: Option<Chain>,
    /// Openings without an end, by request id.
    pub open: BTreeMap<String, Vec<u8>>,
    /// The number the next file may have.
    pub next_number: u64,
    /// Ends behind the position up to which SQLite holds them, and the bytes of their items.
    pub ends: u64,
    pub end_bytes: u64,
}

/// What is read of a closing payload here.
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

/// Reads the whole journal. Damaged files are copied aside and reported; what can be read of them counts.
pub fn recover(home: &Home, stored: Position) -> io::Result<Recovered> {
    let mut recovered = Recovered::default();
    let directory = home.journal();
    let numbers = segments(&directory)?;
    recovered.next_number = numbers.last().copied().unwrap_or(0).max(stored.segment) + 1;
    let Some(first) = numbers.first() else {
        return Ok(recovered);
    };
    let mut reader = Reader::new(directory.clone(), Position { segment: *first, offset: 0 });
    let mut reported = None;
    loop {
        let from = reader.position;
        let step = reader.step(None)?;
        if step.damaged && reported != Some(step.segment) {
            reported = Some(step.segment);
            report(home, step.segment);
        } else if step.garbage > 0 {
            tracing::warn!(
                file = %segment_path(&directory, step.segment).display(),
                bytes = step.garbage,
                "the journal ends in an incomplete entry, as after a loss of power; the entry is ignored"
            );
        }
        for (kind, range) in step.frames {
            let behind = Position { segment: step.segment, offset: from.offset + range.start as u64 } > stored;
            recovered.take(kind, &reader.piece[range], behind);
        }
        if step.end {
            return Ok(recovered);
        }
    }
}

impl Recovered {
    fn take(&mut self, kind: Kind, payload: &[u8], behind: bool) {
        match kind {
            Kind::Header => {
                if let Ok(header) = serde_json::from_slice::<Header>(payload) {
                    self.chain = Some(header.chain);
                }
            }
            Kind::Open => {
                if let Ok(opening) = serde_json::from_slice::<Opening>(payload) {
                    self.open.insert(opening.request_id, payload.to_vec());
                }
            }
            Kind::Close => {
                let Some((hash, item)) = payload.split_at_checked(HASH_DIGITS) else { return };
                let Ok(end) = serde_json::from_slice::<End>(item) else { return };
                self.open.remove(&end.request_id);
                if let Some(chain) = &mut self.chain
                    && chain.chain_id == end.chain_id
                {
                    chain.seq = end.chain_seq;
                    chain.hash = String::from_utf8_lossy(hash).into_owned();
                }
                if behind {
                    self.ends += 1;
                    self.end_bytes += item.len() as u64;
                }
            }
        }
    }
}

fn report(home: &Home, segment: u64) {
    let path = segment_path(&home.journal(), segment);
    match home.set_aside(&path, true) {
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
