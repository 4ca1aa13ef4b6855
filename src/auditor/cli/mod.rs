//! `bedrock-sidecar audit …`: the auditor's commands. They read the state directory themselves, whether a daemon runs
//! or not, and so need its user's rights.

mod apart;
pub(super) mod args;
mod closing;
mod error;
mod export;
mod host_items;
pub(super) mod output;
mod set_aside;
mod source;
mod verify;

use std::io::Write;
use std::time::Duration;

use super::query::{Query, Scope, Source, TimeRange};
use super::search_index::{search_in, with_hash};
use super::search_table;
use crate::ledger::StateDir;
use crate::ledger::clock::now_ms;
use crate::ledger::dynamo;
use crate::ledger::host_id::host_id;
use crate::ledger::index::columns::ItemColumns;
use crate::ledger::index::read::IndexedRecord;
use crate::record::Record;
use crate::settings;
pub use args::Command;
use args::{List, Tail};
pub use error::CliError;
use source::{open, table};

/// Runs a command and writes what it finds to `out`. False when the records are not in order.
///
/// # Errors
/// When the ledger or the table cannot be read, or `out` not be written.
pub async fn run(
    command: &Command,
    settings: &settings::Audit,
    out: &mut (dyn Write + Send),
) -> Result<bool, CliError> {
    let state_dir = StateDir::find_written(settings);
    if StateDir::told(settings).is_none() && state_dir.has_ledger().unwrap_or(true) {
        // There may be another one, of a daemon that was tried out.
        complain(&format!("note: this host's ledger is taken to be {}", state_dir.root.display()));
    }
    match command {
        Command::List(args) if args.set_aside => set_aside::list(args, &state_dir, out).map(|()| true),
        Command::List(args) => list(args, settings, &state_dir, out).await.map(|()| true),
        Command::Tail(args) => tail(args, &state_dir, out).await.map(|()| true),
        Command::Export(args) => export::export(args, &state_dir, out).map(|()| true),
        Command::Retry => set_aside::retry(&state_dir, out).map(|()| true),
        Command::Verify(args) => verify::verify(args, settings, &state_dir, out).await,
    }
}

async fn list(
    args: &List,
    settings: &settings::Audit,
    state_dir: &StateDir,
    out: &mut (dyn Write + Send),
) -> Result<(), CliError> {
    let mut query = args.filters.query(args.time_range, args.limit);
    let now = now_ms();
    let mut is_scanned = false;
    let mut items = if args.source == Source::Dynamodb {
        let table = table(settings)?;
        let client = dynamo::client(&settings.region).await;
        let mut items = Vec::new();
        loop {
            let found = search_table::search(&client, table, &query, &Scope::All, &host_id(), now_ms())
                .await
                .map_err(|refusal| CliError::Table(refusal.message.into_owned()))?;
            items.extend(found.items);
            is_scanned |= found.is_scanned;
            query.limit = args.limit - items.len();
            query.next_token = found.next;
            if query.next_token.is_none() || query.limit == 0 {
                break items;
            }
        }
    } else {
        let snapshot = open(state_dir)?;
        let mut items: Vec<_> = snapshot
            .unindexed
            .iter()
            .filter(|row| matches(row, &query, now))
            .map(|row| with_hash(&row.item, &row.hash))
            .collect();
        if let Some(db) = &snapshot.db {
            items.extend(search_in(db, &query, &Scope::All, now)?.items);
        }
        items
    };
    items.sort_by(|a, b| b["timestamp"].as_str().cmp(&a["timestamp"].as_str()));
    items.truncate(args.limit);
    if is_scanned {
        complain("note: the table has no index by time, so it was scanned, and these need not be the newest records");
    }
    let mut writer = output::Writer::new(args.format, out)?;
    items.iter().try_for_each(|item| writer.write(item))?;
    Ok(writer.finish()?)
}

/// Says something beside the output, which other programs may read.
fn complain(sentence: &str) {
    let _ = writeln!(std::io::stderr(), "{sentence}");
}

async fn tail(args: &Tail, state_dir: &StateDir, out: &mut (dyn Write + Send)) -> Result<(), CliError> {
    let query = args.filters.query(TimeRange::All, args.limit);
    let mut writer = output::Writer::new(args.format, out)?;
    let mut last = None;
    loop {
        // A new snapshot each time: a read transaction that lasts would keep the daemon from checkpointing the index.
        let snapshot = open(state_dir)?;
        let mut found = Vec::new();
        snapshot.for_each_after::<CliError>(last.unwrap_or(0), |row| {
            last = Some(row.id);
            if matches(&row, &query, now_ms()) {
                found.push(row);
            }
            // Only the newest of what there was at the beginning are shown.
            if found.len() > args.limit.saturating_mul(2).max(1000) && !writer.begun() {
                found.drain(..found.len() - args.limit);
            }
            Ok(())
        })?;
        drop(snapshot);
        let skip = if writer.begun() { 0 } else { found.len().saturating_sub(args.limit) };
        found[skip..].iter().try_for_each(|row| writer.write(&with_hash(&row.item, &row.hash)))?;
        writer.flush()?;
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

/// Whether a query is about a record that was not read by a filtering search.
fn matches(row: &IndexedRecord, query: &Query, now_ms: i64) -> bool {
    let Ok(columns) = ItemColumns::read(&row.item) else { return true };
    let (since_ms, until_ms) = query.starts(now_ms);
    columns.started_ms() >= since_ms
        && until_ms.is_none_or(|until_ms| columns.started_ms() <= until_ms)
        && query.finds_members(&row.item)
        && query.caller_uid.is_none_or(|uid| columns.caller_uid == Some(uid))
        && (query.finds_own() || !Record::OWN.contains(&&*columns.operation))
        && query.success.is_none_or(|success| success == columns.success)
        && query.model_id.as_ref().is_none_or(|model| *model == columns.model_id)
        && query.caller.as_ref().is_none_or(|caller| columns.caller.as_ref().is_some_and(|name| name == caller))
}

/// What `audit verify` has to say of a ledger, for the tests of the ledger.
#[cfg(test)]
pub(crate) fn findings_of(settings: &settings::Audit) -> Vec<String> {
    let snapshot = super::snapshot::Snapshot::open(&StateDir::find(settings)).unwrap();
    let (checker, _) = verify::ledger(&snapshot, None).unwrap();
    checker.findings.iter().map(ToString::to_string).collect()
}
