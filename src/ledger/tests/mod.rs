//! The ledger on a disk that fails and loses power.
#![expect(clippy::cast_possible_truncation, reason = "random picks are below the lengths of lists")]

mod clock;
mod disk;
mod flushing;
mod full;
mod histories;
mod oddities;
mod repair;
mod starts;
mod table;
mod used;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use self::disk::TestDisk;
use super::Ledger;
use super::clock::RealClock;
use super::index::open_to_read;
use crate::config::{Durability, OnFailure, OnFull};
use crate::record::{Outcome, Record};
use crate::settings;

/// The same choices on every run of a seed (xorshift).
pub(in crate::ledger) struct Random(pub(in crate::ledger) u64);

impl Random {
    /// A number below `bound`.
    pub(in crate::ledger) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound.max(1)
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

/// A ledger in this directory whose journal is on this disk, with the host's clock.
async fn start_on(directory: &Path, disk: Arc<TestDisk>) -> Arc<Ledger> {
    Ledger::start_on(&settings(directory, Durability::Process), None, disk, Arc::new(RealClock)).await.unwrap()
}

fn settings(directory: &Path, durability: Durability) -> settings::Audit {
    settings::Audit {
        state_dir: Some(directory.to_owned()),
        table: None,
        region: "us-gov-west-1".into(),
        retention: Duration::from_secs(30 * 86_400),
        on_failure: OnFailure::Deny,
        durability,
        max_ledger_bytes: 1 << 30,
        on_full: OnFull::Deny,
        anchor: None,
    }
}

/// A request that is under way.
fn record(id: u64) -> Record {
    Record {
        request_id: format!("request-{id}"),
        started_ms: jiff::Timestamp::now().as_millisecond(),
        operation: "Converse".into(),
        model_id: "anthropic.claude-sonnet-4".into(),
        request_size: id,
        ..Record::default()
    }
}

fn completed(record: &Record) -> Record {
    Record { success: true, status_code: 200, outcome: Outcome::Completed, ..record.clone() }
}

/// Every item of the database, in the order of insertion.
fn items(directory: &Path) -> Vec<Value> {
    let db = open_to_read(&directory.join("ledger.db")).unwrap();
    let mut select = db.prepare("SELECT item FROM records ORDER BY id").unwrap();
    let items = select.query_map([], |row| row.get::<_, String>(0)).unwrap();
    items.map(|item| serde_json::from_str(&item.unwrap()).unwrap()).collect()
}
