//! Faults: what goes wrong, for which requests, and how often.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::auth;
use crate::body::Step;
use crate::eventstream;
use crate::framing::Framing;
use crate::reply::{AwsError, Reply};
use crate::wire::Ending;

/// A fault with the requests it is meant for. The first that matches a request is applied to it, and is used up
/// after `times` requests.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// How many requests; 0 means every one until cleared.
    #[serde(default = "once")]
    pub times: u32,
    /// Lets this many matching requests pass unharmed first.
    #[serde(default)]
    pub skip: u32,
    /// Only this operation, by AWS's name.
    #[serde(default)]
    pub operation: Option<String>,
    /// Only models whose requested identifier contains this.
    #[serde(default)]
    pub model: Option<String>,
    /// Only raw paths that contain this.
    #[serde(default)]
    pub path: Option<String>,
    /// Only a simulator of this region.
    #[serde(default)]
    pub region: Option<String>,
    /// What happens.
    pub effect: Effect,
}

fn once() -> u32 {
    1
}

impl Fault {
    /// A fault for the next request, whatever it is.
    pub fn once(effect: Effect) -> Fault {
        Fault { times: 1, skip: 0, operation: None, model: None, path: None, region: None, effect }
    }

    /// The same for `times` requests; 0 means until cleared.
    pub fn times(mut self, times: u32) -> Fault {
        self.times = times;
        self
    }

    /// The same, only for this operation.
    pub fn on(mut self, operation: &str) -> Fault {
        self.operation = Some(operation.to_owned());
        self
    }

    /// The same, only for models whose identifier contains `model`.
    pub fn for_model(mut self, model: &str) -> Fault {
        self.model = Some(model.to_owned());
        self
    }
}

/// What goes wrong. Durations are milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Effect {
    /// 429 ThrottlingException.
    Throttle {
        /// Which of the texts.
        #[serde(default)]
        text: ThrottleText,
    },
    /// An error of one's own choosing.
    Error {
        /// The HTTP status.
        status: u16,
        /// x-amzn-ErrorType.
        error_type: String,
        /// The message.
        #[serde(default)]
        message: String,
        /// `Message` instead of `message`.
        #[serde(default)]
        capital: bool,
        /// Further headers.
        #[serde(default)]
        headers: BTreeMap<String, String>,
    },
    /// 500 InternalServerException.
    InternalServerError,
    /// 503 ServiceUnavailableException.
    ServiceUnavailable,
    /// 424 ModelErrorException.
    ModelError,
    /// 408 ModelTimeoutException.
    ModelTimeout,
    /// 429 ModelNotReadyException.
    ModelNotReady,
    /// 403, as for a key that was deleted or rotated.
    InvalidKey,
    /// 403, as for a key that is none.
    InvalidKeyFormat,
    /// 403 `Bearer Token has expired`.
    ExpiredKey,
    /// 403 ExpiredTokenException.
    ExpiredToken,
    /// 403 UnrecognizedClientException.
    UnrecognizedClient,
    /// This server's clock is off: its Date header and its judgement of signatures.
    ClockSkew {
        /// Ahead of the true time when positive.
        seconds: i64,
    },
    /// The connection ends without an answer.
    BreakBeforeHeaders {
        /// RST or FIN.
        #[serde(default)]
        how: Ending,
    },
    /// The connection ends right behind the response headers.
    BreakAfterHeaders {
        /// RST or FIN.
        #[serde(default)]
        how: Ending,
    },
    /// Both listeners close, with all connections, and come back on the same ports.
    RefuseConnections {
        /// For how long.
        ms: u64,
    },
    /// The answer breaks off in the middle; the length header, if any, stays.
    Cut {
        /// After so many bytes of body…
        #[serde(default)]
        after_bytes: Option<usize>,
        /// …or after so many events.
        #[serde(default)]
        after_events: Option<usize>,
        /// RST, FIN or the stream alone.
        #[serde(default)]
        how: Ending,
    },
    /// A CRC-framed exception takes the place of the rest of an event stream, which then ends cleanly.
    StreamException {
        /// Events before it.
        #[serde(default)]
        after_events: usize,
        /// `throttlingException`, `modelStreamErrorException`, `internalServerException` …
        exception: String,
        /// Its message.
        #[serde(default)]
        message: String,
    },
    /// Nothing, not even a status, for a while.
    SlowFirstByte {
        /// How long.
        ms: u64,
    },
    /// The body comes in small pieces.
    Drip {
        /// Bytes a piece.
        bytes: usize,
        /// Between pieces.
        every_ms: u64,
    },
    /// The body never goes on.
    Stall {
        /// After so many bytes.
        #[serde(default)]
        after_bytes: usize,
    },
    /// GOAWAY on HTTP/2 while the stream goes on to its end.
    GoAway {
        /// Events, or pieces, before it.
        #[serde(default)]
        after_events: usize,
    },
    /// Content-Length promises more than comes before FIN.
    TruncatedBody {
        /// How much more.
        missing: usize,
    },
    /// One frame of an event stream has a wrong message CRC.
    WrongCrc {
        /// Which, from 0.
        #[serde(default)]
        event: usize,
    },
    /// Bytes that are not HTTP.
    Garbage,
    /// A response header this large.
    HugeHeaders {
        /// How large, in bytes.
        bytes: usize,
    },
    /// 200 without a body.
    EmptyBody,
    /// A sound answer with `Connection: close` (GOAWAY on HTTP/2).
    CloseAfter,
    /// The answer is written by hand, in this way. Only requests on connections that are framed by hand meet it.
    Framing {
        /// Which way.
        variant: Framing,
    },
}

/// AWS's texts for throttling.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ThrottleText {
    /// Tokens per minute.
    #[default]
    Tokens,
    /// Tokens per day.
    TokensPerDay,
    /// Requests per minute.
    Requests,
}

impl ThrottleText {
    /// The message.
    pub fn message(self) -> &'static str {
        match self {
            ThrottleText::Tokens => "Too many tokens, please wait before trying again.",
            ThrottleText::TokensPerDay => "Too many tokens per day, please wait before trying again.",
            ThrottleText::Requests => "Too many requests, please wait before trying again.",
        }
    }
}

impl Effect {
    /// The `kind` of its JSON.
    pub fn kind(&self) -> String {
        let value = serde_json::to_value(self).unwrap_or_default();
        value["kind"].as_str().unwrap_or_default().to_owned()
    }

    /// The error it answers in place of judging the credentials or calling the operation.
    pub(crate) fn error(&self) -> Option<AwsError> {
        let simple = |status, kind: &str, message: &str| Some(AwsError::new(status, kind, message));
        match self {
            Effect::Throttle { text } => simple(429, "ThrottlingException", text.message()),
            Effect::Error { status, error_type, message, capital, headers } => {
                let mut error = AwsError::new(*status, error_type, message.clone());
                error.capital = *capital;
                error.headers = headers.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
                Some(error)
            }
            Effect::InternalServerError => simple(
                500,
                "InternalServerException",
                "The system encountered an unexpected error during processing. Try your request again.",
            ),
            Effect::ServiceUnavailable => {
                simple(503, "ServiceUnavailableException", "Bedrock is unable to process your request.")
            }
            Effect::ModelError => simple(
                424,
                "ModelErrorException",
                "The system encountered an unexpected error during processing. Try your request again.",
            ),
            Effect::ModelTimeout => simple(
                408,
                "ModelTimeoutException",
                "Model has timed out in processing the request. Try your request again.",
            ),
            Effect::ModelNotReady => simple(
                429,
                "ModelNotReadyException",
                "Model is not ready for inference. Wait and try your request again.",
            ),
            Effect::InvalidKey => Some(auth::invalid_key()),
            Effect::InvalidKeyFormat => Some(auth::invalid_key_format()),
            Effect::ExpiredKey => Some(auth::expired_bearer()),
            Effect::ExpiredToken => Some(auth::expired_token()),
            Effect::UnrecognizedClient => {
                simple(403, "UnrecognizedClientException", "The security token included in the request is invalid.")
            }
            _ => None,
        }
    }

    /// Edits the script of an answer.
    pub(crate) fn edit(&self, reply: &mut Reply) {
        let length = reply.length();
        match self {
            Effect::BreakAfterHeaders { how } => reply.steps = [Step::Cut(*how)].into(),
            Effect::Cut { after_bytes, after_events, how } => {
                let keep_length = reply.steps.iter().all(|step| matches!(step, Step::Data(_)));
                cut_at(reply, *after_bytes, *after_events, [Step::Cut(*how)]);
                if keep_length {
                    reply.headers.push(("content-length".to_owned(), length.to_string()));
                }
            }
            Effect::StreamException { after_events, exception, message } => {
                let frame = eventstream::exception(exception, message);
                cut_at(reply, None, Some(*after_events), [Step::Event(frame)]);
            }
            Effect::SlowFirstByte { ms } => reply.delay += Duration::from_millis(*ms),
            Effect::Drip { bytes, every_ms } => drip(reply, (*bytes).max(1), Duration::from_millis(*every_ms)),
            Effect::Stall { after_bytes } => cut_at(reply, Some(*after_bytes), None, [Step::Stall]),
            Effect::GoAway { after_events } => {
                let at = event_index(reply, *after_events);
                reply.steps.insert(at, Step::GoAway);
            }
            Effect::TruncatedBody { missing } => {
                reply.headers.push(("content-length".to_owned(), (length + missing).to_string()));
                reply.steps.push_back(Step::Cut(Ending::Fin));
            }
            Effect::WrongCrc { event } => {
                let at = event_index(reply, *event);
                if let Some(Step::Event(frame)) = reply.steps.get_mut(at) {
                    *frame = eventstream::spoil(frame);
                }
            }
            Effect::HugeHeaders { bytes } => reply.headers.push(("x-amzn-huge".to_owned(), "h".repeat(*bytes))),
            Effect::EmptyBody => reply.steps.clear(),
            _ => {}
        }
    }
}

/// Where the event with this number stands in the script, or its end.
fn event_index(reply: &Reply, number: usize) -> usize {
    let is_piece = |step: &Step| matches!(step, Step::Data(_) | Step::Event(_));
    let found = reply.steps.iter().enumerate().filter(|(_, step)| is_piece(step)).nth(number);
    found.map_or(reply.steps.len(), |(index, _)| index)
}

pub(crate) fn cut_at<const N: usize>(reply: &mut Reply, bytes: Option<usize>, events: Option<usize>, then: [Step; N]) {
    if let Some(events) = events {
        reply.steps.truncate(event_index(reply, events));
    }
    let mut left = bytes.unwrap_or(usize::MAX);
    let mut kept = VecDeque::new();
    for step in std::mem::take(&mut reply.steps) {
        let (piece, is_event) = match step {
            Step::Data(piece) => (piece, false),
            Step::Event(piece) => (piece, true),
            other => {
                kept.push_back(other);
                continue;
            }
        };
        let taken = piece.slice(..piece.len().min(left));
        left -= taken.len();
        if !taken.is_empty() {
            kept.push_back(if is_event { Step::Event(taken) } else { Step::Data(taken) });
        }
        if left == 0 {
            break;
        }
    }
    kept.extend(then);
    reply.steps = kept;
}

fn drip(reply: &mut Reply, size: usize, pause: Duration) {
    let mut all: Vec<u8> = Vec::with_capacity(reply.length());
    for step in &reply.steps {
        if let Step::Data(bytes) | Step::Event(bytes) = step {
            all.extend_from_slice(bytes);
        }
    }
    let all = Bytes::from(all);
    reply.steps.clear();
    for start in (0..all.len()).step_by(size) {
        reply.steps.push_back(Step::Data(all.slice(start..all.len().min(start + size))));
        if start + size < all.len() {
            reply.steps.push_back(Step::Sleep(pause));
        }
    }
}

/// The faults that lie in wait.
#[derive(Debug, Default)]
pub(crate) struct Faults(Mutex<Vec<Fault>>);

/// What a request looks like to the faults.
#[derive(Debug)]
pub(crate) struct Target<'a> {
    pub(crate) operation: &'a str,
    pub(crate) model: &'a str,
    pub(crate) path: &'a str,
    pub(crate) region: &'a str,
    /// Whether its connection is framed by hand.
    pub(crate) framed: bool,
}

impl Faults {
    pub(crate) fn add(&self, fault: Fault) {
        self.lock().push(fault);
    }

    pub(crate) fn clear(&self) {
        self.lock().clear();
    }

    pub(crate) fn all(&self) -> Vec<Fault> {
        self.lock().clone()
    }

    /// The clock's error for this request, and the one other fault it meets.
    pub(crate) fn take(&self, target: &Target<'_>) -> (i64, Option<Effect>) {
        let mut faults = self.lock();
        let mut skew = 0;
        let mut effect = None;
        for fault in faults.iter_mut() {
            let is_skew = matches!(fault.effect, Effect::ClockSkew { .. });
            if !matches(fault, target) || (!is_skew && effect.is_some()) {
                continue;
            }
            if fault.skip > 0 {
                fault.skip -= 1;
                continue;
            }
            match fault.effect {
                Effect::ClockSkew { seconds } => skew += seconds,
                _ => effect = Some(fault.effect.clone()),
            }
            // 0 stands for "until cleared"; a fault used up becomes u32::MAX, so as not to be mistaken for that.
            fault.times = match fault.times {
                0 => 0,
                1 => u32::MAX,
                times => times - 1,
            };
        }
        faults.retain(|fault| fault.times != u32::MAX);
        (skew, effect)
    }

    /// The framing that answers this request before its body is read, if that is the next fault it meets.
    pub(crate) fn take_early(&self, target: &Target<'_>) -> Option<Framing> {
        let early = {
            let faults = self.lock();
            let next = faults.iter().find(|fault| matches(fault, target) && fault.skip == 0)?;
            matches!(next.effect, Effect::Framing { variant } if variant.is_early())
        };
        match early.then(|| self.take(target)) {
            Some((_, Some(Effect::Framing { variant }))) => Some(variant),
            _ => None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Fault>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn matches(fault: &Fault, target: &Target<'_>) -> bool {
    fault.operation.as_deref().is_none_or(|operation| operation == target.operation)
        && fault.model.as_deref().is_none_or(|model| target.model.contains(model))
        && fault.path.as_deref().is_none_or(|path| target.path.contains(path))
        && fault.region.as_deref().is_none_or(|region| region == target.region)
        && (target.framed || !matches!(fault.effect, Effect::Framing { .. }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: Target<'static> = Target {
        operation: "Converse",
        model: "amazon.nova-lite-v1:0",
        path: "/model",
        region: "us-east-1",
        framed: false,
    };

    #[test]
    fn a_fault_is_used_up_and_keeps_to_its_match() {
        let faults = Faults::default();
        faults.add(Fault::once(Effect::ModelError).on("InvokeModel"));
        faults.add(Fault::once(Effect::Garbage).times(2));
        faults.add(Fault::once(Effect::ClockSkew { seconds: 600 }).times(0));
        assert_eq!(faults.take(&TARGET), (600, Some(Effect::Garbage)));
        assert_eq!(faults.take(&TARGET), (600, Some(Effect::Garbage)));
        assert_eq!(faults.take(&TARGET), (600, None));
        assert_eq!(faults.all().len(), 2);
    }

    #[test]
    fn the_json_is_what_the_control_interface_takes() -> Result<(), serde_json::Error> {
        let json = r#"{"operation":"ConverseStream","effect":{"kind":"cut","after_events":2,"how":"fin"}}"#;
        let fault: Fault = serde_json::from_str(json)?;
        assert_eq!(fault.effect, Effect::Cut { after_bytes: None, after_events: Some(2), how: Ending::Fin });
        assert_eq!(fault.times, 1);
        Ok(())
    }
}
