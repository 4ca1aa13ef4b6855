//! The simulator from outside, over bare sockets: what a client really sees when streams are gated, cut or refused.

use std::io;
use std::time::Duration;

use simulator::{DEFAULT_BEARER_TOKEN, Effect, Ended, Ending, Fault, Options, Simulator, eventstream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const BODY: &str = r#"{"messages":[{"role":"user","content":[{"text":"one two three"}]}]}"#;

/// messageStart, `echo:` and three words, contentBlockStop, messageStop, metadata.
const EVENTS: usize = 8;

async fn connect(simulator: &Simulator) -> io::Result<TcpStream> {
    TcpStream::connect(simulator.plain_endpoint().trim_start_matches("http://")).await
}

async fn send(simulator: &Simulator, action: &str, more: &str) -> io::Result<TcpStream> {
    let mut stream = connect(simulator).await?;
    let host = simulator.plain_endpoint();
    let host = host.trim_start_matches("http://");
    let request = format!(
        "POST /model/amazon.nova-lite-v1%3A0/{action} HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer \
         {DEFAULT_BEARER_TOKEN}\r\n{more}connection: close\r\ncontent-length: {}\r\n\r\n{BODY}",
        BODY.len()
    );
    stream.write_all(request.as_bytes()).await?;
    Ok(stream)
}

/// Reads to the end, however it comes.
async fn read_all(mut stream: TcpStream) -> (Vec<u8>, io::Result<()>) {
    let mut bytes = Vec::new();
    let result = stream.read_to_end(&mut bytes).await.map(|_| ());
    (bytes, result)
}

/// Takes the chunks of a chunked body apart; the flag says whether the terminating chunk came.
fn unchunk(bytes: &[u8]) -> (Vec<u8>, bool) {
    let text = String::from_utf8_lossy(bytes);
    let mut at =
        text.find("\r\n\r\n").map_or(0, |_| bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or(0) + 4);
    let mut body = Vec::new();
    while let Some(line) = bytes[at..].windows(2).position(|two| two == b"\r\n") {
        let size = usize::from_str_radix(&String::from_utf8_lossy(&bytes[at..at + line]), 16).unwrap_or(0);
        if size == 0 {
            return (body, true);
        }
        at += line + 2;
        body.extend_from_slice(&bytes[at..(at + size).min(bytes.len())]);
        at = (at + size + 2).min(bytes.len());
    }
    (body, false)
}

#[tokio::test]
async fn a_stream_comes_whole_and_is_recorded() -> Result<(), Box<dyn std::error::Error>> {
    let simulator = Simulator::start(Options::default()).await?;
    let (bytes, result) = read_all(send(&simulator, "converse-stream", "").await?).await;
    result?;
    let (body, ended) = unchunk(&bytes);
    assert!(ended);
    assert_eq!(eventstream::decode_all(&body)?.len(), EVENTS);
    let requests = simulator.requests();
    assert_eq!(requests[0].operation.as_deref(), Some("ConverseStream"));
    assert_eq!(requests[0].model_resolved.as_deref(), Some("amazon.nova-lite-v1:0"));
    assert_eq!(requests[0].path, "/model/amazon.nova-lite-v1%3A0/converse-stream");
    assert_eq!((requests[0].ended, requests[0].bytes_sent), (Ended::Completed, body.len() as u64));
    Ok(())
}

#[tokio::test]
async fn a_closed_gate_withholds_events_and_a_client_that_leaves_is_noticed() -> io::Result<()> {
    let simulator = Simulator::start(Options::default()).await?;
    simulator.gate().close();
    let mut stream = send(&simulator, "converse-stream", "").await?;
    simulator.gate().release(1);
    let mut bytes = Vec::new();
    // Until nothing more comes: a chunk and its line end may arrive apart.
    while let Ok(read) = tokio::time::timeout(Duration::from_millis(200), stream.read_buf(&mut bytes)).await {
        assert!(read? > 0, "the stream goes on");
    }
    let messages = eventstream::decode_all(&unchunk(&bytes).0).map_err(io::Error::other)?;
    assert_eq!(messages.len(), 1, "the second event is withheld");
    drop(stream);
    for _ in 0..100 {
        if simulator.requests()[0].ended == Ended::ClientWentAway {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Err(io::Error::other("the departure went unnoticed"))
}

#[tokio::test]
async fn cuts_come_as_ordered() -> Result<(), Box<dyn std::error::Error>> {
    let simulator = Simulator::start(Options::default()).await?;
    for (how, reset) in [(Ending::Rst, true), (Ending::Fin, false), (Ending::StreamError, false)] {
        simulator.inject(Fault::once(Effect::Cut { after_bytes: None, after_events: Some(3), how }));
        let (bytes, result) = read_all(send(&simulator, "converse-stream", "").await?).await;
        let (body, ended) = unchunk(&bytes);
        assert_eq!(eventstream::decode_all(&body)?.len(), 3, "{how:?}");
        assert!(!ended, "{how:?}: no terminating chunk");
        assert_eq!(result.is_err(), reset, "{how:?}");
    }
    assert!(simulator.requests().iter().all(|request| request.ended == Ended::Cut));
    Ok(())
}

#[tokio::test]
async fn an_exception_takes_the_place_of_the_rest() -> Result<(), Box<dyn std::error::Error>> {
    let simulator = Simulator::start(Options::default()).await?;
    simulator.inject(Fault::once(Effect::StreamException {
        after_events: 2,
        exception: "modelStreamErrorException".to_owned(),
        message: "broken".to_owned(),
    }));
    let (bytes, _) = read_all(send(&simulator, "converse-stream", "").await?).await;
    let messages = eventstream::decode_all(&unchunk(&bytes).0)?;
    assert_eq!(messages.len(), 3);
    assert_eq!(messages[2].header(":exception-type"), Some("modelStreamErrorException"));
    Ok(())
}

#[tokio::test]
async fn refused_connections_come_back_on_the_same_port() -> io::Result<()> {
    let simulator = Simulator::start(Options::default()).await?;
    simulator.refuse_connections(true);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(connect(&simulator).await.map_err(|error| error.kind()).err(), Some(io::ErrorKind::ConnectionRefused));
    simulator.refuse_connections(false);
    tokio::time::sleep(Duration::from_millis(100)).await;
    let (bytes, result) = read_all(send(&simulator, "converse", "").await?).await;
    result?;
    assert!(bytes.starts_with(b"HTTP/1.1 200"));
    Ok(())
}

#[tokio::test]
async fn expect_100_continue_is_honoured() -> io::Result<()> {
    let simulator = Simulator::start(Options::default()).await?;
    let (bytes, _) = read_all(send(&simulator, "converse", "expect: 100-continue\r\n").await?).await;
    assert!(bytes.starts_with(b"HTTP/1.1 100 Continue"), "{}", String::from_utf8_lossy(&bytes));
    Ok(())
}

#[tokio::test]
async fn a_leak_is_refused_and_recorded() -> io::Result<()> {
    let simulator = Simulator::start(Options::default()).await?;
    let (bytes, _) = read_all(send(&simulator, "converse", "x-forwarded-for: 10.0.0.1\r\n").await?).await;
    assert!(bytes.starts_with(b"HTTP/1.1 400"));
    assert_eq!(simulator.requests()[0].leaks, ["header x-forwarded-for"]);
    Ok(())
}
