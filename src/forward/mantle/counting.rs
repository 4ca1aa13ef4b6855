//! A request of CountTokens in the words of Anthropic's `count_tokens`, and the answer in those of CountTokens. What is read
//! here is counted and never run.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::{Map, Value, json};

/// Members of a message to Anthropic's models that `count_tokens` takes too. Not `mcp_servers`: what would be asked of a server is
/// not counted here.
const COUNTED: [&str; 8] =
    ["messages", "system", "tools", "tool_choice", "thinking", "context_management", "output_config", "output_format"];

/// Members of such a message that change no count.
const UNCOUNTED: [&str; 9] = [
    "anthropic_version",
    "max_tokens",
    "metadata",
    "service_tier",
    "stop_sequences",
    "stream",
    "temperature",
    "top_k",
    "top_p",
];

/// Where bedrock-runtime takes what is a header on the mantle host.
const BETAS: &str = "anthropic_beta";

/// A request of `count_tokens`.
#[derive(Debug)]
pub(super) struct Asked {
    pub body: Bytes,
    /// For the header `anthropic-beta`.
    pub betas: Option<String>,
}

/// The request of `count_tokens`; none where the input has something that has no counterpart there.
pub(super) fn asked(body: &[u8], model: &str) -> Option<Asked> {
    let body: Value = serde_json::from_slice(body).ok()?;
    let input = body.get("input")?;
    let mut counted = match (input.get("invokeModel"), input.get("converse")) {
        (Some(invocation), None) => of_invocation(invocation)?,
        (None, Some(converse)) => of_converse(converse)?,
        _ => return None,
    };
    let betas = match counted.remove(BETAS) {
        Some(betas) => {
            let betas: Option<Vec<&str>> = betas.as_array()?.iter().map(Value::as_str).collect();
            Some(betas?.join(",")).filter(|betas| !betas.is_empty())
        }
        None => None,
    };
    counted.insert("model".to_owned(), model.into());
    Some(Asked { body: Bytes::from(Value::Object(counted).to_string()), betas })
}

/// The answer of `count_tokens` as CountTokens gives it.
pub(super) fn counted(body: &[u8]) -> Option<Bytes> {
    let answer: Value = serde_json::from_slice(body).ok()?;
    let tokens = answer.get("input_tokens")?.as_u64()?;
    Some(Bytes::from(json!({ "inputTokens": tokens }).to_string()))
}

/// What is invoked has Anthropic's form already.
fn of_invocation(invocation: &Value) -> Option<Map<String, Value>> {
    let body = STANDARD.decode(invocation.get("body")?.as_str()?).ok()?;
    let Value::Object(body) = serde_json::from_slice(&body).ok()? else { return None };
    let counted = of_anthropic(body)?;
    counted.contains_key("messages").then_some(counted)
}

/// The members that are counted; none where one is not known.
fn of_anthropic(members: Map<String, Value>) -> Option<Map<String, Value>> {
    let is_known = |name: &str| name == BETAS || COUNTED.contains(&name) || UNCOUNTED.contains(&name);
    if !members.keys().all(|name| is_known(name)) {
        return None;
    }
    Some(members.into_iter().filter(|(name, _)| !UNCOUNTED.contains(&name.as_str())).collect())
}

fn of_converse(converse: &Value) -> Option<Map<String, Value>> {
    const KNOWN: [&str; 5] = ["messages", "system", "toolConfig", "inferenceConfig", "additionalModelRequestFields"];
    if !converse.as_object()?.keys().all(|name| KNOWN.contains(&name.as_str())) {
        return None;
    }
    let mut counted = match converse.get("additionalModelRequestFields") {
        Some(Value::Object(more)) => of_anthropic(more.clone())?,
        Some(_) => return None,
        None => Map::new(),
    };
    let messages = converse.get("messages").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let messages = messages.iter().map(|message| {
        let content = all(message.get("content")?, block)?;
        Some(json!({ "role": message.get("role")?, "content": content }))
    });
    counted.insert("messages".to_owned(), messages.collect::<Option<Vec<Value>>>()?.into());
    if let Some(system) = converse.get("system") {
        counted.insert("system".to_owned(), all(system, block)?.into());
    }
    if let Some(tools) = converse.pointer("/toolConfig/tools") {
        counted.insert("tools".to_owned(), all(tools, tool)?.into());
    }
    if let Some(choice) = converse.pointer("/toolConfig/toolChoice") {
        counted.insert("tool_choice".to_owned(), tool_choice(choice)?);
    }
    Some(counted)
}

/// Each entry of a list, turned over; those that only mark a place are left out.
fn all(list: &Value, turn: impl Fn(&Value) -> Option<Value>) -> Option<Vec<Value>> {
    list.as_array()?.iter().filter(|entry| entry.get("cachePoint").is_none()).map(turn).collect()
}

/// A block of content. Images and documents are base64 in both.
fn block(block: &Value) -> Option<Value> {
    let Value::Object(members) = block else { return None };
    let (kind, value) = members.iter().next().filter(|_| members.len() == 1)?;
    let text = |key: &str| value.get(key).and_then(Value::as_str);
    Some(match kind.as_str() {
        "text" => json!({ "type": "text", "text": value }),
        "image" => source("image", &format!("image/{}", text("format")?), value)?,
        "document" if text("format") == Some("pdf") => source("document", "application/pdf", value)?,
        "toolUse" => json!({
            "type": "tool_use", "id": text("toolUseId")?, "name": text("name")?, "input": value.get("input")?,
        }),
        "toolResult" => json!({
            "type": "tool_result", "tool_use_id": text("toolUseId")?,
            "content": all(value.get("content")?, result)?, "is_error": text("status") == Some("error"),
        }),
        "reasoningContent" => {
            let said = value.get("reasoningText")?;
            json!({ "type": "thinking", "thinking": said.get("text")?, "signature": said.get("signature")? })
        }
        _ => return None,
    })
}

/// A block of what a tool has answered.
fn result(answer: &Value) -> Option<Value> {
    match answer.get("json") {
        Some(json) => Some(json!({ "type": "text", "text": json.to_string() })),
        None => block(answer),
    }
}

fn source(kind: &str, media_type: &str, value: &Value) -> Option<Value> {
    let data = value.pointer("/source/bytes")?.as_str()?;
    Some(json!({ "type": kind, "source": { "type": "base64", "media_type": media_type, "data": data } }))
}

fn tool(tool: &Value) -> Option<Value> {
    let spec = tool.get("toolSpec")?;
    let mut turned = json!({ "name": spec.get("name")?, "input_schema": spec.pointer("/inputSchema/json")? });
    if let Some(description) = spec.get("description") {
        turned["description"] = description.clone();
    }
    Some(turned)
}

fn tool_choice(choice: &Value) -> Option<Value> {
    let (kind, of) = choice.as_object().filter(|choice| choice.len() == 1)?.iter().next()?;
    Some(match kind.as_str() {
        "auto" | "any" => json!({ "type": kind }),
        "tool" => json!({ "type": "tool", "name": of.get("name")? }),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turned(input: Value) -> Option<Value> {
        let body = json!({ "input": input }).to_string();
        asked(body.as_bytes(), "anthropic.claude-x").map(|asked| serde_json::from_slice(&asked.body).unwrap())
    }

    #[test]
    fn a_conversation_says_the_same_in_both() {
        let converse = json!({
            "system": [{ "text": "be brief" }, { "cachePoint": { "type": "default" } }],
            "messages": [
                { "role": "user", "content": [
                    { "text": "look" },
                    { "image": { "format": "png", "source": { "bytes": "aWNvbg==" } } },
                    { "document": { "format": "pdf", "name": "d", "source": { "bytes": "cGRm" } } },
                    { "cachePoint": { "type": "default" } },
                ] },
                { "role": "assistant", "content": [
                    { "reasoningContent": { "reasoningText": { "text": "hm", "signature": "s" } } },
                    { "toolUse": { "toolUseId": "t1", "name": "f", "input": { "a": 1 } } },
                ] },
                { "role": "user", "content": [
                    { "toolResult": { "toolUseId": "t1", "status": "error", "content": [{ "json": { "b": 2 } }] } },
                ] },
            ],
            "toolConfig": { "tools": [
                { "toolSpec": { "name": "f", "description": "d", "inputSchema": { "json": { "type": "object" } } } },
            ], "toolChoice": { "tool": { "name": "f" } } },
            "additionalModelRequestFields": { "thinking": { "type": "enabled", "budget_tokens": 1024 }, "top_k": 5 },
            "inferenceConfig": { "maxTokens": 9 },
        });
        let expected = json!({
            "model": "anthropic.claude-x",
            "system": [{ "type": "text", "text": "be brief" }],
            "messages": [
                { "role": "user", "content": [
                    { "type": "text", "text": "look" },
                    { "type": "image", "source": { "type": "base64", "media_type": "image/png", "data": "aWNvbg==" } },
                    { "type": "document",
                      "source": { "type": "base64", "media_type": "application/pdf", "data": "cGRm" } },
                ] },
                { "role": "assistant", "content": [
                    { "type": "thinking", "thinking": "hm", "signature": "s" },
                    { "type": "tool_use", "id": "t1", "name": "f", "input": { "a": 1 } },
                ] },
                { "role": "user", "content": [
                    { "type": "tool_result", "tool_use_id": "t1", "is_error": true,
                      "content": [{ "type": "text", "text": "{\"b\":2}" }] },
                ] },
            ],
            "tools": [{ "name": "f", "description": "d", "input_schema": { "type": "object" } }],
            "tool_choice": { "type": "tool", "name": "f" },
            "thinking": { "type": "enabled", "budget_tokens": 1024 },
        });
        assert_eq!(turned(json!({ "converse": converse })), Some(expected));
    }

    #[test]
    fn of_an_invocation_only_what_is_counted_is_left() {
        let body = json!({
            "anthropic_version": "bedrock-2023-05-31", "max_tokens": 9, "temperature": 0.5, "system": "s",
            "messages": [{ "role": "user", "content": "hi" }],
        });
        let input = json!({ "invokeModel": { "body": STANDARD.encode(body.to_string()) } });
        let expected = json!({
            "model": "anthropic.claude-x", "system": "s", "messages": [{ "role": "user", "content": "hi" }],
        });
        assert_eq!(turned(input), Some(expected));
    }

    #[test]
    fn what_has_no_counterpart_is_not_guessed() {
        let of = |block: Value| json!({ "converse": { "messages": [{ "role": "user", "content": [block] }] } });
        for input in [
            of(json!({ "video": { "format": "mp4" } })),
            of(json!({ "document": { "format": "docx", "source": { "bytes": "" } } })),
            of(json!({ "image": { "format": "png", "source": { "s3Location": { "uri": "s3://b" } } } })),
            of(json!({ "text": "a", "image": {} })),
            json!({ "converse": { "messages": [], "promptVariables": { "x": { "text": "y" } } } }),
            json!({ "converse": { "messages": [], "additionalModelRequestFields": { "new_member": 1 } } }),
            json!({ "converse": { "messages": [], "toolConfig": { "toolChoice": { "none": {} } } } }),
            json!({ "invokeModel": { "body": STANDARD.encode(r#"{"messages":[],"new_member":1}"#) } }),
            json!({ "invokeModel": { "body": STANDARD.encode(r#"{"messages":[],"anthropic_beta":"b"}"#) } }),
            json!({ "invokeModel": { "body": "no base64!" } }),
            json!({ "invokeModel": { "body": STANDARD.encode("{\"prompt\":\"x\"}") } }),
            json!({}),
            json!({ "converse": {}, "invokeModel": {} }),
        ] {
            assert_eq!(turned(input.clone()), None, "{input}");
        }
        assert!(asked(b"no JSON", "m").is_none());
    }

    #[test]
    fn betas_leave_the_body() {
        let betas = |value: Value| {
            let body = json!({ "messages": [], "anthropic_beta": value }).to_string();
            let input = json!({ "input": { "invokeModel": { "body": STANDARD.encode(body) } } }).to_string();
            asked(input.as_bytes(), "m").map(|asked| {
                assert_eq!(
                    serde_json::from_slice::<Value>(&asked.body).unwrap(),
                    json!({ "model": "m", "messages": [] })
                );
                asked.betas
            })
        };
        assert_eq!(betas(json!(["a", "b"])), Some(Some("a,b".to_owned())));
        assert_eq!(betas(json!([])), Some(None));
        assert_eq!(betas(json!([1])), None);
    }

    #[test]
    fn the_count_is_told_in_bedrock_s_words() {
        assert_eq!(counted(br#"{"input_tokens": 17}"#).as_deref(), Some(&br#"{"inputTokens":17}"#[..]));
        assert_eq!(counted(b"{}"), None);
    }
}
