//! What the streams of one connection share: the way out, the windows, and what has become of each stream.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, mpsc};
use tokio::task::AbortHandle;

use super::frame;
use crate::exchange::Arrived;
use crate::record::Open;
use crate::wire::Control;

/// The next thing for the writer.
#[derive(Debug)]
pub(crate) enum Out {
    /// Whole frames, which are written even if the stream that sent them is aborted.
    Frames(Bytes),
    /// The connection's end, with TLS's close_notify or without.
    Close { notify: bool },
}

/// One stream.
#[derive(Debug, Default)]
pub(crate) struct Stream {
    /// The request, until it is whole.
    pub(crate) request: Option<Arrived>,
    pub(crate) body: BytesMut,
    /// How much may be sent on it.
    pub(crate) window: i64,
    pub(crate) task: Option<AbortHandle>,
    pub(crate) record: Option<Open>,
    /// All bytes of the answer's body have been sent.
    pub(crate) body_sent: bool,
    /// Nothing more is sent on it.
    pub(crate) done: bool,
}

#[derive(Debug)]
pub(crate) struct Streams {
    pub(crate) by_id: BTreeMap<u32, Stream>,
    /// How much may be sent on the connection.
    window: i64,
    /// What the client grants each new stream.
    initial: i64,
    pub(crate) highest: u32,
    /// Once GOAWAY is sent: streams above this are not processed.
    pub(crate) last: Option<u32>,
    /// The window that this side grants each new stream.
    pub(crate) granted: u32,
    /// The largest frame that this side takes.
    pub(crate) largest: usize,
    /// How many streams the client may have open.
    pub(crate) allowed: u32,
    /// Of SETTINGS sent and not yet acknowledged: how many streams each allows.
    pub(crate) unacknowledged: VecDeque<Option<u32>>,
}

/// Streams kept for a RST_STREAM that comes when they are done.
const KEPT: usize = 10_000;

#[derive(Debug)]
pub(crate) struct Link {
    out: mpsc::Sender<Out>,
    streams: Mutex<Streams>,
    widened: Notify,
    /// The connection is to be closed when its streams are done.
    pub(crate) closing: AtomicBool,
}

impl Link {
    pub(crate) fn new() -> (Link, mpsc::Receiver<Out>) {
        let (out, outgoing) = mpsc::channel(32);
        let streams = Streams {
            by_id: BTreeMap::new(),
            window: 65_535,
            initial: 65_535,
            highest: 0,
            last: None,
            granted: 65_535,
            largest: frame::SMALLEST_MAX_FRAME,
            allowed: 0,
            unacknowledged: VecDeque::new(),
        };
        let link = Link { out, streams: Mutex::new(streams), widened: Notify::new(), closing: AtomicBool::new(false) };
        (link, outgoing)
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Streams> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn highest(&self) -> u32 {
        self.lock().highest
    }

    /// Sends whole frames. When the connection is gone, so is the task that calls, or soon.
    pub(crate) async fn send(&self, frames: Bytes) {
        if self.out.send(Out::Frames(frames)).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Ends the connection, and with it the task that calls.
    pub(crate) async fn close(&self, notify: bool) {
        let _ = self.out.send(Out::Close { notify }).await;
        std::future::pending::<()>().await;
    }

    /// GOAWAY for all streams above `last`; the others go on, and then the connection is closed.
    pub(crate) async fn go_away(&self, last: u32, code: u32) {
        {
            let mut streams = self.lock();
            streams.last = Some(last);
            for (_, unprocessed) in streams.by_id.range_mut(last.saturating_add(1)..) {
                unprocessed.done = true;
                if let Some(task) = unprocessed.task.take() {
                    task.abort();
                }
            }
        }
        self.send(frame::goaway(last, code)).await;
        self.closing.store(true, Ordering::SeqCst);
    }

    /// Announces settings. Those that allow more hold at once, those that allow less when they are acknowledged.
    pub(crate) async fn announce(&self, settings: &[(u16, u32)]) {
        {
            let mut streams = self.lock();
            let mut allows = None;
            for (id, value) in settings {
                match *id {
                    frame::MAX_CONCURRENT_STREAMS => allows = Some(*value),
                    frame::INITIAL_WINDOW_SIZE => streams.granted = *value,
                    frame::MAX_FRAME_SIZE => streams.largest = *value as usize,
                    _ => {}
                }
            }
            streams.allowed = streams.allowed.max(allows.unwrap_or(0));
            streams.unacknowledged.push_back(allows);
        }
        self.send(frame::settings(settings)).await;
    }

    /// Waits until `least` bytes may be sent on a stream, and takes as many as it may up to `most`.
    pub(crate) async fn window(&self, id: u32, least: usize, most: usize) -> usize {
        loop {
            let widened = self.widened.notified();
            tokio::pin!(widened);
            widened.as_mut().enable();
            match self.try_window(id, least, most) {
                0 => widened.await,
                taken => return taken,
            }
        }
    }

    /// The same without waiting; 0 when it would have to.
    #[expect(clippy::cast_possible_wrap, reason = "no more is taken than the window has, which is an i64")]
    pub(crate) fn try_window(&self, id: u32, least: usize, most: usize) -> usize {
        let mut streams = self.lock();
        let connection = streams.window;
        let Some(stream) = streams.by_id.get_mut(&id) else { return 0 };
        let open = usize::try_from(stream.window.min(connection)).unwrap_or(0);
        if open < least {
            return 0;
        }
        let taken = open.min(most);
        stream.window -= taken as i64;
        streams.window -= taken as i64;
        taken
    }

    /// A WINDOW_UPDATE of the client.
    pub(crate) fn widen(&self, id: u32, by: u32) {
        let mut streams = self.lock();
        if id == 0 {
            streams.window += i64::from(by);
        } else if let Some(stream) = streams.by_id.get_mut(&id) {
            stream.window += i64::from(by);
        }
        drop(streams);
        self.widened.notify_waiters();
    }

    /// The client's SETTINGS_INITIAL_WINDOW_SIZE, which moves the windows of open streams too.
    pub(crate) fn set_initial(&self, size: u32) {
        let mut streams = self.lock();
        let change = i64::from(size) - streams.initial;
        streams.initial = i64::from(size);
        for stream in streams.by_id.values_mut() {
            stream.window += change;
        }
        drop(streams);
        self.widened.notify_waiters();
    }

    pub(crate) fn update(&self, id: u32, change: impl FnOnce(&mut Stream)) {
        if let Some(stream) = self.lock().by_id.get_mut(&id) {
            change(stream);
        }
    }
}

impl Streams {
    pub(crate) fn open(&mut self, id: u32, request: Arrived) {
        self.highest = self.highest.max(id);
        let stream = Stream { request: Some(request), window: self.initial, ..Stream::default() };
        self.by_id.insert(id, stream);
        while self.by_id.len() > KEPT && self.by_id.first_key_value().is_some_and(|(_, oldest)| oldest.done) {
            self.by_id.pop_first();
        }
    }

    pub(crate) fn active(&self) -> usize {
        self.by_id.values().filter(|stream| !stream.done).count()
    }
}

/// Writes what the streams send until the connection is to end, and tells whether it ended with TLS's close_notify.
/// What waits together is written together.
pub(crate) async fn write<W: AsyncWrite + Unpin>(
    mut writer: W,
    mut outgoing: mpsc::Receiver<Out>,
    control: &Control,
) -> bool {
    while let Some(first) = outgoing.recv().await {
        let mut next = Some(first);
        let mut bytes = BytesMut::new();
        let mut close = None;
        while let Some(out) = next.take() {
            match out {
                Out::Frames(frames) => bytes.extend_from_slice(&frames),
                Out::Close { notify } => close = Some(notify),
            }
            if close.is_none() && bytes.len() < 64 * 1024 {
                next = outgoing.try_recv().ok();
            }
        }
        if writer.write_all(&bytes).await.is_err() || writer.flush().await.is_err() {
            return false;
        }
        if control.talks_garbage() {
            return false;
        }
        if let Some(notify) = close {
            if notify {
                let _ = writer.shutdown().await;
            }
            return notify;
        }
    }
    false
}
