//! The arguments of `audit` commands.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use uuid::Uuid;

use crate::auditor::query::{self, Partition, Query, REQUEST_ID, Source, TimeRange};
use crate::record::Outcome;

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
    /// Has the daemon send the records again that the table did not take.
    Retry,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Table,
    Jsonl,
    Csv,
}

/// Which records.
#[derive(Debug, Args)]
pub(crate) struct Filters {
    /// Only records that succeeded, or that did not.
    #[arg(long)]
    pub(super) success: Option<bool>,
    /// Only records of this model, as it was asked for.
    #[arg(long, value_name = "ID")]
    pub(super) model: Option<String>,
    /// Only records of this caller.
    #[arg(long, value_name = "NAME")]
    pub(super) caller: Option<String>,
    /// Only records of connections that this local user made.
    #[arg(long, value_name = "UID")]
    pub(super) caller_uid: Option<u32>,
    /// Only records of this operation.
    #[arg(long, value_name = "NAME")]
    pub(super) operation: Option<String>,
    /// Only records with this destinationRegion: it went there, or would have gone there.
    #[arg(long, value_name = "REGION")]
    pub(super) region: Option<String>,
    /// Only records that ended so: completed, upstream_error, refused, client_disconnected, client_stalled, upstream_broke,
    /// interrupted.
    #[arg(long, value_parser = outcome)]
    pub(super) outcome: Option<Outcome>,
    /// Only records whose client got this status.
    #[arg(long, value_name = "STATUS")]
    pub(super) status_code: Option<u16>,
    /// Only the record of this request, whenever that was.
    #[arg(long, value_name = "ID", value_parser = request_id)]
    pub(super) request_id: Option<Uuid>,
    /// Only records that went to this partition.
    #[arg(long, value_enum, default_value = "all")]
    pub(super) partition: Partition,
}

/// Arguments of `audit list`.
#[derive(Debug, Args)]
pub struct List {
    #[command(flatten)]
    pub(super) filters: Filters,
    /// How far back.
    #[arg(long, value_enum, default_value = "24h")]
    pub(super) time_range: TimeRange,
    /// How many records at most.
    #[arg(long, default_value_t = 50)]
    pub(super) limit: usize,
    /// A table for people, JSON lines or CSV for programs.
    #[arg(long, value_enum, default_value = "table")]
    pub(super) format: Format,
    /// This host's ledger, or the DynamoDB table.
    #[arg(long, value_enum, default_value = "ledger")]
    pub(super) source: Source,
    /// The records that the table does not take, with what it said, oldest first and of any time; then those whose place in
    /// the chain another record has.
    #[arg(long, conflicts_with_all = ["time_range", "source", "Filters"])]
    pub(super) set_aside: bool,
}

/// Arguments of `audit tail`.
#[derive(Debug, Args)]
pub struct Tail {
    #[command(flatten)]
    pub(super) filters: Filters,
    /// How many records to begin with.
    #[arg(long, default_value_t = 10)]
    pub(super) limit: usize,
    /// A table for people, JSON lines or CSV for programs.
    #[arg(long, value_enum, default_value = "table")]
    pub(super) format: Format,
}

/// Arguments of `audit export`.
#[derive(Debug, Args)]
pub struct Export {
    #[command(flatten)]
    pub(super) filters: Filters,
    /// How far back. Only an export of all records can be verified without the ledger.
    #[arg(long, value_enum, default_value = "all")]
    pub(super) time_range: TimeRange,
    /// JSON lines or CSV for programs, a table for people. Only JSON lines can be verified.
    #[arg(long, value_enum, default_value = "jsonl")]
    pub(super) format: Format,
}

/// Arguments of `audit verify`.
#[derive(Debug, Args)]
pub struct Verify {
    /// What to verify.
    #[arg(long, value_enum, default_value = "ledger")]
    pub(super) source: VerifySource,
    /// The export (JSON lines) to verify, with `--source export`; `-` reads the standard input.
    #[arg(value_name = "FILE", required_if_eq("source", "export"))]
    pub(super) file: Option<PathBuf>,
    /// With `--source dynamodb`: how far back the table is compared. The ledger is checked as a whole.
    #[arg(long, value_enum, default_value = "all")]
    pub(super) time_range: TimeRange,
    /// With `--source dynamodb`: reads the whole table, even if it has an index by time; so items that are not in the
    /// index are found too.
    #[arg(long)]
    pub(super) scan: bool,
    /// Anchors (`[audit.anchor]`) that were kept elsewhere: a log, as the daemon or `journalctl -o json` or `-o cat` wrote
    /// it (`-` reads the standard input), or a directory with a copy of the bucket, as `aws s3 sync` makes it. The ledger
    /// has to agree with each.
    #[arg(long, value_name = "PATH")]
    pub(super) anchors: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum VerifySource {
    /// This host's records.
    Ledger,
    /// A file that `audit export` wrote.
    Export,
    /// This host's records in the table, against its ledger.
    Dynamodb,
}

fn outcome(text: &str) -> Result<Outcome, &'static str> {
    Outcome::named(text).ok_or("no request ends so")
}

fn request_id(text: &str) -> Result<Uuid, String> {
    query::request_id(text).ok_or_else(|| format!("it has to {REQUEST_ID}"))
}

impl Filters {
    pub(super) fn query(&self, range: TimeRange, limit: usize) -> Query {
        Query {
            range,
            success: self.success,
            partition: self.partition,
            model_id: self.model.clone(),
            caller: self.caller.clone(),
            caller_uid: self.caller_uid,
            operation: self.operation.clone(),
            region: self.region.clone(),
            outcome: self.outcome,
            status_code: self.status_code,
            request_id: self.request_id,
            limit,
            own: true,
            ..Query::default()
        }
    }
}
