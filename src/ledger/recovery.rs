//! What is in the journal at the start: the last link of the chain, and the requests that have no end.

use std::collections::{BTreeMap, HashSet};
use std::io;

use serde::Deserialize;

use super::chain::Chain;
use super::journal::frame::FrameKind;
use super::journal::read::{Position, Reader, segment_path, segments};
use super::journal::{HASH_DIGITS, Header, JOURNAL_VERSION};
use super::state_dir::StateDir;

/// The journal as it was found.
#[derive(Debug, Default)]
pub(crate) struct Recovered {
    /// The chain as its last readable entry left it; none in an empty journal.
    pub(crate) chain: Option<Chain>,
    /// The chain as it was when the first file was begun; none when that cannot be read.
    pub(crate) first: Option<Chain>,
    /// Openings without an end, by request id.
    pub(crate) open: BTreeMap<String, Vec<u8>>,
    /// The number the next file may have.
    pub(crate) next_number: u64,
    /// Ends that are not in the index yet, and the bytes of their items.
    pub(crate) ends: u64,
    pub(crate) end_bytes: u64,
    /// Entries that are whole and say nothing that this version understands.
    pub(crate) undecodable: u64,
    /// Where it tells of its last chain, it has bytes or entries that cannot be read.
    pub(crate) is_faulty: bool,
    /// Requests that have an end. An opening that stands behind its end was repeated by a file that came to nothing.
    ended: HashSet<String>,
}

/// The parts of an end's item that matter here.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct End {
    request_id: String,
    chain_seq: u64,
    chain_id: String,
    host_id: String,
}

#[derive(Debug, Deserialize)]
struct Version {
    version: u32,
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
        let (chain_before, undecodable_before) =
            (recovered.chain.as_ref().map(|chain| chain.chain_id.clone()), recovered.undecodable);
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
            let segment = chunk.segment;
            recovered.add_frame(kind, &reader.bytes[range], unindexed).map_err(|version| {
                io::Error::other(format!(
                    "{} was written by a newer bedrock-sidecar (journal version {version}); install that version, or move the file away",
                    segment_path(&directory, segment).display()
                ))
            })?;
        }
        // What cannot be read before a new chain is begun says nothing of where that one stands.
        recovered.is_faulty &= recovered.chain.as_ref().map(|chain| &chain.chain_id) == chain_before.as_ref();
        recovered.is_faulty |= chunk.skipped_bytes > 0 || recovered.undecodable > undecodable_before;
        if chunk.at_end {
            return Ok(recovered);
        }
    }
}

/// Counts the ends between two places in the journal, and the bytes of their items.
pub(crate) fn ends_between(state_dir: &StateDir, from: Position, to: Position) -> io::Result<(u64, u64)> {
    let mut found = Recovered::default();
    let mut reader = Reader::new(state_dir.journal(), from);
    loop {
        let chunk = reader.next_chunk(Some(to))?;
        for (kind, range) in chunk.frames.into_iter().filter(|(kind, _)| *kind != FrameKind::Open) {
            // A file of a newer version is no matter here: the start has refused it.
            let _ = found.add_frame(kind, &reader.bytes[range], true);
        }
        if chunk.at_end {
            return Ok((found.ends, found.end_bytes));
        }
    }
}

impl Recovered {
    /// Fails with the number of a version that this one does not know.
    fn add_frame(&mut self, kind: FrameKind, payload: &[u8], unindexed: bool) -> Result<(), u32> {
        match kind {
            FrameKind::Header => {
                if let Ok(Version { version }) = serde_json::from_slice(payload)
                    && version > JOURNAL_VERSION
                {
                    return Err(version);
                }
                if let Ok(header) = serde_json::from_slice::<Header>(payload) {
                    self.first.get_or_insert_with(|| header.chain.clone());
                    self.advance(header.chain);
                } else {
                    self.undecodable += 1;
                }
            }
            FrameKind::Open => {
                let Ok(opening) = serde_json::from_slice::<Opening>(payload) else {
                    self.undecodable += 1;
                    return Ok(());
                };
                if !self.ended.contains(&opening.request_id) {
                    self.open.insert(opening.request_id, payload.to_vec());
                }
            }
            FrameKind::Close => {
                let end = payload
                    .split_at_checked(HASH_DIGITS)
                    .map(|(hash, item)| (hash, item, serde_json::from_slice::<End>(item)));
                let Some((hash, item, Ok(end))) = end else {
                    self.undecodable += 1;
                    return Ok(());
                };
                self.open.remove(&end.request_id);
                self.ended.insert(end.request_id);
                let hash = String::from_utf8_lossy(hash).into_owned();
                let chain = Chain { host_id: end.host_id, chain_id: end.chain_id, seq: end.chain_seq, hash };
                if self.advance(chain) && unindexed {
                    self.ends += 1;
                    self.end_bytes += item.len() as u64;
                }
            }
        }
        Ok(())
    }
}

impl Recovered {
    /// Takes over a link unless one as late is known: what could not be made durable is repeated in the next file.
    fn advance(&mut self, link: Chain) -> bool {
        let is_later = self.chain.as_ref().is_none_or(|known| known.chain_id != link.chain_id || known.seq < link.seq);
        if is_later {
            self.chain = Some(link);
        }
        is_later
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
