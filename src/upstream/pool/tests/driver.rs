//! A panic in the code that drives a connection.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::super::*;
use super::server::{PATIENT, ask, ask_many, server};

/// A stream that panics when it is read once it is told to.
#[derive(Debug)]
struct Panicky<T> {
    inner: T,
    now: Arc<AtomicBool>,
    was_contained: Arc<AtomicBool>,
}

impl<T: AsyncRead + Unpin> AsyncRead for Panicky<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buffer);
        if buffer.filled().len() > before && self.now.load(Ordering::SeqCst) {
            self.was_contained.store(crate::panics::is_contained(), Ordering::SeqCst);
            panic!("as asked");
        }
        polled
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Panicky<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// An error in the code that drives a connection ends the requests on it, and no others are begun there.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_panic_in_a_connections_driver_ends_that_connection_alone() {
    for http2 in [true, false] {
        let (pool, seen) = server(http2.then_some(100), PATIENT, 0).await;
        let (now, was_contained) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let tcp = tokio::net::TcpStream::connect(("127.0.0.1", pool.endpoint.port)).await.unwrap();
        let socket = socket::Socket::new(tcp).unwrap();
        let (config, name) = pool.tls.clone().unwrap();
        let tls = tokio_rustls::TlsConnector::from(config).connect(name, socket.clone()).await.unwrap();
        let stream = Panicky { inner: tls, now: Arc::clone(&now), was_contained: Arc::clone(&was_contained) };
        let opened = if http2 {
            let (sender, most) = pool.http2(stream).await.unwrap();
            open::Opened::Http2(sender, socket, most)
        } else {
            open::Opened::Http1(pool.http1(stream).await.unwrap(), socket)
        };
        pool.lock().add(opened, &PATIENT);

        let first = ask_many(&pool, if http2 { 20 } else { 1 });
        let begun = first.len();
        seen.until("all are in progress", |seen| seen.requests.load(Ordering::SeqCst) == begun).await;
        assert_eq!(seen.connections.load(Ordering::SeqCst), 1);
        now.store(true, Ordering::SeqCst);
        // The first answer makes the driver panic; others ask meanwhile, over and over.
        let (asking, stop) = (Arc::clone(&pool), Arc::new(AtomicBool::new(false)));
        let stopped = Arc::clone(&stop);
        let others = tokio::spawn(async move {
            let mut outcomes = Vec::new();
            while !stopped.load(Ordering::SeqCst) {
                outcomes.push(ask(&asking).await);
            }
            outcomes
        });
        seen.answers.add_permits(1_000_000);
        for outcome in first.join_all().await {
            assert!(matches!(outcome, Err(SendError::Broke { .. })), "{outcome:?}");
        }
        assert!(was_contained.load(Ordering::SeqCst), "a panic here would end the process");
        let after = ask_many(&pool, 50).join_all().await;
        assert!(after.iter().all(Result::is_ok), "{after:?}");
        stop.store(true, Ordering::SeqCst);
        let failed: Vec<_> = others.await.unwrap().into_iter().filter_map(Result::err).collect();
        // One may have been on its way when the connection ended; nobody was given it afterwards.
        assert!(failed.len() <= 1, "{failed:?}");
        seen.until("the broken one's end", |seen| {
            seen.open.load(Ordering::SeqCst) < seen.connections.load(Ordering::SeqCst)
        })
        .await;
    }
}
