//! InvokeModelWithBidirectionalStream: a conversation with a stand-in for Nova Sonic, of which every frame is verified.
//!
//! Each event of the client that has a `content` is echoed as text, and told what has been used so far. Words in it direct
//! the stand-in: `hang up` (it ends the stream), `reset`, `exception`, `deaf` (it reads no more), `flood N` (N events of a
//! kilobyte), `quiet` (no answer). After the client's signed end it says `completionEnd`.

mod body;
mod frames;

use std::sync::Arc;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::http::request::Parts;
use hyper::{Response, Version};
use serde_json::{Value, json};
use tokio::sync::mpsc;

pub(crate) use body::{Said, TalkBody};
use frames::{Frames, Heard};

use crate::auth::{Judge, Seed};
use crate::catalogue::Vendor;
use crate::eventstream;
use crate::exchange::{self, Arrived, Connection, Opened};
use crate::record::Open;
use crate::reply::{AwsError, Reply};
use crate::route::{Call, Host};
use crate::state::State;

/// So many events are kept for the record.
const KEPT: usize = 1_000;

/// Answers a call that came over HTTP/2.
pub(crate) async fn answer(
    state: &Arc<State>,
    connection: &Connection,
    parts: &Parts,
    body: Incoming,
) -> Result<Response<TalkBody>, Reply> {
    let arrived = exchange::head(parts);
    let Opened { routed, model, request_id, record, skew, effect } =
        exchange::open(state, connection, &arrived, parts.version).await;
    let refuse = |record: &Open, error: AwsError| {
        let reply = error.reply();
        record.update(|received| {
            received.error_type = Some(error.kind.clone());
            received.status = Some(reply.status);
            received.answer_length = reply.length() as u64;
            received.bytes_sent = reply.length() as u64;
        });
        record.clone().close(crate::record::Ended::Completed);
        reply.header("x-amzn-requestid", &request_id)
    };
    let seed = exchange::check(state, &arrived, &routed, &record, |presented| {
        Judge { known: &state.known(), region: &state.region, host: Host::Bedrock, now: exchange::now(skew) }
            .judge_events(presented)
    })
    .and_then(|seed| fits(state, &arrived, model.as_deref(), parts.version).map(|id| (seed, id)));
    let (seed, id) = seed.map_err(|error| refuse(&record, error))?;
    let mut talk = Talk::new(state, &record, seed, body, skew);
    let first = match state.head_after_first_event {
        true => Some(talk.frames.next(exchange::now(skew)).await.map_err(|error| refuse(&record, error))?),
        false => None,
    };
    let bytes = talk.frames.bytes;
    record.update(|received| received.body_length = bytes);
    if let Some(crate::faults::Effect::SlowFirstByte { ms }) = &effect {
        tokio::time::sleep(std::time::Duration::from_millis(*ms)).await;
    }
    if let Some(error) = effect.as_ref().and_then(crate::faults::Effect::error) {
        return Err(refuse(&record, error));
    }
    record.update(|received| {
        received.status = Some(200);
        received.model_resolved = Some(id.to_owned());
    });
    let (says, said) = mpsc::channel(1);
    let task = tokio::spawn(async move { talk.go_on(first, says).await });
    let mut response = Response::new(TalkBody::new(said, record, Arc::clone(&connection.control), task.abort_handle()));
    let reply = Reply::bytes(200, "application/vnd.amazon.eventstream", Bytes::new());
    for (name, value) in exchange::answer_head(&reply, &request_id, skew) {
        response.headers_mut().append(name, value);
    }
    Ok(response)
}

/// The model that is to speak.
fn fits(state: &State, arrived: &Arrived, model: Option<&str>, version: Version) -> Result<&'static str, AwsError> {
    if version != Version::HTTP_2 {
        return Err(AwsError::validation("This operation is only supported over HTTP/2."));
    }
    if crate::auth::header(&arrived.headers, "content-type") != Some("application/vnd.amazon.eventstream") {
        return Err(AwsError::validation("The content type must be application/vnd.amazon.eventstream."));
    }
    let model = state.with_profiles(|profiles| profiles.resolve(model.unwrap_or_default()))?;
    if model.vendor != Vendor::Speech {
        return Err(AwsError::validation("The model is not supported for bidirectional streaming."));
    }
    Ok(model.id)
}

/// Whether a call is one.
pub(crate) fn is_meant(method: &str, path: &str) -> bool {
    matches!(crate::route::route(crate::route::Host::Bedrock, method, path), Ok(Call::Bidirectional { .. }))
}

/// One conversation.
struct Talk {
    frames: Frames,
    record: Open,
    state: Arc<State>,
    skew: i64,
    used: (u64, u64),
}

impl Talk {
    fn new(state: &Arc<State>, record: &Open, seed: Seed, body: Incoming, skew: i64) -> Talk {
        let frames = Frames::new(body, seed);
        Talk { frames, record: record.clone(), state: Arc::clone(state), skew, used: (0, 0) }
    }

    async fn go_on(&mut self, mut first: Option<Heard>, says: mpsc::Sender<Said>) {
        let mut is_final = false;
        loop {
            let heard = match first.take() {
                Some(heard) => Ok(heard),
                None => self.frames.next(exchange::now(self.skew)).await,
            };
            let bytes = self.frames.bytes;
            self.record.update(|received| received.body_length = bytes);
            match heard {
                Ok(Heard::Chunk(event)) if !is_final => {
                    if !self.reply(&event, &says).await {
                        return;
                    }
                }
                Ok(Heard::Final) if !is_final => {
                    is_final = true;
                    self.record.update(|received| received.has_final_frame = true);
                }
                Ok(Heard::End) if is_final => {
                    self.say(&json!({"event": {"completionEnd": {"stopReason": "END_TURN"}}}), &says).await;
                    return;
                }
                Ok(Heard::Gone) => return std::future::pending().await,
                Ok(_) => return self.refuse(AwsError::validation("The stream has no single signed end."), &says).await,
                Err(error) => return self.refuse(error, &says).await,
            }
        }
    }

    /// Answers an event. False if the conversation is over.
    async fn reply(&mut self, event: &Bytes, says: &mpsc::Sender<Said>) -> bool {
        let text = String::from_utf8_lossy(event).into_owned();
        self.record.update(|received| {
            received.event_count += 1;
            if received.events.len() < KEPT {
                received.events.push(text);
            }
        });
        let value: Value = serde_json::from_slice(event).unwrap_or_default();
        let content = value["event"].as_object().and_then(|event| event.values().next()?["content"].as_str());
        let Some(content) = content else { return true };
        let words = || content.split_whitespace();
        self.used.0 += words().count() as u64;
        match words().collect::<Vec<_>>()[..] {
            ["hang", "up", ..] => return false,
            ["reset", ..] => {
                let _ = says.send(Said::Reset).await;
                return false;
            }
            ["exception", ..] => {
                let exception = eventstream::exception("modelStreamErrorException", "The model stumbled.");
                let _ = says.send(Said::Bytes(exception)).await;
                return false;
            }
            ["deaf", ..] => std::future::pending().await,
            ["quiet", ..] => {}
            ["flood", count, ..] => {
                for number in 0..count.parse::<u64>().unwrap_or(0) {
                    let text = format!("{number} {}", "x".repeat(1_000));
                    self.say(&json!({"event": {"textOutput": {"content": text}}}), says).await;
                }
            }
            _ => {
                let echo = format!("echo: {content}");
                self.used.1 += echo.split_whitespace().count() as u64;
                self.say(&json!({"event": {"textOutput": {"content": echo}}}), says).await;
                let (input, output) = self.used;
                self.record.update(|received| {
                    (received.input_tokens, received.output_tokens) = (Some(input), Some(output));
                });
                let usage = json!({"event": {"usageEvent": {
                    "totalInputTokens": input, "totalOutputTokens": output, "totalTokens": input + output}}});
                self.say(&usage, says).await;
            }
        }
        true
    }

    async fn say(&self, event: &Value, says: &mpsc::Sender<Said>) {
        use base64::Engine;
        let bytes = base64::engine::general_purpose::STANDARD.encode(event.to_string());
        self.state.gate.clone().pass().await;
        let _ = says.send(Said::Bytes(eventstream::event("chunk", &json!({ "bytes": bytes })))).await;
    }

    async fn refuse(&self, error: AwsError, says: &mpsc::Sender<Said>) {
        self.record.update(|received| received.error_type = Some(error.kind.clone()));
        let _ = says.send(Said::Bytes(eventstream::exception("validationException", &error.message))).await;
    }
}
