//! The client's half of a bidirectional stream, as far as the exchange goes by it: it counts as the request's body, and if it
//! breaks, so does the answer.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use super::{CLIENT_CLOSED_REQUEST, Exchange, OWN_ERROR};
use crate::bidirectional::{End, Listening, Progress};
use crate::error::Refusal;
use crate::receive::budget::Held;
use crate::record::Outcome;

#[derive(Debug)]
pub(super) struct ClientHalf {
    pub(super) progress: Progress,
    /// Since there is an answer. It ends with the exchange.
    listening: Option<Listening>,
}

impl Exchange {
    /// What the client streams counts as its request's body.
    pub(crate) fn follows(&mut self, progress: Progress) {
        self.client = Some(Box::new(ClientHalf { progress, listening: None }));
    }

    /// From now on the exchange ends if the client's half breaks.
    pub(crate) fn listens(&mut self, listening: Listening) {
        if let Some(client) = &mut self.client {
            client.listening = Some(listening);
        }
    }

    /// Parts of the memory for bodies, as many as are needed, none of them taken yet.
    pub(crate) fn memory(&self) -> impl Fn() -> Held + Send + 'static {
        let (buffered, user) = (Arc::clone(&self.road.buffered), self.user);
        move || buffered.hold(user)
    }

    /// Ready when the client's half has broken.
    pub(super) fn poll_client_broken(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        match self.client.as_mut().and_then(|client| client.listening.as_mut()) {
            Some(listening) => listening.poll_broken(cx),
            None => Poll::Pending,
        }
    }

    /// The upstream has not got the end of the client's half.
    pub(super) fn client_may_speak(&self) -> bool {
        self.client.as_ref().is_some_and(|client| !client.progress.has_ended())
    }

    pub(super) fn is_bidirectional(&self) -> bool {
        self.client.is_some()
    }

    /// The client has gone. Whatever becomes of the upstream's answer then follows from that.
    pub(crate) fn client_left(&mut self) {
        if self.road.cut_off.load(Ordering::Relaxed) {
            return self.cut_off();
        }
        self.record.error_message = Some("the client left before the end of the answer".to_owned());
        self.close(Outcome::ClientDisconnected, CLIENT_CLOSED_REQUEST);
    }

    /// An error in the daemon's own code has ended the client's half.
    pub(crate) fn client_panicked(&mut self) {
        self.record.error_message = Some(OWN_ERROR.to_owned());
        // An answer that had begun keeps its status; else the client is refused now.
        let status = if self.record.status_code == 0 { 500 } else { self.record.status_code };
        self.close(Outcome::Interrupted, status);
    }

    /// What the client streams is refused, after the answer has begun.
    pub(super) fn refuse_client(&mut self, refusal: &Refusal) {
        self.record.error_message =
            Some(format!("bedrock-sidecar: {}: {}", refusal.kind.error_type(), refusal.message));
        self.error_type = refusal.kind.error_type();
        let status = self.record.status_code;
        self.close(Outcome::Refused, status);
    }
}
