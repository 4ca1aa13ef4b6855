//! The body of an upstream's answer: its frames as they come, the idle limit between them, and the connection given back
//! at its end.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use super::pool::Lease;

/// Why a body ended before its end.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error("the upstream broke its answer off: {0}")]
    Broke(hyper::Error),
    #[error("the upstream sent nothing for {} s", .0.as_secs_f32())]
    Idle(Duration),
}

/// Bytes from upstream, untouched.
#[derive(Debug)]
pub struct UpstreamBody {
    incoming: Incoming,
    lease: Option<Lease>,
    idle: Duration,
    /// Made when the body first has to be waited for.
    timer: Option<Pin<Box<Sleep>>>,
}

impl UpstreamBody {
    pub fn new(incoming: Incoming, lease: Lease, idle: Duration) -> UpstreamBody {
        let mut body = UpstreamBody { incoming, lease: Some(lease), idle, timer: None };
        body.release_if_ended();
        body
    }

    fn release_if_ended(&mut self) {
        if self.incoming.is_end_stream()
            && let Some(lease) = self.lease.take()
        {
            lease.give_back();
        }
    }

    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<BodyError> {
        let idle = self.idle;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(idle)));
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(BodyError::Idle(idle))
    }
}

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match Pin::new(&mut self.incoming).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                let idle = self.idle;
                if let Some(timer) = &mut self.timer {
                    timer.as_mut().reset(Instant::now() + idle);
                }
                self.release_if_ended();
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                self.lease = None;
                Poll::Ready(Some(Err(BodyError::Broke(error))))
            }
            Poll::Ready(None) => {
                if let Some(lease) = self.lease.take() {
                    lease.give_back();
                }
                Poll::Ready(None)
            }
            Poll::Pending => match self.poll_idle(cx) {
                Poll::Ready(error) => {
                    self.lease = None;
                    Poll::Ready(Some(Err(error)))
                }
                Poll::Pending => Poll::Pending,
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
