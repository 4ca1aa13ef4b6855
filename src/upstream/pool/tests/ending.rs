//! When a connection takes no more requests: it has ended, is of age, idle or silent.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::Poll;

use bytes::Bytes;
use http_body::Body as _;
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::watch;

use super::super::*;
use super::server::{FIRST_BYTE, PATIENT, STALLS, ask, ask_many, make, pool, server};
use crate::upstream::body::{BodyError, UpstreamBody};

/// The server ends the connection without a word while the driver of this side does not run.
#[tokio::test]
async fn a_kept_connection_that_was_closed_meanwhile_is_not_used() {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let pool = pool(listener.local_addr().unwrap(), None, PATIENT);
    let (close, closing) = std::sync::mpsc::channel::<()>();
    let (closed, has_closed) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        loop {
            let (mut socket, _) = listener.accept().unwrap();
            let mut head = [0; 4096];
            let mut read = 0;
            while !head[..read].ends_with(b"{}") {
                read += socket.read(&mut head[read..]).unwrap();
            }
            socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nanswer").unwrap();
            if closing.recv().is_err() {
                return;
            }
            drop(socket);
            closed.send(()).unwrap();
        }
    });
    for _ in 0..20 {
        ask(&pool).await.unwrap();
        // This thread drives everything of the pool, and stands still until the connection has ended.
        close.send(()).unwrap();
        has_closed.recv().unwrap();
    }
}

/// One request that gets no answer in time.
async fn ask_in_vain(pool: &Arc<Pool>, first_byte: Duration) {
    let error = pool.send(first_byte, &mut Effort::default(), make).await.map(|_| ()).unwrap_err();
    assert!(matches!(error, SendError::Silent { .. }), "{error}");
}

/// The path may have gone without a word: whether it has is learnt by opening another connection.
#[tokio::test]
async fn a_connection_that_keeps_silent_takes_no_more_requests() {
    for most in [Some(100), None] {
        let (pool, seen) = server(most, PATIENT, 1).await;
        ask(&pool).await.unwrap();
        ask_in_vain(&pool, Duration::from_millis(100)).await;
        seen.answers.add_permits(2);
        ask(&pool).await.unwrap();
        assert_eq!(seen.connections.load(Ordering::SeqCst), 2, "{most:?}");
    }
}

#[tokio::test]
async fn a_connection_that_is_slow_with_one_answer_is_used_on() {
    let (pool, seen) = server(Some(100), PATIENT, 0).await;
    let other = ask_many(&pool, 1);
    seen.until("the first one", |seen| seen.requests.load(Ordering::SeqCst) == 1).await;
    let slow = {
        let pool = Arc::clone(&pool);
        tokio::spawn(async move { ask_in_vain(&pool, Duration::from_secs(3)).await })
    };
    seen.until("the slow one", |seen| seen.requests.load(Ordering::SeqCst) == 2).await;
    // It goes to who came first, so bytes come after the slow one was sent.
    seen.answers.add_permits(1);
    assert!(other.join_all().await.iter().all(Result::is_ok));
    slow.await.unwrap();
    seen.answers.add_permits(2);
    ask(&pool).await.unwrap();
    assert_eq!(seen.connections.load(Ordering::SeqCst), 1);
}

/// An answer that has begun and does not go on, read by somebody who waits no longer than `idle`.
async fn stalled(pool: &Arc<Pool>, idle: Duration) -> UpstreamBody {
    let make = |_| Ok(Request::post(STALLS).body(Bytes::new().into()).unwrap());
    let (response, lease) = pool.send(FIRST_BYTE, &mut Effort::default(), make).await.unwrap();
    UpstreamBody::new(response.into_body(), lease, idle)
}

/// As after a silent change of the path, in the middle of an answer.
#[tokio::test]
async fn a_connection_that_falls_silent_amid_an_answer_takes_no_more_requests() {
    let (pool, seen) = server(Some(100), PATIENT, 3).await;
    ask(&pool).await.unwrap();
    let mut body = stalled(&pool, Duration::from_millis(100)).await;
    assert!(matches!(body.frame().await, Some(Err(BodyError::Idle(_)))));
    ask(&pool).await.unwrap();
    assert_eq!(seen.connections.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_connection_on_which_one_answer_stalls_is_used_on_as_long_as_others_go_on() {
    let (pool, seen) = server(Some(100), PATIENT, 3).await;
    let mut body = stalled(&pool, Duration::from_millis(100)).await;
    // Its patience begins to run out, and bytes come for somebody else.
    assert!(std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut body).poll_frame(cx).is_pending())).await);
    ask(&pool).await.unwrap();
    assert!(matches!(body.frame().await, Some(Err(BodyError::Idle(_)))));
    ask(&pool).await.unwrap();
    assert_eq!(seen.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_connection_of_age_takes_no_more_requests_but_ends_what_it_has() {
    let times = Times { age: Duration::from_millis(200), ..PATIENT };
    let (pool, seen) = server(Some(100), times, 0).await;
    let long = ask_many(&pool, 1);
    seen.until("the long one", |seen| seen.requests.load(Ordering::SeqCst) == 1).await;
    let mut more = 0;
    while seen.connections.load(Ordering::SeqCst) < 2 {
        let pool = Arc::clone(&pool);
        more += 1;
        assert!(more < 2000, "the first connection is used for ever");
        // Whoever leaves says nothing about the connection.
        let asked = tokio::spawn(async move {
            let (mut effort, first_byte) = (Effort::default(), FIRST_BYTE);
            tokio::time::timeout(Duration::from_millis(5), pool.send(first_byte, &mut effort, make)).await.is_ok()
        });
        let _ = asked.await.unwrap();
    }
    seen.answers.add_permits(10_000);
    assert!(long.join_all().await.iter().all(Result::is_ok), "what the old one carries comes to its end");
    seen.until("the old one's end", |seen| seen.open.load(Ordering::SeqCst) < seen.connections.load(Ordering::SeqCst))
        .await;
}

#[tokio::test]
async fn a_connection_with_nothing_to_do_is_closed() {
    for most in [Some(100), None] {
        let times = Times { idle: Duration::from_millis(200), ..PATIENT };
        let (pool, seen) = server(most, times, 2).await;
        ask(&pool).await.unwrap();
        seen.until("its end", |seen| seen.open.load(Ordering::SeqCst) == 0).await;
        ask(&pool).await.unwrap();
        assert_eq!(seen.connections.load(Ordering::SeqCst), 2, "{most:?}");
    }
}

/// A path to `server` that can go without a word: then nothing passes on its connections, and none of them ends.
async fn path_to(server: u16) -> (SocketAddr, watch::Sender<bool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (gone, is_gone) = watch::channel(false);
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let far = tokio::net::TcpStream::connect(("127.0.0.1", server)).await.unwrap();
            let ((from_near, to_near), (from_far, to_far)) = (near.into_split(), far.into_split());
            tokio::spawn(pass(from_near, to_far, is_gone.clone()));
            tokio::spawn(pass(from_far, to_near, is_gone.clone()));
        }
    });
    (address, gone)
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut is_gone: watch::Receiver<bool>) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        tokio::select! {
            biased;
            () = async { drop(is_gone.wait_for(|gone| *gone).await) } => std::future::pending().await,
            read = from.read(&mut buffer) => match read {
                Ok(read @ 1..) if to.write_all(&buffer[..read]).await.is_ok() => {}
                _ => return,
            },
        }
    }
}

/// Found by pings, before a request is sent into it.
#[tokio::test]
async fn a_path_that_goes_silently_is_found_out_while_nothing_is_under_way() {
    let times = Times { ping: Duration::from_millis(500), ..PATIENT };
    let (direct, seen) = server(Some(100), times, 2).await;
    let (address, gone) = path_to(direct.endpoint.port).await;
    let endpoint = Endpoint { port: address.port(), ..direct.endpoint.clone() };
    let pool = Pool::with(endpoint, direct.tls.clone().map(|(config, _)| config), times).unwrap();
    ask(&pool).await.unwrap();
    gone.send(true).unwrap();
    let found_out = async {
        while pool.take_status().http2 > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(
        tokio::time::timeout(Duration::from_secs(20), found_out).await.is_ok(),
        "a connection into nowhere is kept"
    );
    gone.send(false).unwrap();
    ask(&pool).await.unwrap();
    assert_eq!(seen.requests.load(Ordering::SeqCst), 2);
}
