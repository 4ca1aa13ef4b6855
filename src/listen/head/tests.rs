use super::fault::{FAULT_HEADER, FAULTS, MAX_HEADERS};
use super::*;

impl Duplex for tokio::io::DuplexStream {
    fn reset_when_dropped(&self) {}
}

/// What the guard lets through, however the bytes are cut; a stand-in is shown by its fault.
fn pass(text: &str, piece: usize) -> String {
    let (near, _far) = tokio::io::duplex(1);
    let mut guarded = Guarded::new(near, Protocol::Http1, BytesMut::new());
    for part in text.as_bytes().chunks(piece) {
        if matches!(guarded.state, State::Refused | State::Ended) {
            break;
        }
        guarded.input.extend_from_slice(part);
        guarded.judge();
    }
    String::from_utf8(guarded.output.to_vec()).unwrap()
}

fn fault(text: &str) -> Option<Fault> {
    let passed = pass(text, text.len());
    let number = passed.split(&format!("{FAULT_HEADER}: ")).nth(1)?.split('\r').next()?.parse::<usize>().ok()?;
    FAULTS.get(number).copied()
}

#[test]
fn good_requests_pass_untouched_however_they_are_cut() {
    let text = "POST /model/a/invoke HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello\
        GET /health HTTP/1.1\r\nhost: x\r\n\r\n\
        POST /b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5;ext=1\r\nhe\r\nl\r\n0\r\nTrailer: x\r\n\r\n\
        GET /c HTTP/1.1\r\nHost: x\r\n\r\n";
    for piece in 1..text.len() {
        assert_eq!(pass(text, piece), text, "cut at {piece}");
    }
}

#[test]
fn the_largest_head_passes_however_it_is_cut() {
    let start = "GET / HTTP/1.1\r\nHost: x\r\nX: ";
    let text = format!("{start}{}\r\n\r\n", "y".repeat(MAX_HEAD - start.len()));
    for piece in [text.len() - 1, text.len() - 3, text.len()] {
        assert!(pass(&text, piece) == text, "cut at {piece}");
    }
}

#[test]
fn each_fault_is_named() {
    let with = |line: &str| format!("POST /a HTTP/1.1\r\nHost: x\r\n{line}\r\n\r\n");
    for (text, expected) in [
        (with("Content-Length: 1\r\nTransfer-Encoding: chunked"), Fault::LengthAndEncoding),
        (with("Transfer-Encoding: chunked\r\nContent-Length: 1"), Fault::LengthAndEncoding),
        (with("Content-Length: 1\r\nContent-Length: 1"), Fault::Length),
        (with("Content-Length: 1, 1"), Fault::Length),
        (with("Content-Length: +1"), Fault::Length),
        (with("Content-Length: "), Fault::Length),
        (with("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"), Fault::Encoding),
        (with("Transfer-Encoding: gzip, chunked"), Fault::Encoding),
        (with("Transfer-Encoding: xchunked"), Fault::Encoding),
        (with("Host: y"), Fault::Host),
        (with("Authorization: a\r\nAuthorization: b"), Fault::Repeated),
        (with("X: a\r\n b"), Fault::Folded),
        (with("X: a\r\n\tb"), Fault::Folded),
        (with("X: a\rb"), Fault::BareLineEnd),
        (with("X: a\nY: b"), Fault::BareLineEnd),
        (with("X : a"), Fault::HeaderLine),
        (with(": a"), Fault::HeaderLine),
        (with("X"), Fault::HeaderLine),
        (with("X: a\u{1}"), Fault::HeaderLine),
        (with("X: a\u{c}"), Fault::HeaderLine),
        (with("Content-Length: 1\u{c}"), Fault::HeaderLine),
        (with(&format!("{FAULT_HEADER}: 1")), Fault::HeaderLine),
        (with(&"X: y\r\n".repeat(MAX_HEADERS + 1)), Fault::TooLarge),
        (with(&format!("X: {}", "y".repeat(MAX_HEAD))), Fault::TooLarge),
        ("POST /a HTTP/1.1\r\nX: y\r\n\r\n".into(), Fault::Host),
        ("POST /a HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".into(), Fault::Encoding),
        ("GET / HTTP/1.1\nHost: x\n\n".into(), Fault::BareLineEnd),
        ("GET / HTTP/1.1\nHost: x".into(), Fault::BareLineEnd),
        ("GET  / HTTP/1.1\r\nHost: x\r\n\r\n".into(), Fault::RequestLine),
        ("GET / HTTP/2.0\r\nHost: x\r\n\r\n".into(), Fault::RequestLine),
        ("GET http://evil/ HTTP/1.1\r\nHost: x\r\n\r\n".into(), Fault::RequestLine),
        ("CONNECT evil:443 HTTP/1.1\r\nHost: x\r\n\r\n".into(), Fault::RequestLine),
        ("GET /\u{e9} HTTP/1.1\r\nHost: x\r\n\r\n".into(), Fault::RequestLine),
        ("GET /a<b HTTP/1.1\r\nHost: x\r\n\r\n".into(), Fault::RequestLine),
        ("GET /a?b=\"c\" HTTP/1.1\r\nHost: x\r\n\r\n".into(), Fault::RequestLine),
    ] {
        assert_eq!(fault(&text), Some(expected), "{text:.120}");
    }
}

#[test]
fn a_malformed_chunk_ends_the_body_without_its_end() {
    for bad in ["x\r\n", "5\nhello", "\r\n", "5\r\nhelloX", "fffffffffffffffff\r\n", "0\r\nX\u{1}\r\n"] {
        let head = "POST /b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
        let passed = pass(&format!("{head}{bad}GET /next HTTP/1.1\r\nHost: x\r\n\r\n"), 7);
        assert!(
            passed.starts_with(head) && !passed.contains("GET /next") && !passed.ends_with("\r\n\r\n0\r\n\r\n"),
            "{bad:?}"
        );
    }
}

#[tokio::test]
async fn the_preface_tells_http2() {
    let (mut near, mut far) = tokio::io::duplex(64);
    tokio::io::AsyncWriteExt::write_all(&mut far, PREFACE).await.unwrap();
    assert_eq!(detect(&mut near, HEADER_TIMEOUT, HEADER_TIMEOUT).await.unwrap().0, Protocol::Http2);
    let (mut near, mut far) = tokio::io::duplex(64);
    tokio::io::AsyncWriteExt::write_all(&mut far, b"PRI /").await.unwrap();
    let (protocol, start) = detect(&mut near, HEADER_TIMEOUT, HEADER_TIMEOUT).await.unwrap();
    assert_eq!((protocol, &start[..]), (Protocol::Http1, &b"PRI /"[..]));
}

/// The client has finished sending. The last bytes of its answer may wait for it when the request has ended long since.
#[tokio::test]
async fn the_end_of_sending_is_hidden_until_the_answer_is_taken() {
    let (near, mut far) = tokio::net::UnixStream::pair().unwrap();
    let activity = Activity::new();
    let mut guarded = Guarded::new(near, Protocol::Http1, BytesMut::new()).watched(
        Arc::clone(&activity),
        Arc::new(Peers::blind()),
        HEADER_TIMEOUT,
    );
    tokio::io::AsyncWriteExt::shutdown(&mut far).await.unwrap();
    activity.waits();
    let mut bytes = [0; 8];
    let mut buffer = hyper::rt::ReadBuf::new(&mut bytes);
    let mut end = std::future::poll_fn(|cx| Pin::new(&mut guarded).poll_read(cx, buffer.unfilled()));
    assert!(tokio::time::timeout(LOOK * 3, &mut end).await.is_err(), "it is still being sent");
    activity.wrote(1);
    tokio::time::timeout(Duration::from_secs(10), end).await.unwrap().unwrap();
}
