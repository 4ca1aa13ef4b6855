//! The client's half of a bidirectional stream: its events on their way upstream. The answer's half is relayed as any
//! answer is.
//!
//! A task of its own listens to the client (`listening.rs`): it takes one frame after the other (`frames.rs`), takes the
//! event out of its signed envelope (`envelope.rs`), and hands it over. Upstream each event goes in an envelope of ours
//! (`upstream/outgoing.rs`). In between there is room for one event: who sends faster than the upstream takes has to wait.

pub(crate) mod envelope;
mod frames;
mod listening;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Version;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub(crate) use envelope::seal;
pub(crate) use listening::{End, Listening, Speech, listen};

use crate::error::{Refusal, RefusalKind};
use crate::eventstream::{self, STRING, push_header};

/// What comes from the client.
#[derive(Debug)]
pub(crate) enum Heard {
    /// An event without its envelope: a whole frame.
    Event(Bytes),
    /// The client has said all.
    End,
}

/// The client's events, for the upstream that is to get them. All clones are the same stream.
#[derive(Debug, Clone)]
pub(crate) struct ClientEvents {
    heard: Arc<Mutex<mpsc::Receiver<Heard>>>,
    /// An event has been given to an upstream.
    has_begun: Arc<AtomicBool>,
    /// Nobody wants the rest any more, or it cannot be had.
    cut: CancellationToken,
}

impl ClientEvents {
    /// A part of the stream has been sent. No other upstream could get it from its beginning.
    pub(crate) fn has_begun(&self) -> bool {
        self.has_begun.load(Ordering::Relaxed)
    }

    /// Ends when the stream does, however little of it has been sent.
    pub(crate) fn cut(&self) -> CancellationToken {
        self.cut.clone()
    }

    /// The next event; none if the client's half has ended before its end.
    pub(crate) fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Option<Heard>> {
        if self.cut.is_cancelled() {
            return Poll::Ready(None);
        }
        let polled = self.heard.lock().unwrap_or_else(PoisonError::into_inner).poll_recv(cx);
        if matches!(polled, Poll::Ready(Some(_))) {
            self.has_begun.store(true, Ordering::Relaxed);
        }
        polled
    }
}

/// How many bytes of the client's body have come.
#[derive(Debug, Clone, Default)]
pub(crate) struct Received(Arc<AtomicU64>);

impl Received {
    pub(crate) fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn add(&self, bytes: usize) {
        self.0.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// Refuses what cannot be a bidirectional stream.
///
/// # Errors
/// 400 if it did not come over HTTP/2, or is no stream of events.
pub(crate) fn check(head: &Parts) -> Result<(), Refusal> {
    if head.version != Version::HTTP_2 {
        let message = "a bidirectional stream needs HTTP/2; give the SDK an HTTP/2 client, or a TLS endpoint if it speaks HTTP/2 over TLS only ([listen.tls]).";
        return Err(Refusal::new(RefusalKind::Validation, message));
    }
    let essence = head.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if essence.split(';').next().map(str::trim) != Some(eventstream::CONTENT_TYPE) {
        let message =
            "a bidirectional stream has the content type application/vnd.amazon.eventstream; let the SDK send it.";
        return Err(Refusal::new(RefusalKind::Validation, message));
    }
    Ok(())
}

/// The last event of an answer that is ended because of the client's half: an exception that SDKs know for this operation.
pub(crate) fn exception(refusal: &Refusal) -> Bytes {
    let kind = match refusal.kind {
        RefusalKind::ServiceUnavailable => "serviceUnavailableException",
        RefusalKind::Internal => "internalServerException",
        _ => "validationException",
    };
    let mut headers = Vec::new();
    for (name, value) in
        [(":exception-type", kind), (":content-type", "application/json"), (":message-type", "exception")]
    {
        push_header(&mut headers, name, STRING, value.as_bytes());
    }
    eventstream::frame(&headers, serde_json::json!({ "message": refusal.text() }).to_string().as_bytes())
}
