//! `bedrock-sidecar audit …`: the auditor's commands. They read the state directory themselves, whether a daemon runs or
//! not, and so need its user's rights.

mod output;
mod verify;

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use super::query::{Partition, Query, Scope, Source, TimeRange};
use super::search_index::{search_in, with_hash};
use super::search_table;
use super::snapshot::Snapshot;
use crate::ledger::StateDir;
use crate::ledger::clock::now_ms;
use crate::ledger::dynamo;
use crate::ledger::host_id::host_id;
use crate::ledger::index::IndexError;
use crate::ledger::index::columns::ItemColumns;
use crate::ledger::index::read::IndexedRecord;
use crate::settings;

/// Asks the records of this host, or of the fleet.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Shows the newest records.
    List(List),
    /// Shows the newest records and then each new one.
    Tail(Tail),
    /// Writes all records, oldest first.
    Export(Export),
    /// Follows the hash chain and names every record that was changed, removed or slipped in.
    Verify(Verify),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Table,
    Jsonl,
    Csv,
}

/// Which records.
#[derive(Debug, Args)]
pub struct Filters {
    /// Only records that succeeded, or that did not.
    #[arg(long)]
    success: Option<bool>,
    /// Only records of this model, as it was asked for.
    #[arg(long, value_name = "ID")]
    model: Option<String>,
    /// Only records of this caller.
    #[arg(long, value_name = "NAME")]
    caller: Option<String>,
    /// Only records that went to this partition.
    #[arg(long, value_enum, default_value = "all")]
    partition: Partition,
}

#[derive(Debug, Args)]
pub struct List {
    #[command(flatten)]
    filters: Filters,
    /// How far back.
    #[arg(long, value_enum, default_value = "24h")]
    time_range: TimeRange,
    #[arg(long, default_value_t = 50)]
    limit: usize,
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
    /// This host's ledger, or the DynamoDB table.
    #[arg(long, value_enum, default_value = "ledger")]
    source: Source,
}

#[derive(Debug, Args)]
pub struct Tail {
    #[command(flatten)]
    filters: Filters,
    /// How many records to begin with.
    #[arg(long, default_value_t = 10)]
    limit: usize,
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

#[derive(Debug, Args)]
pub struct Export {
    #[command(flatten)]
    filters: Filters,
    /// How far back. Only an export of all records can be verified without the ledger.
    #[arg(long, value_enum, default_value = "all")]
    time_range: TimeRange,
    #[arg(long, value_enum, default_value = "jsonl")]
    format: Format,
}

#[derive(Debug, Args)]
pub struct Verify {
    /// What to verify.
    #[arg(long, value_enum, default_value = "ledger")]
    source: VerifySource,
    /// The export (JSON lines) to verify, with `--source export`; `-` reads the standard input.
    #[arg(value_name = "FILE", required_if_eq("source", "export"))]
    file: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum VerifySource {
    /// This host's records.
    Ledger,
    /// A file that `audit export` wrote.
    Export,
    /// This host's records in the table, against its ledger.
    Dynamodb,
}

/// Why a command could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    #[error("the ledger in {} cannot be read: {source}", path.display())]
    Ledger { path: PathBuf, source: IndexError },
    #[error("the ledger cannot be read: {0}")]
    Store(#[from] IndexError),
    #[error("there is no ledger in {}; name the configuration of the daemon with --config, and run as its user", .0.display())]
    NoLedger(PathBuf),
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{0}")]
    Output(#[from] io::Error),
    #[error("{0}")]
    Table(String),
}

/// Runs a command. False when it ran and what it found is not in order.
pub async fn run(
    command: &Command,
    settings: &settings::Audit,
    out: &mut (dyn Write + Send),
) -> Result<bool, CliError> {
    let state_dir = StateDir::find(settings);
    match command {
        Command::List(args) => list(args, settings, &state_dir, out).await.map(|()| true),
        Command::Tail(args) => tail(args, &state_dir, out).await.map(|()| true),
        Command::Export(args) => export(args, &state_dir, out).map(|()| true),
        Command::Verify(args) => verify::verify(args, settings, &state_dir, out).await,
    }
}

fn open(state_dir: &StateDir) -> Result<Snapshot, CliError> {
    if !state_dir.journal().exists() && !state_dir.database().exists() {
        return Err(CliError::NoLedger(state_dir.root.clone()));
    }
    Snapshot::open(state_dir).map_err(|source| CliError::Ledger { path: state_dir.root.clone(), source })
}

impl Filters {
    fn query(&self, range: TimeRange, limit: usize) -> Query {
        Query {
            range,
            success: self.success,
            partition: self.partition,
            model_id: self.model.clone(),
            caller: self.caller.clone(),
            limit,
            ..Query::default()
        }
    }
}

async fn list(
    args: &List,
    settings: &settings::Audit,
    state_dir: &StateDir,
    out: &mut (dyn Write + Send),
) -> Result<(), CliError> {
    let mut query = args.filters.query(args.time_range, args.limit);
    let since = query.range.since_ms(now_ms());
    let mut items = if args.source == Source::Dynamodb {
        let table = table(settings)?;
        let client = dynamo::client(&settings.region).await;
        let mut items = Vec::new();
        loop {
            let found = search_table::search(&client, table, &query, &Scope::All, &host_id(), now_ms())
                .await
                .map_err(|refusal| CliError::Table(refusal.message.into_owned()))?;
            items.extend(found.items);
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
            .filter(|row| matches(row, &query, since))
            .map(|row| with_hash(&row.item, &row.hash))
            .collect();
        if let Some(db) = &snapshot.db {
            items.extend(search_in(db, &query, &Scope::All, since)?.items);
        }
        items
    };
    items.sort_by(|a, b| b["timestamp"].as_str().cmp(&a["timestamp"].as_str()));
    items.truncate(args.limit);
    let mut writer = output::Writer::new(args.format, out)?;
    items.iter().try_for_each(|item| writer.write(item))?;
    Ok(writer.finish()?)
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
            if matches(&row, &query, i64::MIN) {
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

fn export(args: &Export, state_dir: &StateDir, out: &mut (dyn Write + Send)) -> Result<(), CliError> {
    let query = args.filters.query(args.time_range, usize::MAX);
    let since = query.range.since_ms(now_ms());
    let mut writer = output::Writer::new(args.format, out)?;
    open(state_dir)?.for_each_after::<CliError>(0, |row| {
        if matches(&row, &query, since) {
            writer.write(&with_hash(&row.item, &row.hash))?;
        }
        Ok(())
    })?;
    Ok(writer.finish()?)
}

fn table(settings: &settings::Audit) -> Result<&str, CliError> {
    settings
        .table
        .as_deref()
        .ok_or_else(|| CliError::Table("audit.table is not set, so there is no table to read".to_owned()))
}

/// Whether a query is about a record that was not read by a filtering search.
fn matches(row: &IndexedRecord, query: &Query, since_ms: i64) -> bool {
    let Ok(columns) = serde_json::from_str::<ItemColumns<'_>>(&row.item) else { return true };
    columns.started_ms() >= since_ms
        && query.partition != Partition::Govcloud
        && query.success.is_none_or(|success| success == columns.success)
        && query.model_id.as_ref().is_none_or(|model| *model == columns.model_id)
        && query.caller.as_ref().is_none_or(|caller| Some(caller) == columns.caller.as_ref())
}
