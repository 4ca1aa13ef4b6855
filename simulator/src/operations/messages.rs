//! Anthropic's Messages API on both hosts: the same answers as InvokeModel, as JSON or as server-sent events.

use bytes::Bytes;
use serde_json::json;

use super::{Input, vendors};
use crate::catalogue::{Model, Vendor};
use crate::prompt::{Answer, all_text, count};
use crate::reply::{AwsError, Reply};

pub(crate) fn messages(model: &'static Model, input: &Input<'_>) -> Result<Reply, AwsError> {
    if model.vendor != Vendor::Anthropic {
        return Err(AwsError::validation(format!("The model {} does not support the Messages API.", model.id)));
    }
    let body = input.json()?;
    let asked = vendors::read(Vendor::Anthropic, &body)?;
    let answer = Answer::to(&asked.prompt, &asked.whole, asked.max_tokens);
    let id = input.derived_id();
    let reply = if body["stream"] == true {
        let events = vendors::anthropic_events(model.id, &id, &asked, &answer)
            .iter()
            .map(|event| {
                Bytes::from(format!("event: {}\ndata: {event}\n\n", event["type"].as_str().unwrap_or_default()))
            })
            .collect();
        Reply::stream("text/event-stream; charset=utf-8", events, answer.pace)
    } else {
        Reply::json(200, &vendors::whole(Vendor::Anthropic, model.id, &id, &asked, &answer))
    };
    Ok(reply.after(answer.think).by(model.id).reporting(answer.input_tokens, answer.output_tokens()))
}

pub(crate) fn count_tokens(model: &'static Model, input: &Input<'_>) -> Result<Reply, AwsError> {
    let body = input.json()?;
    let text = format!("{} {}", all_text(&body["system"]), all_text(&body["messages"]));
    Ok(Reply::json(200, &json!({ "input_tokens": count(&text) })).by(model.id))
}
