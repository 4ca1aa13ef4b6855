//! An answer's body as a script of steps, so that faults are edits of the script and not branches in the operations.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::gate::Gate;
use crate::record::{Ended, Open};
use crate::wire::{Control, Ending};

/// One step of an answer.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// Bytes that go out at once.
    Data(Bytes),
    /// One event of a stream, which the gate may withhold.
    Event(Bytes),
    /// A pause.
    Sleep(Duration),
    /// Nothing ever comes again.
    Stall,
    /// GOAWAY, with the stream going on.
    GoAway,
    /// The answer breaks off.
    Cut(Ending),
}

impl Step {
    fn bytes(&self) -> usize {
        match self {
            Step::Data(bytes) | Step::Event(bytes) => bytes.len(),
            _ => 0,
        }
    }
}

/// The body hyper sends: plays the script, and notes in the record how the exchange ended.
pub(crate) struct ReplyBody {
    steps: VecDeque<Step>,
    exact_length: Option<u64>,
    gate: Gate,
    control: Arc<Control>,
    record: Option<Open>,
    waiting: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    gate_passed: bool,
    cutting: bool,
}

/// hyper writes out what it has when a body is not ready; this long is left for that before a connection is cut.
pub(crate) const FLUSH_TIME: Duration = Duration::from_millis(30);

impl ReplyBody {
    pub(crate) fn new(steps: VecDeque<Step>, gate: Gate, control: Arc<Control>, record: Option<Open>) -> ReplyBody {
        // A length is only promised where nothing but bytes can happen; everything else is chunked, as at AWS.
        let exact_length = steps
            .iter()
            .all(|step| matches!(step, Step::Data(_)))
            .then(|| steps.iter().map(|step| step.bytes() as u64).sum());
        let mut body =
            ReplyBody { steps, exact_length, gate, control, record, waiting: None, gate_passed: false, cutting: false };
        body.note_if_done();
        body
    }

    fn note_if_done(&mut self) {
        if self.steps.is_empty()
            && let Some(record) = self.record.take()
        {
            record.close(Ended::Completed);
        }
    }

    fn send(&mut self, bytes: Bytes) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        if let Some(record) = &self.record {
            record.sent(&bytes);
        }
        if let Some(left) = &mut self.exact_length {
            *left -= bytes.len() as u64;
        }
        self.note_if_done();
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }
}

/// The error by which a body tells hyper to break the stream off.
#[derive(Debug)]
pub(crate) struct Broken;

impl std::fmt::Display for Broken {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("the simulator breaks this stream off")
    }
}

impl std::error::Error for Broken {}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        loop {
            if let Some(waiting) = &mut self.waiting {
                if waiting.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                self.waiting = None;
            }
            match self.steps.pop_front() {
                None => return Poll::Ready(None),
                Some(Step::Data(bytes)) => return self.send(bytes),
                Some(Step::Event(bytes)) => {
                    if self.gate_passed {
                        self.gate_passed = false;
                        return self.send(bytes);
                    }
                    self.gate_passed = true;
                    self.steps.push_front(Step::Event(bytes));
                    let gate = self.gate.clone();
                    self.waiting = Some(Box::pin(gate.pass()));
                }
                Some(Step::Sleep(duration)) => {
                    self.waiting = Some(Box::pin(tokio::time::sleep(duration)));
                    if self.steps.is_empty() {
                        self.steps.push_back(Step::Data(Bytes::new()));
                    }
                }
                Some(Step::Stall) => {
                    self.waiting = Some(Box::pin(std::future::pending()));
                    self.steps.push_front(Step::Stall);
                }
                Some(Step::GoAway) => {
                    self.control.go_away();
                    if self.steps.is_empty() {
                        self.note_if_done();
                    }
                }
                Some(Step::Cut(how)) => {
                    if !self.cutting {
                        self.cutting = true;
                        self.steps.push_front(Step::Cut(how));
                        self.waiting = Some(Box::pin(tokio::time::sleep(FLUSH_TIME)));
                        continue;
                    }
                    if let Some(record) = self.record.take() {
                        record.close(Ended::Cut);
                    }
                    if how == Ending::StreamError {
                        return Poll::Ready(Some(Err(Broken)));
                    }
                    self.control.kill(how);
                    self.waiting = Some(Box::pin(std::future::pending()));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.steps.is_empty() && self.waiting.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.exact_length.map_or_else(SizeHint::new, SizeHint::with_exact)
    }
}

impl Drop for ReplyBody {
    fn drop(&mut self) {
        if let Some(record) = self.record.take() {
            record.close(Ended::ClientWentAway);
        }
    }
}
