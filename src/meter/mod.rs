//! What an answer tells about itself in passing: token usage and exceptions in the stream. Nothing is held back or changed.

pub(crate) mod eventstream;
pub(crate) mod json;
pub(crate) mod sse;
pub(crate) mod streamed;
pub(crate) mod usage;
mod value;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, StatusCode};

use crate::record::Usage;
use crate::service_tier;
use eventstream::EventStream;
use json::JsonAnswer;
use sse::ServerSentEvents;

/// What an answer has said of itself, up to where it came.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Metered {
    pub usage: Usage,
    /// The service tier that served it.
    pub service_tier: Option<String>,
    /// The type of an exception in the stream.
    pub exception: Option<String>,
    pub ending: Ending,
    /// Tokens of the output that streamed after the upstream's last count of them, estimated; for the limits alone.
    pub uncounted: u64,
}

/// How an answer stood when its last byte had come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Ending {
    /// A stream with its final event, or an answer that has none.
    #[default]
    Whole,
    /// A stream that ended between two events, before its final one.
    WithoutFinalEvent,
    /// A stream that ended within an event: it was cut off.
    WithinEvent,
}

/// Reads a copy of one answer's bytes.
#[derive(Debug)]
pub(crate) struct Meter {
    /// From the headers; they count more than the body where both speak.
    headers: Usage,
    /// The tier that the headers report.
    service_tier: Option<String>,
    body: Format,
}

#[derive(Debug)]
enum Format {
    EventStream(EventStream),
    ServerSentEvents(ServerSentEvents),
    Json(JsonAnswer),
    /// Errors, images: nothing in the body counts tokens.
    Other,
}

impl Meter {
    pub(crate) fn new(status: StatusCode, headers: &HeaderMap) -> Meter {
        let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let media_type = content_type.split(';').next().unwrap_or_default().trim();
        let is = |name: &str| media_type.eq_ignore_ascii_case(name);
        let body = if !status.is_success() {
            Format::Other
        } else if is("application/json") || is("application/x-amz-json-1.1") {
            Format::Json(JsonAnswer::default())
        } else if is("application/vnd.amazon.eventstream") {
            Format::EventStream(EventStream::default())
        } else if is("text/event-stream") {
            Format::ServerSentEvents(ServerSentEvents::default())
        } else {
            Format::Other
        };
        // They are looked at before they are looked up: most answers have none of these.
        if !headers.keys().any(|name| name.as_str().starts_with("x-amzn-bedrock-")) {
            return Meter { headers: Usage::default(), service_tier: None, body };
        }
        let service_tier = service_tier::reported_by(headers).map(str::to_owned);
        Meter { headers: usage::of_headers(headers), service_tier, body }
    }

    /// The same for the answer's half of a bidirectional stream.
    pub(crate) fn bidirectional(status: StatusCode, headers: &HeaderMap) -> Meter {
        let meter = Meter::new(status, headers);
        match meter.body {
            Format::EventStream(_) => Meter { body: Format::EventStream(EventStream::bidirectional()), ..meter },
            _ => meter,
        }
    }

    /// It is a stream in which another event could come next.
    pub(crate) fn is_between_events(&self) -> bool {
        matches!(&self.body, Format::EventStream(stream) if stream.is_between_events())
    }

    /// The answer is a stream of events.
    pub(crate) fn is_streaming(&self) -> bool {
        matches!(self.body, Format::EventStream(_) | Format::ServerSentEvents(_))
    }

    pub(crate) fn feed(&mut self, data: &Bytes) {
        match &mut self.body {
            Format::EventStream(stream) => stream.feed(data),
            Format::ServerSentEvents(stream) => stream.feed(data),
            Format::Json(answer) => answer.feed(data),
            Format::Other => {}
        }
    }

    /// What is known at the end, however it came.
    pub(crate) fn finish(self) -> Metered {
        let mut metered = match self.body {
            Format::EventStream(stream) => stream.finish(),
            Format::ServerSentEvents(stream) => stream.finish(),
            Format::Json(answer) => answer.finish(),
            Format::Other => Metered::default(),
        };
        metered.usage.merge(self.headers);
        metered.service_tier = self.service_tier.or(metered.service_tier);
        metered
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn media_types_are_known_in_any_case_and_with_parameters() {
        for (media_type, is_streaming, has_usage) in [
            ("application/json", false, true),
            ("Application/JSON; charset=utf-8", false, true),
            ("Application/Vnd.Amazon.EventStream", true, true),
            ("TEXT/event-stream;charset=UTF-8", true, true),
            ("image/png", false, false),
        ] {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(media_type))]);
            let meter = Meter::new(StatusCode::OK, &headers);
            let counts = !matches!(meter.body, Format::Other);
            assert_eq!((meter.is_streaming(), counts), (is_streaming, has_usage), "{media_type}");
        }
    }
}
