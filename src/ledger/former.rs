//! Finding the end of the chain that this host's records in the table were in, when the ledger itself is gone.

use std::collections::{BTreeMap, HashMap};

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::{AttributeValue, KeyType, ProjectionType, TableDescription};

use super::chain::Chain;
use super::dynamo::{self, Attributes, Failure, FailureClass, TimeIndexHash};
use super::time_shard;

/// Pages of up to 1 MB that are read: a table may hold the records of many hosts for a long time.
const MAX_PAGES: usize = 200;
/// From an index by time the newest records come first, in the order in which they began. Those that ended last began
/// within this time before the newest.
const LONGEST_REQUEST_SECONDS: i64 = 86_400;

/// What the table has of this host.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// The last record of the newest chain, and when it expires.
    Head(Chain, Option<i64>),
    /// No other chain.
    None,
    /// Nothing among as many records as were read; a sentence.
    TooMany(String),
}

#[derive(Debug)]
struct Head {
    chain: Chain,
    ttl: Option<i64>,
    /// The start of its newest record.
    newest: String,
}

/// Finds the newest chain of this host in the table, apart from `own_chain`.
pub(crate) async fn search(client: &Client, table: &str, host_id: &str, own_chain: &str) -> Result<Found, Failure> {
    let index = match client.describe_table().table_name(table).send().await {
        Ok(answer) => answer.table().and_then(|table| index(table, host_id)),
        Err(error) => match dynamo::classify(error, table) {
            // The role may be allowed to read the table and not to describe it.
            failure if failure.class == FailureClass::Credentials => None,
            failure => return Err(failure),
        },
    };
    let mut values = index.iter().flat_map(|index| index.values.clone());
    let mut value = values.next();
    let mut heads: BTreeMap<String, Head> = BTreeMap::new();
    let mut from = None;
    for _ in 0..MAX_PAGES {
        let asked = index.as_ref().zip(value.as_deref());
        let (items, next) = page(client, table, asked, host_id, from.take()).await?;
        let mut is_behind = false;
        for item in &items {
            let Some(head) = head_of(item, host_id) else { continue };
            if head.chain.chain_id == own_chain {
                continue;
            }
            let newest = newest(&heads).map(|head| head.newest.as_str());
            is_behind |= index.is_some() && newest.is_some_and(|newest| is_long_before(&head.newest, newest));
            add(&mut heads, head);
        }
        from = next.filter(|_| !is_behind);
        if from.is_none() {
            value = values.next();
            if value.is_none() {
                break;
            }
        }
    }
    let newest = newest(&heads).map(|head| head.chain.chain_id.clone());
    // Without order, what was not read may be newer.
    let is_all = from.is_none() && value.is_none();
    let is_sound = is_all || index.as_ref().is_some_and(|index| index.values.len() == 1);
    Ok(match newest.and_then(|id| heads.remove(&id)).filter(|_| is_sound) {
        Some(head) => Found::Head(head.chain, head.ttl),
        None if is_all => Found::None,
        None => Found::TooMany(format!(
            "the table {table} holds too many records to be searched for those of this host; an index on hostId and timestamp makes that quick"
        )),
    })
}

/// An index that gives this host's records, or all, in the order of their time.
#[derive(Debug, PartialEq, Eq)]
struct Index {
    name: String,
    hash: String,
    /// The values of its hash key under which this host's records are.
    values: Vec<String>,
}

fn index(table: &TableDescription, host_id: &str) -> Option<Index> {
    let by_host = table.global_secondary_indexes().iter().find_map(|index| {
        let key = |kind: &KeyType| index.key_schema().iter().find(|key| key.key_type() == kind);
        let fits = key(&KeyType::Hash)?.attribute_name() == "hostId"
            && key(&KeyType::Range)?.attribute_name() == "timestamp"
            && index.projection()?.projection_type()? == &ProjectionType::All;
        let (hash, values) = ("hostId".to_owned(), vec![host_id.to_owned()]);
        fits.then(|| index.index_name().map(|name| Index { name: name.to_owned(), hash, values })).flatten()
    });
    by_host.or_else(|| {
        // The most complete one: a former chain may be of a version that wrote no `timeShard`.
        let index = dynamo::table_keys(table).ok()?.time_indexes.into_iter().next()?;
        let values = match index.hash {
            TimeIndexHash::SourcePartition => vec!["govcloud".to_owned()],
            TimeIndexHash::TimeShard => time_shard::of_host(host_id),
            TimeIndexHash::DestinationPartition => dynamo::destination_partitions(),
        };
        Some(Index { name: index.name, hash: index.hash.name().to_owned(), values })
    })
}

async fn page(
    client: &Client,
    table: &str,
    index: Option<(&Index, &str)>,
    host_id: &str,
    from: Option<Attributes>,
) -> Result<(Vec<Attributes>, Option<Attributes>), Failure> {
    const WANTED: &str = "#chain, #seq, #hash, #host, #time, #ttl";
    let mut names: HashMap<String, String> = [
        ("#chain", "chainId"),
        ("#seq", "chainSeq"),
        ("#hash", "chainHash"),
        ("#host", "hostId"),
        ("#time", "timestamp"),
        ("#ttl", "ttl"),
    ]
    .map(|(key, name)| (key.to_owned(), name.to_owned()))
    .into();
    let host = (":host".to_owned(), AttributeValue::S(host_id.to_owned()));
    let Some((index, value)) = index else {
        let request = client
            .scan()
            .table_name(table)
            .consistent_read(true)
            .projection_expression(WANTED)
            .filter_expression("#host = :host")
            .set_expression_attribute_names(Some(names))
            .expression_attribute_values(host.0, host.1)
            .set_exclusive_start_key(from);
        let page = request.send().await.map_err(|error| dynamo::classify(error, table))?;
        return Ok((page.items.unwrap_or_default(), page.last_evaluated_key));
    };
    let request = client
        .query()
        .table_name(table)
        .index_name(&index.name)
        .scan_index_forward(false)
        .projection_expression(WANTED)
        .set_exclusive_start_key(from);
    names.insert("#key".to_owned(), index.hash.clone());
    let request = request
        .key_condition_expression("#key = :key")
        .expression_attribute_values(":key", AttributeValue::S(value.to_owned()));
    // The keys of an index cannot be filtered by.
    let request = if index.hash == "hostId" {
        request
    } else {
        request.filter_expression("#host = :host").expression_attribute_values(host.0, host.1)
    };
    let request = request.set_expression_attribute_names(Some(names));
    let page = request.send().await.map_err(|error| dynamo::classify(error, table))?;
    Ok((page.items.unwrap_or_default(), page.last_evaluated_key))
}

fn head_of(item: &Attributes, host_id: &str) -> Option<Head> {
    let text = |name: &str| item.get(name)?.as_s().ok().cloned();
    let number = |name: &str| item.get(name)?.as_n().ok()?.parse::<i64>().ok();
    let chain = Chain {
        host_id: host_id.to_owned(),
        chain_id: text("chainId")?,
        seq: u64::try_from(number("chainSeq")?).ok()?,
        hash: text("chainHash")?,
    };
    Some(Head { chain, ttl: number("ttl"), newest: text("timestamp")? })
}

fn add(heads: &mut BTreeMap<String, Head>, head: Head) {
    let Some(known) = heads.get_mut(&head.chain.chain_id) else {
        heads.insert(head.chain.chain_id.clone(), head);
        return;
    };
    let newest = known.newest.clone().max(head.newest.clone());
    if head.chain.seq > known.chain.seq {
        *known = head;
    }
    known.newest = newest;
}

fn newest(heads: &BTreeMap<String, Head>) -> Option<&Head> {
    heads.values().max_by(|a, b| a.newest.cmp(&b.newest))
}

fn is_long_before(timestamp: &str, newest: &str) -> bool {
    let seconds = |text: &str| text.parse::<jiff::Timestamp>().map(jiff::Timestamp::as_second).ok();
    matches!((seconds(timestamp), seconds(newest)), (Some(a), Some(b)) if a < b - LONGEST_REQUEST_SECONDS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(chain: &str, seq: i64, timestamp: &str) -> Head {
        let item = [
            ("chainId", AttributeValue::S(chain.to_owned())),
            ("chainSeq", AttributeValue::N(seq.to_string())),
            ("chainHash", AttributeValue::S(format!("h{seq}"))),
            ("timestamp", AttributeValue::S(timestamp.to_owned())),
        ];
        head_of(&item.map(|(name, value)| (name.to_owned(), value)).into(), "i").unwrap()
    }

    #[test]
    fn the_end_of_a_chain_is_its_highest_number_and_the_newest_chain_counts() {
        let mut heads = BTreeMap::new();
        for (chain, seq, timestamp) in [
            ("a", 900, "2026-01-01T00:00:00.000Z"),
            ("b", 7, "2026-01-03T00:00:00.000Z"),
            ("b", 8, "2026-01-02T23:00:00.000Z"),
            ("a", 901, "2026-01-01T00:00:01.000Z"),
        ] {
            add(&mut heads, head(chain, seq, timestamp));
        }
        let newest = newest(&heads).unwrap();
        assert_eq!((newest.chain.chain_id.as_str(), newest.chain.seq), ("b", 8));
        assert_eq!((newest.chain.hash.as_str(), newest.newest.as_str()), ("h8", "2026-01-03T00:00:00.000Z"));
    }

    #[test]
    fn a_day_before_the_newest_record_nothing_is_left_to_find() {
        assert!(is_long_before("2026-01-01T00:00:00.000Z", "2026-01-02T00:00:01.000Z"));
        assert!(!is_long_before("2026-01-01T00:00:00.000Z", "2026-01-02T00:00:00.000Z"));
        assert!(!is_long_before("", "2026-01-02T00:00:00.000Z"));
    }
}
