//! OpenAI's chat completions and responses.

use bytes::Bytes;
use serde_json::{Value, json};

use super::{Input, tier, vendors};
use crate::catalogue::{self, Model, Vendor};
use crate::mantle::Stored;
use crate::profiles::MADE_AT;
use crate::prompt::{Answer, all_text};
use crate::reply::{AwsError, Reply};

/// 1 January 2025: bodies must not vary.
const CREATED: u64 = 1_735_689_600;

const SSE: &str = "text/event-stream; charset=utf-8";

pub(crate) fn chat(model: &'static Model, input: &Input<'_>) -> Result<Reply, AwsError> {
    let body = input.json()?;
    let asked = vendors::read(Vendor::OpenAi, &body)?;
    let answer = Answer::to(&asked.prompt, &asked.whole, asked.max_tokens);
    let id = input.derived_id();
    let reply = if body["stream"] == true {
        let with_usage = body.pointer("/stream_options/include_usage") == Some(&Value::Bool(true));
        let mut events: Vec<Bytes> = chunks(model.id, &id, &answer, with_usage)
            .iter()
            .map(|chunk| Bytes::from(format!("data: {}\n\n", tier::noted(chunk.clone(), asked.tier.as_deref()))))
            .collect();
        events.push(Bytes::from_static(b"data: [DONE]\n\n"));
        Reply::stream(SSE, events, answer.pace)
    } else {
        let whole = completion(model.id, &id, &answer, tool_call(&body, &asked.prompt, &id));
        Reply::json(200, &tier::noted(whole, asked.tier.as_deref()))
    };
    let silent = body["stream"] == true && body.pointer("/stream_options/include_usage") != Some(&Value::Bool(true));
    let reply = reply.after(answer.think).by(model.id);
    // A stream reports its usage only when asked to.
    Ok(if silent { reply } else { reply.reporting(answer.input_tokens, answer.output_tokens()) })
}

/// A call of the first tool, when the last message asks for a tool.
fn tool_call(body: &Value, prompt: &str, id: &str) -> Option<Value> {
    let name = body.pointer("/tools/0/function/name")?.as_str()?;
    prompt.split_whitespace().any(|word| word == "tool" || word == name).then(|| {
        json!([{"id": format!("call_{id}"), "type": "function",
                "function": {"name": name, "arguments": json!({"text": prompt}).to_string()}}])
    })
}

fn usage(answer: &Answer) -> Value {
    let (input, output) = (answer.input_tokens + answer.cached, answer.output_tokens());
    let mut usage = json!({"prompt_tokens": input, "completion_tokens": output, "total_tokens": input + output});
    if answer.cached > 0 {
        usage["prompt_tokens_details"] = json!({"cached_tokens": answer.cached});
    }
    usage
}

pub(crate) fn completion(model: &str, id: &str, answer: &Answer, tool_calls: Option<Value>) -> Value {
    let reason = if tool_calls.is_some() { "tool_calls" } else { finish_reason(answer) };
    let mut message = json!({"role": "assistant", "content": answer.text()});
    if let Some(calls) = tool_calls {
        message = json!({"role": "assistant", "content": null, "tool_calls": calls});
    }
    json!({
        "id": format!("chatcmpl-{id}"), "object": "chat.completion", "created": CREATED, "model": model,
        "choices": [{"index": 0, "message": message, "finish_reason": reason}],
        "usage": usage(answer),
    })
}

pub(crate) fn chunks(model: &str, id: &str, answer: &Answer, with_usage: bool) -> Vec<Value> {
    let chunk = |delta: Value, reason: Value| {
        json!({"id": format!("chatcmpl-{id}"), "object": "chat.completion.chunk", "created": CREATED, "model": model,
               "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]})
    };
    let mut chunks = vec![chunk(json!({"role": "assistant", "content": ""}), Value::Null)];
    chunks.extend(answer.pieces.iter().map(|piece| chunk(json!({ "content": piece }), Value::Null)));
    chunks.push(chunk(json!({}), finish_reason(answer).into()));
    if with_usage {
        let mut last = chunk(json!({}), Value::Null);
        last["choices"] = json!([]);
        last["usage"] = usage(answer);
        chunks.push(last);
    }
    chunks
}

fn finish_reason(answer: &Answer) -> &'static str {
    if answer.cut { "length" } else { "stop" }
}

/// `stored` keeps the response.
pub(crate) fn responses(model: &'static Model, input: &Input<'_>, stored: Option<&Stored>) -> Result<Reply, AwsError> {
    let body = input.json()?;
    let prompt = match &body["input"] {
        Value::Null => return Err(AwsError::validation("input is required")),
        Value::Array(items) => items.last().map(all_text).unwrap_or_default(),
        text => all_text(text),
    };
    let whole = format!("{} {}", all_text(&body["instructions"]), all_text(&body["input"]));
    let answer = Answer::to(&prompt, &whole, body["max_output_tokens"].as_u64());
    let id = input.derived_id();
    let wish = body["service_tier"].as_str();
    let served = tier::serving(wish, &prompt, "default");
    let done = tier::noted(response(model.id, &id, &answer, "completed"), served.as_deref());
    if let Some(stored) = stored {
        stored.keep(&done, &body["input"]);
    }
    if body["background"] == true {
        let queued = tier::noted(response(model.id, &id, &answer, "queued"), wish);
        return Ok(Reply::json(200, &queued).by(model.id));
    }
    let reply = if body["stream"] == true {
        let item = format!("msg_{id}");
        let begun = tier::noted(response(model.id, &id, &answer, "in_progress"), wish);
        let begun_item =
            json!({"type": "message", "id": item, "role": "assistant", "status": "in_progress", "content": []});
        let mut events = vec![
            json!({"type": "response.created", "response": begun}),
            json!({"type": "response.output_item.added", "output_index": 0, "item": begun_item}),
        ];
        events.extend(answer.pieces.iter().map(|piece| {
            json!({"type": "response.output_text.delta", "item_id": item, "output_index": 0, "content_index": 0, "delta": piece})
        }));
        events
            .push(json!({"type": "response.output_text.done", "item_id": item, "output_index": 0, "content_index": 0,
                           "text": answer.text()}));
        events.push(json!({"type": "response.output_item.done", "output_index": 0, "item": done["output"][0]}));
        events.push(json!({"type": "response.completed", "response": done}));
        let events = events
            .into_iter()
            .enumerate()
            .map(|(number, mut event)| {
                event["sequence_number"] = number.into();
                Bytes::from(format!("event: {}\ndata: {event}\n\n", event["type"].as_str().unwrap_or_default()))
            })
            .collect();
        Reply::stream(SSE, events, answer.pace)
    } else {
        Reply::json(200, &done)
    };
    Ok(reply.after(answer.think).by(model.id).reporting(answer.input_tokens, answer.output_tokens()))
}

fn response(model: &str, id: &str, answer: &Answer, status: &str) -> Value {
    let done = status == "completed";
    let (input, output) = (answer.input_tokens + answer.cached, answer.output_tokens());
    let mut usage = json!({"input_tokens": input, "output_tokens": output, "total_tokens": input + output});
    if answer.cached > 0 {
        usage["input_tokens_details"] = json!({"cached_tokens": answer.cached});
    }
    let message = json!({"type": "message", "id": format!("msg_{id}"), "role": "assistant", "status": "completed",
                         "content": [{"type": "output_text", "text": answer.text(), "annotations": []}]});
    json!({
        "id": format!("resp_{id}"), "object": "response", "created_at": CREATED, "status": status, "model": model,
        "output": if done { json!([message]) } else { json!([]) },
        "usage": if done { usage } else { Value::Null },
    })
}

/// A model as `/models` lists it.
pub(crate) fn listed(model: &Model) -> Value {
    json!({"id": model.id, "object": "model", "created": CREATED, "owned_by": model.provider()})
}

/// The models that this API serves.
pub(crate) fn models(region: &str) -> Reply {
    let data: Vec<Value> =
        catalogue::models(region).iter().filter(|model| model.vendor == Vendor::OpenAi).map(listed).collect();
    Reply::json(200, &json!({"object": "list", "data": data})).header("x-simulator-made-at", MADE_AT)
}

/// One of the region's models.
pub(crate) fn model(region: &str, id: &str) -> Result<Reply, AwsError> {
    let found = catalogue::find(id, region).map(listed);
    found.map(|model| Reply::json(200, &model)).ok_or_else(|| AwsError::not_found("The model does not exist."))
}
