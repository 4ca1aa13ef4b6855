//! Heads and bodies that two readers of HTTP/1 could understand differently.

use test_support::*;

use super::{is_served, nothing_else_went_upstream};

/// Each is refused with 400 or 501, ends its connection, leaves a record, and what follows it is no request.
#[tokio::test]
async fn whatever_could_be_read_in_two_ways_is_refused_and_recorded() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).ready().await;
    let path = converse_path(ON_DEMAND);
    let smuggled = raw::converse(daemon.address(), ON_DEMAND, "smuggled", "");
    let head = |headers: &str| format!("POST {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n\r\n");
    let chunked = |body: &str| format!("{}{body}", head("Transfer-Encoding: chunked"));
    let cases = [
        ("a length and chunks", format!("{}0\r\n\r\n", head("Content-Length: 5\r\nTransfer-Encoding: chunked"))),
        ("chunks and a length", format!("{}0\r\n\r\n", head("Transfer-Encoding: chunked\r\nContent-Length: 5"))),
        ("a space before the colon", format!("{}0\r\n\r\n", head("Transfer-Encoding : chunked"))),
        ("a tab before the colon", format!("{}0\r\n\r\n", head("Transfer-Encoding\t: chunked"))),
        ("TE with a space, and a length", format!("{}{{}}", head("Content-Length: 2\r\nTransfer-Encoding : chunked"))),
        ("an unknown coding", format!("{}0\r\n\r\n", head("Transfer-Encoding: xchunked"))),
        ("chunks twice", format!("{}0\r\n\r\n", head("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity"))),
        (
            "chunks over HTTP/1.0",
            format!("POST {path} HTTP/1.0\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        ),
        ("a chunk's size beyond 64 bits", chunked("10000000000000002\r\n{}\r\n0\r\n\r\n")),
        ("a chunk's size of 64 bits", chunked("ffffffffffffffff\r\n{}\r\n0\r\n\r\n")),
        ("a chunk's size with a sign", chunked("+2\r\n{}\r\n0\r\n\r\n")),
        ("a chunk's size with 0x", chunked("0x2\r\n{}\r\n0\r\n\r\n")),
        ("a chunk's size with a space", chunked(" 2\r\n{}\r\n0\r\n\r\n")),
        ("no size of a chunk", chunked("\r\n{}\r\n0\r\n\r\n")),
        ("no CRLF behind a chunk", chunked("2\r\n{}0\r\n\r\n")),
        ("a bare LF behind a size", chunked("2\n{}\r\n0\r\n\r\n")),
        ("a bare LF in an extension", chunked("2;a\nb\r\n{}\r\n0\r\n\r\n")),
        ("a long extension", chunked(&format!("2;{}\r\n{{}}\r\n0\r\n\r\n", "x".repeat(70_000)))),
        ("a trailer with a bare LF", chunked("2\r\n{}\r\n0\r\nX: y\n\r\n")),
        ("a trailer that is no header", chunked("2\r\n{}\r\n0\r\nX y\r\n\r\n")),
        (
            "an absolute form",
            format!("POST http://localhost{path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{{}}"),
        ),
        (
            "an absolute form of elsewhere",
            "GET http://169.254.169.254/latest/ HTTP/1.1\r\nHost: localhost\r\n\r\n".into(),
        ),
        ("the form of an authority", "CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n".into()),
        ("the form of an asterisk", "OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n".into()),
        ("two hosts", format!("{}{{}}", head("Content-Length: 2\r\nHost: 127.0.0.1"))),
    ];
    for (at, (what, bytes)) in cases.iter().enumerate() {
        let answer = raw::exchange(daemon.address(), format!("{bytes}{smuggled}")).await;
        let answer = answer.unwrap_or_else(|error| panic!("{what}: the answer was lost: {error}"));
        assert!(answer.starts_with("HTTP/1.1 400 ") || answer.starts_with("HTTP/1.1 501 "), "{what}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{what}: one answer, then the end: {answer}");
        assert!(answer.contains("bedrock-sidecar: "), "{what}: {answer}");
        let records = until(what, || {
            let records = daemon.records();
            (records.len() > at).then_some(records)
        })
        .await;
        let last = records.last().unwrap();
        assert_eq!((&last["outcome"], &last["attempts"]), (&"refused".into(), &0.into()), "{what}: {last}");
    }
    is_served(&daemon, "after all of it").await;
    nothing_else_went_upstream(&bedrock);
}
