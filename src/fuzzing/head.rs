//! The judge of HTTP/1 heads, together with the library that reads what it lets through.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::rt::{Read, ReadBuf};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use memchr::memmem;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Runtime;

use super::pieces;
use crate::listen::head::fault::FAULT_HEADER;
use crate::listen::head::{Guarded, Protocol};
use crate::listen::stream::Duplex;

/// What a reader of HTTP/1 takes for a request. The body is missing if it broke off.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    method: String,
    target: String,
    body: Option<Vec<u8>>,
}

/// Bytes of a connection, from its first one. They may be cut anywhere: the same ones are let through. The HTTP library
/// finds the same requests in them as the plainest of readers, and has no answer of its own to what was let through.
/// True if there was a request.
pub fn head(data: &[u8]) -> bool {
    let cuts = pieces(data);
    let passed = passed(&cuts[0]);
    for cut in &cuts[1..] {
        assert_eq!(self::passed(cut), passed, "another cut lets other bytes through");
    }
    let expected = read_plainly(&passed.bytes);
    for cut in [&cuts[0], &cuts[2]] {
        let (mut seen, answers) = read_by_hyper(cut);
        for status in answers {
            assert!(matches!(status, 100 | 404), "the library answered {status} by itself");
        }
        if passed.refused && seen.last().is_some_and(|last| last.target == "/" && last.method == "GET") {
            // The request that stands in for the refused head; it comes only if the connection was still open.
            if seen.len() > expected.len() {
                seen.pop();
            }
        }
        // A client may close before its last request; a body that is refused for its trailer ends the connection.
        assert!(seen.len() <= expected.len(), "{seen:?} {expected:?}");
        for (at, (seen_one, expected_one)) in seen.iter().zip(&expected).enumerate() {
            let is_last = at + 1 == seen.len();
            let cut_short = Seen { body: None, ..expected_one.clone() };
            assert!(seen_one == expected_one || is_last && *seen_one == cut_short, "{seen:?} {expected:?}");
        }
    }
    !expected.is_empty()
}

#[derive(Debug, PartialEq, Eq)]
struct Passed {
    /// Without the request that stands in for a refused head.
    bytes: Vec<u8>,
    refused: bool,
}

fn passed(pieces: &[&[u8]]) -> Passed {
    let mut guarded = Guarded::new(Pieces::new(pieces), Protocol::Http1, BytesMut::new());
    let mut cx = Context::from_waker(Waker::noop());
    let mut bytes = Vec::new();
    loop {
        let mut space = [0; 4096];
        let mut buffer = ReadBuf::new(&mut space);
        match Pin::new(&mut guarded).poll_read(&mut cx, buffer.unfilled()) {
            Poll::Ready(Ok(())) if buffer.filled().is_empty() => return Passed { bytes, refused: false },
            Poll::Ready(Ok(())) => bytes.extend_from_slice(buffer.filled()),
            Poll::Ready(Err(error)) => panic!("nothing here fails, yet: {error}"),
            // Only a refusal waits: all bytes are there.
            Poll::Pending => break,
        }
    }
    let start = format!("GET / HTTP/1.1\r\nhost: localhost\r\n{FAULT_HEADER}: ");
    let at = memmem::rfind(&bytes, start.as_bytes()).expect("a refused head is replaced");
    bytes.truncate(at);
    Passed { bytes, refused: true }
}

/// Reads what the judge lets through. It is strict, so that nothing needs care here.
fn read_plainly(mut rest: &[u8]) -> Vec<Seen> {
    let mut requests = Vec::new();
    while let Some((head, after)) = split(rest, b"\r\n\r\n") {
        rest = after;
        let head = String::from_utf8_lossy(head);
        let mut lines = head.split("\r\n");
        let mut words = lines.next().unwrap_or_default().split(' ').map(str::to_owned);
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let headers: Vec<(&str, &str)> = lines.filter_map(|line| line.split_once(':')).collect();
        let value = |name: &str| headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, v)| v.trim());
        let body = match (value("transfer-encoding"), value("content-length")) {
            (Some(_), _) => chunks(&mut rest),
            (None, length) => take(&mut rest, length.and_then(|text| text.parse().ok()).unwrap_or(0)),
        };
        requests.push(Seen { method, target, body });
    }
    requests
}

fn chunks(rest: &mut &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = line(rest)?;
        let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let size = usize::from_str_radix(std::str::from_utf8(&line[..digits]).ok()?, 16).ok()?;
        if size == 0 {
            while !self::line(rest)?.is_empty() {}
            return Some(body);
        }
        body.extend_from_slice(&take(rest, size)?);
        line_is_empty(rest)?;
    }
}

fn line_is_empty(rest: &mut &[u8]) -> Option<()> {
    line(rest)?.is_empty().then_some(())
}

fn line<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (line, after) = split(rest, b"\r\n")?;
    *rest = after;
    Some(line)
}

/// The next `count` bytes, or none and the end of everything.
fn take(rest: &mut &[u8], count: usize) -> Option<Vec<u8>> {
    let (taken, after) = rest.split_at_checked(count).unzip();
    *rest = after.unwrap_or_default();
    taken.map(<[u8]>::to_vec)
}

fn split<'a>(text: &'a [u8], end: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let at = memmem::find(text, end)?;
    Some((&text[..at], &text[at + end.len()..]))
}

/// The requests that hyper hands on behind the judge, and the statuses of all answers. Each is answered by 404.
fn read_by_hyper(pieces: &[&[u8]]) -> (Vec<Seen>, Vec<u16>) {
    // For its timers only: nothing here waits for them.
    static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
        tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime without a driver")
    });
    let _entered = RUNTIME.enter();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let service = service_fn(|request: Request<Incoming>| {
        let seen = Arc::clone(&seen);
        async move {
            let (method, target) = (request.method().to_string(), request.uri().to_string());
            let body = request.into_body().collect().await.ok().map(|body| body.to_bytes().to_vec());
            lock(&seen).push(Seen { method, target, body });
            let mut answer = Response::new(Empty::<Bytes>::new());
            *answer.status_mut() = StatusCode::NOT_FOUND;
            Ok::<_, Infallible>(answer)
        }
    });
    let io = Pieces::new(pieces);
    let written = Arc::clone(&io.written);
    let guarded = Guarded::new(io, Protocol::Http1, BytesMut::new());
    {
        let mut connection = pin!(http1::Builder::new().header_read_timeout(None).serve_connection(guarded, service));
        let mut cx = Context::from_waker(Waker::noop());
        let finished = (0..10_000).any(|_| connection.as_mut().poll(&mut cx).is_ready());
        assert!(finished, "the connection neither goes on nor ends");
    }
    let answers = lock(&written);
    let statuses = memmem::find_iter(&answers, b"HTTP/1.")
        .filter_map(|at| std::str::from_utf8(answers.get(at + 9..at + 12)?).ok()?.parse().ok())
        .collect();
    let seen = std::mem::take(&mut *lock(&seen));
    (seen, statuses)
}

fn lock<T>(shared: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A peer that has sent these bytes, closed its side, and takes every answer.
#[derive(Debug)]
struct Pieces {
    left: VecDeque<Vec<u8>>,
    written: Arc<Mutex<Vec<u8>>>,
}

impl Pieces {
    fn new(pieces: &[&[u8]]) -> Pieces {
        Pieces { left: pieces.iter().map(|piece| piece.to_vec()).collect(), written: Arc::default() }
    }
}

impl Duplex for Pieces {
    fn reset_when_dropped(&self) {}
}

impl AsyncRead for Pieces {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        target: &mut tokio::io::ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(mut piece) = self.left.pop_front() {
            let rest = piece.split_off(piece.len().min(target.remaining()));
            target.put_slice(&piece);
            if !rest.is_empty() {
                self.left.push_front(rest);
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pieces {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        lock(&self.written).extend_from_slice(data);
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
