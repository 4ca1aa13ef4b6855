//! HTTP/1.1 answers byte by byte, with a parser that knows no mercy.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use simulator::framing::{self, Framing, Verdict};
use simulator::{DEFAULT_BEARER_TOKEN, Options, Simulator};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::client::{CONVERSE, Call, ROADS, Road, STREAM, Stream, connect};

const H1: Road = Road { http2: false, tls: false };

async fn framed(name: &str) -> Simulator {
    let framing: Framing = name.parse().unwrap();
    Simulator::start(Options { framing: Some(framing.into()), ..Options::default() }).await.unwrap()
}

fn request(simulator: &Simulator, call: Call, more: &str) -> String {
    let endpoint = simulator.plain_endpoint();
    let host = endpoint.trim_start_matches("http://");
    format!(
        "POST {} HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {DEFAULT_BEARER_TOKEN}\r\n{more}content-length: {}\r\n\r\n",
        call.path,
        call.body.len()
    )
}

async fn send(simulator: &Simulator, road: Road, call: Call) -> Box<dyn Stream> {
    let mut stream = connect(simulator, road).await.unwrap();
    stream.write_all(format!("{}{}", request(simulator, call, ""), call.body).as_bytes()).await.unwrap();
    stream
}

/// What comes within a while, and how it ended: `None` when the connection is still open.
async fn read(stream: &mut Box<dyn Stream>, patience: u64) -> (Vec<u8>, Option<Result<(), ErrorKind>>) {
    let mut bytes = Vec::new();
    loop {
        match tokio::time::timeout(Duration::from_millis(patience), stream.read_buf(&mut bytes)).await {
            Err(_) => return (bytes, None),
            Ok(Ok(0)) => return (bytes, Some(Ok(()))),
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return (bytes, Some(Err(error.kind()))),
        }
    }
}

async fn exchange(name: &str, road: Road, call: Call) -> (Vec<u8>, Option<Result<(), ErrorKind>>) {
    let simulator = framed(name).await;
    let mut stream = send(&simulator, road, call).await;
    let (mut bytes, mut end) = (Vec::new(), None);
    // Patient until the answer's end, and then only for what comes right behind it.
    let asked = Instant::now();
    while end.is_none()
        && asked.elapsed() < Duration::from_secs(5)
        && !parse(&bytes).is_some_and(|parsed| parsed.complete)
    {
        let (more, how) = read(&mut stream, 20).await;
        bytes.extend(more);
        end = how;
    }
    if end.is_none() {
        let (more, how) = read(&mut stream, 200).await;
        bytes.extend(more);
        end = how;
    }
    (bytes, end)
}

#[derive(Debug, Default)]
struct Parsed {
    interim: Vec<u16>,
    status: u16,
    head: Vec<String>,
    /// Each chunk's line, where there are chunks.
    chunks: Vec<String>,
    body: Vec<u8>,
    trailers: Vec<String>,
    rest: Vec<u8>,
    /// Whether the body's end was told by its length or its last chunk.
    complete: bool,
}

impl Parsed {
    fn field(&self, name: &str) -> Option<&str> {
        self.head.iter().find_map(|line| {
            let (known, value) = line.split_once(':')?;
            known.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

fn line(bytes: &mut &[u8]) -> Option<String> {
    let at = bytes.windows(2).position(|two| two == b"\r\n")?;
    let line = String::from_utf8(bytes[..at].to_vec()).unwrap();
    *bytes = &bytes[at + 2..];
    Some(line)
}

fn parse(mut bytes: &[u8]) -> Option<Parsed> {
    let mut parsed = Parsed::default();
    loop {
        let start = line(&mut bytes)?;
        parsed.status = start.strip_prefix("HTTP/1.1 ")?.split(' ').next()?.parse().ok()?;
        parsed.head = vec![start];
        loop {
            match line(&mut bytes)? {
                end if end.is_empty() => break,
                field => parsed.head.push(field),
            }
        }
        if parsed.status >= 200 {
            break;
        }
        parsed.interim.push(parsed.status);
    }
    if parsed.field("transfer-encoding") == Some("chunked") {
        assert_eq!(parsed.field("content-length"), None);
        while let Some(chunk) = line(&mut bytes) {
            let size = usize::from_str_radix(chunk.split(';').next()?.trim(), 16).unwrap();
            parsed.chunks.push(chunk);
            if size == 0 {
                while let Some(trailer) = line(&mut bytes) {
                    if trailer.is_empty() {
                        parsed.complete = true;
                        break;
                    }
                    parsed.trailers.push(trailer);
                }
                break;
            }
            let taken = size.min(bytes.len());
            parsed.body.extend_from_slice(&bytes[..taken]);
            bytes = &bytes[taken..];
            if taken == size && bytes.len() >= 2 {
                assert_eq!(&bytes[..2], b"\r\n");
                bytes = &bytes[2..];
            } else {
                bytes = &[];
            }
        }
    } else if let Some(length) = parsed.field("content-length").map(|length| length.parse::<usize>().unwrap()) {
        let taken = length.min(bytes.len());
        parsed.complete = taken == length;
        parsed.body.extend_from_slice(&bytes[..taken]);
        bytes = &bytes[taken..];
    } else {
        parsed.body = std::mem::take(&mut bytes).to_vec();
    }
    parsed.rest = bytes.to_vec();
    Some(parsed)
}

async fn parsed(name: &str, call: Call) -> Parsed {
    let (bytes, _) = exchange(name, H1, call).await;
    parse(&bytes).unwrap_or_else(|| panic!("{name}: {}", String::from_utf8_lossy(&bytes)))
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_tell_whole_answers_from_others() {
    let mut tasks = tokio::task::JoinSet::new();
    for road in &ROADS[..2] {
        for call in [CONVERSE, STREAM] {
            let whole = parsed("plain", call).await.body;
            for framing in framing::ALL.iter().filter(|framing| framing.fits(false, road.tls, call.stream)) {
                let whole = whole.clone();
                tasks.spawn(async move {
                    let name = framing.to_string();
                    let (bytes, end) = exchange(&name, *road, call).await;
                    let parsed = parse(&bytes).unwrap_or_default();
                    let delimited = parsed.field("connection") == Some("close") && end == Some(Ok(()));
                    let complete = parsed.complete || delimited && parsed.field("transfer-encoding").is_none();
                    let is_whole = complete && parsed.body == whole;
                    let cut_events = name.starts_with("events-");
                    match framing.verdict() {
                        Verdict::Whole | Verdict::NextUnprocessed => assert!(is_whole, "{name} {road:?}"),
                        Verdict::Broken if cut_events => assert!(complete && !is_whole, "{name} {road:?}"),
                        Verdict::Broken => assert!(!complete, "{name} {road:?}: {parsed:?}"),
                        Verdict::Unfinished => assert!(complete && !is_whole, "{name} {road:?}"),
                        Verdict::Early if !parsed.body.is_empty() => assert_eq!((parsed.status, complete), (413, true)),
                        _ => {}
                    }
                });
            }
        }
    }
    while let Some(result) = tasks.join_next().await {
        result.unwrap();
    }
}

#[tokio::test]
async fn chunks_are_written_as_named() {
    let chunks = parsed("h1-chunked-1-ext", CONVERSE).await.chunks;
    assert!(chunks.len() > 100);
    assert!(chunks[..chunks.len() - 1].iter().all(|chunk| chunk == "1;sim=1"), "{chunks:?}");
    let chunks = parsed("h1-chunked-ext-quoted", STREAM).await.chunks;
    assert!(chunks[0].ends_with(" ; sim = \"a;b\" ;alone"), "{chunks:?}");
    assert!(parsed("h1-chunked-upper", CONVERSE).await.chunks[..2].iter().all(|chunk| chunk == "1A"));
    let chunks = parsed("h1-chunked-zeros", CONVERSE).await.chunks;
    assert_eq!((chunks[0].as_str(), chunks.last().unwrap().as_str()), ("00000064", "000"));
    let trailed = parsed("h1-chunked-trailers", STREAM).await;
    assert_eq!(trailed.trailers, ["x-amzn-simulator-trailer: behind the body", "X-Checksum:0"]);
    assert_eq!(trailed.field("trailer"), Some("x-amzn-simulator-trailer"));
    assert_eq!(parsed("h1-chunked-37", CONVERSE).await.chunks[0], "25");
}

#[tokio::test]
async fn heads_are_written_as_named() {
    for (name, line) in [
        ("h1-names-title", "Content-Type: application/json"),
        ("h1-names-upper", "CONTENT-TYPE: application/json"),
        ("h1-names-odd", "cOnTeNt-tYpE: application/json"),
        ("h1-no-space", "content-type:application/json"),
        ("h1-odd-space", "content-type: \t application/json \t"),
        ("h1-no-reason", "HTTP/1.1 200 "),
    ] {
        let head = parsed(name, CONVERSE).await.head;
        assert!(head.iter().any(|field| field == line), "{name}: {head:?}");
    }
    assert_eq!(parsed("h1-100", CONVERSE).await.interim, [100]);
    assert_eq!(parsed("h1-102-103", STREAM).await.interim, [102, 103]);
    let names = |parsed: &Parsed| -> Vec<String> {
        parsed.head[1..].iter().map(|field| field.split(':').next().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&parsed("plain", CONVERSE).await)[..3], ["date", "x-amzn-requestid", "content-type"]);
    assert_eq!(names(&parsed("h1-fields-reversed", CONVERSE).await)[..3], ["content-type", "x-amzn-requestid", "date"]);
    let doubled = names(&parsed("h1-fields-doubled", CONVERSE).await);
    assert_eq!(doubled.iter().filter(|name| *name == "x-amzn-simulator-twice").count(), 6);
    assert!(parsed("h1-fields-large", CONVERSE).await.head.iter().any(|field| field.len() > 8_000));
    assert!(parsed("h1-fields-many", CONVERSE).await.head.len() > 60);
}

#[tokio::test]
async fn connections_end_as_named() {
    let tls = ROADS[1];
    for (name, road, closed) in [
        ("plain", H1, None),
        ("h1-close", H1, Some(Ok(()))),
        ("h1-close", tls, Some(Ok(()))),
        ("h1-close-unsaid", tls, Some(Ok(()))),
        ("h1-close-idle", H1, Some(Ok(()))),
        ("h1-close-delimited", tls, Some(Ok(()))),
        ("h1-close-delimited-no-notify", tls, Some(Err(ErrorKind::UnexpectedEof))),
        ("h1-close-delimited-cut", tls, Some(Err(ErrorKind::UnexpectedEof))),
        ("h1-stop-before-head", tls, Some(Ok(()))),
    ] {
        assert_eq!(exchange(name, road, CONVERSE).await.1, closed, "{name} {road:?}");
    }
    let delimited = parsed("h1-close-delimited", CONVERSE).await;
    assert_eq!((delimited.field("content-length"), delimited.field("connection")), (None, Some("close")));
    assert_eq!(delimited.body, parsed("plain", CONVERSE).await.body);
    assert_eq!(parsed("h1-close-unsaid", CONVERSE).await.field("connection"), None);
    assert_eq!(parsed("h1-extra", CONVERSE).await.rest, b"\0\x01not asked for\r\n");
    assert!(parsed("h1-extra-answer", CONVERSE).await.rest.starts_with(b"HTTP/1.1 200 OK\r\n"));
    assert!(exchange("h1-stop-in-head", H1, CONVERSE).await.0.starts_with(b"HTTP/1.1 200 OK\r\n"));
}

#[tokio::test]
async fn the_tail_comes_late() {
    for name in ["h1-chunked-late-end", "h1-chunked-late-trailers"] {
        let simulator = framed(name).await;
        let mut stream = send(&simulator, H1, CONVERSE).await;
        let (bytes, _) = read(&mut stream, 25).await;
        let whole = parsed("plain", CONVERSE).await.body;
        let early = parse(&bytes).unwrap();
        assert!(!early.complete && early.body == whole, "{name}");
        let (tail, _) = read(&mut stream, 200).await;
        assert!(tail.starts_with(b"0\r\n"), "{name}");
    }
}

#[tokio::test]
async fn a_connection_is_closed_under_the_next_request() {
    let simulator = framed("h1-close-under-next").await;
    let mut stream = send(&simulator, H1, CONVERSE).await;
    assert!(parse(&read(&mut stream, 100).await.0).unwrap().complete);
    stream.write_all(format!("{}{}", request(&simulator, CONVERSE, ""), CONVERSE.body).as_bytes()).await.unwrap();
    let (bytes, end) = read(&mut stream, 1_000).await;
    assert!(bytes.is_empty() && end.is_some());
    assert_eq!(simulator.requests().len(), 1);
}

#[tokio::test]
async fn an_early_answer_waits_for_no_body() {
    for name in ["h1-early", "h1-early-reset"] {
        let simulator = framed(name).await;
        let mut stream = connect(&simulator, H1).await.unwrap();
        let asked = Instant::now();
        stream.write_all(request(&simulator, CONVERSE, "").as_bytes()).await.unwrap();
        let (bytes, end) = read(&mut stream, 1_500).await;
        let early = parse(&bytes).unwrap();
        assert_eq!((early.status, early.field("connection"), early.complete), (413, Some("close"), true));
        assert_eq!(end, Some(Ok(())));
        assert!(asked.elapsed() < Duration::from_secs(1));
        assert_eq!(simulator.requests()[0].body_length, 0);
    }
}

#[tokio::test]
async fn requests_are_read_in_all_their_forms() {
    let simulator = framed("plain").await;
    let mut stream = connect(&simulator, H1).await.unwrap();
    let head = request(&simulator, CONVERSE, "expect: 100-continue\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    assert!(read(&mut stream, 100).await.0.starts_with(b"HTTP/1.1 100 Continue\r\n\r\n"));
    stream.write_all(CONVERSE.body.as_bytes()).await.unwrap();
    assert_eq!(parse(&read(&mut stream, 100).await.0).unwrap().status, 200);

    let chunked = request(&simulator, CONVERSE, "")
        .replace(&format!("content-length: {}", CONVERSE.body.len()), "transfer-encoding: chunked");
    let (first, second) = CONVERSE.body.split_at(9);
    let body = format!("{:x};ext\r\n{first}\r\n{:X}\r\n{second}\r\n0\r\ntrailer: x\r\n\r\n", first.len(), second.len());
    stream.write_all(format!("{chunked}{body}").as_bytes()).await.unwrap();
    assert_eq!(parse(&read(&mut stream, 100).await.0).unwrap().status, 200);
    assert_eq!(simulator.requests()[1].body, CONVERSE.body);

    // Two at once, as a client that does not wait.
    let one = format!("{}{}", request(&simulator, CONVERSE, ""), CONVERSE.body);
    stream.write_all(format!("{one}{one}").as_bytes()).await.unwrap();
    let first = parse(&read(&mut stream, 100).await.0).unwrap();
    assert!(first.complete && parse(&first.rest).unwrap().complete);

    stream.write_all(b"NOT HTTP\r\n\r\n").await.unwrap();
    let (bytes, end) = read(&mut stream, 1_000).await;
    assert!(bytes.starts_with(b"HTTP/1.1 400 ") && end.is_some());
}
