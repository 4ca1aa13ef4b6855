//! Reading the table's index by time, newest first. An index with several partitions is read in all of them at once,
//! and what they hold is merged.

use std::collections::{BTreeMap, VecDeque};

use aws_sdk_dynamodb::operation::query::builders::QueryFluentBuilder;
use aws_sdk_dynamodb::types::AttributeValue;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::task::JoinSet;

use crate::ledger::dynamo::{self, Attributes, Failure, FailureClass, TimeIndex};

/// Items that DynamoDB looks at in one round, in all partitions together.
const ITEMS_PER_ROUND: usize = 1000;
/// Rounds for one page: a filter that lets little through must not read a whole table at once.
const MAX_ROUNDS: usize = 20;
/// Behind every timestamp.
const NO_END: &str = "~";

/// Where a page ended, so that the next one goes on there.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Token {
    /// The timestamp of the last record. Newer ones that came meanwhile do not shift the pages.
    until: Option<String>,
    /// By partition, the timestamp and requestId behind which it goes on; none when nothing is left in it. Absent ones go
    /// on at `until`.
    at: BTreeMap<String, Option<(String, String)>>,
}

/// One partition of the index.
#[derive(Debug)]
struct Partition {
    value: String,
    /// Behind what the next read begins.
    from: Option<Attributes>,
    /// Nothing is left to read.
    ended: bool,
    /// What was read and is not on a page yet, newest first.
    items: VecDeque<Value>,
    /// The timestamp and requestId of the last record that came from it.
    at: Option<(String, String)>,
}

/// Records on a page, and the token of the next one.
pub(crate) type MergedPage = (Vec<Value>, Option<Vec<u8>>);

/// Reads a page. `base` has the table, the index and the filter; the keys are added here, or the one key that `only` names. None when the token is not
/// from such a page.
pub(crate) async fn newest_first(
    base: &QueryFluentBuilder,
    index: &TimeIndex,
    only: Option<&str>,
    since: &str,
    token: Option<&[u8]>,
    limit: usize,
) -> Result<Option<MergedPage>, Failure> {
    let Ok(token) = token.map_or(Ok(Token::default()), serde_json::from_slice::<Token>) else { return Ok(None) };
    let until = token.until.clone().unwrap_or_else(|| NO_END.to_owned());
    let base = base
        .clone()
        .index_name(&index.name)
        .scan_index_forward(false)
        .key_condition_expression("#hash = :hash AND #time BETWEEN :since AND :until")
        .expression_attribute_names("#hash", index.hash.name())
        .expression_attribute_names("#time", "timestamp")
        .expression_attribute_values(":since", AttributeValue::S(since.to_owned()))
        .expression_attribute_values(":until", AttributeValue::S(until));
    let values = index.hash.values().into_iter().filter(|value| only.is_none_or(|only| value == only));
    let mut partitions: Vec<Partition> = values.map(|value| Partition::new(value, &token, index)).collect();
    let mut found = Vec::new();
    // Enough for the page, if its records are spread evenly; more only if that was too little.
    let per_round = ITEMS_PER_ROUND / partitions.len().max(1);
    let mut read_limit = (limit.saturating_mul(2) / partitions.len().max(1)).clamp(10, per_round);
    for _ in 0..MAX_ROUNDS {
        read(&base, &mut partitions, read_limit).await?;
        read_limit = per_round;
        while found.len() < limit && partitions.iter().all(|partition| partition.ended || !partition.items.is_empty()) {
            let newest = partitions
                .iter_mut()
                .filter(|partition| !partition.items.is_empty())
                .max_by(|a, b| time(a.items.front()).cmp(time(b.items.front())));
            match newest.and_then(Partition::take) {
                Some(item) => found.push(item),
                None => return Ok(Some((found, None))),
            }
        }
        if found.len() >= limit {
            break;
        }
    }
    if partitions.iter().all(|partition| partition.ended && partition.items.is_empty()) {
        return Ok(Some((found, None)));
    }
    let until = found.last().map(|item| time(Some(item)).to_owned()).or(token.until);
    let mut at = BTreeMap::new();
    for partition in &partitions {
        match partition.place() {
            // DynamoDB refuses to begin outside of what is asked for, and nothing is left between there and `until`.
            Some(Some((time, _))) if until.as_ref().is_some_and(|until| time > *until) => {}
            Some(place) => drop(at.insert(partition.value.clone(), place)),
            None => {}
        }
    }
    let token = serde_json::to_vec(&Token { until, at }).unwrap_or_default();
    Ok(Some((found, Some(token))))
}

/// Reads on in each partition of which nothing is left.
async fn read(base: &QueryFluentBuilder, partitions: &mut [Partition], limit: usize) -> Result<(), Failure> {
    let mut reads = JoinSet::new();
    for (number, partition) in partitions.iter_mut().enumerate() {
        if partition.items.is_empty() && !partition.ended {
            let request = base
                .clone()
                .expression_attribute_values(":hash", AttributeValue::S(partition.value.clone()))
                .limit(i32::try_from(limit).unwrap_or(i32::MAX))
                .set_exclusive_start_key(partition.from.take());
            reads.spawn(async move { (number, request.send().await) });
        }
    }
    let table = base.get_table_name().clone().unwrap_or_default();
    while let Some(read) = reads.join_next().await {
        let (number, page) =
            read.map_err(|error| Failure { class: FailureClass::Transient, sentence: error.to_string() })?;
        let page = page.map_err(|error| dynamo::classify(error, &table))?;
        if let Some(partition) = partitions.get_mut(number) {
            partition.items.extend(page.items.unwrap_or_default().into_iter().map(dynamo::item_to_json));
            partition.ended = page.last_evaluated_key.is_none();
            partition.from = page.last_evaluated_key;
        }
    }
    Ok(())
}

impl Partition {
    fn new(value: String, token: &Token, index: &TimeIndex) -> Partition {
        let (ended, at) = match token.at.get(&value) {
            Some(None) => (true, None),
            Some(Some(at)) => (false, Some(at.clone())),
            None => (false, None),
        };
        let from = at.as_ref().map(|(time, id)| {
            let key = [("timestamp", time), ("requestId", id), (index.hash.name(), &value)];
            key.into_iter().map(|(name, text)| (name.to_owned(), AttributeValue::S(text.clone()))).collect()
        });
        Partition { value, from, ended, items: VecDeque::new(), at }
    }

    fn take(&mut self) -> Option<Value> {
        let item = self.items.pop_front()?;
        let id = item["requestId"].as_str().unwrap_or_default().to_owned();
        self.at = Some((time(Some(&item)).to_owned(), id));
        Some(item)
    }

    /// Where it goes on, as a token has it; none when it is to go on where the page ends.
    #[expect(clippy::option_option, reason = "as the token has it")]
    fn place(&self) -> Option<Option<(String, String)>> {
        if !self.items.is_empty() {
            return self.at.clone().map(Some);
        }
        if self.ended {
            return Some(None);
        }
        let text = |name: &str| Some(self.from.as_ref()?.get(name)?.as_s().ok()?.clone());
        text("timestamp").zip(text("requestId")).map(Some)
    }
}

fn time(item: Option<&Value>) -> &str {
    item.and_then(|item| item["timestamp"].as_str()).unwrap_or_default()
}
