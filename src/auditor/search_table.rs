//! Searching the DynamoDB table, where the records of every host are that ships to it.

use std::collections::HashMap;
use std::sync::Once;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::AttributeValue;
use serde_json::Value;

use super::query::{Page, Query, Scope, invalid_token};
use super::time_index::{self, MergedPage};
use crate::error::{Refusal, RefusalKind};
use crate::ledger::dynamo::{self, FailureClass, TableKeys, TimeIndexHash};
use crate::ledger::timestamp::timestamp;
use crate::record::{Outcome, Record};

/// Items that DynamoDB looks at in one call.
const ITEMS_PER_READ: i32 = 1000;
/// Calls for one page of a scan: a filter that lets little through must not read a whole table at once.
const MAX_READS: usize = 20;

/// Finds records in the table. By an index on the time they come newest first; else a scan finds them in no order, and
/// only a page is sorted.
pub(crate) async fn search(
    client: &Client,
    table: &str,
    query: &Query,
    scope: &Scope,
    host_id: &str,
    now_ms: i64,
) -> Result<Page, Refusal> {
    let keys = table_keys(client, table).await?;
    let index = keys.as_ref().and_then(|keys| keys.time_indexes.first());
    // DynamoDB filters by no key of the index that it reads.
    let is_key = index.is_some_and(|index| index.hash == TimeIndexHash::DestinationPartition);
    let filter = Filter::new(query, scope, host_id, is_key);
    let since = timestamp(query.starts(now_ms).0.max(0));
    let mut found = Page::default();
    if let Some(request_id) = query.request_id {
        found.items = by_id(client, table, &request_id.to_string(), &filter, query).await?;
    } else if let Some(index) = index {
        let only = query.partition.destination().filter(|_| is_key);
        let base = client
            .query()
            .table_name(table)
            .set_filter_expression(filter.expression.clone())
            .set_expression_attribute_names(Some(filter.names.clone()))
            .set_expression_attribute_values(Some(filter.values.clone()));
        let page = time_index::newest_first(&base, index, only, &since, query.next_token.as_deref(), query.limit).await;
        (found.items, found.next) = page.map_err(|failure| refusal(failure, query))?.ok_or_else(invalid_token)?;
    } else {
        SCANNED.call_once(|| {
            tracing::warn!(
                table,
                "audit: the table has no index by time, so questions to the fleet scan it; packaging/aws has one"
            );
        });
        let has_sort_key = keys.is_none_or(|keys| keys.has_sort_key);
        (found.items, found.next) = scan(client, table, query, &filter, &since, has_sort_key).await?;
        found.is_scanned = true;
    }
    found.total = found.items.len() as u64;
    Ok(found)
}

/// The items of one request, whose id is the table's partition key.
async fn by_id(
    client: &Client,
    table: &str,
    request_id: &str,
    filter: &Filter,
    query: &Query,
) -> Result<Vec<Value>, Refusal> {
    let request = client
        .query()
        .table_name(table)
        .key_condition_expression("requestId = :id")
        .set_filter_expression(filter.expression.clone())
        .set_expression_attribute_names(Some(filter.names.clone()).filter(|names| !names.is_empty()))
        .set_expression_attribute_values(Some(filter.values.clone()))
        .expression_attribute_values(":id", AttributeValue::S(request_id.to_owned()));
    let page = request.send().await.map_err(|error| refusal(dynamo::classify(error, table), query))?;
    Ok(page.items.unwrap_or_default().into_iter().map(dynamo::item_to_json).collect())
}

/// It is said once, not with each question.
static SCANNED: Once = Once::new();

/// Finds records in no order; those of a page are sorted.
async fn scan(
    client: &Client,
    table: &str,
    query: &Query,
    filter: &Filter,
    since: &str,
    has_sort_key: bool,
) -> Result<MergedPage, Refusal> {
    let mut start = query.next_token.as_deref().map(decode_token).transpose()?;
    let mut found: Vec<Value> = Vec::new();
    let condition = match &filter.expression {
        Some(filter) => format!("#time >= :since AND {filter}"),
        None => "#time >= :since".to_owned(),
    };
    for _ in 0..MAX_READS {
        let request = client
            .scan()
            .table_name(table)
            .filter_expression(&condition)
            .set_expression_attribute_names(Some(filter.names.clone()))
            .expression_attribute_names("#time", "timestamp")
            .set_expression_attribute_values(Some(filter.values.clone()))
            .expression_attribute_values(":since", AttributeValue::S(since.to_owned()))
            .limit(ITEMS_PER_READ)
            .set_exclusive_start_key(start.take());
        let page = request.send().await.map_err(|error| refusal(dynamo::classify(error, table), query))?;
        start = page.last_evaluated_key;
        for item in page.items.unwrap_or_default() {
            if found.len() == query.limit {
                // The rest of what was read belongs to the next answer, which goes on behind the last item of this one.
                start = found.last().map(|item| start_key(item, has_sort_key));
                break;
            }
            found.push(dynamo::item_to_json(item));
        }
        if start.is_none() || found.len() >= query.limit {
            break;
        }
    }
    found.sort_by(|a, b| b["timestamp"].as_str().cmp(&a["timestamp"].as_str()));
    Ok((found, start.map(|key| encode_token(&key))))
}

/// The attributes with which DynamoDB goes on behind this item.
fn start_key(item: &Value, has_sort_key: bool) -> HashMap<String, AttributeValue> {
    let names = ["requestId"].into_iter().chain(has_sort_key.then_some("timestamp"));
    names.filter_map(|name| Some((name.to_owned(), AttributeValue::S(item.get(name)?.as_str()?.to_owned())))).collect()
}

/// None if they are not told.
async fn table_keys(client: &Client, table: &str) -> Result<Option<TableKeys>, Refusal> {
    match client.describe_table().table_name(table).send().await {
        Ok(answer) => Ok(answer.table().and_then(|table| dynamo::table_keys(table).ok())),
        Err(error) => match dynamo::classify(error, table) {
            // The role may be allowed to read the table and not to describe it.
            failure if failure.class == FailureClass::Credentials => Ok(None),
            failure => Err(refusal(failure, &Query::default())),
        },
    }
}

fn refusal(failure: dynamo::Failure, query: &Query) -> Refusal {
    if failure.class == FailureClass::Rejected && query.next_token.is_some() {
        return invalid_token();
    }
    Refusal::new(RefusalKind::ServiceUnavailable, failure.sentence).retry_after(Duration::from_secs(5))
}

/// The part of a query that DynamoDB decides item by item.
struct Filter {
    expression: Option<String>,
    names: HashMap<String, String>,
    values: HashMap<String, AttributeValue>,
}

impl Filter {
    fn new(query: &Query, scope: &Scope, host_id: &str, is_partition_key: bool) -> Filter {
        let mut filter = Filter { expression: None, names: HashMap::new(), values: HashMap::new() };
        if let Some(success) = query.success {
            let success = filter.term("success", AttributeValue::Bool(success));
            filter.and(&success);
        }
        if let Some(model) = &query.model_id {
            let model = filter.term("modelId", AttributeValue::S(model.clone()));
            filter.and(&model);
        }
        if let Some(partition) = query.partition.destination().filter(|_| !is_partition_key) {
            let partition = filter.term("destinationPartition", AttributeValue::S(partition.to_owned()));
            filter.and(&partition);
        }
        if let Some(caller) = &query.caller {
            let caller = filter.term("caller", AttributeValue::S(caller.clone()));
            filter.and(&caller);
        }
        for (name, value) in [
            ("operation", query.operation.as_deref()),
            ("destinationRegion", query.region.as_deref()),
            ("outcome", query.outcome.map(Outcome::as_str)),
        ] {
            if let Some(value) = value {
                let term = filter.term(name, AttributeValue::S(value.to_owned()));
                filter.and(&term);
            }
        }
        for (name, value) in [("callerUid", query.caller_uid), ("statusCode", query.status_code.map(u32::from))] {
            if let Some(value) = value {
                let term = filter.term(name, AttributeValue::N(value.to_string()));
                filter.and(&term);
            }
        }
        if !query.finds_own() {
            for own in Record::OWN {
                let other = filter.term("operation", AttributeValue::S(own.to_owned()));
                filter.and(&other.replace(" = ", " <> "));
            }
        }
        if let Scope::Own { caller, uid } = scope {
            let mut own = Vec::new();
            if let Some(caller) = caller {
                own.push(filter.term("caller", AttributeValue::S(caller.clone())));
            }
            if let Some(uid) = uid {
                // Another host's uid is another person.
                let uid = filter.term("callerUid", AttributeValue::N(uid.to_string()));
                let host = filter.term("hostId", AttributeValue::S(host_id.to_owned()));
                own.push(format!("{uid} AND {host}"));
            }
            let own = if own.is_empty() { "attribute_not_exists(requestId)".to_owned() } else { own.join(" OR ") };
            // DynamoDB refuses parentheses around parentheses; AND binds before OR without them.
            filter.and(&format!("({own})"));
        }
        filter
    }

    fn term(&mut self, name: &str, value: AttributeValue) -> String {
        let number = self.values.len();
        self.names.insert(format!("#{name}"), name.to_owned());
        self.values.insert(format!(":v{number}"), value);
        format!("#{name} = :v{number}")
    }

    fn and(&mut self, term: &str) {
        self.expression = Some(match self.expression.take() {
            Some(before) => format!("{before} AND {term}"),
            None => term.to_owned(),
        });
    }
}

/// Keys of the table are texts, so a JSON object of texts is enough.
fn encode_token(key: &HashMap<String, AttributeValue>) -> Vec<u8> {
    let key: serde_json::Map<String, Value> = key
        .iter()
        .filter_map(|(name, value)| Some((name.clone(), Value::String(value.as_s().ok()?.clone()))))
        .collect();
    Value::Object(key).to_string().into_bytes()
}

fn decode_token(token: &[u8]) -> Result<HashMap<String, AttributeValue>, Refusal> {
    let key: HashMap<String, String> = serde_json::from_slice(token).map_err(|_| invalid_token())?;
    Ok(key.into_iter().map(|(name, value)| (name, AttributeValue::S(value))).collect())
}
