//! Each vendor's own shapes for InvokeModel: where the prompt stands, what the answer and its pieces look like.

use serde_json::{Value, json};

use super::tier;
use crate::catalogue::Vendor;
use crate::prompt::{Answer, all_text};
use crate::reply::AwsError;

/// What was read out of a vendor's request.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) prompt: String,
    pub(crate) whole: String,
    pub(crate) max_tokens: Option<u64>,
    /// Tokens before a cache mark: in the system prompt (counted as read) and in the messages (counted as written).
    pub(crate) cache: (u64, u64),
    /// The service tier, where the vendor's own shape asks for one.
    pub(crate) tier: Option<String>,
}

pub(crate) fn read(vendor: Vendor, body: &Value) -> Result<Asked, AwsError> {
    let (prompt, limit) = match vendor {
        Vendor::Anthropic => {
            require(body, "messages")?;
            require(body, "max_tokens")?;
            (last_message(body), &body["max_tokens"])
        }
        Vendor::Nova => {
            require(body, "messages")?;
            (last_message(body), body.pointer("/inferenceConfig/maxTokens").unwrap_or(&Value::Null))
        }
        Vendor::OpenAi => {
            require(body, "messages")?;
            let limit = if body["max_tokens"].is_null() { &body["max_completion_tokens"] } else { &body["max_tokens"] };
            (last_message(body), limit)
        }
        Vendor::Titan => {
            let limit = body.pointer("/textGenerationConfig/maxTokenCount").unwrap_or(&Value::Null);
            (require(body, "inputText")?, limit)
        }
        Vendor::TitanEmbed => (require(body, "inputText")?, &Value::Null),
        Vendor::Llama => (require(body, "prompt")?, &body["max_gen_len"]),
        Vendor::Mistral => (require(body, "prompt")?, &body["max_tokens"]),
        Vendor::Cohere => (require(body, "message")?, &body["max_tokens"]),
        Vendor::CohereEmbed => (require(body, "texts")?, &Value::Null),
        Vendor::Image => (all_text(body.pointer("/textToImageParams").unwrap_or(body)), &Value::Null),
        Vendor::Rerank => return Err(AwsError::validation("simulator: a model that reranks is asked by Rerank.")),
        Vendor::Speech => {
            return Err(AwsError::validation("This model can only be invoked by InvokeModelWithBidirectionalStream."));
        }
        Vendor::Video => return Err(AwsError::validation("This model can only be invoked by StartAsyncInvoke.")),
    };
    let whole = match body["messages"] {
        Value::Null => prompt.clone(),
        _ => format!("{} {}", all_text(&body["system"]), all_text(&body["messages"])),
    };
    let wish = body["service_tier"].as_str();
    let tier = match vendor {
        Vendor::Anthropic => tier::serving(wish, &prompt, "standard"),
        Vendor::OpenAi => tier::serving(wish, &prompt, "default"),
        _ => None,
    };
    Ok(Asked { prompt, whole, max_tokens: limit.as_u64(), cache: cache_marks(body), tier })
}

fn require(body: &Value, name: &str) -> Result<String, AwsError> {
    match &body[name] {
        Value::Null => Err(AwsError::validation(format!(
            "Malformed input request: #: required key [{name}] not found, please reformat your input and try again."
        ))),
        value => Ok(all_text(value)),
    }
}

fn last_message(body: &Value) -> String {
    let last = body["messages"].as_array().and_then(|messages| messages.last());
    last.map(|message| all_text(&message["content"])).unwrap_or_default()
}

fn cache_marks(body: &Value) -> (u64, u64) {
    let mark = |value: &Value| {
        let text = value.to_string();
        if text.contains("\"cache_control\":{") || text.contains("\"cachePoint\":{") {
            crate::prompt::count(&all_text(value))
        } else {
            0
        }
    };
    (mark(&body["system"]), mark(&body["messages"]))
}

/// The whole answer, in the vendor's shape.
pub(crate) fn whole(vendor: Vendor, model: &str, id: &str, asked: &Asked, answer: &Answer) -> Value {
    let (input, output) = (answer.input_tokens, answer.output_tokens());
    let text = answer.text();
    match vendor {
        Vendor::Anthropic => json!({
            "id": format!("msg_bdrk_{id}"), "type": "message", "role": "assistant", "model": model,
            "content": [{"type": "text", "text": text}],
            "stop_reason": if answer.cut { "max_tokens" } else { "end_turn" }, "stop_sequence": null,
            "usage": anthropic_usage(asked, answer),
        }),
        Vendor::Nova => json!({
            "output": {"message": {"role": "assistant", "content": [{"text": text}]}},
            "stopReason": if answer.cut { "max_tokens" } else { "end_turn" },
            "usage": {"inputTokens": input, "outputTokens": output, "totalTokens": input + output,
                      "cacheReadInputTokenCount": asked.cache.0, "cacheWriteInputTokenCount": asked.cache.1},
        }),
        Vendor::Titan => json!({
            "inputTextTokenCount": input,
            "results": [{"tokenCount": output, "outputText": text,
                         "completionReason": if answer.cut { "LENGTH" } else { "FINISH" }}],
        }),
        Vendor::TitanEmbed => json!({"embedding": embedding(id), "inputTextTokenCount": input}),
        Vendor::CohereEmbed => json!({
            "id": id, "response_type": "embeddings_floats", "embeddings": [embedding(id)], "texts": [asked.prompt],
        }),
        Vendor::Llama => json!({
            "generation": text, "prompt_token_count": input, "generation_token_count": output,
            "stop_reason": if answer.cut { "length" } else { "stop" },
        }),
        Vendor::Mistral => json!({
            "outputs": [{"text": text, "stop_reason": if answer.cut { "length" } else { "stop" }}],
        }),
        Vendor::Cohere => json!({
            "response_id": id, "generation_id": id, "text": text,
            "finish_reason": if answer.cut { "MAX_TOKENS" } else { "COMPLETE" },
        }),
        Vendor::OpenAi => tier::noted(super::openai::completion(model, id, answer, None), asked.tier.as_deref()),
        Vendor::Rerank => Value::Null,
        // One transparent pixel.
        Vendor::Image | Vendor::Video | Vendor::Speech => json!({
            "images": ["iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="],
            "error": null,
        }),
    }
}

/// The answer in pieces; the last object is the one that will carry the invocation metrics.
pub(crate) fn pieces(vendor: Vendor, model: &str, id: &str, asked: &Asked, answer: &Answer) -> Vec<Value> {
    let last = answer.pieces.len().saturating_sub(1);
    let each = |make: &dyn Fn(usize, &str) -> Value| -> Vec<Value> {
        answer.pieces.iter().enumerate().map(|(index, piece)| make(index, piece)).collect()
    };
    match vendor {
        Vendor::Anthropic => anthropic_events(model, id, asked, answer),
        Vendor::Nova => {
            let mut events = vec![json!({"messageStart": {"role": "assistant"}})];
            events.extend(each(
                &|_, piece| json!({"contentBlockDelta": {"delta": {"text": piece}, "contentBlockIndex": 0}}),
            ));
            events.push(json!({"contentBlockStop": {"contentBlockIndex": 0}}));
            events.push(json!({"messageStop": {"stopReason": if answer.cut { "max_tokens" } else { "end_turn" }}}));
            events.push(json!({"metadata": {"usage": {
                "inputTokens": answer.input_tokens, "outputTokens": answer.output_tokens(),
                "cacheReadInputTokenCount": asked.cache.0, "cacheWriteInputTokenCount": asked.cache.1}}}));
            events
        }
        Vendor::Titan => each(&|index, piece| {
            json!({"outputText": piece, "index": index, "totalOutputTextTokenCount": index + 1,
                   "completionReason": if index < last { Value::Null } else if answer.cut { "LENGTH".into() } else { "FINISH".into() },
                   "inputTextTokenCount": answer.input_tokens})
        }),
        Vendor::Llama => each(&|index, piece| {
            json!({"generation": piece, "prompt_token_count": if index == 0 { answer.input_tokens.into() } else { Value::Null },
                   "generation_token_count": index + 1, "stop_reason": if index < last { Value::Null } else { "stop".into() }})
        }),
        Vendor::Mistral => each(
            &|index, piece| json!({"outputs": [{"text": piece, "stop_reason": if index < last { Value::Null } else { "stop".into() }}]}),
        ),
        Vendor::Cohere => {
            let mut events =
                each(&|_, piece| json!({"event_type": "text-generation", "is_finished": false, "text": piece}));
            events.push(json!({"event_type": "stream-end", "is_finished": true, "finish_reason": "COMPLETE"}));
            events
        }
        Vendor::OpenAi => {
            let chunks = super::openai::chunks(model, id, answer, true).into_iter();
            chunks.map(|chunk| tier::noted(chunk, asked.tier.as_deref())).collect()
        }
        _ => Vec::new(),
    }
}

pub(crate) fn anthropic_usage(asked: &Asked, answer: &Answer) -> Value {
    let usage = json!({
        "input_tokens": answer.input_tokens, "output_tokens": answer.output_tokens(),
        "cache_read_input_tokens": asked.cache.0, "cache_creation_input_tokens": asked.cache.1,
    });
    tier::noted(usage, asked.tier.as_deref())
}

/// The events of an Anthropic stream, whose `type` is also their SSE name.
pub(crate) fn anthropic_events(model: &str, id: &str, asked: &Asked, answer: &Answer) -> Vec<Value> {
    let mut usage = anthropic_usage(asked, answer);
    usage["output_tokens"] = 1.into();
    let mut events = vec![
        json!({"type": "message_start", "message": {
            "id": format!("msg_bdrk_{id}"), "type": "message", "role": "assistant", "model": model, "content": [],
            "stop_reason": null, "stop_sequence": null, "usage": usage}}),
        json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}),
    ];
    events.extend(answer.pieces.iter().map(
        |piece| json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": piece}}),
    ));
    events.push(json!({"type": "content_block_stop", "index": 0}));
    events.push(json!({"type": "message_delta",
        "delta": {"stop_reason": if answer.cut { "max_tokens" } else { "end_turn" }, "stop_sequence": null},
        "usage": {"output_tokens": answer.output_tokens()}}));
    events.push(json!({"type": "message_stop"}));
    events
}

/// Eight numbers that follow from the request.
fn embedding(id: &str) -> Vec<f64> {
    id.bytes().take(8).map(|byte| f64::from(byte) / 256.0).collect()
}
