//! A request's body, read into memory up to the limits: the signature needs its hash, a retry its bytes.

pub(crate) mod budget;
pub(crate) mod gather;

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::{EXPECT, HeaderName};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use tokio::time::Instant;

use crate::error::{Refusal, RefusalKind};
use crate::listen::activity::Arrival;
use budget::Held;
use gather::Gathered;

/// What a signature says of the body.
const CONTENT_HASH: HeaderName = HeaderName::from_static("x-amz-content-sha256");
/// Between two reads of a request's body.
const IDLE: Duration = Duration::from_secs(60);
/// Within this time nobody looks at how fast a body comes, and after it, a body must have come this fast on average.
const GRACE: Duration = Duration::from_secs(10);
const LEAST_PER_SECOND: u64 = 1024;
/// However fast it comes.
const LONGEST: Duration = Duration::from_secs(600);
/// How long the rest of a body is waited for that nobody needs any more, in all and between two reads.
const LONGEST_LEAVE: Duration = Duration::from_secs(5);
const LEAVE_IDLE: Duration = Duration::from_millis(500);
/// The body of a refused request is kept, for its record, if it is as small as this.
const KEPT: u64 = 64 * 1024;

/// How large a body may be, and all of them together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub body: usize,
    pub all: usize,
}

/// What came of the body of a request that was refused before it was read.
#[derive(Debug, Default)]
pub(crate) struct Left {
    /// The whole body, if it is small.
    pub small: Option<Bytes>,
    pub size: u64,
    /// The connection can carry another request.
    pub ended: bool,
}

/// Refuses a body that its head says not to be served.
///
/// # Errors
/// 413 for a length above the limit, 400 for a body that is signed in chunks.
pub(crate) fn check(headers: &HeaderMap, body: &Incoming, limit: usize) -> Result<(), Refusal> {
    if body.size_hint().lower() > limit as u64 {
        return Err(too_large(limit));
    }
    if headers.get(CONTENT_HASH).is_some_and(|value| value.as_bytes().starts_with(b"STREAMING-")) {
        return Err(Refusal::new(
            RefusalKind::Validation,
            "bodies signed in chunks (aws-chunked) are not served; let the SDK sign the whole body.",
        )
        .closing());
    }
    Ok(())
}

/// Reads the body, after [`check`]. What it takes of the budget is given back when nobody needs the body any more.
///
/// # Errors
/// 400, 408, 413 or 503: it is malformed, too slow, too large, or there is no memory for it now.
pub(crate) async fn body(
    mut body: Incoming,
    bounds: Bounds,
    held: Held,
    arrival: Option<Arc<Arrival>>,
) -> Result<Bytes, Refusal> {
    let Bounds { body: limit, all } = bounds;
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    // Before the first read, which is what lets a client go on that expects 100-continue.
    let mut whole = Gathered::new(held, announced, limit, all).await?;
    let mut pace = Pace::new(arrival);
    while !body.is_end_stream()
        && let Some(frame) = pace.frame(&mut body).await?
    {
        if whole.len() + frame.len() > limit {
            return Err(too_large(limit));
        }
        whole.add(frame).await?;
    }
    Ok(whole.into_bytes())
}

/// Lets the body of a refused request pass, as long as it comes quickly: many clients read no answer before they have sent
/// everything. Nothing but a small body is kept. Who expects 100-continue sends no body to a refusal.
pub(crate) async fn leave(headers: &HeaderMap, mut body: Incoming, limit: usize) -> Left {
    let mut left = Left { ended: body.is_end_stream(), ..Left::default() };
    if left.ended || headers.contains_key(EXPECT) {
        return left;
    }
    let mut kept = body.size_hint().exact().filter(|length| *length <= KEPT).map(|_| BytesMut::new());
    let until = Instant::now() + LONGEST_LEAVE;
    while left.size <= limit as u64 {
        match tokio::time::timeout_at(until.min(Instant::now() + LEAVE_IDLE), body.frame()).await {
            Ok(Some(Ok(frame))) => {
                let Some(data) = frame.data_ref() else { continue };
                left.size += data.len() as u64;
                if let Some(kept) = &mut kept {
                    kept.extend_from_slice(data);
                }
            }
            Ok(None) => {
                left.ended = true;
                left.small = kept.map(BytesMut::freeze);
                break;
            }
            Ok(Some(Err(_))) | Err(_) => break,
        }
    }
    left
}

/// As [`leave`], where whoever has sent the request is not to be waited for: only a small body passes.
pub(crate) async fn leave_small(headers: &HeaderMap, body: Incoming) -> Left {
    if body.size_hint().exact().is_none_or(|length| length > KEPT) {
        return Left { ended: body.is_end_stream(), ..Left::default() };
    }
    leave(headers, body, usize::try_from(KEPT).unwrap_or(usize::MAX)).await
}

/// How fast a body comes.
struct Pace {
    began: Instant,
    received: u64,
    arrival: Option<Arc<Arrival>>,
}

impl Drop for Pace {
    fn drop(&mut self) {
        if let Some(arrival) = &self.arrival {
            arrival.ended();
        }
    }
}

impl Pace {
    fn new(arrival: Option<Arc<Arrival>>) -> Pace {
        Pace { began: Instant::now(), received: 0, arrival }
    }

    /// When more must have come.
    fn deadline(&self) -> Instant {
        self.began + GRACE.max(Duration::from_secs(self.received / LEAST_PER_SECOND)).min(LONGEST)
    }

    async fn frame(&mut self, body: &mut Incoming) -> Result<Option<Bytes>, Refusal> {
        loop {
            let idle = Instant::now() + IDLE;
            let late = self.deadline();
            let arrival = self.arrival.clone();
            let frame = tokio::select! {
                biased;
                frame = tokio::time::timeout_at(idle.min(late), body.frame()) => frame,
                () = unwanted(arrival.as_deref()) => {
                    let message = "the request's body comes slowly, and its connection is needed for others.";
                    return Err(Refusal::new(RefusalKind::RequestTimeout, message).closing());
                }
            };
            match frame {
                Ok(None) => return Ok(None),
                Ok(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        self.received += data.len() as u64;
                        if let Some(arrival) = &self.arrival {
                            arrival.received(data.len());
                        }
                        return Ok(Some(data));
                    }
                }
                Ok(Some(Err(_))) => {
                    return Err(Refusal::new(
                        RefusalKind::Validation,
                        "the request's body ended before its end, or is malformed.",
                    )
                    .closing());
                }
                Err(_) => {
                    let message = if self.began.elapsed() >= LONGEST {
                        "the request's body takes longer than 10 minutes."
                    } else if late < idle {
                        "the request's body comes too slowly: after 10 seconds it must have come with 1024 bytes a second on average."
                    } else {
                        "the request's body stopped arriving for 60 seconds."
                    };
                    return Err(Refusal::new(RefusalKind::RequestTimeout, message).closing());
                }
            }
        }
    }
}

async fn unwanted(arrival: Option<&Arrival>) {
    match arrival {
        Some(arrival) => arrival.until_unwanted().await,
        None => std::future::pending().await,
    }
}

fn too_large(limit: usize) -> Refusal {
    Refusal::new(
        RefusalKind::BodyTooLarge,
        format!("the request's body exceeds limits.max_body_bytes ({limit} bytes)."),
    )
    .closing()
}
