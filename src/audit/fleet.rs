//! The same questions to DynamoDB, for the records of every host that ships to the table.

use std::collections::HashMap;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::AttributeValue;
use serde_json::Value;

use super::item::timestamp;
use super::questions::{Found, Partition, Query, Scope, bad_token};
use super::ship::dynamo::{self, Shape};
use crate::error::{Kind, Refusal};

/// Items that DynamoDB reads for a page.
const READ: i32 = 1000;
/// Pages that DynamoDB reads for one answer: a filter that lets little through must not read a whole table at once.
const PAGES: usize = 20;

/// Finds records in the table. By an index on the time they come newest first; else a scan finds them in no order, and
/// only a page is sorted.
pub async fn select(
    client: &Client,
    table: &str,
    query: &Query,
    who: &Scope,
    host_id: &str,
    now_ms: i64,
) -> Result<Found, Refusal> {
    if query.partition == Partition::Govcloud {
        return Ok(Found::default());
    }
    let shape = shape(client, table).await?;
    let filter = Filter::new(query, who, host_id);
    let since = timestamp(query.range.since_ms(now_ms).max(0));
    let mut from = query.next_token.as_deref().map(key).transpose()?;
    let mut found = Found::default();
    for _ in 0..PAGES {
        let (items, last) = match &shape.by_time {
            Some((index, hash)) => {
                let whole = if hash == "sourcePartition" { "govcloud" } else { "commercial" };
                let asked = client
                    .query()
                    .table_name(table)
                    .index_name(index)
                    .scan_index_forward(false)
                    .key_condition_expression("#hash = :hash AND #time >= :since")
                    .set_filter_expression(filter.expression.clone())
                    .set_expression_attribute_names(Some(filter.names_and([("#hash", hash), ("#time", "timestamp")])))
                    .set_expression_attribute_values(Some(filter.values_and([(":hash", whole), (":since", &since)])))
                    .limit(READ)
                    .set_exclusive_start_key(from.take());
                let page = asked.send().await.map_err(|error| refusal(dynamo::failure(error, table), query))?;
                (page.items.unwrap_or_default(), page.last_evaluated_key)
            }
            None => {
                let timed = match &filter.expression {
                    Some(filter) => format!("#time >= :since AND {filter}"),
                    None => "#time >= :since".to_owned(),
                };
                let asked = client
                    .scan()
                    .table_name(table)
                    .filter_expression(timed)
                    .set_expression_attribute_names(Some(filter.names_and([("#time", "timestamp")])))
                    .set_expression_attribute_values(Some(filter.values_and([(":since", &since)])))
                    .limit(READ)
                    .set_exclusive_start_key(from.take());
                let page = asked.send().await.map_err(|error| refusal(dynamo::failure(error, table), query))?;
                (page.items.unwrap_or_default(), page.last_evaluated_key)
            }
        };
        from = last;
        for item in items {
            if found.items.len() == query.limit {
                // The rest of what was read belongs to the next answer, which goes on behind the last item of this one.
                from = found.items.last().map(|item| key_of(item, &shape));
                break;
            }
            found.items.push(dynamo::json(item));
        }
        if from.is_none() || found.items.len() >= query.limit {
            break;
        }
    }
    found.total = found.items.len() as u64;
    found.next = from.map(|key| token(&key));
    found.items.sort_by(|a, b| b["timestamp"].as_str().cmp(&a["timestamp"].as_str()));
    Ok(found)
}

/// The attributes by which DynamoDB finds an item's place again.
fn key_of(item: &Value, shape: &Shape) -> HashMap<String, AttributeValue> {
    let index = shape.by_time.as_ref().map(|(_, hash)| hash.as_str());
    let timestamp = (shape.ranged || index.is_some()).then_some("timestamp");
    let names = [Some("requestId"), timestamp, index].into_iter().flatten();
    names.filter_map(|name| Some((name.to_owned(), AttributeValue::S(item.get(name)?.as_str()?.to_owned())))).collect()
}

async fn shape(client: &Client, table: &str) -> Result<Shape, Refusal> {
    match client.describe_table().table_name(table).send().await {
        Ok(answer) => Ok(answer.table().and_then(|table| dynamo::shape(table).ok()).unwrap_or(NO_INDEX)),
        Err(error) => match dynamo::failure(error, table) {
            // Reading may be allowed where describing is not.
            failure if failure.class == dynamo::Class::Credentials => Ok(NO_INDEX),
            failure => Err(refusal(failure, &Query::default())),
        },
    }
}

const NO_INDEX: Shape = Shape { ranged: true, by_time: None };

fn refusal(failure: dynamo::Failure, query: &Query) -> Refusal {
    if failure.class == dynamo::Class::Refused && query.next_token.is_some() {
        return bad_token();
    }
    Refusal::new(Kind::ServiceUnavailable, failure.sentence).retry_after(Duration::from_secs(5))
}

/// The part of a question that DynamoDB decides item by item.
struct Filter {
    expression: Option<String>,
    names: HashMap<String, String>,
    values: HashMap<String, AttributeValue>,
}

impl Filter {
    fn new(query: &Query, who: &Scope, host_id: &str) -> Filter {
        let mut filter = Filter { expression: None, names: HashMap::new(), values: HashMap::new() };
        if let Some(success) = query.success {
            let success = filter.term("success", AttributeValue::Bool(success));
            filter.and(&success);
        }
        if let Some(model) = &query.model_id {
            let model = filter.term("modelId", AttributeValue::S(model.clone()));
            filter.and(&model);
        }
        if let Some(caller) = &query.caller {
            let caller = filter.term("caller", AttributeValue::S(caller.clone()));
            filter.and(&caller);
        }
        if let Scope::Own { caller, uid } = who {
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

    fn names_and<const N: usize>(&self, more: [(&str, &str); N]) -> HashMap<String, String> {
        let more = more.map(|(key, name)| (key.to_owned(), name.to_owned()));
        self.names.clone().into_iter().chain(more).collect()
    }

    fn values_and<const N: usize>(&self, more: [(&str, &str); N]) -> HashMap<String, AttributeValue> {
        let more = more.map(|(key, value)| (key.to_owned(), AttributeValue::S(value.to_owned())));
        self.values.clone().into_iter().chain(more).collect()
    }
}

/// Keys of the table and of its index are texts.
fn token(key: &HashMap<String, AttributeValue>) -> Vec<u8> {
    let key: serde_json::Map<String, Value> = key
        .iter()
        .filter_map(|(name, value)| Some((name.clone(), Value::String(value.as_s().ok()?.clone()))))
        .collect();
    Value::Object(key).to_string().into_bytes()
}

fn key(token: &[u8]) -> Result<HashMap<String, AttributeValue>, Refusal> {
    let key: HashMap<String, String> = serde_json::from_slice(token).map_err(|_| bad_token())?;
    Ok(key.into_iter().map(|(name, value)| (name, AttributeValue::S(value))).collect())
}
