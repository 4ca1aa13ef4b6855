//! The body of an upstream's answer: its frames as they come, the idle limit between them, where it ends, and the
//! connection given back at that end.
//!
//! An answer is complete when its announced length has passed, or when the protocol says that it has ended. Servers may
//! send the end of an HTTP/2 stream in a frame of its own, after the last byte. A client may not wait for that frame. The
//! rest of the stream is then read in the background, because to drop it would cancel an answer that was whole.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use super::pool::{Lease, describe};
use crate::panics;

/// How long the end of a stream is waited for after the last byte of its answer.
const TAIL_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a body ended before its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("the upstream broke its answer off: {}", describe(.0))]
    Broke(hyper::Error),
    /// RST_STREAM with NO_ERROR, which the HTTP library takes for an end.
    #[error("the upstream reset its answer before the end")]
    Reset,
    #[error("the upstream sent nothing for {} s", .0.as_secs_f32())]
    Idle(Duration),
    #[error("bedrock-sidecar: an error in the daemon's own code ended the answer")]
    Panicked,
    #[error("the client left")]
    ClientLeft,
    #[error("the client's half of the stream broke")]
    ClientBroke,
}

/// Bytes from upstream, untouched.
#[derive(Debug)]
pub(crate) struct UpstreamBody {
    /// None once its end is read in the background.
    incoming: Option<Incoming>,
    /// Bytes that are still to come; none where the answer does not announce its length and has not ended.
    remaining: Option<u64>,
    lease: Option<Lease>,
    idle: Duration,
    /// What was read and put back.
    put_back: Bytes,
    /// Made when the body first has to be waited for.
    timer: Option<Pin<Box<Sleep>>>,
    /// How many bytes had come on the connection when the timer was last set.
    received: Option<u64>,
}

impl UpstreamBody {
    pub(crate) fn new(incoming: Incoming, lease: Lease, idle: Duration) -> UpstreamBody {
        let remaining = incoming.size_hint().exact();
        let mut body = UpstreamBody {
            incoming: Some(incoming),
            remaining,
            lease: Some(lease),
            idle,
            put_back: Bytes::new(),
            timer: None,
            received: None,
        };
        body.release_if_complete();
        body
    }

    /// Has the first bytes of a body that has not ended come once more.
    pub(super) fn put_back(&mut self, bytes: Bytes) {
        self.remaining = self.remaining.map(|remaining| remaining + bytes.len() as u64);
        self.put_back = bytes;
    }

    /// The whole answer has passed.
    fn is_complete(&self) -> bool {
        self.put_back.is_empty()
            && (self.remaining == Some(0) || self.incoming.as_ref().is_none_or(Body::is_end_stream))
    }

    fn release_if_complete(&mut self) {
        if self.is_complete()
            && let Some(lease) = self.lease.take()
            && let Some(incoming) = self.incoming.take()
        {
            read_tail(incoming, lease);
        }
    }

    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<BodyError> {
        let idle = self.idle;
        if self.timer.is_none() {
            self.received = self.lease.as_ref().and_then(Lease::received);
        }
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(idle)));
        ready!(timer.as_mut().poll(cx));
        self.give_up();
        Poll::Ready(BodyError::Idle(idle))
    }

    /// Nobody wants the rest any more: it is cancelled.
    pub(crate) fn abandon(&mut self) {
        (self.incoming, self.lease, self.remaining, self.put_back) = (None, None, Some(0), Bytes::new());
    }

    /// Nobody waits for the rest any more. Where nothing at all has come meanwhile, for no other answer either, the path may
    /// have gone: the next request finds out by connecting.
    pub(super) fn give_up(&mut self) {
        if let Some(lease) = self.lease.take() {
            let is_silent = self.timer.is_some() && lease.received() == self.received;
            lease.discard(is_silent);
        }
    }
}

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if !self.put_back.is_empty() {
            let bytes = std::mem::take(&mut self.put_back);
            self.remaining = self.remaining.map(|remaining| remaining.saturating_sub(bytes.len() as u64));
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
        let Some(incoming) = &mut self.incoming else { return Poll::Ready(None) };
        match Pin::new(incoming).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                let idle = self.idle;
                if let Some(timer) = &mut self.timer {
                    timer.as_mut().reset(Instant::now() + idle);
                    self.received = self.lease.as_ref().and_then(Lease::received);
                }
                match (&mut self.remaining, frame.data_ref()) {
                    (Some(remaining), Some(data)) => *remaining = remaining.saturating_sub(data.len() as u64),
                    // Trailers are the last frame, and the client's side may not ask for another one.
                    (_, None) => self.remaining = Some(0),
                    (None, Some(_)) => {}
                }
                self.release_if_complete();
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                self.lease = None;
                Poll::Ready(Some(Err(BodyError::Broke(error))))
            }
            Poll::Ready(None) => {
                let lease = self.lease.take();
                let ended = self.is_complete() || lease.as_ref().is_none_or(|lease| !lease.is_stream());
                if !ended {
                    return Poll::Ready(Some(Err(BodyError::Reset)));
                }
                if let Some(lease) = lease {
                    lease.give_back();
                }
                Poll::Ready(None)
            }
            Poll::Pending => self.poll_idle(cx).map(|error| Some(Err(error))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.is_complete()
    }

    fn size_hint(&self) -> SizeHint {
        match (self.remaining, &self.incoming) {
            (Some(remaining), _) => SizeHint::with_exact(remaining),
            (None, Some(incoming)) => incoming.size_hint(),
            (None, None) => SizeHint::with_exact(0),
        }
    }
}

/// Reads what is behind the last byte of an answer (END_STREAM, trailers) and gives the connection back. Usually it has
/// come already; otherwise it is waited for, but not by the client.
fn read_tail(mut incoming: Incoming, lease: Lease) {
    let mut cx = Context::from_waker(Waker::noop());
    while !incoming.is_end_stream() {
        match Pin::new(&mut incoming).poll_frame(&mut cx) {
            Poll::Ready(Some(Ok(_))) => {}
            Poll::Ready(Some(Err(_))) => return drop(lease),
            Poll::Ready(None) => break,
            Poll::Pending => {
                let before = lease.received();
                lease.home().spawn(async move {
                    let tail = async { while let Some(Ok(_)) = incoming.frame().await {} };
                    match tokio::time::timeout(TAIL_TIMEOUT, panics::contained(tail)).await {
                        Ok(Ok(())) => lease.give_back(),
                        Ok(Err(_panicked)) => {}
                        Err(_) => {
                            let is_silent = lease.received() == before;
                            lease.discard(is_silent);
                        }
                    }
                });
                return;
            }
        }
    }
    lease.give_back();
}
