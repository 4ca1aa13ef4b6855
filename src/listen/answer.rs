//! The body of an answer on its way to a client: it keeps its request in progress, and can be ended from outside when
//! the client takes nothing.
//!
//! An HTTP/2 client decides for each stream when it takes more. While it does not, the HTTP library does not ask the
//! body for more, and nothing that stands in the body would ever run.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::Answer;
use super::activity::{Activity, Cut, InProgress};
use super::head::Protocol;

/// What an HTTP/2 stream is given at once. A client that takes so much within the time limit is not cut.
pub(super) const PIECE: usize = 16 * 1024;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// A body that is watched.
#[derive(Debug)]
pub(crate) struct Watched<B: Answer>(Arc<Slot<B>>);

#[derive(Debug)]
struct Slot<B> {
    activity: Arc<Activity>,
    /// When the library took bytes that it has not come back from; 0 otherwise.
    handed: AtomicU64,
    most: usize,
    held: Mutex<Held<B>>,
}

#[derive(Debug)]
struct Held<B> {
    /// None after a cut.
    body: Option<(B, InProgress)>,
    /// Of a frame that was longer than `most`.
    rest: Bytes,
}

/// The client took no byte for too long.
#[derive(Debug, thiserror::Error)]
#[error("the client took no byte of its answer for listen.write_timeout")]
pub(super) struct Stalled;

impl<B: Answer> Watched<B> {
    pub(super) fn new(mut body: B, progress: InProgress, activity: &Arc<Activity>, protocol: Protocol) -> Watched<B> {
        let most = match protocol {
            // One answer at a time, so what the socket has taken tells of this one.
            Protocol::Http1 => {
                body.confirm_delivery();
                usize::MAX
            }
            Protocol::Http2 => PIECE,
        };
        let held = Mutex::new(Held { body: Some((body, progress)), rest: Bytes::new() });
        let slot = Arc::new(Slot { activity: Arc::clone(activity), handed: AtomicU64::new(0), most, held });
        let weak: Weak<Slot<B>> = Arc::downgrade(&slot);
        activity.watch(weak);
        Watched(slot)
    }
}

/// The library drops a body once it has all of it. Its last bytes may still be on their way.
impl<B: Answer> Drop for Watched<B> {
    fn drop(&mut self) {
        let awaits = self.0.held().body.as_ref().is_some_and(|(body, _)| body.awaits_delivery());
        if awaits {
            let slot: Arc<Slot<B>> = Arc::clone(&self.0);
            self.0.activity.await_flush(slot);
        }
    }
}

impl<B> Slot<B> {
    fn held(&self) -> MutexGuard<'_, Held<B>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B: Answer> Cut for Slot<B> {
    fn waiting_since(&self) -> Option<u64> {
        let divided = self.most < usize::MAX;
        Some(self.handed.load(Relaxed)).filter(|since| divided && *since > 0)
    }

    fn cut(&self) {
        self.handed.store(0, Relaxed);
        let taken = self.held().body.take();
        if let Some((mut body, _progress)) = taken {
            body.client_stalled();
        }
    }

    fn delivered(&self) {
        let taken = self.held().body.take();
        if let Some((mut body, _progress)) = taken {
            body.delivered();
        }
    }
}

impl<B: Answer> Body for Watched<B> {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let slot = &self.0;
        let mut held = slot.held();
        let Held { body, rest } = &mut *held;
        let Some((body, _)) = body else { return Poll::Ready(Some(Err(Stalled.into()))) };
        let polled = if rest.is_empty() {
            Pin::new(body).poll_frame(cx).map_err(Into::into)
        } else {
            Poll::Ready(Some(Ok(Frame::data(std::mem::take(rest)))))
        };
        let handed = if polled.is_ready() { slot.activity.now() } else { 0 };
        slot.handed.store(handed, Relaxed);
        match polled {
            Poll::Ready(Some(Ok(frame))) => Poll::Ready(Some(Ok(first_piece(frame, slot.most, rest)))),
            other => other,
        }
    }

    fn is_end_stream(&self) -> bool {
        let held = self.0.held();
        held.rest.is_empty() && held.body.as_ref().is_some_and(|(body, _)| body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let held = self.0.held();
        match &held.body {
            Some((body, _)) if held.rest.is_empty() => body.size_hint(),
            _ => SizeHint::default(),
        }
    }
}

fn first_piece(frame: Frame<Bytes>, most: usize, rest: &mut Bytes) -> Frame<Bytes> {
    match frame.into_data() {
        Ok(mut data) if data.len() > most => {
            *rest = data.split_off(most);
            Frame::data(data)
        }
        Ok(data) => Frame::data(data),
        Err(other) => other,
    }
}
