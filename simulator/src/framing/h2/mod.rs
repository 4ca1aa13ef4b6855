//! An HTTP/2 server that writes its frames by hand.

mod answer;
mod frame;
mod hpack;
mod link;

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Bytes, BytesMut};
use hyper::Version;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;

use super::h1::LINGER;
use super::tally::{ConnectionTally, OpenMark};
use crate::exchange::{self, Answered, Arrived, BODY_LIMIT, Connection};
use crate::state::State;
use frame::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, Frame, GOAWAY, HEADERS, INITIAL_WINDOW_SIZE,
    MAX_CONCURRENT_STREAMS, MAX_HEADER_LIST_SIZE, NO_ERROR, PING, PROTOCOL_ERROR, REFUSED_STREAM, RST_STREAM, Reader,
    SETTINGS, WINDOW_UPDATE,
};
use link::Link;

/// The same as the other server's.
const STREAMS: u32 = 2000;
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 8 * 1024 * 1024;
const HEADER_LIST: u32 = 128 * 1024;

/// What a stream is given when streams begin with a window of nothing.
const TOP_UP: u32 = 65_535;

/// Serves one connection to its end.
pub(crate) async fn serve<S: AsyncRead + AsyncWrite + Unpin>(state: Arc<State>, stream: S, connection: Connection) {
    state.tally.open(connection.number, true, connection.tls);
    let _open = OpenMark { tally: &state.tally, number: connection.number };
    let (read, write) = tokio::io::split(stream);
    let mut reader = Reader::new(read);
    let (link, outgoing) = Link::new();
    let link = Arc::new(link);
    let control = Arc::clone(&connection.control);
    let mut server = Server {
        state: Arc::clone(&state),
        connection,
        link,
        tasks: JoinSet::new(),
        decoder: loona_hpack::Decoder::new(),
        block: None,
    };
    let notified = tokio::select! {
        notified = link::write(write, outgoing, &control) => notified,
        _ = server.run(&mut reader) => false,
        () = control.killed() => false,
    };
    drop(server);
    if notified {
        // Unread bytes would make TCP take back what the client has not read yet.
        let _ = tokio::time::timeout(LINGER, reader.drain()).await;
    }
}

struct Server {
    state: Arc<State>,
    connection: Connection,
    link: Arc<Link>,
    tasks: JoinSet<()>,
    decoder: loona_hpack::Decoder<'static>,
    /// A header block that goes on: its stream, whether it ends the stream, and what has come of it.
    block: Option<(u32, bool, BytesMut)>,
}

/// What the client did wrong.
type Violation = &'static str;

impl Server {
    async fn run<R: AsyncRead + Unpin>(&mut self, reader: &mut Reader<R>) -> io::Result<()> {
        if !reader.preface().await? {
            return Ok(());
        }
        let settings = [
            (MAX_CONCURRENT_STREAMS, STREAMS),
            (INITIAL_WINDOW_SIZE, STREAM_WINDOW),
            (MAX_HEADER_LIST_SIZE, HEADER_LIST),
        ];
        self.link.announce(&settings).await;
        self.link.send(frame::window_update(0, CONNECTION_WINDOW - 65_535)).await;
        let control = Arc::clone(&self.connection.control);
        loop {
            let closing = self.link.closing.load(Ordering::SeqCst);
            if closing && self.link.lock().active() == 0 {
                self.link.close(true).await;
            }
            let largest = self.link.lock().largest;
            let frame = tokio::select! {
                frame = reader.frame(largest) => frame?,
                () = control.going_away() => {
                    self.tally(|tally| tally.goaways += 1);
                    self.link.go_away(self.link.highest(), NO_ERROR).await;
                    continue;
                }
                Some(_) = self.tasks.join_next(), if !self.tasks.is_empty() => continue,
            };
            let result = match frame {
                Some(frame) => self.receive(frame).await,
                None => Err("a frame larger than announced"),
            };
            if let Err(violation) = result {
                self.tally(|tally| tally.violation = Some(violation.to_owned()));
                self.give_up(PROTOCOL_ERROR).await;
            }
        }
    }

    fn tally(&self, change: impl FnOnce(&mut ConnectionTally)) {
        self.state.tally.update(self.connection.number, change);
    }

    /// GOAWAY, and the end at once, as real servers do it.
    async fn give_up(&self, code: u32) {
        self.connection.control.end_is_ours();
        self.tally(|tally| tally.goaways += 1);
        self.link.send(frame::goaway(self.link.highest(), code)).await;
        self.link.close(true).await;
    }

    async fn receive(&mut self, frame: Frame) -> Result<(), Violation> {
        if self.block.is_some() != (frame.kind == CONTINUATION) {
            return Err("CONTINUATION out of place");
        }
        match frame.kind {
            HEADERS => {
                let content = frame.content().ok_or("HEADERS too short")?;
                self.block = Some((frame.stream, frame.has(END_STREAM), BytesMut::from(&content[..])));
                self.headers(frame.has(END_HEADERS)).await
            }
            CONTINUATION => {
                if let Some((stream, _, block)) = &mut self.block {
                    if *stream != frame.stream {
                        return Err("CONTINUATION of another stream");
                    }
                    block.extend_from_slice(&frame.payload);
                }
                self.headers(frame.has(END_HEADERS)).await
            }
            DATA => self.data(frame).await,
            RST_STREAM => {
                let code = frame.number(0).ok_or("RST_STREAM too short")?;
                self.reset(frame.stream, code).await;
                Ok(())
            }
            SETTINGS => self.settings(frame).await,
            PING if frame.has(ACK) => {
                self.tally(|tally| tally.pings_acknowledged += 1);
                Ok(())
            }
            PING => {
                self.link.send(frame::one(PING, ACK, 0, &frame.payload)).await;
                Ok(())
            }
            GOAWAY => {
                let code = frame.number(4).ok_or("GOAWAY too short")?;
                self.tally(|tally| *tally.client_goaways.entry(code).or_default() += 1);
                Ok(())
            }
            WINDOW_UPDATE => {
                let by = frame.number(0).ok_or("WINDOW_UPDATE too short")?;
                self.link.widen(frame.stream, by & 0x7fff_ffff);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    async fn headers(&mut self, complete: bool) -> Result<(), Violation> {
        if !complete {
            return Ok(());
        }
        let Some((id, ends, block)) = self.block.take() else { return Ok(()) };
        // Decoded in any case: the table must keep in step with the client's.
        let fields = self.decoder.decode(&block).map_err(|_| "a header block that cannot be decoded")?;
        let (known, passed, full) = {
            let streams = self.link.lock();
            (
                streams.by_id.contains_key(&id),
                streams.last.is_some_and(|last| id > last),
                streams.active() >= streams.allowed as usize,
            )
        };
        if known {
            // Trailers of a request.
            if ends {
                self.request_is_whole(id);
            }
            return Ok(());
        }
        if id % 2 == 0 || id <= self.link.highest() {
            return Err("a stream id that cannot be new");
        }
        if passed {
            return Ok(());
        }
        self.tally(|tally| tally.requests += 1);
        if full {
            self.link.lock().highest = id;
            self.tally(|tally| tally.over_limit += 1);
            self.link.send(frame::rst(id, REFUSED_STREAM)).await;
            return Ok(());
        }
        let arrived = arrived(fields).ok_or("a request without its pseudo-headers")?;
        let granted = {
            let mut streams = self.link.lock();
            streams.open(id, arrived.clone());
            streams.granted
        };
        if ends {
            self.request_is_whole(id);
            return Ok(());
        }
        let early = exchange::answer_early(&self.state, &self.connection, &arrived, Version::HTTP_2);
        if let Some(answered) = early {
            self.link.update(id, |stream| stream.request = None);
            self.answer(id, async move { answered });
        }
        if granted == 0 {
            self.link.send(frame::window_update(id, TOP_UP)).await;
        }
        Ok(())
    }

    async fn data(&mut self, frame: Frame) -> Result<(), Violation> {
        let content = frame.content().ok_or("DATA with more padding than payload")?;
        let length = u32::try_from(frame.payload.len()).map_err(|_| "DATA longer than a frame can be")?;
        let mut wanted = false;
        {
            let mut streams = self.link.lock();
            if let Some(stream) = streams.by_id.get_mut(&frame.stream)
                && let Some(request) = &mut stream.request
            {
                wanted = !frame.has(END_STREAM);
                request.body_length += content.len();
                if request.body_length <= BODY_LIMIT {
                    stream.body.extend_from_slice(&content);
                }
            }
        }
        if length > 0 {
            self.link.send(frame::window_update(0, length)).await;
            if wanted {
                self.link.send(frame::window_update(frame.stream, length)).await;
            }
        }
        if frame.has(END_STREAM) {
            self.request_is_whole(frame.stream);
        }
        Ok(())
    }

    fn request_is_whole(&mut self, id: u32) {
        let arrived = {
            let mut streams = self.link.lock();
            let Some(stream) = streams.by_id.get_mut(&id) else { return };
            let Some(mut arrived) = stream.request.take() else { return };
            arrived.body = std::mem::take(&mut stream.body).freeze();
            arrived
        };
        let (state, connection) = (Arc::clone(&self.state), self.connection.clone());
        self.answer(id, async move { exchange::answer_to(&state, &connection, arrived, Version::HTTP_2).await });
    }

    fn answer(&mut self, id: u32, answered: impl Future<Output = Answered> + Send + 'static) {
        let (state, connection, link) = (Arc::clone(&self.state), self.connection.clone(), Arc::clone(&self.link));
        let task = self.tasks.spawn(async move {
            answer::write(&state, &connection, &link, id, answered.await).await;
        });
        self.link.update(id, |stream| stream.task = Some(task));
    }

    async fn reset(&mut self, id: u32, code: u32) {
        let (record, whole) = {
            let mut streams = self.link.lock();
            let Some(stream) = streams.by_id.get_mut(&id) else { return };
            stream.request = None;
            stream.done = true;
            if let Some(task) = stream.task.take() {
                task.abort();
            }
            (stream.record.clone(), stream.body_sent)
        };
        if let Some(record) = record {
            record.update(|received| {
                received.client_reset = Some(code);
                received.cancelled_whole = whole;
            });
        }
        let mut resets = 0;
        self.tally(|tally| {
            *tally.client_resets.entry(code).or_default() += 1;
            tally.cancelled_whole += u64::from(whole);
            resets = tally.resets();
        });
        if self.state.framing.calm_after().is_some_and(|most| resets >= most) {
            self.give_up(ENHANCE_YOUR_CALM).await;
        }
    }

    async fn settings(&mut self, frame: Frame) -> Result<(), Violation> {
        if frame.has(ACK) {
            let mut streams = self.link.lock();
            let allows = streams.unacknowledged.pop_front().ok_or("SETTINGS acknowledged that were not sent")?;
            streams.allowed = allows.unwrap_or(streams.allowed);
            drop(streams);
            self.tally(|tally| tally.settings_acknowledged += 1);
            return Ok(());
        }
        for setting in frame.payload.chunks_exact(6) {
            let id = u16::from_be_bytes([setting[0], setting[1]]);
            let value = u32::from_be_bytes([setting[2], setting[3], setting[4], setting[5]]);
            // The client's other settings concern what is not done here: large frames, indexing, pushing.
            if id == INITIAL_WINDOW_SIZE {
                self.link.set_initial(value);
            }
        }
        self.link.send(frame::one(SETTINGS, ACK, 0, &[])).await;
        Ok(())
    }
}

/// A request without its body, as HTTP/1.1 would show it.
fn arrived(fields: Vec<(Vec<u8>, Vec<u8>)>) -> Option<Arrived> {
    let (mut method, mut target, mut authority) = (None, None, None);
    let mut headers = Vec::new();
    for (name, value) in fields {
        let (name, value) = (String::from_utf8(name).ok()?, String::from_utf8_lossy(&value).into_owned());
        match name.as_str() {
            ":method" => method = Some(value),
            ":path" => target = Some(value),
            ":authority" => authority = Some(value),
            ":scheme" => {}
            _ => headers.push((name, value)),
        }
    }
    if let Some(authority) = authority {
        // The same as what the other server shows of `:authority`.
        if !headers.iter().any(|(name, _)| name == "host") {
            headers.insert(0, ("host".to_owned(), authority.clone()));
        }
        headers.insert(0, (":authority".to_owned(), authority));
    }
    let target = target?;
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    Some(Arrived {
        method: method?,
        path: path.to_owned(),
        query: query.to_owned(),
        headers,
        body: Bytes::new(),
        body_length: 0,
        target: target.clone(),
    })
}
