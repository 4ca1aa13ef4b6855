//! The body of BatchWriteItem, made of canonical items: their keys, texts and numbers are copied as they stand there.

use aws_sdk_dynamodb::types::AttributeValue;

use crate::ledger::dynamo::{self, Attributes};
use crate::ledger::flat::{Scalar, visit_members};
use crate::record::Outcome;

/// What DynamoDB's form adds to an item that has many members, at most; `chainHash` among it.
const MARKUP_BYTES: usize = 512;

/// A record as the table is to have it.
#[derive(Debug)]
pub(super) struct Put {
    /// The value of `Item` in a PutRequest.
    json: Vec<u8>,
    pub(super) request_id: String,
    /// It was closed by a later start, which may not have known the end that the table has.
    pub(super) is_interrupted: bool,
}

impl Put {
    /// None if the item is no flat object. Empty texts, which older versions wrote, are left out: an index may have that
    /// attribute as its key.
    pub(super) fn new(item: &str, hash: &str) -> Option<Put> {
        Put::of_canonical(item, hash).or_else(|| Put::of_attributes(&dynamo::item_to_attributes(item, hash)?))
    }

    fn of_canonical(item: &str, hash: &str) -> Option<Put> {
        let mut json = Vec::with_capacity(item.len() + MARKUP_BYTES);
        let (mut request_id, mut is_interrupted) = (String::new(), false);
        write(&mut json, "chainHash", Scalar::Text(&serde_json::to_string(hash).ok()?));
        visit_members(item, |key, value| {
            match key {
                "chainHash" => return None,
                "requestId" => request_id = value.as_text()?.into_owned(),
                "outcome" => is_interrupted = value.as_text().is_some_and(|outcome| is_interruption(&outcome)),
                _ => {}
            }
            if value != Scalar::Text("\"\"") || key == "requestId" {
                write(&mut json, key, value);
            }
            Some(())
        })?;
        json.push(b'}');
        Some(Put { json, request_id, is_interrupted })
    }

    fn of_attributes(attributes: &Attributes) -> Option<Put> {
        let mut json = Vec::new();
        for (key, value) in attributes {
            // Without its quotes.
            let key = serde_json::to_string(key).ok()?;
            let key = key.get(1..key.len() - 1)?;
            match value {
                AttributeValue::S(text) => write(&mut json, key, Scalar::Text(&serde_json::to_string(text).ok()?)),
                AttributeValue::N(number) => write(&mut json, key, Scalar::Number(number)),
                AttributeValue::Bool(flag) => write(&mut json, key, Scalar::Flag(*flag)),
                _ => return None,
            }
        }
        json.push(b'}');
        let text = |name: &str| attributes.get(name).and_then(|value| value.as_s().ok());
        let request_id = text("requestId").cloned().unwrap_or_default();
        let is_interrupted = text("outcome").is_some_and(|outcome| is_interruption(outcome));
        Some(Put { json, request_id, is_interrupted })
    }
}

fn is_interruption(outcome: &str) -> bool {
    outcome == Outcome::Interrupted.as_str()
}

/// The body that puts these into a table.
pub(super) fn batch<'a>(table: &str, puts: impl Iterator<Item = &'a Put> + Clone) -> Vec<u8> {
    const BEFORE: &[u8] = br#"{"PutRequest":{"Item":"#;
    let room: usize = puts.clone().map(|put| BEFORE.len() + put.json.len() + 3).sum();
    let mut body = Vec::with_capacity(room + table.len() + 32);
    body.extend_from_slice(br#"{"RequestItems":{"#);
    // Writing into a Vec cannot fail.
    let _ = serde_json::to_writer(&mut body, table);
    body.extend_from_slice(b":[");
    for (index, put) in puts.enumerate() {
        if index > 0 {
            body.push(b',');
        }
        body.extend_from_slice(BEFORE);
        body.extend_from_slice(&put.json);
        body.extend_from_slice(b"}}");
    }
    body.extend_from_slice(b"]}}");
    body
}

/// Appends an attribute. The key and the value have their escapes.
fn write(json: &mut Vec<u8>, key: &str, value: Scalar<'_>) {
    let (kind, text, end): (&[u8], &str, &[u8]) = match value {
        Scalar::Text(quoted) => (br#"":{"S":"#, quoted, b"}"),
        Scalar::Number(digits) => (br#"":{"N":""#, digits, br#""}"#),
        Scalar::Flag(true) => (br#"":{"BOOL":"#, "true", b"}"),
        Scalar::Flag(false) => (br#"":{"BOOL":"#, "false", b"}"),
    };
    json.push(if json.is_empty() { b'{' } else { b',' });
    json.push(b'"');
    for piece in [key.as_bytes(), kind, text.as_bytes(), end] {
        json.extend_from_slice(piece);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::ledger::item::tests::full_item;

    /// As DynamoDB describes its JSON.
    fn described(attributes: Attributes) -> Value {
        let value = |value: AttributeValue| match value {
            AttributeValue::S(text) => json!({ "S": text }),
            AttributeValue::N(number) => json!({ "N": number }),
            AttributeValue::Bool(flag) => json!({ "BOOL": flag }),
            other => panic!("{other:?}"),
        };
        attributes
            .into_iter()
            .map(|(name, attribute)| (name, value(attribute)))
            .collect::<serde_json::Map<_, _>>()
            .into()
    }

    #[test]
    fn items_have_the_same_attributes_either_way() {
        let full = full_item().to_string();
        let older = r#"{"chainSeq":1,"modelId":"","requestId":""}"#;
        let foreign = r#"{"requestId":"é\"","a b\"":"x\u0001","f":1.5,"outcome":"interrupted"}"#;
        for (item, is_canonical) in [(full.as_str(), true), (older, true), (foreign, false)] {
            let attributes = dynamo::item_to_attributes(item, "h").unwrap();
            let put = Put::new(item, "h").unwrap();
            assert_eq!(Put::of_canonical(item, "h").is_some(), is_canonical, "{item}");
            assert_eq!(Some(&put.request_id), attributes["requestId"].as_s().ok());
            assert_eq!(put.is_interrupted, item == foreign);
            assert_eq!(serde_json::from_slice::<Value>(&put.json).unwrap(), described(attributes), "{item}");
        }
        for none in ["", "[]", r#"{"requestId":"r","tags":{}}"#, r#"{"requestId":null}"#] {
            assert!(Put::new(none, "h").is_none(), "{none}");
        }
    }

    #[test]
    fn a_batch_has_each_record_once_in_its_order() {
        let puts = ["1", "2"].map(|id| Put::new(&json!({ "requestId": id }).to_string(), "h").unwrap());
        for count in 0..=2 {
            let body: Value = serde_json::from_slice(&batch("a\"b", puts[..count].iter())).unwrap();
            let requests = puts[..count].iter().map(|put| {
                json!({ "PutRequest": { "Item": { "requestId": { "S": put.request_id }, "chainHash": { "S": "h" } } } })
            });
            assert_eq!(body, json!({ "RequestItems": { "a\"b": requests.collect::<Vec<_>>() } }));
        }
    }
}
