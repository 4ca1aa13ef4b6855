//! The ledger read from outside the daemon, while one runs or while none does: SQLite, and what of the journal is not in
//! it yet.

use std::collections::HashMap;

use rusqlite::Connection;

use super::home::Home;
use super::journal::Header;
use super::journal::frame::Kind;
use super::journal::read::{Position, Reader, segment_path, segments};
use super::store::read::Stored;
use super::store::write::{Columns, split};
use super::store::{State, StoreError, open_to_read, read_state};

/// One moment of the ledger.
#[derive(Debug)]
pub struct Reading {
    /// In a transaction, so that every question gets its answer from the same moment.
    pub db: Option<Connection>,
    pub state: State,
    /// Ended records behind those in SQLite; ids go on.
    pub tail: Vec<Stored>,
    /// Hashes that the journal's files know, by chain and sequence number.
    pub known: HashMap<(String, u64), String>,
}

impl Reading {
    pub fn open(home: &Home) -> Result<Reading, StoreError> {
        for _ in 0..10 {
            if let Some(reading) = Reading::try_open(home)? {
                return Ok(reading);
            }
        }
        Err(StoreError::Journal("its files change faster than they can be read".to_owned()))
    }

    /// None when a daemon deleted a journal file between two looks.
    fn try_open(home: &Home) -> Result<Option<Reading>, StoreError> {
        let journal = |error: std::io::Error| StoreError::Journal(error.to_string());
        let directory = home.journal();
        let first = segments(&directory).map_err(journal)?.first().copied();
        let (db, state) = if home.database().exists() {
            let db = open_to_read(&home.database())?;
            db.execute_batch("BEGIN")?;
            let state = read_state(&db)?;
            (Some(db), state)
        } else {
            (None, State::default())
        };
        let mut reading = Reading { db, state, tail: Vec::new(), known: HashMap::new() };
        let Some(first) = first else { return Ok(Some(reading)) };
        let mut reader = Reader::new(directory.clone(), Position { segment: first, offset: 0 });
        loop {
            let from = reader.position;
            let step = reader.step(None).map_err(journal)?;
            if step.segment != from.segment {
                return Ok(None);
            }
            for (kind, range) in step.frames {
                let place = Position { segment: step.segment, offset: from.offset + range.start as u64 };
                reading.take(kind, &reader.piece[range], place > state.position)?;
            }
            if step.end {
                let gone = state.position.segment > 0 && !segment_path(&directory, first).exists();
                return Ok(Some(reading).filter(|_| !gone));
            }
        }
    }

    fn take(&mut self, kind: Kind, payload: &[u8], behind: bool) -> Result<(), StoreError> {
        match kind {
            Kind::Open => {}
            Kind::Header => {
                if let Ok(Header { chain, .. }) = serde_json::from_slice(payload)
                    && chain.seq > 0
                {
                    self.known.insert((chain.chain_id, chain.seq), chain.hash);
                }
            }
            Kind::Close => {
                let (hash, item) = split(payload)?;
                if let Ok(columns) = serde_json::from_str::<Columns<'_>>(item) {
                    self.known.insert((columns.chain_id.into_owned(), columns.chain_seq), hash.to_owned());
                }
                if behind {
                    let id = self.state.last_id + self.tail.len() as i64 + 1;
                    self.tail.push(Stored { id, item: item.to_owned(), hash: hash.to_owned() });
                }
            }
        }
        Ok(())
    }

    /// Hands every record behind `id` to `visit`, oldest first.
    pub fn each<E: From<StoreError>>(
        &self,
        mut id: i64,
        mut visit: impl FnMut(Stored) -> Result<(), E>,
    ) -> Result<(), E> {
        if let Some(db) = &self.db {
            loop {
                let rows = super::store::read::stored_after(db, id, 500)?;
                let Some(last) = rows.last() else { break };
                id = last.id;
                rows.into_iter().try_for_each(&mut visit)?;
            }
        }
        self.tail.iter().filter(|row| row.id > id).cloned().try_for_each(visit)
    }
}
