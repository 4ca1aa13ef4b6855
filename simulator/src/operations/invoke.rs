//! InvokeModel and InvokeModelWithResponseStream.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::{Input, tier, vendors};
use crate::catalogue::{Model, Vendor};
use crate::eventstream;
use crate::prompt::Answer;
use crate::reply::{AwsError, Reply};

pub(crate) fn invoke(model: &'static Model, stream: bool, input: &Input<'_>) -> Result<Reply, AwsError> {
    let asked = vendors::read(model.vendor, &input.json()?)?;
    if stream && !model.streams() {
        return Err(AwsError::validation("The model is unsupported for streaming."));
    }
    let answer = Answer::to(&asked.prompt, &asked.whole, asked.max_tokens);
    let id = input.derived_id();
    let reply = if stream { streamed(model, &id, &asked, &answer) } else { whole(model, &id, &asked, &answer) };
    let served = tier::serving(tier::of_header(input)?, &asked.prompt, "default");
    let reply = match served {
        Some(served) => reply.header(tier::HEADER, served),
        None => reply,
    };
    // Embeddings and images report no output.
    let output = model.streams().then(|| answer.output_tokens());
    Ok(reply.after(answer.think).by(model.id).reporting(answer.input_tokens, output))
}

fn whole(model: &Model, id: &str, asked: &vendors::Asked, answer: &Answer) -> Reply {
    let body = vendors::whole(model.vendor, model.id, id, asked, answer);
    let reply = Reply::json(200, &body);
    if model.vendor == Vendor::OpenAi {
        // One vendor answers without the headers: there the usage is only in the body.
        return reply;
    }
    let mut reply = reply
        .header("X-Amzn-Bedrock-Invocation-Latency", answer.latency())
        .header("X-Amzn-Bedrock-Input-Token-Count", answer.input_tokens);
    if model.streams() {
        reply = reply.header("X-Amzn-Bedrock-Output-Token-Count", answer.output_tokens());
    }
    if asked.cache != (0, 0) {
        reply = reply
            .header("X-Amzn-Bedrock-Cache-Read-Input-Token-Count", asked.cache.0)
            .header("X-Amzn-Bedrock-Cache-Write-Input-Token-Count", asked.cache.1);
    }
    reply
}

fn streamed(model: &Model, id: &str, asked: &vendors::Asked, answer: &Answer) -> Reply {
    let mut pieces = vendors::pieces(model.vendor, model.id, id, asked, answer);
    if let Some(last) = pieces.last_mut() {
        let mut metrics = json!({
            "inputTokenCount": answer.input_tokens, "outputTokenCount": answer.output_tokens(),
            "invocationLatency": answer.latency(), "firstByteLatency": 5,
        });
        if asked.cache != (0, 0) {
            metrics["cacheReadInputTokenCount"] = asked.cache.0.into();
            metrics["cacheWriteInputTokenCount"] = asked.cache.1.into();
        }
        last["amazon-bedrock-invocationMetrics"] = metrics;
    }
    let events = pieces
        .iter()
        .enumerate()
        .map(|(index, piece)| {
            let bytes = STANDARD.encode(piece.to_string());
            eventstream::event("chunk", &json!({"bytes": bytes, "p": padding(index)}))
        })
        .collect();
    Reply::stream("application/vnd.amazon.eventstream", events, answer.pace)
        .header("X-Amzn-Bedrock-Content-Type", "application/json")
}

/// Bedrock pads its events, so that their length says nothing of their text.
pub(crate) fn padding(index: usize) -> &'static str {
    const LETTERS: &str = "abcdefghijklmnopqrstuvwxyz";
    &LETTERS[..1 + index * 7 % LETTERS.len()]
}
