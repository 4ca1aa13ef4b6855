//! Frames that no client would send. What is not refused by name ends its stream or its connection.

use http::Method;
use serde_json::json;
use test_support::*;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::{is_served, nothing_else_went_upstream};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// What a flood consists of.
const MANY: u32 = 20_000;

type Fields = Vec<(&'static str, String)>;

fn fields(path: &str) -> Fields {
    let fixed = [(":method", "POST"), (":scheme", "http"), (":authority", "localhost"), (":path", path)];
    fixed.map(|(name, value)| (name, value.to_owned())).to_vec()
}

fn with(name: &'static str, value: &str) -> Fields {
    let mut all = fields(&converse_path(ON_DEMAND));
    all.retain(|(known, _)| !(name.starts_with(':') && *known == name));
    let place = if name.starts_with(':') { 0 } else { all.len() };
    all.insert(place, (name, value.to_owned()));
    all
}

/// Literals without indexing and without Huffman coding.
fn block(fields: &Fields) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [*name, value.as_str()] {
            let mut length = text.len();
            if length < 127 {
                block.push(u8::try_from(length).unwrap());
            } else {
                block.push(127);
                length -= 127;
                while length >= 128 {
                    block.push(u8::try_from(length % 128 + 128).unwrap());
                    length /= 128;
                }
                block.push(u8::try_from(length).unwrap());
            }
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

async fn connected(daemon: &Daemon) -> TcpStream {
    let mut stream = TcpStream::connect(daemon.address()).await.unwrap();
    stream.write_all(PREFACE).await.unwrap();
    stream.write_all(&raw::h2_frame(SETTINGS, 0, 0, &[])).await.unwrap();
    stream
}

/// How a stream has ended.
#[derive(Debug, PartialEq)]
enum End {
    /// With an answer: its body is what tells.
    Answer(String),
    Reset(u32),
    Goaway(u32),
    Closed,
}

fn code(payload: &[u8]) -> u32 {
    u32::from_be_bytes(payload.try_into().unwrap())
}

async fn end(stream: &mut TcpStream) -> End {
    let mut body = Vec::new();
    loop {
        let Some((kind, flags, payload)) = within("a frame", raw::read_h2_frame(stream)).await else {
            return End::Closed;
        };
        match kind {
            DATA => body.extend_from_slice(&payload),
            RST_STREAM => return End::Reset(code(&payload)),
            // The first GOAWAY of a connection that is to end in peace has NO_ERROR.
            GOAWAY if code(&payload[4..8]) != 0 => return End::Goaway(code(&payload[4..8])),
            _ => {}
        }
        if matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0 {
            return End::Answer(String::from_utf8_lossy(&body).into_owned());
        }
    }
}

/// Sends a request on stream 1 of a new connection.
async fn ask(daemon: &Daemon, fields: &Fields) -> End {
    let mut stream = connected(daemon).await;
    let block = block(fields);
    let mut parts = block.chunks(16_000).peekable();
    let mut kind = HEADERS;
    while let Some(part) = parts.next() {
        let flags = if parts.peek().is_none() { END_HEADERS } else { 0 };
        // The other side may have heard enough.
        let _ = stream.write_all(&raw::h2_frame(kind, flags, 1, part)).await;
        kind = CONTINUATION;
    }
    let _ = stream.write_all(&raw::h2_frame(DATA, END_STREAM, 1, converse("never").as_bytes())).await;
    end(&mut stream).await
}

#[tokio::test]
async fn malformed_requests_end_their_stream_or_connection() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).ready().await;
    let without = |name: &str| fields(&converse_path(ON_DEMAND)).into_iter().filter(|field| field.0 != name).collect();
    let twice = |name: &str, value: &str| {
        let mut all = fields(&converse_path(ON_DEMAND));
        let first = all.iter().find(|field| field.0 == name).unwrap().0;
        all.insert(0, (first, value.to_owned()));
        all
    };
    let cases: Vec<(&str, Fields)> = vec![
        ("an empty path", with(":path", "")),
        ("a path without a slash", with(":path", "model/a.b/converse")),
        ("a URL for a path", with(":path", "http://169.254.169.254/")),
        ("a space in a path", with(":path", "/model/a b/converse")),
        ("a zero byte in a path", with(":path", "/model/a\0/converse")),
        ("a line break in a path", with(":path", "/model/a.b/converse HTTP/1.1\r\nX: y")),
        ("two paths", twice(":path", "/foundation-models")),
        ("two authorities", twice(":authority", "evil.example")),
        ("two methods", twice(":method", "GET")),
        ("no path", without(":path")),
        ("no method", without(":method")),
        ("no scheme", without(":scheme")),
        ("a line break in a value", with("x-a", "b\r\nx-c: d")),
        ("a bare LF in a value", with("x-a", "b\nx-c: d")),
        ("a zero byte in a value", with("x-a", "b\0")),
        ("a line break in a name", with("x-a: b\r\nx-c", "d")),
        ("a name in capitals", with("X-A", "b")),
        ("a pseudo-header that nobody knows", with(":proto", "x")),
        ("TE with anything but trailers", with("te", "gzip")),
        ("a transfer coding", with("transfer-encoding", "chunked")),
        ("a header of the connection", with("connection", "keep-alive")),
        ("an upgrade", with("upgrade", "h2c")),
        ("a wrong length", with("content-length", "3")),
        ("a length that is no number", with("content-length", "-1")),
        ("CONNECT with a path", with(":method", "CONNECT")),
    ];
    for (what, fields) in cases {
        let end = ask(&daemon, &fields).await;
        assert!(matches!(end, End::Reset(1) | End::Goaway(1)), "{what}: {end:?}");
    }
    is_served(&daemon, "after all of it").await;
    nothing_else_went_upstream(&bedrock);
    // The HTTP library has cut them off before they were requests, or while their bodies came.
    let ends: Vec<_> = daemon.records().into_iter().filter(|record| record["statusCode"] != 200).collect();
    assert!(
        ends.iter().all(|record| record["outcome"] == "refused" || record["outcome"] == "client_disconnected"),
        "{ends:?}"
    );
}

#[tokio::test]
async fn requests_that_http2_allows_and_the_daemon_does_not_are_refused_and_recorded() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).ready().await;
    let mut without_authority = fields(&converse_path(ON_DEMAND));
    without_authority.retain(|field| field.0 != ":authority");
    let mut foreign_host = without_authority.clone();
    foreign_host.push(("host", "evil.example".to_owned()));
    let tunnel = |to: &str| vec![(":method", "CONNECT".to_owned()), (":authority", to.to_owned())];
    let cases: Vec<(&str, Fields, &str)> = vec![
        ("an asterisk", with(":path", "*"), "must be a path that starts with a slash"),
        ("a dot segment", with(":path", "/model/../foundation-models"), "dot segment"),
        ("two slashes", with(":path", "//model/a.b/converse"), "empty segments"),
        ("a tunnel", tunnel("169.254.169.254:80"), "names another host"),
        ("a tunnel to this host", tunnel("localhost:80"), ""),
        ("no authority", without_authority, "exactly one Host header"),
        ("a foreign host", foreign_host, "names another host"),
        ("a foreign authority", with(":authority", "evil.example"), "names another host"),
        ("a foreign host beside the authority", with("host", "evil.example"), "names another host"),
        ("a name before the authority", with(":authority", "evil@localhost"), "names another host"),
        ("an origin", with("origin", "null"), "Origin"),
        ("a proxy", with("via", "1.1 x"), "proxy"),
    ];
    for (at, (what, fields, says)) in cases.into_iter().enumerate() {
        let end = ask(&daemon, &fields).await;
        let End::Answer(body) = &end else { panic!("{what}: {end:?}") };
        assert!(body.contains("bedrock-sidecar: ") && body.contains(says), "{what}: {body}");
        let records = until(what, || {
            let records = daemon.records();
            (records.len() > at).then_some(records)
        })
        .await;
        let last = records.last().unwrap();
        assert_eq!((&last["outcome"], &last["attempts"]), (&json!("refused"), &json!(0)), "{what}: {last}");
    }
    is_served(&daemon, "after all of it").await;
    nothing_else_went_upstream(&bedrock);
}

/// As over HTTP/1.1.
#[tokio::test]
async fn a_head_that_is_too_large_or_unclear_is_refused_and_recorded() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).ready().await;
    let many = |count: usize| {
        let mut all = fields(&converse_path(ON_DEMAND));
        all.extend((0..count).map(|_| ("x-a", "b".to_owned())));
        all
    };
    let twice = |name: &'static str, one: &str, other: &str| {
        let mut all = with(name, one);
        all.push((name, other.to_owned()));
        all
    };
    let mut long_path = fields(&format!("/{}", "b".repeat(65_000)));
    long_path.push(("x-a", "b".repeat(1_000)));
    const SIZE: &str = "64 KiB or 100 headers";
    const ONCE: &str = "must stand once";
    for (what, fields, status, says) in [
        ("a head of 70 kB", with("x-a", &"b".repeat(70_000)), 431, SIZE),
        ("101 headers", many(101), 431, SIZE),
        ("2000 headers", many(2_000), 431, SIZE),
        ("a long path", long_path, 431, SIZE),
        ("two tokens", twice("authorization", "Bearer one", "Bearer other"), 400, ONCE),
        ("one token twice", twice("authorization", "Bearer one", "Bearer one"), 400, ONCE),
        ("two types", twice("content-type", "application/json", "text/plain"), 400, ONCE),
        ("two hosts", twice("host", "localhost", "127.0.0.1"), 400, "exactly one Host"),
    ] {
        let before = daemon.records().len();
        let end = ask(&daemon, &fields).await;
        let End::Answer(body) = &end else { panic!("{what}: {end:?}") };
        assert!(body.contains(says), "{what}: {body}");
        let records = until(what, || Some(daemon.records()).filter(|records| records.len() > before)).await;
        let last = records.last().unwrap();
        assert_eq!(
            (&last["outcome"], &last["statusCode"], &last["attempts"]),
            (&json!("refused"), &json!(status), &json!(0)),
            "{what}: {last}"
        );
    }
    let mut hundred = many(99);
    hundred.push(("content-type", "application/json".to_owned()));
    let end = ask(&daemon, &hundred).await;
    assert!(
        matches!(&end, End::Answer(body) if body.contains("bedrock-sidecar") || body.contains("output")),
        "{end:?}"
    );
    // Of such a head the HTTP library keeps nothing: it answers 431 itself, without a body, or sends the client away.
    let end = ask(&daemon, &with("x-a", &"b".repeat(200_000))).await;
    assert!(matches!(&end, End::Answer(body) if body.is_empty()) || end == End::Goaway(11), "{end:?}");
    is_served(&daemon, "after large heads").await;
}

/// Streams that are opened and reset at once (CVE-2023-44487): the connection ends, and others do not notice.
/// The bound on what one connection takes of the memory, as docs/performance.md states it.
#[tokio::test]
async fn a_connection_may_send_no_more_than_the_docs_say_before_it_is_read() {
    let docs = include_str!("../../../docs/performance.md");
    let daemon = Setup::alone().start().await;
    let mut stream = connected(&daemon).await;
    let (mut settings, mut whole) = (std::collections::HashMap::new(), 65_535);
    while settings.is_empty() || whole == 65_535 {
        let (kind, flags, payload) = within("its settings", raw::read_h2_frame(&mut stream)).await.unwrap();
        match kind {
            SETTINGS if flags == 0 => {
                settings = payload.chunks(6).map(|one| (one[1], code(&one[2..6]))).collect();
            }
            WINDOW_UPDATE => whole += code(&payload),
            _ => {}
        }
    }
    let [streams, window, head] = [3, 4, 6].map(|setting| settings[&setting]);
    let (kib, mib) = (1024, 1024 * 1024);
    assert_eq!((whole % mib, window % mib, head % kib), (0, 0, 0), "{settings:?}");
    let (whole, window, head) = (whole / mib, window / mib, head / kib);
    for row in [
        format!("| HTTP/2 connection | {whole} MiB received and not yet taken; {streams} streams |"),
        format!("| HTTP/2 stream | {window} MiB of those {whole} MiB, "),
        format!(", a head of {head} KiB |"),
    ] {
        assert!(docs.contains(&row), "docs/performance.md does not say {row:?}");
    }
}

#[tokio::test]
async fn a_client_that_opens_and_resets_streams_is_sent_away() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).ready().await;
    let block = block(&fields(&converse_path(ON_DEMAND)));
    let flood = |stream: u32| {
        let mut bytes = raw::h2_frame(HEADERS, END_HEADERS, stream, &block);
        bytes.extend(raw::h2_frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
        bytes
    };
    let mut stream = connected(&daemon).await;
    let flooded = async {
        for at in 0..MANY {
            if stream.write_all(&flood(2 * at + 1)).await.is_err() {
                break;
            }
        }
    };
    tokio::join!(flooded, is_served(&daemon, "while streams are opened and reset"));
    sent_away(&mut stream, "resets").await;
    is_served(&daemon, "after streams were opened and reset").await;
    nothing_else_went_upstream(&bedrock);
}

/// A head without an end (the flood of 2024): it is cut off at the largest head, not when the memory is full.
#[tokio::test]
async fn a_head_that_never_ends_is_cut_off() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).ready().await;
    let before = daemon.memory().0;
    let mut stream = connected(&daemon).await;
    stream.write_all(&raw::h2_frame(HEADERS, 0, 1, &block(&fields(&converse_path(ON_DEMAND))))).await.unwrap();
    let more = raw::h2_frame(CONTINUATION, 0, 1, &block(&vec![("x-a", "b".repeat(16_000))]));
    let flooded = async {
        for _ in 0..2_000 {
            if stream.write_all(&more).await.is_err() {
                break;
            }
        }
    };
    tokio::join!(flooded, is_served(&daemon, "while a head does not end"));
    sent_away(&mut stream, "a head without an end").await;
    let grown = daemon.memory().0.saturating_sub(before);
    assert!(grown < 16 << 10, "{grown} KiB more for a head");
    nothing_else_went_upstream(&bedrock);
}

/// What has to be answered and costs the client nothing: who does not read the answers is not read either.
#[tokio::test]
async fn floods_of_pings_and_settings_take_no_memory_and_stop_nobody() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).ready().await;
    is_served(&daemon, "at first").await;
    let before = daemon.memory().0;
    for (what, frame) in [
        ("pings", raw::h2_frame(PING, 0, 0, &[7; 8])),
        ("settings", raw::h2_frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0])),
        ("empty frames of data", raw::h2_frame(DATA, 0, 1, &[])),
        ("frames that nobody knows", raw::h2_frame(0xEE, 0, 0, &[7; 64])),
    ] {
        let mut stream = connected(&daemon).await;
        let head = raw::h2_frame(HEADERS, END_HEADERS, 1, &block(&fields(&converse_path(ON_DEMAND))));
        stream.write_all(&head).await.unwrap();
        let burst: Vec<u8> = frame.repeat(1_000);
        let flooded = async {
            for _ in 0..200 {
                // Nobody reads here, so that it comes to a standstill, or it is all read and thrown away.
                let sent = tokio::time::timeout(std::time::Duration::from_millis(500), stream.write_all(&burst)).await;
                if !matches!(sent, Ok(Ok(()))) {
                    break;
                }
            }
        };
        tokio::join!(flooded, is_served(&daemon, what));
        let grown = daemon.memory().0.saturating_sub(before);
        assert!(grown < 32 << 10, "{what}: {grown} KiB more");
        is_served(&daemon, what).await;
    }
    nothing_else_went_upstream(&bedrock);
    assert_eq!(send(daemon.address(), request(Method::GET, "/health", "")).await.status, 200);
}

/// The connection ends with a GOAWAY that is no farewell, or with a reset that has destroyed it.
async fn sent_away(stream: &mut TcpStream, what: &str) {
    loop {
        match within(what, raw::read_h2_frame(stream)).await {
            None => return,
            Some((GOAWAY, _, payload)) if code(&payload[4..8]) != 0 => return,
            Some(_) => {}
        }
    }
}
