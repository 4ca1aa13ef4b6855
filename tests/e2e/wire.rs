//! Listening: both HTTP versions on one port, every kind of address, and everything that is refused before it is read.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use http::Method;
use serde_json::json;
use test_support::*;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UnixStream};

fn ask(prompt: &str) -> Request {
    request(Method::POST, &converse_path(ON_DEMAND), converse(prompt))
}

#[tokio::test]
async fn both_http_versions_are_served_on_one_port() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).ready().await;
    let mut old = Http1::to(daemon.address()).await;
    let new = Http2::to(daemon.address()).await;
    for round in 0..3 {
        let one = old.send(ask(&format!("one {round}"))).await;
        let two = new.send(ask(&format!("two {round}"))).await;
        assert_eq!((one.status, two.status), (200, 200), "{one:?} {two:?}");
        assert!(one.text().contains(&format!("echo: one {round}")), "{}", one.text());
        assert!(two.text().contains(&format!("echo: two {round}")), "{}", two.text());
    }
}

#[tokio::test]
async fn every_address_and_the_unix_socket_serve() {
    let bedrock = bedrock().await;
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("bedrock.sock");
    let daemon = Setup::plain(&bedrock)
        .listen(&format!(
            "addresses = [\"127.0.0.1:0\", \"127.0.0.2:0\", \"[::1]:0\"]\nadmin_address = \"127.0.0.1:0\"\nunix_socket = \"{}\"\n",
            socket.display()
        ))
        .ready()
        .await;
    assert_eq!(daemon.places.len(), 4, "{:?}", daemon.places);
    for place in &daemon.places[..3] {
        let answer = post(place.parse().unwrap(), &converse_path(ON_DEMAND), converse("hello")).await;
        assert_eq!(answer.status, 200, "{place}: {answer:?}");
    }
    assert_eq!(daemon.places[3], socket.to_str().unwrap());
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o666, "any local user may connect");
    // Over a socket file no name can be rebound, so that any Host is good.
    for host in ["localhost", "bedrock-runtime.us-gov-west-1.amazonaws.com"] {
        let mut connection = Http1::on(UnixStream::connect(&socket).await.unwrap(), host).await;
        assert_eq!(connection.send(ask("over a socket")).await.status, 200, "{host}");
    }
    let record = daemon.record("the socket's request", |record| record["sourceIP"] == socket.to_str().unwrap()).await;
    assert_eq!(record["statusCode"], 200);
}

#[tokio::test]
async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("bedrock.sock");
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    assert!(socket.exists(), "a former life left its socket");
    let listen = format!("addresses = []\nadmin_address = \"127.0.0.1:0\"\nunix_socket = \"{}\"\n", socket.display());
    let mut daemon = Setup::alone().listen(&listen).start().await;
    let mut connection = Http1::on(UnixStream::connect(&socket).await.unwrap(), "localhost").await;
    assert_eq!(connection.send(request(Method::GET, "/health", "")).await.status, 200);

    let second = Setup::alone().listen(&listen).command(&["run"]).await;
    assert_eq!(second.status.code(), Some(1));
    let complaint = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(complaint.contains("another process serves it, or it is not a socket"), "{complaint}");
    assert_eq!(connection.send(request(Method::GET, "/health", "")).await.status, 200, "the first one is unharmed");

    daemon.signal("TERM");
    assert_eq!(daemon.ended().await.code(), Some(0));
    assert!(!socket.exists(), "the socket goes with the daemon");

    std::fs::write(&socket, "not a socket").unwrap();
    let third = Setup::alone().listen(&listen).command(&["run"]).await;
    assert_eq!(third.status.code(), Some(1));
    assert_eq!(std::fs::read(&socket).unwrap(), b"not a socket", "somebody's file is left alone");
}

#[tokio::test]
async fn connections_are_kept_and_pipelined_requests_are_answered_in_order() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).ready().await;
    let mut stream = TcpStream::connect(daemon.address()).await.unwrap();
    let all: String =
        ["first", "second", "third"].map(|prompt| raw::converse(daemon.address(), ON_DEMAND, prompt, "")).concat();
    stream.write_all(all.as_bytes()).await.unwrap();
    let answers = raw::until(&mut stream, "echo: third").await;
    let at = |text: &str| answers.find(text).unwrap_or_else(|| panic!("no {text} in {answers}"));
    assert!(at("echo: first") < at("echo: second") && at("echo: second") < at("echo: third"));
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 3);

    let last = raw::converse(daemon.address(), ON_DEMAND, "last", "Connection: close\r\n");
    stream.write_all(last.as_bytes()).await.unwrap();
    assert!(raw::rest(&mut stream).await.unwrap().contains("echo: last"), "the same connection, then closed");
}

#[tokio::test]
async fn a_client_that_expects_100_continue_is_told_to_go_on() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).with("[limits]\nmax_body_bytes = 1000").ready().await;
    let body = converse("patiently");
    let head = |length: usize| {
        format!(
            "POST {} HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n",
            converse_path(ON_DEMAND)
        )
    };
    let mut stream = TcpStream::connect(daemon.address()).await.unwrap();
    stream.write_all(head(body.len()).as_bytes()).await.unwrap();
    assert_eq!(raw::until(&mut stream, "\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(body.as_bytes()).await.unwrap();
    assert!(raw::until(&mut stream, "echo: patiently").await.starts_with("HTTP/1.1 200 OK"));

    let refused = raw::exchange(daemon.address(), head(1001)).await.unwrap();
    assert!(refused.starts_with("HTTP/1.1 413 "), "no 100 for a body that is not wanted: {refused}");
}

/// A name that cannot be read is not left out of the check.
#[tokio::test]
async fn a_host_that_is_not_ascii_is_another_host() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).ready().await;
    let own = received(&bedrock, "ListFoundationModels").len();
    for host in [&b"evil\xff.com"[..], b"\xff", b"127.0.0.1\xff"] {
        let mut text = b"GET /foundation-models HTTP/1.1\r\nConnection: close\r\nHost: ".to_vec();
        text.extend_from_slice(host);
        text.extend_from_slice(b"\r\n\r\n");
        let answer = raw::exchange(daemon.address(), text).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 403"), "{host:?}: {answer}");
    }
    assert_eq!(received(&bedrock, "ListFoundationModels").len(), own, "none beside those that the daemon asks itself");
    let record = daemon.record("the refused request", |record| record["outcome"] == "refused").await;
    assert_eq!(record["attempts"], 0, "{record}");
}

/// Every answer to a malformed head is AWS-shaped, says that the connection closes, closes it, and arrives whole.
#[tokio::test]
async fn malformed_and_ambiguous_heads_are_refused_with_a_sentence() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).ready().await;
    let path = converse_path(ON_DEMAND);
    let with = |header: &str| format!("POST {path} HTTP/1.1\r\nHost: localhost\r\n{header}\r\n\r\n");
    let line = "the request line is malformed";
    let header = "a header line is malformed";
    let bare = "a line of the head ends with a bare CR or LF";
    let host = "the request must have exactly one Host header";
    let length = "Content-Length is not a number";
    let encoding = "the only Transfer-Encoding served is chunked";
    let cases: Vec<(String, u16, &str)> = vec![
        (with("Content-Length: 2\r\nTransfer-Encoding: chunked"), 400, "has both Content-Length and Transfer-Encoding"),
        (with("Transfer-Encoding: chunked\r\nContent-Length: 2"), 400, "has both Content-Length and Transfer-Encoding"),
        (with("Content-Length: 2\r\nContent-Length: 2"), 400, length),
        (with("Content-Length: 2\r\nContent-Length: 3"), 400, length),
        (with("Content-Length: 2, 2"), 400, length),
        (with("Content-Length: +2"), 400, length),
        (with("Content-Length: 0x2"), 400, length),
        (with("Content-Length: "), 400, length),
        (with("Content-Length: 99999999999999999999"), 400, length),
        (with("Transfer-Encoding: chunked, chunked"), 400, encoding),
        (with("Transfer-Encoding: gzip, chunked"), 400, encoding),
        (with("Transfer-Encoding: identity"), 400, encoding),
        (with("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"), 400, encoding),
        (with("Transfer-Encoding: \x0bchunked"), 400, header),
        (with("X-A: b\r\n c"), 400, "folded over several lines"),
        (with("X-A: b\r\n\tc"), 400, "folded over several lines"),
        (with("X-A: b\rX-B: c"), 400, bare),
        (with("X-A: b\nX-B: c"), 400, bare),
        (format!("POST {path} HTTP/1.1\nHost: localhost\n\n"), 400, bare),
        (with("X-A : b"), 400, header),
        (with(": b"), 400, header),
        (with("X-A"), 400, header),
        (with("X-A: \u{1}"), 400, header),
        (with("X-A: a\u{0}b"), 400, header),
        (with("X(A): b"), 400, header),
        (with("x-bedrock-sidecar-head-fault: 0"), 400, header),
        (with("Host: localhost"), 400, host),
        (format!("POST {path} HTTP/1.1\r\nX: y\r\n\r\n"), 400, host),
        (with("Authorization: a\r\nAuthorization: b"), 400, "must stand once"),
        (with("Content-Type: a\r\nContent-Type: b"), 400, "must stand once"),
        (format!("POST  {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"), 400, line),
        (format!("POST {path} HTTP/3.0\r\nHost: localhost\r\n\r\n"), 400, line),
        (format!("POST {path}\r\nHost: localhost\r\n\r\n"), 400, line),
        (format!("PO(ST {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"), 400, line),
        ("GET http://169.254.169.254/ HTTP/1.1\r\nHost: localhost\r\n\r\n".into(), 400, line),
        ("CONNECT 169.254.169.254:80 HTTP/1.1\r\nHost: localhost\r\n\r\n".into(), 400, line),
        ("GET /a#b HTTP/1.1\r\nHost: localhost\r\n\r\n".into(), 400, line),
        ("\u{16}\u{3}\u{1}\u{0}\u{5}\r\n\r\n".into(), 400, line),
        (with(&"X-A: b\r\n".repeat(101)), 431, "exceeds 64 KiB or 100 headers"),
        (with(&format!("X-A: {}", "b".repeat(70_000))), 431, "exceeds 64 KiB or 100 headers"),
    ];
    for (bytes, status, says) in cases {
        let shown: String = bytes.chars().take(100).collect();
        let answer = raw::exchange(daemon.address(), &bytes).await;
        let answer = answer.unwrap_or_else(|error| panic!("the answer to {shown:?} was lost: {error}"));
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer to {shown:?}"));
        let head = head.to_ascii_lowercase();
        assert!(head.starts_with(&format!("http/1.1 {status} ")), "{shown:?}: {answer}");
        assert!(head.contains("\r\nx-amzn-errortype: validationexception"), "{shown:?}: {answer}");
        assert!(head.contains("\r\nconnection: close"), "{shown:?}: {answer}");
        let json: serde_json::Value = serde_json::from_str(body).unwrap_or_else(|_| panic!("{shown:?}: {answer}"));
        let message = json["message"].as_str().unwrap();
        assert!(message.starts_with("bedrock-sidecar: ") && message.contains(says), "{shown:?}: {message}");
    }
    assert!(received(&bedrock, "Converse").is_empty(), "nothing of it went upstream");
}

#[tokio::test]
async fn the_answer_to_a_bad_head_is_not_lost_when_megabytes_follow_it() {
    let daemon = Setup::alone().start().await;
    let mut bytes = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n".to_vec();
    bytes.resize(bytes.len() + 4_000_000, b'x');
    for _ in 0..5 {
        let answer = raw::exchange(daemon.address(), &bytes).await.expect("a reset destroyed the answer");
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("Content-Length"), "{answer:?}");
    }
}

#[tokio::test]
async fn what_follows_a_refused_head_is_never_taken_for_a_request() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).ready().await;
    let smuggled = raw::converse(daemon.address(), ON_DEMAND, "smuggled", "");
    let front = format!("POST {} HTTP/1.1\r\nHost: localhost\r\n", converse_path(ON_DEMAND));
    for bytes in [
        format!("{front}Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{smuggled}"),
        format!("{front}Transfer-Encoding: chunked\r\n\r\nzz\r\n{smuggled}"),
        format!("{front}Transfer-Encoding: chunked\r\n\r\n5\nhello0\r\n\r\n{smuggled}"),
        format!("{front}Transfer-Encoding: chunked\r\n\r\n2\r\n{{}}XX0\r\n\r\n{smuggled}"),
    ] {
        let answer = raw::exchange(daemon.address(), &bytes).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "one answer, then the end: {answer}");
    }
    assert!(received(&bedrock, "Converse").is_empty());
}

#[tokio::test]
async fn a_chunked_body_that_is_sound_is_served() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).ready().await;
    let body = converse("in pieces");
    let (one, two) = body.split_at(10);
    let bytes = format!(
        "POST {} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n{:x};a=b\r\n{one}\r\n{:X}\r\n{two}\r\n0\r\nX-Trailer: t\r\n\r\n",
        converse_path(ON_DEMAND),
        one.len(),
        two.len(),
    );
    let answer = raw::exchange(daemon.address(), bytes).await.unwrap();
    assert!(answer.contains("echo: in pieces"), "{answer}");
    let sent = &received(&bedrock, "Converse")[0];
    assert_eq!(sent.body, body.as_bytes());
    assert_eq!(sent.header("content-length"), Some(body.len().to_string().as_str()), "a length, for the signature");
}

#[tokio::test]
async fn a_body_that_is_signed_in_chunks_is_refused() {
    let daemon = Setup::alone().start().await;
    let mut chunked = ask("x");
    chunked.headers_mut().insert("x-amz-content-sha256", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD".parse().unwrap());
    let answer = send(daemon.address(), chunked).await;
    assert!(refused(&answer, 400, "ValidationException").contains("aws-chunked"));
}

#[tokio::test]
async fn requests_of_browsers_and_proxies_are_refused() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).ready().await;
    for (name, value) in [
        ("origin", "http://localhost:3000"),
        ("origin", "null"),
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
        ("via", "1.1 squid"),
        ("forwarded", "for=10.0.0.1"),
        ("x-forwarded-for", "10.0.0.1"),
        ("x-forwarded-host", "localhost"),
        ("x-forwarded-proto", "https"),
        ("host", "evil.example"),
        ("host", "localhost.evil.example"),
        ("host", "127.0.0.1.evil.example:8790"),
        ("host", "10.0.0.1"),
        ("host", "0.0.0.0:8790"),
    ] {
        for path in [converse_path(ON_DEMAND).as_str(), "/v1/bedrock/invoke-model"] {
            let mut foreign = request(Method::POST, path, converse("x"));
            foreign.headers_mut().insert(name, value.parse().unwrap());
            let answer = send(daemon.address(), foreign).await;
            assert_eq!(answer.status, 403, "{name}: {value}: {answer:?}");
            assert_eq!(answer.header("x-amzn-errortype"), Some("AccessDeniedException"));
        }
        let mut foreign = request(Method::GET, "/metrics", "");
        foreign.headers_mut().insert(name, value.parse().unwrap());
        assert_eq!(send(daemon.admin, foreign).await.status, 403, "admin, {name}: {value}");
    }
    // A page of the daemon's own, or an address that somebody has typed, is not foreign.
    for site in ["same-origin", "none"] {
        let mut own = request(Method::GET, "/status", "");
        own.headers_mut().insert("sec-fetch-site", site.parse().unwrap());
        assert_eq!(send(daemon.admin, own).await.status, 200, "{site}");
    }
    // A browser names its origin with the modules of a page's script; nothing but the page's files is given for that.
    for (origin, path, status) in [
        (format!("http://{}", daemon.admin), "/assets/page.js", 200),
        (format!("http://{}", daemon.admin), "/status", 403),
        ("http://127.0.0.1:1".to_owned(), "/assets/page.js", 403),
    ] {
        let mut module = request(Method::GET, path, "");
        module.headers_mut().insert("host", daemon.admin.to_string().parse().unwrap());
        module.headers_mut().insert("origin", origin.parse().unwrap());
        assert_eq!(send(daemon.admin, module).await.status, status, "{origin}: {path}");
    }
    // What a page of another site asks for without CORS has no Origin; it is not even told that the daemon lives.
    let mut image = request(Method::GET, "/health", "");
    image.headers_mut().insert("sec-fetch-site", "cross-site".parse().unwrap());
    assert_eq!(send(daemon.address(), image).await.status, 403);
    // In HTTP/2 the authority takes the place of Host.
    let two = Http2::to(daemon.address()).await;
    let mut foreign = ask("x");
    foreign.headers_mut().insert("host", "evil.example".parse().unwrap());
    assert_eq!(two.send(foreign).await.status, 403);
    assert_eq!(two.send(ask("x")).await.status, 200, "the connection is still good");
    for host in ["localhost", "LOCALHOST:1", "127.0.0.1", "[::1]:99", "127.9.9.9:1"] {
        let mut ours = ask("x");
        ours.headers_mut().insert("host", host.parse().unwrap());
        assert_eq!(send(daemon.address(), ours).await.status, 200, "{host}");
    }
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_and_announced_ones_unread() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).with("[limits]\nmax_body_bytes = 100000").ready().await;
    // Only the head is sent: an answer comes although the body never does.
    let head =
        format!("POST {} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100001\r\n\r\n", converse_path(ON_DEMAND));
    let answer = raw::exchange(daemon.address(), head).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(answer.contains("limits.max_body_bytes (100000 bytes)"), "{answer}");

    let mut chunked =
        format!("POST {} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n", converse_path(ON_DEMAND));
    for _ in 0..40 {
        chunked.push_str(&format!("2710\r\n{}\r\n", "x".repeat(10_000)));
    }
    let answer = raw::exchange(daemon.address(), chunked).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");

    let two = Http2::to(daemon.address()).await;
    let answer = two.send(request(Method::POST, &converse_path(ON_DEMAND), vec![b' '; 100_001])).await;
    assert_eq!(refused(&answer, 413, "ValidationException").matches("100000").count(), 1);

    let body = padded(&converse("at the limit"), 100_000);
    assert_eq!(daemon.post(&converse_path(ON_DEMAND), body).await.status, 200);
    assert_eq!(received(&bedrock, "Converse").len(), 1);
}

#[tokio::test]
async fn a_connection_above_the_cap_waits_until_another_ends() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock)
        .listen("addresses = [\"127.0.0.1:0\"]\nadmin_address = \"127.0.0.1:0\"\nmax_connections = 2\nmax_connections_per_user = 2\n")
        .ready()
        .await;
    let mut first = Http1::to(daemon.address()).await;
    let mut second = Http1::to(daemon.address()).await;
    assert_eq!(first.send(ask("first")).await.status, 200);
    assert_eq!(second.send(ask("second")).await.status, 200);

    // The kernel completes the third connection, and keeps what it sends.
    let third = raw::converse(daemon.address(), ON_DEMAND, "third", "Connection: close\r\n");
    let mut waiting = TcpStream::connect(daemon.address()).await.unwrap();
    waiting.write_all(third.as_bytes()).await.unwrap();
    for _ in 0..20 {
        assert_eq!(first.send(ask("first")).await.status, 200);
        assert_eq!(second.send(ask("second")).await.status, 200, "one that is idle would make room");
        assert_eq!(daemon.admin_get("/health").await.status, 200, "the admin address has places of its own");
    }
    assert!(!received(&bedrock, "Converse").iter().any(|request| request.body == converse("third").as_bytes()));
    drop(second);
    assert!(raw::rest(&mut waiting).await.unwrap().contains("echo: third"), "served once there is a place");
}

/// Out of file descriptors: accepting pauses, says so, and goes on when connections have ended.
#[tokio::test]
async fn without_file_descriptors_accepting_waits() {
    let daemon = Setup::alone().start().await;
    let limit = |most: usize| {
        let pid = daemon.pid().to_string();
        let status = Command::new("prlimit").args(["--pid", &pid, &format!("--nofile={most}:")]).status().unwrap();
        assert!(status.success(), "prlimit");
    };
    let open = std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap().count();
    limit(open + 5);
    let mut connections = Vec::new();
    for _ in 0..20 {
        connections.push(TcpStream::connect(daemon.address()).await.unwrap());
    }
    until("the pause", || daemon.lines().into_iter().find(|line| line["message"] == "cannot accept; waiting")).await;
    drop(connections);
    limit(open + 200);
    assert_eq!(daemon.get("/health").await.status, 200);
}

#[tokio::test]
async fn a_slow_head_is_answered_408_and_does_not_hold_its_place() {
    let daemon = Setup::alone().start().await;
    let mut stream = TcpStream::connect(daemon.address()).await.unwrap();
    stream.write_all(b"POST / HTTP/1.1\r\nHost: loc").await.unwrap();
    let answer = raw::rest(&mut stream).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("RequestTimeoutException"), "{answer}");
    let record = daemon.record("the slow head", |record| record["statusCode"] == 408).await;
    assert_eq!((&record["outcome"], &record["operation"]), (&json!("refused"), &json!("Unknown")));
}

#[tokio::test]
async fn a_refused_head_leaves_a_record() {
    let daemon = Setup::alone().start().await;
    raw::exchange(daemon.address(), "GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let record = daemon.record("the refused head", |record| record["statusCode"] == 400).await;
    assert_eq!(record["outcome"], "refused");
    assert!(record["errorMessage"].as_str().unwrap().contains("exactly one Host header"), "{record}");
}

/// The JS SDK sends GOAWAY while its streams are open: they must still come whole.
#[tokio::test]
async fn a_stream_comes_whole_after_its_client_has_said_goaway() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).ready().await;
    let whole = daemon.post(&stream_path(ON_DEMAND), converse("events 20")).await;
    assert_eq!(whole.status, 200);
    bedrock.gate().close();

    let body = converse("events 20");
    let mut headers = Vec::new();
    for (name, value) in [
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "localhost"),
        (":path", stream_path(ON_DEMAND).as_str()),
        ("content-type", "application/json"),
    ] {
        // A literal without indexing and without Huffman coding.
        headers.push(0);
        for text in [name, value] {
            headers.push(u8::try_from(text.len()).unwrap());
            headers.extend_from_slice(text.as_bytes());
        }
    }
    let mut stream = TcpStream::connect(daemon.address()).await.unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    stream.write_all(&raw::h2_frame(4, 0, 0, &[])).await.unwrap();
    stream.write_all(&raw::h2_frame(1, 4, 1, &headers)).await.unwrap();
    stream.write_all(&raw::h2_frame(0, 1, 1, body.as_bytes())).await.unwrap();
    until("the stream to be held at the gate", || (bedrock.gate().state().waiting == 1).then_some(())).await;
    stream.write_all(&raw::h2_frame(7, 0, 0, &[0; 8])).await.unwrap();
    bedrock.gate().open();

    let mut data = Vec::new();
    loop {
        let (kind, flags, payload) =
            within("a frame", raw::read_h2_frame(&mut stream)).await.expect("ended before the stream");
        match kind {
            0 => data.extend_from_slice(&payload),
            3 => panic!("the stream was reset"),
            _ => {}
        }
        if kind == 0 && flags & 1 == 1 {
            break;
        }
    }
    assert_eq!(data, whole.body);
}
