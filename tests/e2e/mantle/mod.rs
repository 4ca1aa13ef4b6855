//! `[mantle]`: Bedrock's second inference host.

mod counting;
mod instead;
mod keys;
mod operations;
mod rules;
mod storing;

use serde_json::{Value, json};

const GPT: &str = "openai.gpt-oss-120b";
const CLAUDE: &str = "anthropic.claude-opus-4-7";

fn chat(model: &str, more: Value) -> String {
    with(json!({ "model": model, "messages": [{ "role": "user", "content": "one two three" }] }), more)
}

fn response(model: &str, more: Value) -> String {
    with(json!({ "model": model, "input": "one two three", "store": false }), more)
}

fn message_to(model: &str, more: Value) -> String {
    with(
        json!({ "model": model, "max_tokens": 99, "messages": [{ "role": "user", "content": "one two three" }] }),
        more,
    )
}

fn with(mut body: Value, more: Value) -> String {
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body.to_string()
}

/// What a record says under these names.
#[track_caller]
fn assert_record(record: &Value, expected: &[(&str, Value)]) {
    for (field, value) in expected {
        assert_eq!(record[*field], *value, "{field} in {record}");
    }
}
