//! Converse and ConverseStream.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::{Value, json};

use super::Input;
use super::invoke::padding;
use super::tier;
use crate::catalogue::Model;
use crate::eventstream;
use crate::prompt::{Answer, all_text, count};
use crate::reply::{AwsError, Reply};

const BLOCKS: [&str; 14] = [
    "text",
    "image",
    "document",
    "video",
    "audio",
    "toolUse",
    "toolResult",
    "guardContent",
    "cachePoint",
    "reasoningContent",
    "citationsContent",
    "searchResult",
    "toolAddition",
    "toolRemoval",
];

/// One block of the answer.
enum Block {
    Text,
    Reasoning(String),
    ToolUse { id: String, name: String, input: Value },
}

/// The answer before it is told whole or in events.
struct Told {
    blocks: Vec<Block>,
    answer: Answer,
    stop_reason: &'static str,
    usage: Value,
    tier: Option<String>,
}

pub(crate) fn converse(model: &'static Model, stream: bool, input: &Input<'_>) -> Result<Reply, AwsError> {
    if !model.streams() {
        return Err(AwsError::validation(
            "This action doesn't support the model that you provided. Try again with a supported text or chat model.",
        ));
    }
    let body = input.json()?;
    check(&body)?;
    let mut told = tell(&body, &input.derived_id());
    told.tier = tier::serving(tier::of_converse(&body)?, &whole_text(&body), "default");
    let think = told.answer.think;
    let reply = if stream { streamed(&told) } else { Reply::json(200, &whole(&told)) };
    Ok(reply.after(think).by(model.id).reporting(told.answer.input_tokens, told.answer.output_tokens()))
}

/// All the text a request makes the model read.
pub(crate) fn whole_text(body: &Value) -> String {
    format!("{} {}", all_text(&body["system"]), all_text(&body["messages"]))
}

fn check(body: &Value) -> Result<(), AwsError> {
    let messages = body["messages"].as_array().filter(|messages| !messages.is_empty()).ok_or_else(|| {
        AwsError::validation("A conversation must start with a user message. Try again with a conversation that starts with a user message.")
    })?;
    let mut expected = "user";
    for (number, message) in messages.iter().enumerate() {
        let role = message["role"].as_str().unwrap_or_default();
        if role != expected {
            return Err(AwsError::validation(match number {
                0 => "A conversation must start with a user message. Try again with a conversation that starts with a user message.".to_owned(),
                _ => "A conversation must alternate between user and assistant roles. Make sure the conversation alternates between user and assistant roles and try again.".to_owned(),
            }));
        }
        expected = if role == "user" { "assistant" } else { "user" };
        let content = message["content"].as_array().filter(|content| !content.is_empty()).ok_or_else(|| {
            AwsError::validation(format!("The content field in the Message object at messages.{number} is empty. Add a ContentBlock object to the content field and try again."))
        })?;
        for (at, block) in content.iter().enumerate() {
            let one = block.as_object().filter(|members| members.len() == 1).and_then(|members| members.keys().next());
            if !one.is_some_and(|name| BLOCKS.contains(&name.as_str())) {
                return Err(AwsError::validation(format!(
                    "The value at messages.{number}.content.{at} is not one known ContentBlock member."
                )));
            }
        }
    }
    Ok(())
}

fn tell(body: &Value, id: &str) -> Told {
    let empty = Vec::new();
    let messages = body["messages"].as_array().unwrap_or(&empty);
    let content = messages.last().and_then(|message| message["content"].as_array()).unwrap_or(&empty);
    let prompt = content.iter().map(describe).filter(|text| !text.is_empty()).collect::<Vec<_>>().join(" ");
    let limit = body.pointer("/inferenceConfig/maxTokens").and_then(Value::as_u64);
    let answer = Answer::to(&prompt, &whole_text(body), limit);

    let mut blocks = Vec::new();
    if !body.pointer("/additionalModelRequestFields/thinking").unwrap_or(&Value::Null).is_null() {
        blocks.push(Block::Reasoning(format!("thinking about {}", prompt.split_whitespace().next().unwrap_or("it"))));
    }
    let mut stop_reason = if answer.cut { "max_tokens" } else { "end_turn" };
    let tool = wanted_tool(body, &prompt, content);
    match tool {
        Some(tool) => {
            let name = tool["name"].as_str().unwrap_or_default().to_owned();
            let input = plausible_input(tool.pointer("/inputSchema/json").unwrap_or(&Value::Null), &prompt);
            blocks.push(Block::ToolUse { id: format!("tooluse_{}", &id[..22]), name, input });
            stop_reason = "tool_use";
        }
        None => blocks.push(Block::Text),
    }
    if !body["guardrailConfig"].is_null() && prompt.contains("forbidden") {
        stop_reason = "guardrail_intervened";
    }

    let cached = |value: &Value| {
        if value.to_string().contains("\"cachePoint\":{") { count(&all_text(value)) } else { 0 }
    };
    let (input, output) = (answer.input_tokens, answer.output_tokens());
    let mut usage = json!({"inputTokens": input, "outputTokens": output, "totalTokens": input + output});
    let (read, written) = (cached(&body["system"]), cached(&body["messages"]));
    if read + written > 0 {
        usage["cacheReadInputTokens"] = read.into();
        usage["cacheWriteInputTokens"] = written.into();
        usage["totalTokens"] = (input + output + read + written).into();
        if body["messages"].to_string().contains("\"ttl\":\"1h\"") {
            usage["cacheDetails"] = json!([{"ttl": "1h", "inputTokens": written}]);
        }
    }
    Told { blocks, answer, stop_reason, usage, tier: None }
}

/// What the answer echoes of a block: its text, or what sort of thing it is and how large.
fn describe(block: &Value) -> String {
    let Some((kind, value)) = block.as_object().and_then(|members| members.iter().next()) else { return String::new() };
    match kind.as_str() {
        "text" => value.as_str().unwrap_or_default().to_owned(),
        "image" | "document" | "video" | "audio" => {
            let size = value
                .pointer("/source/bytes")
                .and_then(Value::as_str)
                .and_then(|bytes| STANDARD.decode(bytes).ok())
                .map_or(0, |bytes| bytes.len());
            format!("{kind}({},{size})", value["format"].as_str().unwrap_or_default())
        }
        "toolResult" => format!("tool-answered {}", all_text(&value["content"])),
        "cachePoint" => String::new(),
        _ => all_text(value),
    }
}

/// The tool to use: the one that is forced, or the one the prompt asks for; none when its result is already here.
fn wanted_tool<'a>(body: &'a Value, prompt: &str, content: &[Value]) -> Option<&'a Value> {
    if content.iter().any(|block| !block["toolResult"].is_null()) {
        return None;
    }
    let specs: Vec<&Value> =
        body.pointer("/toolConfig/tools")?.as_array()?.iter().filter_map(|tool| tool.get("toolSpec")).collect();
    let choice = &body["toolConfig"]["toolChoice"];
    if let Some(name) = choice.pointer("/tool/name") {
        return specs.into_iter().find(|spec| &spec["name"] == name);
    }
    let words: Vec<&str> = prompt.split_whitespace().collect();
    let named = specs.iter().find(|spec| spec["name"].as_str().is_some_and(|name| words.contains(&name)));
    if named.is_some() {
        return named.copied();
    }
    (!choice["any"].is_null() || words.contains(&"tool")).then(|| specs.first().copied())?
}

/// An input that fits the simple part of a JSON schema.
fn plausible_input(schema: &Value, text: &str) -> Value {
    let mut input = serde_json::Map::new();
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let value = match property["type"].as_str() {
            Some("number" | "integer") => json!(1),
            Some("boolean") => json!(true),
            Some("array") => json!([]),
            Some("object") => json!({}),
            _ => property["enum"][0].as_str().map_or_else(|| json!(text), |first| json!(first)),
        };
        input.insert(name.clone(), value);
    }
    Value::Object(input)
}

fn whole(told: &Told) -> Value {
    let content: Vec<Value> = told
        .blocks
        .iter()
        .map(|block| match block {
            Block::Text => json!({"text": told.answer.text()}),
            Block::Reasoning(text) => {
                json!({"reasoningContent": {"reasoningText": {"text": text, "signature": "c2lnbmF0dXJl"}}})
            }
            Block::ToolUse { id, name, input } => json!({"toolUse": {"toolUseId": id, "name": name, "input": input}}),
        })
        .collect();
    let answer = json!({
        "output": {"message": {"role": "assistant", "content": content}},
        "stopReason": told.stop_reason,
        "usage": told.usage,
        "metrics": {"latencyMs": told.answer.latency()},
    });
    with_tier(answer, told)
}

fn with_tier(mut answer: Value, told: &Told) -> Value {
    if let Some(tier) = &told.tier {
        answer["serviceTier"] = json!({ "type": tier });
    }
    answer
}

fn streamed(told: &Told) -> Reply {
    let mut events = vec![("messageStart", json!({"role": "assistant"}))];
    for (index, block) in told.blocks.iter().enumerate() {
        let delta = |delta: Value| ("contentBlockDelta", json!({"contentBlockIndex": index, "delta": delta}));
        match block {
            Block::Text => events.extend(told.answer.pieces.iter().map(|piece| delta(json!({ "text": piece })))),
            Block::Reasoning(text) => {
                events.push(delta(json!({"reasoningContent": {"text": text}})));
                events.push(delta(json!({"reasoningContent": {"signature": "c2lnbmF0dXJl"}})));
            }
            Block::ToolUse { id, name, input } => {
                let start = json!({"toolUse": {"toolUseId": id, "name": name}});
                events.push(("contentBlockStart", json!({"contentBlockIndex": index, "start": start})));
                // The input's JSON comes in halves, as it does at AWS.
                let text: Vec<char> = input.to_string().chars().collect();
                for half in [&text[..text.len() / 2], &text[text.len() / 2..]] {
                    events.push(delta(json!({"toolUse": {"input": half.iter().collect::<String>()}})));
                }
            }
        }
        events.push(("contentBlockStop", json!({ "contentBlockIndex": index })));
    }
    events.push(("messageStop", json!({"stopReason": told.stop_reason})));
    let metadata = json!({"usage": told.usage, "metrics": {"latencyMs": told.answer.latency()}});
    events.push(("metadata", with_tier(metadata, told)));
    let frames: Vec<Bytes> = events
        .into_iter()
        .enumerate()
        .map(|(index, (kind, mut payload))| {
            payload["p"] = padding(index).into();
            eventstream::event(kind, &payload)
        })
        .collect();
    Reply::stream("application/vnd.amazon.eventstream", frames, told.answer.pace)
}
