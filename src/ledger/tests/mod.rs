//! The ledger on a disk that fails and loses power.
#![expect(clippy::cast_possible_truncation, reason = "random picks are below the lengths of lists")]

mod clock;
mod disk;
mod flushing;
mod histories;
mod oddities;
mod repair;
mod starts;
mod table;
mod used;

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::index::open_to_read;
use crate::config::{Durability, OnFailure, OnFull};
use crate::record::{Outcome, Record};
use crate::settings;

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
