//! The heads of HTTP/1 requests, checked byte by byte before the HTTP library sees them.
//!
//! Libraries mend what is ambiguous: they drop a Content-Length beside a Transfer-Encoding, join folded lines, answer a
//! bad head with an empty 400. Here such a head is refused with a sentence, and recorded: it is replaced by a request
//! that only this module can make, which the road then refuses.

mod check;
pub(crate) mod fault;

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use hyper::rt::{Read, ReadBufCursor, Write};
use memchr::memmem::Finder;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::{Instant, Sleep};
use tokio_util::io::poll_read_buf;

use super::activity::Activity;
use super::stream::Duplex;
use crate::caller::Peers;
use check::check;
pub(crate) use fault::{Fault, MAX_HEAD};

/// From a head's first byte to its last, unless another time is set.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the peer's remaining bytes are read after the last answer, so that no reset destroys that answer.
const LINGER: Duration = Duration::from_secs(1);
/// Between two looks whether a client that has finished sending still reads.
const LOOK: Duration = Duration::from_millis(500);
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Ends a head.
static END: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\r\n\r\n"));

/// What a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http1,
    Http2,
}

/// Reads until it is clear whether the peer begins with the HTTP/2 preface. The first byte must come within `idle`, the
/// rest within `header`.
pub(crate) async fn detect<T: AsyncRead + Unpin>(
    io: &mut T,
    idle: Duration,
    header: Duration,
) -> io::Result<(Protocol, BytesMut)> {
    let mut start = BytesMut::with_capacity(8 * 1024);
    let mut deadline = Instant::now() + idle;
    loop {
        let first = start.is_empty();
        let read = tokio::time::timeout_at(deadline, io.read_buf(&mut start));
        if read.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if first {
            deadline = Instant::now() + header;
        }
        let compared = start.len().min(PREFACE.len());
        if start[..compared] != PREFACE[..compared] {
            return Ok((Protocol::Http1, start));
        }
        if compared == PREFACE.len() {
            return Ok((Protocol::Http2, start));
        }
    }
}

/// A connection whose HTTP/1 heads are checked; HTTP/2 passes, its frames have no such ambiguities.
///
/// A client of HTTP/1 may finish sending and wait for its answer. To the HTTP library that looks as if it had left, which
/// would end its request. So the library hears of the end only when every answer has been taken, or when the kernel says that
/// the client has gone.
#[derive(Debug)]
pub(crate) struct Guarded<T: Duplex> {
    io: T,
    state: State,
    /// Received, not yet judged.
    input: BytesMut,
    /// Judged, not yet taken.
    output: BytesMut,
    timer: Option<Pin<Box<Sleep>>>,
    /// Our side has been closed in order.
    lingering: bool,
    activity: Arc<Activity>,
    /// By whom the kernel is asked.
    peers: Option<Arc<Peers>>,
    header_timeout: Duration,
    /// The client has finished sending, between two requests. When to look after it again.
    finished: Option<Pin<Box<Sleep>>>,
}

/// A connection that ends without an orderly close ends in the middle of an answer, and must not look finished.
impl<T: Duplex> Drop for Guarded<T> {
    fn drop(&mut self) {
        if !self.lingering {
            self.io.reset_when_dropped();
        }
        self.activity.closed();
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Head,
    /// So many bytes of the body are to come.
    Body(u64),
    Chunked(Chunk),
    /// HTTP/2.
    Through,
    /// After a fault nothing more is read.
    Refused,
    /// After a malformed chunk: the body ends without its end.
    Ended,
}

/// Where in a chunked body the next byte stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chunk {
    Size { value: u64, digits: u8 },
    Extension { value: u64 },
    SizeLf { value: u64 },
    Data(u64),
    DataCr,
    DataLf,
    Trailer { length: usize, line_empty: bool },
    TrailerLf { length: usize, line_empty: bool },
}

impl<T: Duplex> Guarded<T> {
    /// `start` is what `detect` has read already.
    pub(crate) fn new(io: T, protocol: Protocol, start: BytesMut) -> Guarded<T> {
        let state = if protocol == Protocol::Http1 { State::Head } else { State::Through };
        let mut guarded = Guarded {
            io,
            state,
            input: start,
            output: BytesMut::new(),
            timer: None,
            lingering: false,
            activity: Activity::new(),
            peers: None,
            header_timeout: HEADER_TIMEOUT,
            finished: None,
        };
        guarded.judge();
        guarded
    }

    /// Notes in `activity` what the socket takes, asks the kernel for the client by `peers`, and gives heads so much time.
    pub(super) fn watched(
        mut self,
        activity: Arc<Activity>,
        peers: Arc<Peers>,
        header_timeout: Duration,
    ) -> Guarded<T> {
        (self.activity, self.peers, self.header_timeout) = (activity, Some(peers), header_timeout);
        self
    }

    fn note<R>(&self, written: Poll<io::Result<R>>, count: impl Fn(&R) -> usize) -> Poll<io::Result<R>> {
        match &written {
            Poll::Ready(Ok(result)) => self.activity.wrote(count(result)),
            Poll::Ready(Err(_)) => {}
            Poll::Pending => self.activity.waits(),
        }
        written
    }

    /// Moves bytes from `input` to `output` as far as they can be judged.
    fn judge(&mut self) {
        loop {
            match self.state {
                State::Head => match self.head() {
                    Ok(Some(next)) => self.state = next,
                    Ok(None) => return,
                    Err(fault) => {
                        self.input.clear();
                        self.output.extend_from_slice(fault.stand_in().as_bytes());
                        self.state = State::Refused;
                        return;
                    }
                },
                State::Body(0) => self.state = State::Head,
                State::Body(_) if self.input.is_empty() => return,
                State::Body(left) => {
                    let taken = usize::try_from(left).unwrap_or(usize::MAX).min(self.input.len());
                    self.take(taken);
                    self.state = State::Body(left - taken as u64);
                }
                State::Chunked(chunk) => {
                    if self.input.is_empty() {
                        return;
                    }
                    self.state = self.chunk(chunk);
                }
                State::Through => {
                    let all = self.input.len();
                    self.take(all);
                    return;
                }
                State::Refused | State::Ended => return,
            }
        }
    }

    fn take(&mut self, count: usize) {
        if self.output.is_empty() && count == self.input.len() {
            std::mem::swap(&mut self.input, &mut self.output);
        } else {
            self.output.extend_from_slice(&self.input[..count]);
            self.input.advance(count);
        }
    }

    fn head(&mut self) -> Result<Option<State>, Fault> {
        while self.input.starts_with(b"\r\n") {
            self.input.advance(2);
        }
        let Some(end) = END.find(&self.input) else {
            // Up to three bytes of the end may be there.
            if self.input.len() > MAX_HEAD + 3 {
                return Err(Fault::TooLarge);
            }
            let bare = memchr::memchr_iter(b'\n', &self.input).any(|at| at == 0 || self.input[at - 1] != b'\r');
            return if bare { Err(Fault::BareLineEnd) } else { Ok(None) };
        };
        if end > MAX_HEAD {
            return Err(Fault::TooLarge);
        }
        let next = check(&self.input[..end])?;
        self.take(end + 4);
        Ok(Some(next))
    }

    /// Steps over what `chunk` can take of the input.
    fn chunk(&mut self, chunk: Chunk) -> State {
        if let Chunk::Data(left) = chunk {
            let taken = usize::try_from(left).unwrap_or(usize::MAX).min(self.input.len());
            self.take(taken);
            let left = left - taken as u64;
            return State::Chunked(if left == 0 { Chunk::DataCr } else { Chunk::Data(left) });
        }
        let byte = self.input[0];
        let next = match (chunk, byte) {
            (Chunk::Size { value, digits }, byte) if byte.is_ascii_hexdigit() && digits < 15 => {
                let digit = (byte as char).to_digit(16).unwrap_or_default();
                Chunk::Size { value: value * 16 + u64::from(digit), digits: digits + 1 }
            }
            (Chunk::Size { value, digits: 1.. }, b'\r') => Chunk::SizeLf { value },
            (Chunk::Size { value, digits: 1.. }, b';' | b' ' | b'\t') => Chunk::Extension { value },
            (Chunk::Extension { value }, b'\r') => Chunk::SizeLf { value },
            (Chunk::Extension { value }, byte) if byte >= b' ' || byte == b'\t' => Chunk::Extension { value },
            (Chunk::SizeLf { value: 0 }, b'\n') => Chunk::Trailer { length: 0, line_empty: true },
            (Chunk::SizeLf { value }, b'\n') => Chunk::Data(value),
            (Chunk::DataCr, b'\r') => Chunk::DataLf,
            (Chunk::DataLf, b'\n') => Chunk::Size { value: 0, digits: 0 },
            (Chunk::Trailer { length, line_empty }, b'\r') => Chunk::TrailerLf { length, line_empty },
            (Chunk::Trailer { length, .. }, byte) if byte >= b' ' && length < MAX_HEAD => {
                Chunk::Trailer { length: length + 1, line_empty: false }
            }
            (Chunk::TrailerLf { line_empty: true, .. }, b'\n') => {
                self.take(1);
                return State::Head;
            }
            (Chunk::TrailerLf { length, .. }, b'\n') => Chunk::Trailer { length, line_empty: true },
            _ => {
                self.input.clear();
                return State::Ended;
            }
        };
        self.take(1);
        State::Chunked(next)
    }
}

impl<T: Duplex> Guarded<T> {
    /// Reads more into `input`; true at the end of the stream.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let wanted = match self.state {
            State::Body(left) => usize::try_from(left).unwrap_or(usize::MAX).clamp(8 * 1024, 128 * 1024),
            _ => 8 * 1024,
        };
        self.input.reserve(wanted);
        let read = ready!(poll_read_buf(Pin::new(&mut self.io), cx, &mut self.input))?;
        Poll::Ready(Ok(read == 0))
    }

    /// The client has finished sending. Ready when that is its end.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let has_left = |io: &T| self.peers.as_ref().is_none_or(|peers| io.has_left(peers));
        // Not while a request is in progress, nor while the last bytes of an answer wait for the client to take them.
        if self.activity.idle().is_some() {
            return Poll::Ready(());
        }
        let look = match &mut self.finished {
            Some(look) => look,
            None if has_left(&self.io) => return Poll::Ready(()),
            none => none.insert(Box::pin(tokio::time::sleep(LOOK))),
        };
        while look.as_mut().poll(cx).is_ready() {
            if has_left(&self.io) {
                return Poll::Ready(());
            }
            look.as_mut().reset(Instant::now() + LOOK);
        }
        Poll::Pending
    }

    fn poll_too_slow(&mut self, cx: &mut Context<'_>) -> bool {
        if self.state != State::Head || self.input.is_empty() {
            self.timer = None;
            return false;
        }
        let deadline = Instant::now() + self.header_timeout;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        timer.as_mut().poll(cx).is_ready()
    }
}

impl<T: Duplex> Read for Guarded<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut target: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            if !this.output.is_empty() {
                let count = this.output.len().min(target.remaining());
                target.put_slice(&this.output[..count]);
                this.output.advance(count);
                return Poll::Ready(Ok(()));
            }
            match this.state {
                State::Refused => return Poll::Pending,
                State::Ended => return Poll::Ready(Ok(())),
                _ => {}
            }
            if this.finished.is_some() {
                return this.poll_end(cx).map(Ok);
            }
            match this.poll_fill(cx) {
                Poll::Ready(Ok(true)) if this.state == State::Head && this.input.is_empty() => {
                    return this.poll_end(cx).map(Ok);
                }
                Poll::Ready(Ok(true)) => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(false)) => this.judge(),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending if this.poll_too_slow(cx) => {
                    this.output.extend_from_slice(Fault::TooSlow.stand_in().as_bytes());
                    this.state = State::Refused;
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

impl<T: Duplex> Write for Guarded<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, data);
        self.note(written, |count| *count)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, data);
        self.note(written, |count| *count)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.io).poll_flush(cx);
        if let Poll::Ready(Ok(())) = flushed {
            self.activity.flushed();
        }
        self.note(flushed, |()| 0)
    }

    /// Closes our side, then reads what the peer still sends: closing with unread bytes would reset the connection and
    /// could destroy the answer before the peer has read it.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.lingering {
            ready!(Pin::new(&mut this.io).poll_shutdown(cx))?;
            this.lingering = true;
            this.timer = Some(Box::pin(tokio::time::sleep(LINGER)));
        }
        loop {
            if this.timer.as_mut().is_none_or(|timer| timer.as_mut().poll(cx).is_ready()) {
                return Poll::Ready(Ok(()));
            }
            this.input.clear();
            match ready!(this.poll_fill(cx)) {
                Ok(false) => {}
                _ => return Poll::Ready(Ok(())),
            }
        }
    }
}

#[cfg(test)]
mod tests;
