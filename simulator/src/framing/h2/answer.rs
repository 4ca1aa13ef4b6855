//! Writes one HTTP/2 answer.

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderName, HeaderValue};

use super::frame::{
    self, DATA, END_STREAM, ENHANCE_YOUR_CALM, HEADER_TABLE_SIZE, INITIAL_WINDOW_SIZE, INTERNAL_ERROR,
    MAX_CONCURRENT_STREAMS, MAX_FRAME_SIZE, NO_ERROR, PADDED, PING, PRIORITY, SMALLEST_MAX_FRAME,
};
use super::hpack;
use super::link::Link;
use crate::exchange::{Answered, Connection};
use crate::framing::script::{Account, Next, Script, fields};
use crate::framing::shape::{GoAway, H2, H2End, Hpack, Length, Noise, Settings};
use crate::record::Ended;
use crate::state::State;
use crate::wire::Ending;

/// The largest id that a stream can have.
const ALL_STREAMS: u32 = 0x7fff_ffff;

pub(crate) async fn write(state: &State, connection: &Connection, link: &Arc<Link>, id: u32, answered: Answered) {
    let Answered { reply, headers, framing, record, length, streams } = answered;
    let shape = framing.h2();
    if let Some(record) = &record {
        record.update(|received| received.stream = Some(id));
    }
    link.update(id, |stream| stream.record = record.clone());
    let account = Account::new(record, Arc::clone(&connection.control));
    let mut answer =
        Answer { state, connection, link, id, shape, account, out: BytesMut::new(), sent: 0, length, ended: false };
    answer.change_settings().await;
    if !answer.begins().await {
        return;
    }
    answer.head(reply.status, headers, streams, reply.steps.is_empty());
    if answer.ended {
        answer.account.close(Ended::Completed);
    }
    // The head of a stream goes out before there is an event.
    if streams {
        answer.flush().await;
    }
    if answer.body(Script::new(reply.steps, state.gate.clone())).await {
        answer.end().await;
    }
}

struct Answer<'a> {
    state: &'a State,
    connection: &'a Connection,
    link: &'a Arc<Link>,
    id: u32,
    shape: H2,
    account: Account,
    /// Frames that are to go out together.
    out: BytesMut,
    /// Bytes of body.
    sent: usize,
    /// What `sent` is to come to.
    length: usize,
    /// END_STREAM is among the frames.
    ended: bool,
}

impl Answer<'_> {
    async fn flush(&mut self) {
        if !self.out.is_empty() {
            self.link.send(self.out.split().freeze()).await;
        }
    }

    async fn goaway(&self, last: u32, code: u32) {
        self.state.tally.update(self.connection.number, |tally| tally.goaways += 1);
        self.link.go_away(last, code).await;
    }

    async fn change_settings(&self) {
        let settings: &[(u16, u32)] = match self.shape.settings {
            Settings::Unchanged => return,
            Settings::Empty => &[],
            Settings::OneStream => &[(MAX_CONCURRENT_STREAMS, 1)],
            Settings::NoStreams => &[(MAX_CONCURRENT_STREAMS, 0)],
            Settings::ManyStreams => &[(MAX_CONCURRENT_STREAMS, 10_000)],
            Settings::SmallWindow => &[(INITIAL_WINDOW_SIZE, 100)],
            Settings::ZeroWindow => &[(INITIAL_WINDOW_SIZE, 0)],
            Settings::LargeWindow => &[(INITIAL_WINDOW_SIZE, 16 * 1024 * 1024)],
            Settings::LargeFrames => &[(MAX_FRAME_SIZE, 1024 * 1024)],
            Settings::NoTable => &[(HEADER_TABLE_SIZE, 0)],
            Settings::LargeTable => &[(HEADER_TABLE_SIZE, 65_536)],
            // One that is reserved for nothing, and one for WebSockets.
            Settings::Unknown => &[(0x1a1a, 0xffff_ffff), (0x8, 1)],
        };
        self.link.announce(settings).await;
        match self.shape.settings {
            Settings::NoStreams => {
                // A task of its own: the client may reset this stream before the time is up.
                let link = Arc::clone(self.link);
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    link.announce(&[(MAX_CONCURRENT_STREAMS, 100)]).await;
                });
            }
            Settings::ZeroWindow => {
                let arriving: Vec<u32> = {
                    let streams = self.link.lock();
                    streams.by_id.iter().filter(|(_, stream)| stream.request.is_some()).map(|(id, _)| *id).collect()
                };
                for id in arriving {
                    self.link.send(frame::window_update(id, super::TOP_UP)).await;
                }
            }
            _ => {}
        }
    }

    /// What comes before HEADERS; false when that is all.
    async fn begins(&mut self) -> bool {
        match self.shape.goaway {
            GoAway::Before => self.goaway(self.link.highest(), NO_ERROR).await,
            GoAway::CalmBefore => self.goaway(self.link.highest(), ENHANCE_YOUR_CALM).await,
            GoAway::Twice => self.goaway(ALL_STREAMS, NO_ERROR).await,
            GoAway::Below | GoAway::CalmBelow => {
                let code = if self.shape.goaway == GoAway::Below { NO_ERROR } else { ENHANCE_YOUR_CALM };
                self.done(Ended::Cut);
                self.link.update(self.id, |stream| stream.task = None);
                self.connection.control.end_is_ours();
                self.goaway(self.id.saturating_sub(2), code).await;
                return false;
            }
            GoAway::No | GoAway::Middle | GoAway::After => {}
        }
        match self.shape.end {
            H2End::ResetBefore(code) => {
                self.done(Ended::Cut);
                self.link.send(frame::rst(self.id, code)).await;
                false
            }
            H2End::CloseBefore { goaway, notify } => {
                self.close(goaway, notify).await;
                false
            }
            _ => true,
        }
    }

    fn head(&mut self, status: u16, headers: Vec<(HeaderName, HeaderValue)>, streams: bool, empty: bool) {
        let mut fields = fields(headers, self.shape.fields);
        let announces = match self.shape.length {
            Length::AsIs => !streams,
            Length::Announced => true,
            Length::Omitted => false,
        };
        // A fault may have announced a length of its own.
        if announces && !fields.iter().any(|(name, _)| name == "content-length") {
            fields.push((HeaderName::from_static("content-length"), HeaderValue::from(self.length)));
        }
        let hint = [(HeaderName::from_static("link"), HeaderValue::from_static("</simulator>; rel=preload"))];
        for status in self.shape.interim {
            let block = hpack::encode(Some(*status), &hint, self.shape.hpack);
            hpack::put_headers(&mut self.out, self.id, block, self.shape.block, false, false);
        }
        self.noise();
        // Without a body HEADERS is the end, unless the framing wants another.
        let ends = empty && matches!(self.shape.end, H2End::OnData | H2End::EndThenReset(_));
        self.ended = ends;
        let block = hpack::encode(Some(status), &fields, self.shape.hpack);
        hpack::put_headers(&mut self.out, self.id, block, self.shape.block, self.shape.adorned, ends);
        self.note_sent(&[]);
    }

    /// Sends the script's bytes, but leaves the last of them to go out with the end. False when a fault ended it.
    async fn body(&mut self, mut script: Script) -> bool {
        let mut pieces = 0;
        loop {
            match script.next().await {
                Next::Piece(piece, last) => {
                    if pieces < 4 {
                        self.noise();
                    }
                    pieces += 1;
                    self.data(piece, last).await;
                    if last {
                        return true;
                    }
                    self.flush().await;
                }
                Next::GoAway => self.goaway(self.link.highest(), NO_ERROR).await,
                Next::Cut(how) => {
                    self.flush().await;
                    self.done(Ended::Cut);
                    if how == Ending::StreamError {
                        self.link.send(frame::rst(self.id, INTERNAL_ERROR)).await;
                    } else {
                        // Time for the writer, as the other server has.
                        tokio::time::sleep(crate::body::FLUSH_TIME).await;
                        self.connection.control.kill(how);
                        std::future::pending::<()>().await;
                    }
                    return false;
                }
                Next::End => return true,
            }
        }
    }

    async fn data(&mut self, mut piece: Bytes, last: bool) {
        let padding = self.shape.padding;
        let overhead = padding.map_or(0, |padding| usize::from(padding) + 1);
        let most = if self.shape.data == 0 { SMALLEST_MAX_FRAME } else { self.shape.data };
        let most = most.min(SMALLEST_MAX_FRAME - overhead);
        while !piece.is_empty() {
            let wanted = piece.len().min(most);
            let least = overhead + 1;
            let mut granted = self.link.try_window(self.id, least, overhead + wanted);
            if granted == 0 {
                // The client waits for what there is before it grants more.
                self.flush().await;
                granted = self.link.window(self.id, least, overhead + wanted).await;
            }
            let bytes = piece.split_to(granted - overhead);
            self.note_sent(&bytes);
            let ends = last && piece.is_empty() && matches!(self.shape.end, H2End::OnData | H2End::EndThenReset(_));
            self.ended |= ends;
            let flags = if ends { END_STREAM } else { 0 };
            match padding {
                None => frame::put(&mut self.out, DATA, flags, self.id, &bytes),
                Some(padding) => {
                    let mut payload = BytesMut::with_capacity(bytes.len() + overhead);
                    payload.put_u8(padding);
                    payload.put_slice(&bytes);
                    payload.put_bytes(0, padding.into());
                    frame::put(&mut self.out, DATA, flags | PADDED, self.id, &payload);
                }
            }
            if self.shape.gaps && !ends {
                frame::put(&mut self.out, DATA, 0, self.id, &[]);
            }
            if self.shape.goaway == GoAway::Middle && self.sent >= self.length / 2 && !ends {
                self.shape.goaway = GoAway::No;
                self.flush().await;
                self.goaway(self.link.highest(), NO_ERROR).await;
            }
            if self.out.len() > 64 * 1024 && !(last && piece.is_empty()) {
                self.flush().await;
            }
        }
    }

    fn note_sent(&mut self, bytes: &[u8]) {
        self.account.sent(bytes);
        self.sent += bytes.len();
        if self.sent == self.length {
            self.link.update(self.id, |stream| stream.body_sent = true);
        }
    }

    async fn end(&mut self) {
        match self.shape.end {
            H2End::EmptyLate(ms) | H2End::TrailersLate(ms) => {
                self.flush().await;
                tokio::time::sleep(Duration::from_millis(ms)).await;
            }
            H2End::Close { goaway, notify } => {
                self.flush().await;
                self.close(goaway, notify).await;
                return;
            }
            H2End::Reset(code) => {
                self.out.put_slice(&frame::rst(self.id, code));
                self.done(Ended::Cut);
                self.flush().await;
                return;
            }
            _ => {}
        }
        if matches!(self.shape.end, H2End::Trailers | H2End::TrailersLate(_)) {
            let trailers = [
                (HeaderName::from_static("x-amzn-simulator-trailer"), HeaderValue::from_static("behind the body")),
                (HeaderName::from_static("x-checksum"), HeaderValue::from_static("0")),
            ];
            let block = hpack::encode(None, &trailers, Hpack::Literal);
            hpack::put_headers(&mut self.out, self.id, block, 0, false, true);
        } else if !self.ended {
            frame::put(&mut self.out, DATA, END_STREAM, self.id, &[]);
        }
        if let H2End::EndThenReset(code) = self.shape.end {
            self.out.put_slice(&frame::rst(self.id, code));
        }
        // In time for a client that looks at the record as soon as it has the end.
        self.account.close(Ended::Completed);
        if matches!(self.shape.goaway, GoAway::After | GoAway::Twice) {
            self.flush().await;
            self.goaway(self.link.highest(), NO_ERROR).await;
        }
        self.done(Ended::Completed);
        self.flush().await;
    }

    /// Nothing more is sent on this stream.
    fn done(&mut self, how: Ended) {
        self.account.close(how);
        self.link.update(self.id, |stream| stream.done = true);
    }

    /// Ends the connection, and with it this task.
    async fn close(&mut self, goaway: Option<u32>, notify: bool) {
        self.done(Ended::Cut);
        self.connection.control.end_is_ours();
        if let Some(code) = goaway {
            self.state.tally.update(self.connection.number, |tally| tally.goaways += 1);
            self.link.send(frame::goaway(self.link.highest(), code)).await;
        }
        self.link.close(notify).await;
    }

    fn noise(&mut self) {
        match self.shape.noise {
            Noise::Silence => {}
            Noise::Ping => frame::put(&mut self.out, PING, 0, 0, b"simulatr"),
            Noise::Unknown => {
                frame::put(&mut self.out, 0xbb, 0xff, 0, b"of a type that nobody knows");
                frame::put(&mut self.out, 0xbc, 0x00, self.id, b"");
                frame::put(&mut self.out, PRIORITY, 0, self.id, &[0, 0, 0, 0, 15]);
            }
            Noise::Windows => {
                for stream in [0, self.id] {
                    self.out.put_slice(&frame::window_update(stream, 1_000));
                }
            }
        }
    }
}
