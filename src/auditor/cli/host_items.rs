//! This host's items in the table, as `audit verify` reads them: by an index by time where that is enough, else by a
//! scan.

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::AttributeValue;
use rusqlite::{Connection, OptionalExtension};
use serde_json::Value;
use tokio::task::JoinSet;

use super::error::CliError;
use crate::ledger::dynamo::{self, Attributes, TimeIndex, TimeIndexHash};
use crate::ledger::index::IndexError;
use crate::ledger::integer::to_signed;
use crate::ledger::time_shard;

/// Items that are looked up at the same time.
const LOOKUPS: usize = 16;

/// The items are handed out page by page.
#[derive(Debug)]
pub(super) struct HostItems<'a> {
    client: &'a Client,
    table: &'a str,
    host_id: &'a str,
    /// The earliest timestamp.
    since: Option<String>,
    index: Option<TimeIndex>,
    /// The keys of the index that are still to be read; one without meaning for a scan.
    keys: Vec<String>,
    from: Option<Attributes>,
}

/// What decides how the table is read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Need {
    /// The whole table is to be read, whatever indexes there are.
    pub(super) scan: bool,
    /// Every record that has to be in the table has the index's key.
    pub(super) all_have_shards: bool,
}

impl<'a> HostItems<'a> {
    /// Chooses how to read, and says so in the second value.
    pub(super) async fn choose(
        client: &'a Client,
        table: &'a str,
        host_id: &'a str,
        since: Option<String>,
        need: Need,
    ) -> (HostItems<'a>, String) {
        let (index, note) = match (need.scan, time_indexes(client, table).await) {
            (true, _) => (None, "the whole table was scanned, as asked for".to_owned()),
            (false, indexes) => choose_index(indexes, since.is_some(), need.all_have_shards),
        };
        let keys = match &index {
            Some(TimeIndex { hash: TimeIndexHash::TimeShard, .. }) => time_shard::of_host(host_id),
            Some(index) => index.hash.values(),
            None => vec![String::new()],
        };
        (HostItems { client, table, host_id, since, index, keys, from: None }, note)
    }

    /// The next items; none at the end.
    pub(super) async fn next_page(&mut self) -> Result<Option<Vec<Value>>, CliError> {
        let Some(key) = self.keys.last() else { return Ok(None) };
        let text = |text: &str| AttributeValue::S(text.to_owned());
        let (items, from) = if let Some(index) = &self.index {
            let mut request = self
                .client
                .query()
                .table_name(self.table)
                .index_name(&index.name)
                .filter_expression("#host = :host")
                .expression_attribute_names("#host", "hostId")
                .expression_attribute_values(":host", text(self.host_id))
                .expression_attribute_names("#hash", index.hash.name())
                .expression_attribute_values(":hash", text(key))
                .set_exclusive_start_key(self.from.take());
            request = match &self.since {
                Some(since) => request
                    .key_condition_expression("#hash = :hash AND #time >= :since")
                    .expression_attribute_names("#time", "timestamp")
                    .expression_attribute_values(":since", text(since)),
                None => request.key_condition_expression("#hash = :hash"),
            };
            let page = request.send().await.map_err(|error| failed(error, self.table))?;
            (page.items, page.last_evaluated_key)
        } else {
            // What was confirmed a moment ago has to be seen.
            let mut request = self
                .client
                .scan()
                .table_name(self.table)
                .consistent_read(true)
                .expression_attribute_names("#host", "hostId")
                .expression_attribute_values(":host", text(self.host_id))
                .set_exclusive_start_key(self.from.take());
            request = match &self.since {
                Some(since) => request
                    .filter_expression("#host = :host AND #time >= :since")
                    .expression_attribute_names("#time", "timestamp")
                    .expression_attribute_values(":since", text(since)),
                None => request.filter_expression("#host = :host"),
            };
            let page = request.send().await.map_err(|error| failed(error, self.table))?;
            (page.items, page.last_evaluated_key)
        };
        self.from = from;
        if self.from.is_none() {
            self.keys.pop();
        }
        Ok(Some(items.unwrap_or_default().into_iter().map(dynamo::item_to_json).collect()))
    }

    /// The items of these requests, from the table itself: an index is a moment behind it, and this host may have had
    /// another id when it wrote them.
    pub(super) async fn look_up(&self, request_ids: Vec<String>) -> Result<Vec<Value>, CliError> {
        let mut found = Vec::new();
        let mut lookups = JoinSet::new();
        let mut left = request_ids.into_iter();
        loop {
            while lookups.len() < LOOKUPS
                && let Some(id) = left.next()
            {
                let request = self
                    .client
                    .query()
                    .table_name(self.table)
                    .consistent_read(true)
                    .key_condition_expression("requestId = :id")
                    .expression_attribute_values(":id", AttributeValue::S(id));
                lookups.spawn(request.send());
            }
            let Some(answer) = lookups.join_next().await else { return Ok(found) };
            let answer = answer.map_err(|error| CliError::Table(error.to_string()))?;
            let items = answer.map_err(|error| failed(error, self.table))?.items.unwrap_or_default();
            found.extend(items.into_iter().map(dynamo::item_to_json));
        }
    }
}

/// The requestId of a record, if the ledger still has it.
pub(super) fn request_id(db: &Connection, chain_id: &str, seq: u64) -> Result<Option<String>, CliError> {
    let of = "SELECT item FROM records JOIN chains ON chains.id = records.chain WHERE chain_id = ?1 AND seq = ?2";
    let item: Option<String> = db
        .query_row(of, (chain_id, to_signed(seq)), |row| row.get(0))
        .optional()
        .map_err(|error| CliError::Read(IndexError::Sqlite(error)))?;
    let item = item.and_then(|item| serde_json::from_str::<Value>(&item).ok());
    Ok(item.and_then(|item| Some(item["requestId"].as_str()?.to_owned())))
}

/// An index that has all items of this host, and why, or why none is used.
fn choose_index(indexes: Vec<TimeIndex>, is_window: bool, all_have_shards: bool) -> (Option<TimeIndex>, String) {
    let by = |hash: TimeIndexHash| indexes.iter().find(|index| index.hash == hash).cloned();
    let sharded = by(TimeIndexHash::TimeShard);
    let is_sharded = sharded.is_some();
    if let Some(index) = sharded.filter(|_| all_have_shards) {
        let note =
            format!("the table was read by its index {}; --scan also finds items that are not in it", index.name);
        return (Some(index), note);
    }
    // All of it is the whole table, which a scan reads as it is now.
    if let Some(index) = by(TimeIndexHash::SourcePartition).filter(|_| is_window) {
        let note = format!("the table was read by its index {}, which has the records of all hosts", index.name);
        return (Some(index), note);
    }
    let why = if is_sharded {
        "its index on timeShard lacks records that an older version wrote"
    } else {
        "it has no index on timeShard (packaging/aws)"
    };
    (None, format!("the whole table was scanned: {why}"))
}

/// None if they are not told: the role may be allowed to read the table and not to describe it.
async fn time_indexes(client: &Client, table: &str) -> Vec<TimeIndex> {
    let described = client.describe_table().table_name(table).send().await.ok();
    let keys = described.and_then(|answer| dynamo::table_keys(answer.table()?).ok());
    keys.map(|keys| keys.time_indexes).unwrap_or_default()
}

fn failed<E>(error: aws_sdk_dynamodb::error::SdkError<E>, table: &str) -> CliError
where
    E: aws_sdk_dynamodb::error::ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    CliError::Table(dynamo::classify(error, table).sentence)
}
