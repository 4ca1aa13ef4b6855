//! A request's body, read into memory up to the limit: the signature needs its hash, a retry its bytes.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};

use crate::error::{Refusal, RefusalKind};

/// Between two reads of a request's body.
const IDLE: Duration = Duration::from_secs(60);
/// What is set aside at once for a body of a length that is only announced.
const MAX_RESERVED: usize = 1024 * 1024;

/// Reads the body; one that announces more than `limit` bytes is refused unread.
pub(crate) async fn body(headers: &HeaderMap, mut body: Incoming, limit: usize) -> Result<Bytes, Refusal> {
    let announced = body.size_hint().lower();
    if announced > limit as u64 {
        return Err(too_large(limit));
    }
    if headers.get("x-amz-content-sha256").is_some_and(|value| value.as_bytes().starts_with(b"STREAMING-")) {
        return Err(Refusal::new(
            RefusalKind::Validation,
            "bodies signed in chunks (aws-chunked) are not served; let the SDK sign the whole body.",
        )
        .closing());
    }
    let Some(first) = frame(&mut body).await? else { return Ok(Bytes::new()) };
    if body.is_end_stream() {
        return if first.len() > limit { Err(too_large(limit)) } else { Ok(first) };
    }
    let reserved = usize::try_from(announced).map_or(MAX_RESERVED, |length| length.min(MAX_RESERVED));
    let mut whole = BytesMut::with_capacity(reserved.max(first.len()));
    whole.extend_from_slice(&first);
    while let Some(next) = frame(&mut body).await? {
        if whole.len() + next.len() > limit {
            return Err(too_large(limit));
        }
        whole.extend_from_slice(&next);
    }
    Ok(whole.freeze())
}

async fn frame(body: &mut Incoming) -> Result<Option<Bytes>, Refusal> {
    loop {
        match tokio::time::timeout(IDLE, body.frame()).await {
            Ok(None) => return Ok(None),
            Ok(Some(Ok(frame))) => {
                if let Ok(data) = frame.into_data() {
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
                return Err(Refusal::new(
                    RefusalKind::RequestTimeout,
                    "the request's body stopped arriving for 60 seconds.",
                )
                .closing());
            }
        }
    }
}

fn too_large(limit: usize) -> Refusal {
    Refusal::new(
        RefusalKind::BodyTooLarge,
        format!("the request's body exceeds limits.max_body_bytes ({limit} bytes)."),
    )
    .closing()
}
