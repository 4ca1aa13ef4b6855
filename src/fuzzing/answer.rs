//! An upstream's answer, from its first byte: as the HTTP library hands it over, and as the daemon understands it.

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper::rt::{Read, ReadBufCursor, Write};

use super::{NOW, metered, pieces};
use crate::upstream::answer::{AwsError, LONGEST_FOR_RECORD, Remedy, word};
use crate::upstream::clock::{offset_between, shifted};
use crate::upstream::strip;

/// What has arrived. The body is missing if it broke off.
#[derive(Debug, PartialEq, Eq)]
struct Arrived {
    status: StatusCode,
    headers: HeaderMap,
    body: Option<Vec<u8>>,
}

/// The bytes of an HTTP/1 answer, cut anywhere. However it is cut the same arrives, and the same is understood: an error
/// that fits in a record, a clock by which can be signed, usage. True if the answer told one of these.
pub fn answer(data: &[u8]) -> bool {
    let cuts = pieces(data);
    let Some(arrived) = read_by_hyper(&cuts[0]) else { return false };
    for cut in &cuts[1..] {
        assert_eq!(read_by_hyper(cut).as_ref(), Some(&arrived), "another cut is another answer");
    }
    let Arrived { status, mut headers, body } = arrived;
    strip::response_headers(&mut headers);
    assert!(!headers.contains_key("transfer-encoding") && !headers.contains_key("connection"));
    let id = headers.get("x-amzn-requestid").and_then(|id| id.to_str().ok()).map(word).unwrap_or_default();
    assert!(id.len() <= 128);
    let Some(body) = body else { return false };
    if status.is_success() { metered(status, &headers, &body) } else { is_understood(status, &headers, &body) }
}

fn is_understood(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> bool {
    let error = AwsError::new(headers, body);
    let recorded = error.for_record(status);
    assert!(recorded.len() <= LONGEST_FOR_RECORD, "{recorded}");
    assert!(!error.error_type.contains(char::is_control), "{error:?}");
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(NOW);
    if let Remedy::Clock(theirs) = error.remedy(status, headers) {
        let offset = offset_between(theirs, now);
        // The dates of headers are those of a calendar, whole seconds in it.
        assert_eq!(offset_between(shifted(now, offset), now), offset);
    }
    metered(status, headers, body);
    !error.error_type.is_empty()
}

/// What hyper takes the bytes for; none where they are no answer.
fn read_by_hyper(pieces: &[&[u8]]) -> Option<Arrived> {
    let mut cx = Context::from_waker(Waker::noop());
    let io = Answering { left: pieces.iter().rev().map(|piece| piece.to_vec()).collect(), is_asked: false };
    let mut handshake = pin!(http1::handshake::<_, Empty<Bytes>>(io));
    let Poll::Ready(Ok((mut sender, connection))) = handshake.as_mut().poll(&mut cx) else {
        panic!("a handshake of HTTP/1 needs nothing from the other side");
    };
    let exchange = async move {
        let request = Request::post("/").header("host", "upstream").body(Empty::new()).expect("a good request");
        let (head, body) = sender.send_request(request).await.ok()?.into_parts();
        let body = body.collect().await.ok().map(|body| body.to_bytes().to_vec());
        Some(Arrived { status: head.status, headers: head.headers, body })
    };
    let (mut exchange, mut connection) = (pin!(exchange), pin!(connection));
    let mut has_ended = false;
    for _ in 0..100_000 {
        has_ended = has_ended || connection.as_mut().poll(&mut cx).is_ready();
        if let Poll::Ready(arrived) = exchange.as_mut().poll(&mut cx) {
            return arrived;
        }
    }
    panic!("the connection neither goes on nor ends");
}

/// An upstream that sends these bytes once it is asked, the last first here, and then closes.
#[derive(Debug)]
struct Answering {
    left: Vec<Vec<u8>>,
    is_asked: bool,
}

impl Read for Answering {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, mut target: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        if !self.is_asked {
            return Poll::Pending;
        }
        if let Some(mut piece) = self.left.pop() {
            let rest = piece.split_off(piece.len().min(target.remaining()));
            target.put_slice(&piece);
            if !rest.is_empty() {
                self.left.push(rest);
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl Write for Answering {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.is_asked = true;
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
