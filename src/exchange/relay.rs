//! The body of an answer on its way to the client, and the end of the exchange with it.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::mpsc;

use super::Exchange;
use crate::bidirectional::{self, End};
use crate::listen;
use crate::meter::{Meter, Metered};
use crate::panics;
use crate::record::Outcome;
use crate::upstream::body::{BodyError, UpstreamBody};

/// An answer up to this size is complete once the HTTP library has it: a socket takes so much at once, unless its client has
/// left earlier answers unread.
const SMALL: u64 = 64 * 1024;

/// The body of an answer to a client.
#[derive(Debug)]
pub(crate) struct Body(BodyKind);

#[derive(Debug)]
enum BodyKind {
    Whole(Option<Bytes>, #[expect(dead_code, reason = "it counts as long as it is held")] Held),
    /// What the daemon says of itself, piece by piece, until whoever says it ends.
    Live(mpsc::Receiver<Bytes>),
    Relay(Box<Relay>),
}

/// What is given back when the client has the answer.
type Held = Option<Box<dyn std::fmt::Debug + Send + Sync>>;

/// Bytes that pass from upstream, with the exchange that ends when they do.
#[derive(Debug)]
struct Relay {
    body: UpstreamBody,
    /// Taken at the end; what is left when the relay is dropped belongs to a client that has gone.
    passage: Option<Passage>,
    delivery: Delivery,
}

/// Whether somebody says when the socket has taken the last byte.
#[derive(Debug, PartialEq, Eq)]
enum Delivery {
    Unconfirmed,
    Confirmed,
    /// The HTTP library has all of a large answer, and the socket perhaps not.
    Awaited,
}

#[derive(Debug)]
struct Passage {
    exchange: Box<Exchange>,
    meter: Meter,
}

impl Body {
    pub(crate) fn whole(bytes: Bytes) -> Body {
        Body(BodyKind::Whole(Some(bytes).filter(|bytes| !bytes.is_empty()), None))
    }

    /// The same, with something to be held as long as the answer is in memory.
    pub(crate) fn holding(bytes: Bytes, held: impl std::fmt::Debug + Send + Sync + 'static) -> Body {
        Body(BodyKind::Whole(Some(bytes).filter(|bytes| !bytes.is_empty()), Some(Box::new(held))))
    }

    /// What the daemon says of itself, until `pieces` ends.
    pub(crate) fn live(pieces: mpsc::Receiver<Bytes>) -> Body {
        Body(BodyKind::Live(pieces))
    }

    /// What comes from upstream, with the exchange that ends when it does.
    pub(super) fn relay(body: UpstreamBody, exchange: Box<Exchange>, meter: Meter) -> Body {
        let mut relay =
            Box::new(Relay { body, passage: Some(Passage { exchange, meter }), delivery: Delivery::Unconfirmed });
        // An answer without a body has ended before its first frame.
        if relay.body.is_end_stream() {
            relay.end();
        }
        Body(BodyKind::Relay(relay))
    }

    /// Bytes, as far as they are known.
    pub(crate) fn length(&self) -> usize {
        usize::try_from(self.size_hint().lower()).unwrap_or(usize::MAX)
    }
}

impl Relay {
    /// Runs what may panic. If it does, the exchange says so in its record.
    fn contained<T>(&mut self, step: impl FnOnce(&mut Relay) -> T) -> Option<T> {
        let result = panics::contain(|| step(self));
        result
            .inspect_err(|_panicked| {
                if let Some(passage) = self.passage.take().as_mut() {
                    passage.exchange.panicked = true;
                }
            })
            .ok()
    }

    /// The next frame, taken down as it passes.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(passage) = &mut self.passage
            && let Poll::Ready(end) = passage.exchange.poll_client_broken(cx)
        {
            return Poll::Ready(self.client_broke(end));
        }
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    self.passed(data);
                }
                // hyper does not ask again after the last frame of a body whose length it knows.
                if self.body.is_end_stream() {
                    self.end();
                }
            }
            Poll::Ready(Some(Err(error))) => self.broke(error),
            Poll::Ready(None) => self.end(),
            Poll::Pending => {}
        }
        polled
    }

    /// The client's half of a bidirectional stream has broken, and ends the upstream's. Where the client still listens, and
    /// another event could come, that event says why.
    fn client_broke(&mut self, end: End) -> Option<Result<Frame<Bytes>, BodyError>> {
        self.body.abandon();
        let Passage { mut exchange, mut meter } = self.passage.take()?;
        let refusal = match end {
            End::Broken(refusal) => refusal,
            End::Panicked => {
                exchange.metered(meter);
                exchange.client_panicked();
                return Some(Err(BodyError::Panicked));
            }
            End::Left | End::Said => {
                exchange.metered(meter);
                exchange.client_left();
                return Some(Err(BodyError::ClientLeft));
            }
        };
        let last = meter.is_between_events().then(|| bidirectional::exception(&refusal));
        if let Some(last) = &last {
            exchange.record.response_size += last.len() as u64;
            meter.feed(last);
        }
        exchange.metered(meter);
        exchange.refuse_client(&refusal);
        Some(last.map(Frame::data).ok_or(BodyError::ClientBroke))
    }

    fn passed(&mut self, data: &Bytes) {
        let Some(Passage { exchange, meter }) = &mut self.passage else { return };
        panics::inject("relay", &exchange.record.model_id);
        if exchange.record.first_byte_latency.is_none() && !data.is_empty() {
            exchange.record.first_byte_latency = Some(exchange.elapsed());
        }
        exchange.record.response_size += data.len() as u64;
        meter.feed(data);
    }

    fn end(&mut self) {
        let size = self.passage.as_ref().map_or(0, |passage| passage.exchange.record.response_size);
        if self.delivery == Delivery::Confirmed && size > SMALL {
            self.delivery = Delivery::Awaited;
        } else {
            self.complete();
        }
    }

    fn complete(&mut self) {
        if let Some(Passage { mut exchange, meter }) = self.passage.take() {
            exchange.complete(meter);
        }
    }

    fn broke(&mut self, error: &BodyError) {
        if let Some(Passage { mut exchange, meter }) = self.passage.take() {
            let Metered { exception, .. } = exchange.metered(meter);
            exchange.record.error_message = Some(exception.unwrap_or_else(|| error.to_string()));
            let status = exchange.record.status_code;
            exchange.close(Outcome::UpstreamBroke, status);
        }
    }
}

impl listen::Answer for Body {
    fn client_stalled(&mut self) {
        let relay = match &mut self.0 {
            BodyKind::Whole(..) => return,
            BodyKind::Live(pieces) => return pieces.close(),
            BodyKind::Relay(relay) => relay,
        };
        let Some(Passage { mut exchange, meter }) = relay.passage.take() else { return };
        exchange.metered(meter);
        exchange.record.error_message =
            Some("bedrock-sidecar: the client took no byte of its answer for listen.write_timeout, or for 5 s while others needed its connection".to_owned());
        let status = exchange.record.status_code;
        exchange.close(Outcome::ClientStalled, status);
    }

    fn confirm_delivery(&mut self) {
        if let BodyKind::Relay(relay) = &mut self.0
            && relay.passage.is_some()
        {
            relay.delivery = Delivery::Confirmed;
        }
    }

    fn awaits_delivery(&self) -> bool {
        matches!(&self.0, BodyKind::Relay(relay) if relay.delivery == Delivery::Awaited)
    }

    fn delivered(&mut self) {
        if let BodyKind::Relay(relay) = &mut self.0 {
            relay.contained(Relay::complete);
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let Some(Passage { mut exchange, meter }) = self.passage.take() {
            exchange.metered(meter);
        }
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let relay = match &mut self.0 {
            BodyKind::Whole(bytes, _) => return Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            BodyKind::Live(pieces) => {
                return pieces.poll_recv(cx).map(|piece| piece.map(|piece| Ok(Frame::data(piece))));
            }
            BodyKind::Relay(relay) => relay,
        };
        relay.contained(|relay| relay.poll_next(cx)).unwrap_or_else(|| Poll::Ready(Some(Err(BodyError::Panicked))))
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            BodyKind::Whole(bytes, _) => bytes.is_none(),
            BodyKind::Live(_) => false,
            BodyKind::Relay(relay) => relay.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            BodyKind::Whole(bytes, _) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            BodyKind::Live(_) => SizeHint::default(),
            BodyKind::Relay(relay) => relay.body.size_hint(),
        }
    }
}
