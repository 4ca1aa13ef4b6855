//! Writes one HTTP/1.1 answer.

use std::fmt::Write;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, StatusCode};
use tokio::io::{AsyncWrite, AsyncWriteExt};

use crate::exchange::{Answered, Connection};
use crate::framing::script::{Account, Next, Script, fields};
use crate::framing::shape::{Body, Chunks, Digits, H1, H1End, H1Stop, Names};
use crate::record::Ended;
use crate::state::State;
use crate::wire::Ending;

/// What becomes of the connection.
pub(crate) enum After {
    /// It waits for a request; the end says how patiently.
    Next(H1End),
    /// It is closed with all courtesy.
    Close,
    /// It is closed, with TLS's close_notify.
    Notify,
    /// It is gone.
    Drop,
}

pub(crate) async fn write<W: AsyncWrite + Unpin>(
    state: &State,
    connection: &Connection,
    inner: &mut W,
    answered: Answered,
    keeps_alive: bool,
) -> io::Result<After> {
    let Answered { reply, headers, framing, record, length, streams } = answered;
    let shape = framing.h1();
    // A fault has announced a length of its own; the bytes follow as they are.
    let given = headers.iter().any(|(name, _)| name == "content-length");
    let body = match shape.body {
        _ if given => Body::Length,
        Body::AsIs if streams => Body::Chunked(Chunks::PLAIN),
        Body::AsIs => Body::Length,
        other => other,
    };
    let closes = !keeps_alive
        || body == Body::UntilClose
        || matches!(shape.end, H1End::Close | H1End::Early | H1End::EarlyReset | H1End::StopUnsaid);
    let stops = matches!(shape.end, H1End::Stop(_) | H1End::StopUnsaid);
    let how = if stops { Ended::Cut } else { Ended::Completed };
    let mut account = Account::new(record, Arc::clone(&connection.control));
    let mut writer = Writer { inner, size: shape.write, extensions: EXTENSIONS };

    if shape.end == H1End::Stop(H1Stop::BeforeHead) {
        account.close(how);
        return Ok(After::Notify);
    }
    for status in shape.interim {
        writer.write(interim(*status).as_bytes()).await?;
    }
    let mut bytes = head(&shape, reply.status, fields(headers, shape.fields)).into_bytes();
    tell_length(&mut bytes, &shape, body, length, given, closes);
    if shape.end == H1End::Stop(H1Stop::InHead) {
        account.close(how);
        writer.write(&bytes[..bytes.len() / 2]).await?;
        return Ok(After::Notify);
    }
    if streams {
        writer.write(&bytes).await?;
        bytes.clear();
    }

    let mut script = Script::new(reply.steps, state.gate.clone());
    let mut going_away = false;
    loop {
        match script.next().await {
            Next::Piece(piece, last) => {
                account.sent(&piece);
                writer.frame(&mut bytes, &piece, body, last && shape.end == H1End::Stop(H1Stop::InChunk));
                if last {
                    break;
                }
                writer.write(&bytes).await?;
                bytes.clear();
            }
            Next::GoAway => going_away = true,
            Next::Cut(how) => {
                account.close(Ended::Cut);
                writer.write(&bytes).await?;
                if how != Ending::StreamError {
                    connection.control.kill(how);
                    std::future::pending::<()>().await;
                }
                return Ok(After::Drop);
            }
            Next::End => break,
        }
    }
    if let Body::Chunked(Chunks { late, .. }) = body
        && late > 0
    {
        writer.write(&bytes).await?;
        bytes.clear();
        tokio::time::sleep(Duration::from_millis(late)).await;
    }
    // In time for a client that looks at the record as soon as it has the end.
    account.close(how);
    end(&mut bytes, &shape, body);
    writer.write(&bytes).await?;
    Ok(match shape.end {
        H1End::Stop(_) => After::Notify,
        H1End::StopUnsaid | H1End::EarlyReset => After::Drop,
        H1End::CloseUnsaid | H1End::Extra(_) => After::Close,
        _ if closes || going_away => After::Close,
        end => After::Next(end),
    })
}

fn interim(status: u16) -> String {
    let more = if status == 103 { "link: </simulator>; rel=preload\r\n" } else { "" };
    format!("HTTP/1.1 {status} {}\r\n{more}\r\n", reason(status))
}

fn reason(status: u16) -> &'static str {
    StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or("Unknown")
}

/// The status line and the headers, without what tells the body's length.
fn head(shape: &H1, status: u16, headers: Vec<(HeaderName, HeaderValue)>) -> String {
    let mut head = format!("HTTP/1.1 {status} {}\r\n", if shape.reason { reason(status) } else { "" });
    for (name, value) in headers {
        field(&mut head, shape, name.as_str(), &String::from_utf8_lossy(value.as_bytes()));
    }
    head
}

fn tell_length(bytes: &mut Vec<u8>, shape: &H1, body: Body, length: usize, given: bool, closes: bool) {
    let mut head = String::new();
    match body {
        _ if given => {}
        Body::AsIs | Body::Length => field(&mut head, shape, "content-length", &length.to_string()),
        Body::Chunked(chunks) => {
            if chunks.trailers {
                field(&mut head, shape, "trailer", "x-amzn-simulator-trailer");
            }
            field(&mut head, shape, "transfer-encoding", "chunked");
        }
        Body::UntilClose => {}
    }
    if closes {
        field(&mut head, shape, "connection", "close");
    }
    head.push_str("\r\n");
    bytes.extend_from_slice(head.as_bytes());
}

fn field(head: &mut String, shape: &H1, name: &str, value: &str) {
    let mut first = true;
    let name: String = name
        .chars()
        .enumerate()
        .map(|(at, letter)| {
            let starts = std::mem::replace(&mut first, letter == '-');
            match shape.names {
                Names::Upper => letter.to_ascii_uppercase(),
                Names::Title if starts => letter.to_ascii_uppercase(),
                Names::Odd if at % 2 == 1 => letter.to_ascii_uppercase(),
                _ => letter,
            }
        })
        .collect();
    // Writing to a string cannot fail.
    let _ = write!(head, "{name}{}{value}{}\r\n", shape.colon, shape.behind);
}

/// What comes behind the body.
fn end(bytes: &mut Vec<u8>, shape: &H1, body: Body) {
    let chunked = matches!(body, Body::Chunked(_));
    match (shape.end, body) {
        (H1End::Stop(H1Stop::InChunkSize), _) if chunked => bytes.extend_from_slice(b"1"),
        (H1End::Stop(H1Stop::InTrailers), _) if chunked => bytes.extend_from_slice(b"0\r\n"),
        (H1End::Stop(_) | H1End::StopUnsaid, _) => {}
        (_, Body::Chunked(chunks)) => {
            bytes.extend_from_slice(if chunks.digits == Digits::LeadingZeros { b"000\r\n" } else { b"0\r\n" });
            if chunks.trailers {
                bytes.extend_from_slice(b"x-amzn-simulator-trailer: behind the body\r\nX-Checksum:0\r\n");
            }
            bytes.extend_from_slice(b"\r\n");
        }
        _ => {}
    }
    if let H1End::Extra(extra) = shape.end {
        bytes.extend_from_slice(extra.as_bytes());
    }
}

/// Extensions longer than this in all are taken for an attack by some clients.
const EXTENSIONS: usize = 4096;

struct Writer<'a, W> {
    inner: &'a mut W,
    /// Bytes a write; 0 means as they come.
    size: usize,
    /// Bytes of chunk extensions that may still be written.
    extensions: usize,
}

impl<W: AsyncWrite + Unpin> Writer<'_, W> {
    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let size = if self.size == 0 { bytes.len().max(1) } else { self.size };
        for piece in bytes.chunks(size) {
            self.inner.write_all(piece).await?;
            self.inner.flush().await?;
        }
        Ok(())
    }

    /// A piece of body, in chunks where it is chunked. One that stops announces more than comes.
    fn frame(&mut self, bytes: &mut Vec<u8>, piece: &[u8], body: Body, stops: bool) {
        let Body::Chunked(chunks) = body else {
            bytes.extend_from_slice(piece);
            return;
        };
        let size = if chunks.size == 0 { piece.len().max(1) } else { chunks.size };
        for chunk in piece.chunks(size) {
            let length = chunk.len() + if stops { 100 } else { 0 };
            let digits = match chunks.digits {
                Digits::Lower => format!("{length:x}"),
                Digits::Upper => format!("{length:X}"),
                Digits::LeadingZeros => format!("{length:08x}"),
            };
            bytes.extend_from_slice(digits.as_bytes());
            if self.extensions >= chunks.extension.len() {
                self.extensions -= chunks.extension.len();
                bytes.extend_from_slice(chunks.extension.as_bytes());
            }
            bytes.extend_from_slice(b"\r\n");
            bytes.extend_from_slice(chunk);
            if !stops {
                bytes.extend_from_slice(b"\r\n");
            }
        }
    }
}
