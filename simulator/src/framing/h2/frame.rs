//! HTTP/2 frames: their numbers, writing them, and reading them.

use std::io;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(crate) const DATA: u8 = 0x0;
pub(crate) const HEADERS: u8 = 0x1;
pub(crate) const PRIORITY: u8 = 0x2;
pub(crate) const RST_STREAM: u8 = 0x3;
pub(crate) const SETTINGS: u8 = 0x4;
pub(crate) const PING: u8 = 0x6;
pub(crate) const GOAWAY: u8 = 0x7;
pub(crate) const WINDOW_UPDATE: u8 = 0x8;
pub(crate) const CONTINUATION: u8 = 0x9;

pub(crate) const ACK: u8 = 0x1;
pub(crate) const END_STREAM: u8 = 0x1;
pub(crate) const END_HEADERS: u8 = 0x4;
pub(crate) const PADDED: u8 = 0x8;
pub(crate) const WITH_PRIORITY: u8 = 0x20;

pub(crate) const NO_ERROR: u32 = 0x0;
pub(crate) const PROTOCOL_ERROR: u32 = 0x1;
pub(crate) const INTERNAL_ERROR: u32 = 0x2;
pub(crate) const REFUSED_STREAM: u32 = 0x7;
pub(crate) const ENHANCE_YOUR_CALM: u32 = 0xb;

pub(crate) const HEADER_TABLE_SIZE: u16 = 0x1;
pub(crate) const MAX_CONCURRENT_STREAMS: u16 = 0x3;
pub(crate) const INITIAL_WINDOW_SIZE: u16 = 0x4;
pub(crate) const MAX_FRAME_SIZE: u16 = 0x5;
pub(crate) const MAX_HEADER_LIST_SIZE: u16 = 0x6;

/// What every peer must accept in a frame, and so the most that is sent.
pub(crate) const SMALLEST_MAX_FRAME: usize = 16_384;

pub(crate) fn put(out: &mut BytesMut, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    out.put_uint(payload.len() as u64, 3);
    out.put_u8(kind);
    out.put_u8(flags);
    out.put_u32(stream);
    out.put_slice(payload);
}

pub(crate) fn rst(stream: u32, code: u32) -> Bytes {
    one(RST_STREAM, 0, stream, &code.to_be_bytes())
}

pub(crate) fn goaway(last: u32, code: u32) -> Bytes {
    let mut payload = BytesMut::new();
    payload.put_u32(last);
    payload.put_u32(code);
    payload.put_slice(b"simulator");
    one(GOAWAY, 0, 0, &payload)
}

pub(crate) fn window_update(stream: u32, by: u32) -> Bytes {
    one(WINDOW_UPDATE, 0, stream, &by.to_be_bytes())
}

pub(crate) fn settings(values: &[(u16, u32)]) -> Bytes {
    let mut payload = BytesMut::new();
    for (id, value) in values {
        payload.put_u16(*id);
        payload.put_u32(*value);
    }
    one(SETTINGS, 0, 0, &payload)
}

pub(crate) fn one(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(9 + payload.len());
    put(&mut out, kind, flags, stream, payload);
    out.freeze()
}

/// A frame as it came.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Bytes,
}

impl Frame {
    pub(crate) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// The payload without padding and priority; `None` when it is not long enough for them.
    pub(crate) fn content(&self) -> Option<Bytes> {
        let mut content = self.payload.clone();
        if self.has(PADDED) {
            let padding = *content.first()? as usize;
            let end = content.len().checked_sub(padding).filter(|&end| end >= 1)?;
            content = content.slice(1..end);
        }
        if self.kind == HEADERS && self.has(WITH_PRIORITY) {
            content = (content.len() >= 5).then(|| content.slice(5..))?;
        }
        Some(content)
    }

    pub(crate) fn number(&self, at: usize) -> Option<u32> {
        let four = self.payload.get(at..at + 4)?;
        Some(u32::from_be_bytes([four[0], four[1], four[2], four[3]]))
    }
}

pub(crate) struct Reader<R> {
    inner: R,
    buffer: BytesMut,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    pub(crate) fn new(inner: R) -> Reader<R> {
        Reader { inner, buffer: BytesMut::with_capacity(32 * 1024) }
    }

    pub(crate) async fn preface(&mut self) -> io::Result<bool> {
        while self.buffer.len() < PREFACE.len() {
            self.more().await?;
        }
        Ok(self.buffer.split_to(PREFACE.len())[..] == *PREFACE)
    }

    /// The next frame; `None` when it is larger than allowed. Nothing is lost when the future is dropped.
    pub(crate) async fn frame(&mut self, largest: usize) -> io::Result<Option<Frame>> {
        while self.buffer.len() < 9 {
            self.more().await?;
        }
        let head = &self.buffer[..9];
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        if length > largest {
            return Ok(None);
        }
        while self.buffer.len() < 9 + length {
            self.more().await?;
        }
        let mut bytes = self.buffer.split_to(9 + length).freeze();
        let head = bytes.split_to(9);
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff;
        Ok(Some(Frame { kind: head[3], flags: head[4], stream, payload: bytes }))
    }

    /// Reads on, for nothing, until the peer closes.
    pub(crate) async fn drain(&mut self) {
        while self.more().await.is_ok() {
            self.buffer.clear();
        }
    }

    async fn more(&mut self) -> io::Result<()> {
        match self.inner.read_buf(&mut self.buffer).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}
