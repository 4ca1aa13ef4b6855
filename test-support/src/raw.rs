//! Bytes on a socket, for what no HTTP library would send.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::within;

/// Sends `bytes`, keeps its side open, and reads until the other side closes; a reset is an error.
pub async fn exchange(address: SocketAddr, bytes: impl AsRef<[u8]>) -> io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    // The other side may close before all is written: that must not lose its answer.
    let _ = stream.write_all(bytes.as_ref()).await;
    rest(&mut stream).await
}

/// All that still comes.
pub async fn rest(stream: &mut TcpStream) -> io::Result<String> {
    let mut answer = Vec::new();
    within("the connection's end", stream.read_to_end(&mut answer)).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Reads until `end` has come.
pub async fn until(stream: &mut TcpStream, end: &str) -> String {
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    while !String::from_utf8_lossy(&answer).contains(end) {
        let read = within(end, stream.read(&mut buffer)).await.unwrap();
        assert!(read > 0, "closed before {end:?} had come: {}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&buffer[..read]);
    }
    String::from_utf8_lossy(&answer).into_owned()
}

/// A well-formed Converse request.
pub fn converse(address: SocketAddr, model: &str, prompt: &str, more: &str) -> String {
    let body = crate::converse(prompt);
    format!(
        "POST {} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n{more}\r\n{body}",
        crate::converse_path(model),
        body.len()
    )
}

/// A frame of HTTP/2.
pub fn h2_frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    frame.extend_from_slice(&[kind, flags]);
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// Kind, flags and payload of the next frame of HTTP/2; None at the connection's end.
pub async fn read_h2_frame(stream: &mut TcpStream) -> Option<(u8, u8, Vec<u8>)> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.ok()?;
    let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
    stream.read_exact(&mut payload).await.ok()?;
    Some((head[3], head[4], payload))
}
