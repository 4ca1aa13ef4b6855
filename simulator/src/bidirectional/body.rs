//! The answer's half, as the conversation goes.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use crate::body::Broken;
use crate::record::{Ended, Open};
use crate::wire::Control;

/// What is said.
#[derive(Debug)]
pub(crate) enum Said {
    Bytes(Bytes),
    /// The stream breaks off.
    Reset,
}

/// Ends when the conversation does; the conversation ends when this is dropped.
#[derive(Debug)]
pub(crate) struct TalkBody {
    said: mpsc::Receiver<Said>,
    record: Option<Open>,
    control: Arc<Control>,
    task: AbortHandle,
}

impl TalkBody {
    pub(super) fn new(said: mpsc::Receiver<Said>, record: Open, control: Arc<Control>, task: AbortHandle) -> TalkBody {
        TalkBody { said, record: Some(record), control, task }
    }

    fn close(&mut self, ended: Ended) {
        if let Some(record) = self.record.take() {
            record.update(|received| received.answer_length = received.bytes_sent);
            record.close(ended);
        }
    }
}

impl Body for TalkBody {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match self.said.poll_recv(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(Said::Bytes(bytes))) => {
                if let Some(record) = &self.record {
                    record.sent(&bytes);
                }
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Poll::Ready(Some(Said::Reset)) => {
                self.close(Ended::Cut);
                Poll::Ready(Some(Err(Broken)))
            }
            Poll::Ready(None) => {
                self.close(Ended::Completed);
                Poll::Ready(None)
            }
        }
    }
}

impl Drop for TalkBody {
    fn drop(&mut self) {
        self.task.abort();
        let fate = self.control.fate();
        self.close(fate);
    }
}
