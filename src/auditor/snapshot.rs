//! The ledger as it is at one moment, read from outside the daemon, whether one runs or not: the index, and the records
//! of the journal that are not in it yet.

use std::collections::HashMap;

use rusqlite::Connection;

use crate::ledger::StateDir;
use crate::ledger::index::columns::ItemColumns;
use crate::ledger::index::read::{IndexedRecord, records_after};
use crate::ledger::index::{IndexError, IndexState, open_to_read, read_state};
use crate::ledger::integer::to_signed;
use crate::ledger::journal::frame::FrameKind;
use crate::ledger::journal::read::{Position, Reader, segment_path, segments};
use crate::ledger::journal::{Header, split_end};

/// Opened once, it does not change.
#[derive(Debug)]
pub(crate) struct Snapshot {
    /// In a read transaction, so that every query sees the same moment. None when there is no index yet.
    pub(crate) db: Option<Connection>,
    pub(crate) state: IndexState,
    /// Ended records that are not in the index; ids go on from there.
    pub(crate) unindexed: Vec<IndexedRecord>,
    /// Chain hashes that are in the journal, by chain and sequence number.
    pub(crate) journal_hashes: HashMap<(String, u64), String>,
}

impl Snapshot {
    pub(crate) fn open(state_dir: &StateDir) -> Result<Snapshot, IndexError> {
        for _ in 0..10 {
            if let Some(snapshot) = Snapshot::try_open(state_dir)? {
                return Ok(snapshot);
            }
        }
        Err(IndexError::Journal("its files change faster than they can be read".to_owned()))
    }

    /// None when a daemon deleted a journal file meanwhile.
    fn try_open(state_dir: &StateDir) -> Result<Option<Snapshot>, IndexError> {
        let journal = |error: std::io::Error| IndexError::Journal(error.to_string());
        let directory = state_dir.journal();
        let first = segments(&directory).map_err(journal)?.first().copied();
        let (db, state) = if state_dir.database().exists() {
            let db = open_to_read(&state_dir.database())?;
            db.execute_batch("BEGIN")?;
            let state = read_state(&db)?;
            (Some(db), state)
        } else {
            (None, IndexState::default())
        };
        let mut snapshot = Snapshot { db, state, unindexed: Vec::new(), journal_hashes: HashMap::new() };
        let Some(first) = first else { return Ok(Some(snapshot)) };
        let mut reader = Reader::new(directory.clone(), Position { segment: first, offset: 0 });
        loop {
            let from = reader.position;
            let chunk = reader.next_chunk(None).map_err(journal)?;
            if chunk.segment != from.segment {
                return Ok(None);
            }
            for (kind, range) in chunk.frames {
                let place = Position { segment: chunk.segment, offset: from.offset + range.start as u64 };
                snapshot.add_frame(kind, &reader.bytes[range], place > state.position)?;
            }
            if chunk.at_end {
                let gone = state.position.segment > 0 && !segment_path(&directory, first).exists();
                return Ok(Some(snapshot).filter(|_| !gone));
            }
        }
    }

    fn add_frame(&mut self, kind: FrameKind, payload: &[u8], unindexed: bool) -> Result<(), IndexError> {
        match kind {
            FrameKind::Open => {}
            FrameKind::Header => {
                if let Ok(Header { chain, .. }) = serde_json::from_slice(payload)
                    && chain.seq > 0
                {
                    self.journal_hashes.insert((chain.chain_id, chain.seq), chain.hash);
                }
            }
            FrameKind::Close => {
                // The daemon passes it over too, and the chain's gap is told.
                let Some((hash, item)) = split_end(payload) else { return Ok(()) };
                if let Ok(columns) = ItemColumns::read(item) {
                    let link = (columns.chain_id.into_owned(), columns.chain_seq);
                    // What could not be flushed stands in the next file again.
                    if self.journal_hashes.insert(link, hash.to_owned()).is_some_and(|before| before == hash) {
                        return Ok(());
                    }
                }
                if unindexed {
                    let id = self.state.last_id + to_signed(self.unindexed.len() as u64) + 1;
                    self.unindexed.push(IndexedRecord { id, item: item.to_owned(), hash: hash.to_owned() });
                }
            }
        }
        Ok(())
    }

    /// Hands every record behind `id` to `visit`, oldest first.
    pub(crate) fn for_each_after<E: From<IndexError>>(
        &self,
        mut id: i64,
        mut visit: impl FnMut(IndexedRecord) -> Result<(), E>,
    ) -> Result<(), E> {
        if let Some(db) = &self.db {
            loop {
                let rows = records_after(db, id, 500)?;
                let Some(last) = rows.last() else { break };
                id = last.id;
                rows.into_iter().try_for_each(&mut visit)?;
            }
        }
        self.unindexed.iter().filter(|row| row.id > id).cloned().try_for_each(visit)
    }
}
