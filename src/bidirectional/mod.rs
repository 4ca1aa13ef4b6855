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
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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

/// The client's events. All clones are the same stream, and one attempt at a time may take them.
#[derive(Debug, Clone)]
pub(crate) struct ClientEvents {
    line: Arc<Mutex<Line>>,
    progress: Progress,
    /// Nobody wants the rest any more, or it cannot be had.
    cut: CancellationToken,
}

/// The events that wait, and whose turn it is to take them.
#[derive(Debug)]
struct Line {
    heard: mpsc::Receiver<Heard>,
    /// The number of the attempt that may take them. A number that no attempt has: none may.
    turn: u64,
    /// Ends that attempt's part in the stream.
    cut: CancellationToken,
}

impl ClientEvents {
    pub(crate) fn new(heard: mpsc::Receiver<Heard>, progress: Progress, cut: CancellationToken) -> ClientEvents {
        let line = Line { heard, turn: 0, cut: CancellationToken::new() };
        ClientEvents { line: Arc::new(Mutex::new(line)), progress, cut }
    }

    /// A part of the stream has been sent. No other upstream could get it from its beginning.
    pub(crate) fn has_begun(&self) -> bool {
        self.progress.has_begun()
    }

    /// The events, for the next attempt. The one before it ends.
    pub(crate) fn offer(&self) -> OfferedEvents {
        let mut line = self.line();
        line.turn += 1;
        std::mem::replace(&mut line.cut, self.cut.child_token()).cancel();
        OfferedEvents { client: self.clone(), turn: line.turn, cut: line.cut.clone() }
    }

    /// The attempt that has them was refused: unless it has got some already, it gets none from now on, and another one may
    /// get them all. True if so. The attempt's stream stays as it is until the next one begins, because its answer may still
    /// be read.
    pub(crate) fn withdraw(&self) -> bool {
        let mut line = self.line();
        if self.has_begun() {
            return false;
        }
        line.turn += 1;
        true
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        // Every critical section here is a look or a single change.
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The client's events, for one attempt to send them.
#[derive(Debug)]
pub(crate) struct OfferedEvents {
    client: ClientEvents,
    turn: u64,
    cut: CancellationToken,
}

impl OfferedEvents {
    /// Ends when the attempt does, or the stream, however little of it has been sent.
    pub(crate) fn cut(&self) -> CancellationToken {
        self.cut.clone()
    }

    /// The next event; none if the client's half has ended before its end, or another attempt has begun.
    pub(crate) fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Option<Heard>> {
        if self.cut.is_cancelled() {
            return Poll::Ready(None);
        }
        let mut line = self.client.line();
        if line.turn != self.turn {
            // What sends the events ends with `cut`.
            return Poll::Pending;
        }
        let polled = line.heard.poll_recv(cx);
        if let Poll::Ready(Some(heard)) = &polled {
            self.client.progress.sends(heard);
        }
        polled
    }
}

/// How far the client's half has come.
#[derive(Debug, Clone, Default)]
pub(crate) struct Progress(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    received: AtomicU64,
    has_begun: AtomicBool,
    has_ended: AtomicBool,
}

impl Progress {
    /// How many bytes of the client's body have come.
    pub(crate) fn received(&self) -> u64 {
        self.0.received.load(Ordering::Relaxed)
    }

    /// A part of it has been given to an upstream.
    pub(crate) fn has_begun(&self) -> bool {
        self.0.has_begun.load(Ordering::Relaxed)
    }

    /// All of it has.
    pub(crate) fn has_ended(&self) -> bool {
        self.0.has_ended.load(Ordering::Relaxed)
    }

    fn receives(&self, bytes: usize) {
        self.0.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn sends(&self, heard: &Heard) {
        self.0.has_begun.store(true, Ordering::Relaxed);
        if matches!(heard, Heard::End) {
            self.0.has_ended.store(true, Ordering::Relaxed);
        }
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
    let content_type = head.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = content_type.split(';').next().unwrap_or_default().trim();
    if !media_type.eq_ignore_ascii_case(eventstream::CONTENT_TYPE) {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn events() -> (mpsc::Sender<Heard>, ClientEvents) {
        let (says, heard) = mpsc::channel(1);
        (says, ClientEvents::new(heard, Progress::default(), CancellationToken::new()))
    }

    fn poll(attempt: &OfferedEvents) -> Poll<Option<Heard>> {
        attempt.poll_next(&mut Context::from_waker(std::task::Waker::noop()))
    }

    #[test]
    fn the_media_type_may_be_written_in_any_case() {
        for (content_type, fits) in [
            ("application/vnd.amazon.eventstream", true),
            ("Application/Vnd.Amazon.EventStream; x=y", true),
            ("application/json", false),
        ] {
            let head = http::Request::post("/").version(Version::HTTP_2).header(CONTENT_TYPE, content_type);
            let (head, ()) = head.body(()).unwrap().into_parts();
            assert_eq!(check(&head).is_ok(), fits, "{content_type}");
        }
    }

    #[test]
    fn an_attempt_that_was_refused_takes_no_event_from_the_next_one() {
        let (says, events) = events();
        let first = events.offer();
        assert!(poll(&first).is_pending());
        assert!(events.withdraw(), "it has got nothing");
        says.try_send(Heard::Event(Bytes::from_static(b"one"))).unwrap();
        assert!(poll(&first).is_pending() && !events.has_begun());
        assert!(!first.cut().is_cancelled(), "its answer is read before it ends");
        let second = events.offer();
        assert!(first.cut().is_cancelled() && !second.cut().is_cancelled());
        assert!(matches!(poll(&first), Poll::Ready(None)));
        assert!(matches!(poll(&second), Poll::Ready(Some(Heard::Event(event))) if event == "one"));
        assert!(events.has_begun() && !events.progress.has_ended());
        assert!(!events.withdraw(), "nobody else could get that one");
        says.try_send(Heard::End).unwrap();
        assert!(matches!(poll(&second), Poll::Ready(Some(Heard::End))));
        assert!(events.progress.has_ended());
    }

    #[test]
    fn the_end_of_the_stream_ends_the_attempt() {
        let (_says, events) = events();
        let attempt = events.offer();
        events.cut.cancel();
        assert!(attempt.cut().is_cancelled() && matches!(poll(&attempt), Poll::Ready(None)));
    }
}
