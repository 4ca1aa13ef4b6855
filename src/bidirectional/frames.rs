//! The frames of a client's body, one after the other, each whole. No more of it is in memory than the frame that is coming
//! and what came with its end.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::{Instant, timeout_at};

use super::Progress;
use super::listening::End;
use crate::error::{Refusal, RefusalKind};
use crate::eventstream::{Frame, PRELUDE, Prelude};
use crate::receive::budget::Held;
use crate::receive::gather::Gathered;

/// Bedrock takes up to 1,000,000 bytes in an event, which are a third longer in base64.
pub(super) const LONGEST_FRAME: usize = 2 * 1024 * 1024;
/// From the first byte of a frame to its last one. An upstream that takes nothing does not count: nobody reads meanwhile.
const FRAME_TIME: Duration = Duration::from_secs(60);
/// A client that says nothing at all for so long is not waited for. Bedrock itself waits for less.
const LONGEST_SILENCE: Duration = Duration::from_secs(600);

/// What bodies may take of memory.
#[derive(Debug)]
pub(crate) struct Memory<F> {
    /// A part of the memory for bodies, none of it taken yet.
    pub hold: F,
    /// `limits.max_buffered_bytes`.
    pub all: usize,
}

pub(super) struct Frames<F> {
    body: Incoming,
    progress: Progress,
    memory: Memory<F>,
    /// What came with the end of the last frame.
    rest: Bytes,
}

impl<F: Fn() -> Held> Frames<F> {
    pub(super) fn of(body: Incoming, progress: Progress, memory: Memory<F>) -> Frames<F> {
        Frames { body, progress, memory, rest: Bytes::new() }
    }

    /// The next frame; none at the end of the body.
    pub(super) async fn next(&mut self) -> Result<Option<Frame>, End> {
        if self.rest.is_empty() {
            match self.more(Instant::now() + LONGEST_SILENCE, silent).await? {
                Some(data) => self.rest = data,
                None => return Ok(None),
            }
        }
        let until = Instant::now() + FRAME_TIME;
        while self.rest.len() < PRELUDE {
            let more = self.more(until, slow).await?.ok_or_else(cut_off)?;
            let mut rest = BytesMut::from(&self.rest[..]);
            rest.extend_from_slice(&more);
            self.rest = rest.freeze();
        }
        let total = Prelude::of(&self.rest).ok_or_else(malformed)?.total;
        if total > LONGEST_FRAME {
            return Err(refusal(format!("a frame of the client's stream is longer than {LONGEST_FRAME} bytes.")));
        }
        // Where others have the memory, the client waits, and its stream goes on.
        let held = (self.memory.hold)().waiting_until(until);
        let mut whole = Gathered::new(held, 0, total, self.memory.all).await.map_err(End::Broken)?;
        loop {
            let part = self.rest.split_to(self.rest.len().min(total - whole.len()));
            if !part.is_empty() {
                whole.add(part).await.map_err(End::Broken)?;
            }
            if whole.len() == total {
                return Frame::of(whole.into_bytes()).map(Some).ok_or_else(malformed);
            }
            self.rest = self.more(until, slow).await?.ok_or_else(cut_off)?;
        }
    }

    /// The next bytes; none at the end of the body.
    async fn more(&mut self, until: Instant, late: fn() -> End) -> Result<Option<Bytes>, End> {
        loop {
            match timeout_at(until, self.body.frame()).await {
                Err(_) => return Err(late()),
                Ok(None) if self.body.is_end_stream() => return Ok(None),
                // A reset with NO_ERROR, with which some SDKs leave, is told as the end of the body too.
                Ok(None) => return Err(End::Left),
                // Its stream was reset otherwise, or its connection has ended.
                Ok(Some(Err(_))) => return Err(End::Left),
                Ok(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data()
                        && !data.is_empty()
                    {
                        self.progress.receives(data.len());
                        return Ok(Some(data));
                    }
                }
            }
        }
    }
}

fn refusal(message: impl Into<std::borrow::Cow<'static, str>>) -> End {
    End::Broken(Refusal::new(RefusalKind::Validation, message))
}

fn malformed() -> End {
    refusal("what the client streams is no event stream, or its checksum is wrong.")
}

fn cut_off() -> End {
    refusal("the client's stream ended within a frame.")
}

fn slow() -> End {
    let message = "a frame of the client's stream took longer than 60 seconds.";
    End::Broken(Refusal::new(RefusalKind::RequestTimeout, message))
}

fn silent() -> End {
    let message = "the client sent no event for 10 minutes, and did not end its stream.";
    End::Broken(Refusal::new(RefusalKind::RequestTimeout, message))
}
