//! Reads HTTP/1.1 requests.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::auth::header;
use crate::exchange::{Arrived, BODY_LIMIT};

const HEAD_LIMIT: usize = 256 * 1024;
/// Of what comes behind a request before its answer is out.
const AHEAD_LIMIT: usize = 1024 * 1024;

pub(crate) struct Reader<R> {
    inner: R,
    buffer: BytesMut,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    pub(crate) fn new(inner: R) -> Reader<R> {
        Reader { inner, buffer: BytesMut::new() }
    }

    pub(crate) fn into_inner(self) -> R {
        self.inner
    }

    pub(crate) fn has_some(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// Waits for a byte; false at the connection's end.
    pub(crate) async fn fill_some(&mut self) -> bool {
        self.has_some() || self.more().await.is_ok()
    }

    /// Returns when the client has closed its side. What it sends until then is kept.
    pub(crate) async fn until_closed(&mut self) {
        while self.buffer.len() < AHEAD_LIMIT {
            if self.more().await.is_err() {
                return;
            }
        }
        std::future::pending().await
    }

    async fn more(&mut self) -> io::Result<()> {
        match self.inner.read_buf(&mut self.buffer).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    /// The request line and the headers; `None` when they are not HTTP.
    pub(crate) async fn head(&mut self) -> io::Result<Option<Arrived>> {
        let length = loop {
            if let Some(at) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            if self.buffer.len() > HEAD_LIMIT {
                return Ok(None);
            }
            self.more().await?;
        };
        let head = self.buffer.split_to(length);
        Ok(parse_head(&String::from_utf8_lossy(&head)))
    }

    pub(crate) fn expects_body(&self, arrived: &Arrived) -> bool {
        is_chunked(arrived) || content_length(arrived) > 0
    }

    pub(crate) async fn body(&mut self, arrived: &mut Arrived) -> io::Result<()> {
        let mut body = BytesMut::new();
        if is_chunked(arrived) {
            loop {
                let line = self.line().await?;
                let digits = line.split(';').next().unwrap_or_default().trim();
                let size = usize::from_str_radix(digits, 16).map_err(|_| io::ErrorKind::InvalidData)?;
                if size == 0 {
                    while !self.line().await?.is_empty() {}
                    break;
                }
                self.take(size, &mut body, &mut arrived.body_length).await?;
                self.line().await?;
            }
        } else {
            self.take(content_length(arrived), &mut body, &mut arrived.body_length).await?;
        }
        arrived.body = body.freeze();
        Ok(())
    }

    /// Moves so many bytes over; those above the limit are only counted.
    async fn take(&mut self, size: usize, body: &mut BytesMut, total: &mut usize) -> io::Result<()> {
        let mut left = size;
        while left > 0 {
            if self.buffer.is_empty() {
                self.more().await?;
            }
            let piece = self.buffer.split_to(left.min(self.buffer.len()));
            left -= piece.len();
            *total += piece.len();
            if *total <= BODY_LIMIT {
                body.extend_from_slice(&piece);
            }
        }
        Ok(())
    }

    async fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(at) = self.buffer.windows(2).position(|two| two == b"\r\n") {
                let line = self.buffer.split_to(at);
                self.buffer.advance(2);
                return Ok(String::from_utf8_lossy(&line).into_owned());
            }
            self.more().await?;
        }
    }
}

fn parse_head(head: &str) -> Option<Arrived> {
    let mut lines = head.trim_end_matches("\r\n").split("\r\n");
    let mut words = lines.next()?.split(' ');
    let (method, target, version) = (words.next()?, words.next()?, words.next()?);
    if version != "HTTP/1.1" || words.next().is_some() || !target.starts_with('/') {
        return None;
    }
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let headers = lines
        .map(|line| {
            let (name, value) = line.split_once(':')?;
            // Signatures are computed over lower-case names.
            (!name.is_empty() && !name.contains(' ')).then(|| (name.to_ascii_lowercase(), value.trim().to_owned()))
        })
        .collect::<Option<Vec<_>>>()?;
    Some(Arrived {
        method: method.to_owned(),
        path: path.to_owned(),
        query: query.to_owned(),
        target: target.to_owned(),
        headers,
        body: Bytes::new(),
        body_length: 0,
    })
}

fn is_chunked(arrived: &Arrived) -> bool {
    header(&arrived.headers, "transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked"))
}

fn content_length(arrived: &Arrived) -> usize {
    header(&arrived.headers, "content-length").and_then(|value| value.parse().ok()).unwrap_or(0)
}

impl Arrived {
    pub(crate) fn keeps_alive(&self) -> bool {
        !header(&self.headers, "connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }
}
