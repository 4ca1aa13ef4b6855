//! The body of a request: bytes in memory, or the events of a client that speaks as long as the stream lasts, each in an
//! envelope with a signature of ours.

use std::cell::Cell;
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use tokio_util::sync::CancellationToken;

use super::clock;
use crate::bidirectional::{self, Heard, OfferedEvents};
use crate::credentials::{Credential, CredentialKind};
use crate::sigv4::events::Chain;

/// What a request carries.
#[derive(Debug)]
pub(crate) enum OutgoingBody {
    /// In memory, because the signature needs its hash and a retry its bytes.
    Whole(Full<Bytes>),
    Events(Box<Events>),
}

impl From<Bytes> for OutgoingBody {
    fn from(bytes: Bytes) -> OutgoingBody {
        OutgoingBody::Whole(Full::new(bytes))
    }
}

/// The client's half has ended before its end: this resets the stream.
type Broken = h2::Error;

impl Body for OutgoingBody {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match &mut *self {
            OutgoingBody::Whole(whole) => Pin::new(whole).poll_frame(cx).map_err(|never| match never {}),
            OutgoingBody::Events(events) => events.poll_next(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            OutgoingBody::Whole(whole) => whole.is_end_stream(),
            OutgoingBody::Events(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            OutgoingBody::Whole(whole) => whole.size_hint(),
            OutgoingBody::Events(_) => SizeHint::default(),
        }
    }
}

/// A client's events on their way to one upstream.
pub(crate) struct Events {
    client: OfferedEvents,
    /// What the stream began with. It stays the same while newer keys take its place elsewhere.
    credential: Arc<Credential>,
    chain: Chain,
    /// How far the upstream's clock is ahead of ours, in milliseconds.
    offset: i64,
    /// What is left of the envelope that is being sent.
    unsent: VecDeque<Bytes>,
    /// Its signed end has been signed.
    has_ended: bool,
    /// It has been asked for its first event.
    was_asked: bool,
}

thread_local! {
    /// Of the stream whose body was asked for its first event just now.
    static CUT: Cell<Option<CancellationToken>> = const { Cell::new(None) };
}

/// When the task that is about to be started shall end before its end, if it sends a stream's events. The HTTP library
/// sends a body in a task of its own, which does not ask the body while the peer takes nothing: only from outside can it
/// be ended then, and with it the stream. The library starts that task right after it has asked the body once.
pub(super) fn cut_of_new_task() -> Option<CancellationToken> {
    CUT.take()
}

impl Events {
    /// For the request whose signature begins the chain.
    pub(crate) fn new(client: OfferedEvents, credential: Arc<Credential>, chain: Chain, offset: i64) -> Events {
        Events { client, credential, chain, offset, unsent: VecDeque::new(), has_ended: false, was_asked: false }
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        if !std::mem::replace(&mut self.was_asked, true) {
            CUT.set(Some(self.client.cut()));
        }
        if let Some(part) = self.unsent.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(part))));
        }
        if self.has_ended {
            return Poll::Ready(None);
        }
        let event = match self.client.poll_next(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(None) => return Poll::Ready(Some(Err(h2::Reason::CANCEL.into()))),
            Poll::Ready(Some(Heard::Event(event))) => event,
            Poll::Ready(Some(Heard::End)) => {
                self.has_ended = true;
                Bytes::new()
            }
        };
        let Some(sealed) = self.sealed(event) else {
            return Poll::Ready(Some(Err(h2::Reason::INTERNAL_ERROR.into())));
        };
        self.unsent.extend(sealed.into_iter().filter(|part| !part.is_empty()));
        Poll::Ready(self.unsent.pop_front().map(|part| Ok(Frame::data(part))))
    }

    /// An event in its envelope; the end of the stream has an empty one.
    fn sealed(&mut self, event: Bytes) -> Option<[Bytes; 3]> {
        let CredentialKind::AwsKeys(keys) = &self.credential.kind else { return None };
        let now = clock::shifted(SystemTime::now(), self.offset);
        // Whole seconds, as AWS's own signers date them.
        let seconds = i64::try_from(now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()).ok()?;
        let milliseconds = seconds.checked_mul(1000)?;
        let signature = self.chain.next(milliseconds, &event, |scope| keys.signing_key(scope));
        Some(bidirectional::seal(milliseconds, &signature, event))
    }
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events").field("has_ended", &self.has_ended).finish_non_exhaustive()
    }
}
