//! The connection below HTTP: a socket that can be reset, cut or made to talk nonsense on request.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use crate::record::Ended;

/// How a connection, or one stream of it, is ended before its answer is whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// TCP RST.
    #[default]
    Rst,
    /// TCP FIN, without a terminating chunk and without TLS close_notify.
    Fin,
    /// On HTTP/2 RST_STREAM for this stream only; on HTTP/1.1 the same as `fin`.
    StreamError,
}

/// The handle by which an exchange reaches down to its connection.
#[derive(Debug, Default)]
pub(crate) struct Control {
    killed: Notify,
    going_away: Notify,
    reset: AtomicBool,
    garbage: AtomicBool,
    ours: AtomicBool,
}

impl Control {
    /// Ends the whole connection now.
    pub(crate) fn kill(&self, how: Ending) {
        self.reset.store(how == Ending::Rst, Ordering::SeqCst);
        self.killed.notify_one();
    }

    pub(crate) async fn killed(&self) {
        self.killed.notified().await;
    }

    /// Asks for GOAWAY on HTTP/2 (`Connection: close` on HTTP/1.1); streams in flight go on.
    pub(crate) fn go_away(&self) {
        self.going_away.notify_one();
    }

    pub(crate) async fn going_away(&self) {
        self.going_away.notified().await;
    }

    /// Notes that this side ends the connection, whatever its exchanges have come to.
    pub(crate) fn end_is_ours(&self) {
        self.ours.store(true, Ordering::SeqCst);
    }

    /// How an exchange ended that its connection took down with it.
    pub(crate) fn fate(&self) -> Ended {
        if self.ours.load(Ordering::SeqCst) { Ended::Cut } else { Ended::ClientWentAway }
    }

    /// The next bytes written are replaced by something that is not HTTP.
    pub(crate) fn talk_garbage(&self) {
        self.garbage.store(true, Ordering::SeqCst);
    }

    /// Whether it did: such a connection has no future.
    pub(crate) fn talks_garbage(&self) -> bool {
        self.garbage.load(Ordering::SeqCst)
    }
}

/// A socket that is reset, rather than closed, when its control says so.
#[derive(Debug)]
pub(crate) struct Socket {
    stream: TcpStream,
    control: Arc<Control>,
}

impl Socket {
    pub(crate) fn new(stream: TcpStream, control: Arc<Control>) -> Socket {
        Socket { stream, control }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.control.reset.load(Ordering::SeqCst) {
            // With a linger time of zero the kernel sends RST on close. A failure leaves a plain FIN, which a test notices.
            let _ = self.stream.set_zero_linger();
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// The topmost layer, above TLS where there is TLS: replaces HTTP by garbage when told to.
#[derive(Debug)]
pub(crate) struct Talker<S> {
    inner: S,
    control: Arc<Control>,
}

const GARBAGE: &[u8] = b"\x00\x01\xfeNOT HTTP AT ALL\r\n\r\n";

impl<S> Talker<S> {
    pub(crate) fn new(inner: S, control: Arc<Control>) -> Talker<S> {
        Talker { inner, control }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Talker<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Talker<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.control.garbage.load(Ordering::SeqCst) {
            return match Pin::new(&mut self.inner).poll_write(cx, GARBAGE) {
                Poll::Ready(Ok(_)) => Poll::Ready(Ok(bytes.len())),
                other => other,
            };
        }
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.control.garbage.load(Ordering::SeqCst) {
            let all = slices.iter().map(|slice| slice.len()).sum();
            return match Pin::new(&mut self.inner).poll_write(cx, GARBAGE) {
                Poll::Ready(Ok(_)) => Poll::Ready(Ok(all)),
                other => other,
            };
        }
        Pin::new(&mut self.inner).poll_write_vectored(cx, slices)
    }
    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
