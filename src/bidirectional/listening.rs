//! The task that listens to the client, from the request's head to the end of its half of the stream.

use std::task::{Context, Poll};
use std::time::SystemTime;

use bytes::Bytes;
use hyper::body::Incoming;
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

use super::envelope::{self, Opened};
use super::frames::{Frames, Memory};
use super::{ClientEvents, Heard, Progress};
use crate::caller::events::SignedEvents;
use crate::error::{Refusal, RefusalKind};
use crate::panics;
use crate::receive::budget::Held;

/// How the client's half ends.
#[derive(Debug)]
pub(crate) enum End {
    /// It has said all, and may listen on.
    Said,
    /// It has gone.
    Left,
    /// What it sends cannot be relayed.
    Broken(Refusal),
    /// An error in the daemon's own code.
    Panicked,
}

/// The task. It ends when this is dropped, and so does the upstream's stream if it has not ended.
#[derive(Debug)]
pub(crate) struct Listening {
    task: AbortHandle,
    cut: CancellationToken,
    end: Option<oneshot::Receiver<End>>,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.task.abort();
        self.cut.cancel();
    }
}

impl Listening {
    /// Ready when the client's half has ended in a way that ends the other one, too.
    pub(crate) fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let Some(end) = &mut self.end else { return Poll::Pending };
        let Poll::Ready(end) = std::pin::Pin::new(end).poll(cx) else { return Poll::Pending };
        self.end = None;
        match end.unwrap_or(End::Panicked) {
            End::Said => Poll::Pending,
            broken => Poll::Ready(broken),
        }
    }

    /// Waits for that.
    pub(crate) async fn broken(&mut self) -> End {
        std::future::poll_fn(|cx| self.poll_broken(cx)).await
    }
}

/// Who speaks, as far as listening goes.
#[derive(Debug)]
pub(crate) struct Speech {
    pub body: Incoming,
    /// The client's key is known, and each of its frames is verified.
    pub signed: Option<SignedEvents>,
    pub progress: Progress,
}

/// Begins to listen.
pub(crate) fn listen(
    speech: Speech,
    hold: impl Fn() -> Held + Send + 'static,
    all: usize,
) -> (ClientEvents, Listening) {
    // One event waits for the upstream; the next one is taken from the client only then.
    let (events, heard) = mpsc::channel(1);
    let (told, end) = oneshot::channel();
    let Speech { body, signed, progress } = speech;
    let frames = Frames::of(body, progress.clone(), Memory { hold, all });
    let cut = CancellationToken::new();
    let cuts = cut.clone();
    let task = tokio::spawn(async move {
        let end = panics::contained(relay(frames, signed, &events)).await.unwrap_or(End::Panicked);
        let is_broken = !matches!(end, End::Said);
        // Before the upstream's stream ends because of it: nobody shall think that the upstream has ended it.
        let _ = told.send(end);
        if is_broken {
            cuts.cancel();
        }
    });
    let events = ClientEvents::new(heard, progress, cut.clone());
    (events, Listening { task: task.abort_handle(), cut, end: Some(end) })
}

async fn relay<F: Fn() -> Held>(
    mut frames: Frames<F>,
    mut signed: Option<SignedEvents>,
    events: &mpsc::Sender<Heard>,
) -> End {
    match all(&mut frames, signed.as_mut(), events).await {
        Ok(()) => End::Said,
        Err(end) => end,
    }
}

async fn all<F: Fn() -> Held>(
    frames: &mut Frames<F>,
    mut signed: Option<&mut SignedEvents>,
    events: &mpsc::Sender<Heard>,
) -> Result<(), End> {
    while let Some(frame) = frames.next().await? {
        let opened = envelope::open(frame).map_err(End::Broken)?;
        match event(opened, signed.as_deref_mut()).map_err(End::Broken)? {
            Some(event) => hand_over(Heard::Event(event), events).await?,
            None => {
                hand_over(Heard::End, events).await?;
                return match frames.next().await? {
                    None => Ok(()),
                    Some(_) => Err(broken("a frame follows the one that ends the client's stream.")),
                };
            }
        }
    }
    if signed.is_some() {
        let message = "the client's stream ended without the signed empty frame that has to end it: what came last may be missing.";
        return Err(End::Broken(Refusal::new(RefusalKind::SignatureDoesNotMatch, message)));
    }
    hand_over(Heard::End, events).await
}

/// The event of a frame; none if the frame ends the stream.
fn event(opened: Opened, signed: Option<&mut SignedEvents>) -> Result<Option<Bytes>, Refusal> {
    match (opened, signed) {
        (Opened::Bare(_), Some(signed)) => Err(signed.unsigned()),
        (Opened::Bare(event), None) => Ok(Some(event)),
        (Opened::Signed(frame), signed) => {
            if let Some(signed) = signed {
                signed.verify(frame.milliseconds, &frame.signature, &frame.payload, SystemTime::now())?;
            }
            if frame.payload.is_empty() { Ok(None) } else { envelope::event(frame.payload).map(Some) }
        }
    }
}

async fn hand_over(heard: Heard, events: &mpsc::Sender<Heard>) -> Result<(), End> {
    // Nobody is there to take it: the stream ends, and this task with it.
    events.send(heard).await.map_err(|_| End::Said)
}

fn broken(message: &'static str) -> End {
    End::Broken(Refusal::new(RefusalKind::Validation, message))
}
