//! A client of HTTP/2 that reads frames and nothing else.

use std::time::Duration;

use simulator::framing::Framing;
use simulator::{DEFAULT_BEARER_TOKEN, Options, Simulator};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::client::{Call, Road, Stream, connect};

pub(super) const H2: Road = Road { http2: true, tls: false };
pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const PRIORITY: u8 = 2;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;
pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;
pub(super) const PADDED: u8 = 8;

#[derive(Debug, Clone)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
    pub(super) payload: Vec<u8>,
}

impl Frame {
    pub(super) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    pub(super) fn number(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }

    /// Without padding and priority.
    pub(super) fn content(&self) -> &[u8] {
        let mut content = &self.payload[..];
        if self.has(PADDED) {
            let padding = content[0] as usize;
            assert!(content[content.len() - padding..].iter().all(|byte| *byte == 0));
            content = &content[1..content.len() - padding];
        }
        if self.kind == HEADERS && self.has(0x20) { &content[5..] } else { content }
    }
}

pub(super) struct Peer {
    pub(super) stream: Box<dyn Stream>,
    pub(super) buffer: Vec<u8>,
    pub(super) authority: String,
}

impl Peer {
    pub(super) async fn new(simulator: &Simulator, road: Road, settings: &[(u16, u32)]) -> Peer {
        let stream = connect(simulator, road).await.unwrap();
        let authority = simulator.plain_endpoint().trim_start_matches("http://").to_owned();
        let mut peer = Peer { stream, buffer: Vec::new(), authority };
        peer.stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        let payload: Vec<u8> =
            settings.iter().flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()).collect();
        peer.send(SETTINGS, 0, 0, &payload).await;
        peer
    }

    pub(super) async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        self.stream.write_all(&frame).await.unwrap();
    }

    pub(super) async fn head(&mut self, id: u32, call: Call) {
        let authority = self.authority.clone();
        let token = format!("Bearer {DEFAULT_BEARER_TOKEN}");
        let mut block = Vec::new();
        for (name, value) in [
            (":method", "POST"),
            (":scheme", "http"),
            (":authority", &authority),
            (":path", call.path),
            ("authorization", &token),
            ("content-type", "application/json"),
        ] {
            // Literals with incremental indexing, so that the server's table must keep in step.
            block.push(0x40);
            for text in [name, value] {
                assert!(text.len() < 127);
                block.push(text.len() as u8);
                block.extend(text.as_bytes());
            }
        }
        // In two frames.
        let (first, second) = block.split_at(10);
        self.send(HEADERS, 0, id, first).await;
        self.send(CONTINUATION, END_HEADERS, id, second).await;
    }

    pub(super) async fn request(&mut self, id: u32, call: Call) {
        self.head(id, call).await;
        let (first, second) = call.body.as_bytes().split_at(5);
        self.send(DATA, 0, id, first).await;
        self.send(DATA, PADDED | END_STREAM, id, &[&[3][..], second, &[0, 0, 0]].concat()).await;
    }

    /// The next frame; `None` at the connection's end or after a while. SETTINGS and PING are acknowledged.
    pub(super) async fn frame(&mut self, patience: u64) -> Option<Frame> {
        loop {
            if self.buffer.len() >= 9 {
                let length = u32::from_be_bytes([0, self.buffer[0], self.buffer[1], self.buffer[2]]) as usize;
                assert!(length <= 16_384, "a frame larger than allowed");
                if self.buffer.len() >= 9 + length {
                    let bytes: Vec<u8> = self.buffer.drain(..9 + length).collect();
                    let stream = u32::from_be_bytes(bytes[5..9].try_into().unwrap());
                    let frame = Frame { kind: bytes[3], flags: bytes[4], stream, payload: bytes[9..].to_vec() };
                    if matches!(frame.kind, SETTINGS | PING) && !frame.has(1) {
                        let echo = if frame.kind == PING { frame.payload.clone() } else { Vec::new() };
                        self.send(frame.kind, 1, 0, &echo).await;
                    }
                    return Some(frame);
                }
            }
            let read = self.stream.read_buf(&mut self.buffer);
            match tokio::time::timeout(Duration::from_millis(patience), read).await {
                Ok(Ok(read)) if read > 0 => {}
                _ => return None,
            }
        }
    }

    pub(super) async fn frames(&mut self) -> Vec<Frame> {
        let mut frames = Vec::new();
        while let Some(frame) = self.frame(200).await {
            frames.push(frame);
        }
        frames
    }

    pub(super) async fn until(&mut self, wanted: impl Fn(&Frame) -> bool) -> Vec<Frame> {
        let mut frames = Vec::new();
        loop {
            let frame = self.frame(2_000).await.unwrap_or_else(|| panic!("not among {frames:?}"));
            frames.push(frame.clone());
            if wanted(&frame) {
                return frames;
            }
        }
    }
}

pub(super) async fn exchange(name: &str, road: Road, call: Call) -> Vec<Frame> {
    let simulator = framed(name).await;
    let mut peer = Peer::new(&simulator, road, &[(4, 1 << 30)]).await;
    peer.send(WINDOW_UPDATE, 0, 0, &(1_u32 << 30).to_be_bytes()).await;
    peer.request(1, call).await;
    let mut frames = Vec::new();
    // Patient until the answer's end, and then only for what comes right behind it.
    let mut patience = 5_000;
    while let Some(frame) = peer.frame(patience).await {
        let ends = frame.kind == RST_STREAM || matches!(frame.kind, DATA | HEADERS) && frame.has(END_STREAM);
        if ends && is_answers(&frame) {
            patience = 200;
        }
        frames.push(frame);
    }
    frames
}

pub(super) fn is_answers(frame: &Frame) -> bool {
    frame.stream == 1 && matches!(frame.kind, DATA | HEADERS | CONTINUATION | RST_STREAM)
}

/// The answer's own frames.
pub(super) async fn answer(name: &str, call: Call) -> Vec<Frame> {
    exchange(name, H2, call).await.into_iter().filter(is_answers).collect()
}

pub(super) async fn framed(name: &str) -> Simulator {
    let framing: Framing = name.parse().unwrap();
    Simulator::start(Options { framing: Some(framing.into()), ..Options::default() }).await.unwrap()
}

pub(super) fn body(frames: &[Frame]) -> Vec<u8> {
    frames.iter().filter(|frame| frame.kind == DATA).flat_map(|frame| frame.content().to_vec()).collect()
}

/// The header blocks, each decoded. Knows literals, entry 8 of the static table, and changes of the table's size.
pub(super) fn blocks(frames: &[Frame]) -> Vec<Vec<(String, String)>> {
    let mut blocks = Vec::new();
    let mut block = Vec::new();
    for frame in frames.iter().filter(|frame| matches!(frame.kind, HEADERS | CONTINUATION)) {
        block.extend_from_slice(frame.content());
        if frame.has(END_HEADERS) {
            blocks.push(decode(&std::mem::take(&mut block)));
        }
    }
    blocks
}

pub(super) fn decode(mut block: &[u8]) -> Vec<(String, String)> {
    let mut fields = Vec::new();
    while let Some((&first, rest)) = block.split_first() {
        match first {
            0x88 => {
                fields.push((":status".to_owned(), "200".to_owned()));
                block = rest;
            }
            0x20..=0x3f => block = if first == 0x3f { &rest[2..] } else { rest },
            0x00 | 0x10 | 0x40 => {
                block = rest;
                let mut text = || {
                    let mut length = block[0] as usize;
                    block = &block[1..];
                    if length == 127 {
                        let mut shift = 0;
                        loop {
                            let byte = block[0];
                            block = &block[1..];
                            length += ((byte & 0x7f) as usize) << shift;
                            shift += 7;
                            if byte & 0x80 == 0 {
                                break;
                            }
                        }
                    }
                    let text = String::from_utf8(block[..length].to_vec()).unwrap();
                    block = &block[length..];
                    text
                };
                fields.push((text(), text()));
            }
            other => panic!("a field that begins with {other:#x}"),
        }
    }
    fields
}

pub(super) fn value<'a>(fields: &'a [(String, String)], name: &str) -> Option<&'a str> {
    fields.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
}
