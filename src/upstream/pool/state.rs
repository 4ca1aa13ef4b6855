//! What a pool holds: connections that can take a request, and requests that wait for one.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::client::conn::{http1, http2};
use tokio::sync::{oneshot, watch};

use super::super::outgoing::OutgoingBody;
use super::open::Opened;
use super::socket::{Pending, Socket};
use super::status::Counts;
use super::{FailedHandshake, Handshake, Lease, MAX_STREAMS, Times};
use crate::jitter;

/// So many HTTP/1.1 connections to one endpoint wait at most. Each of its pools keeps its share, or a little more.
const MAX_IDLE: usize = 256;
/// What a runtime has heard is taken for all that has come only for so long.
const LATELY: Duration = Duration::from_millis(1);
/// More attempts than one connect time-out sees.
const REMEMBERED: usize = 1024;

#[derive(Debug)]
pub(super) struct State {
    idle: Vec<Own>,
    shared: Vec<Shared>,
    /// The oldest comes first.
    pub waiting: VecDeque<Waiter>,
    /// Attempts to open a connection that run now.
    pub opening: usize,
    /// The numbers of the latest attempts. They grow.
    begun: VecDeque<u64>,
    /// How many requests the next connection is expected to carry at once: as many as the last one.
    pub carries: usize,
    last_id: u64,
    /// The task that closes old connections runs.
    pub is_swept: bool,
    counts: Arc<Counts>,
}

/// A request that waits for a connection.
#[derive(Debug)]
pub(super) struct Waiter {
    /// The number of the last attempt to open one that had begun when it came.
    pub came: u64,
    pub place: oneshot::Sender<Result<Lease, FailedHandshake>>,
}

/// A connection that a request has been given.
#[derive(Debug)]
pub(super) enum Connection {
    Own(Own),
    /// One stream of the connection `id`.
    Stream {
        id: u64,
        sender: http2::SendRequest<OutgoingBody>,
        socket: Socket,
        was_used: bool,
    },
}

/// An HTTP/1.1 connection.
#[derive(Debug)]
pub(super) struct Own {
    pub sender: http1::SendRequest<OutgoingBody>,
    socket: Socket,
    life: Life,
    /// How many turns the runtime had taken when it came back; none if it has not been away.
    came_back: Option<u64>,
}

/// An HTTP/2 connection. It ends when it is no longer held here and its streams have ended.
#[derive(Debug)]
struct Shared {
    id: u64,
    sender: http2::SendRequest<OutgoingBody>,
    socket: Socket,
    life: Life,
    streams: usize,
    most: watch::Receiver<usize>,
}

#[derive(Debug)]
struct Life {
    /// When it becomes too old for further requests.
    until: Instant,
    /// When its last request ended.
    idle_since: Instant,
    was_used: bool,
}

impl Life {
    fn new(times: &Times) -> Life {
        // So that connections that were opened together do not end together.
        let now = Instant::now();
        Life { until: now + times.age.mul_f64(1.0 + jitter::fraction() / 5.0), idle_since: now, was_used: false }
    }

    fn is_young(&self, now: Instant) -> bool {
        now < self.until
    }

    fn is_fresh(&self, now: Instant, idle: Duration) -> bool {
        self.is_young(now) && self.idle_for(now) < idle
    }

    fn idle_for(&self, now: Instant) -> Duration {
        now.duration_since(self.idle_since)
    }
}

impl Own {
    fn is_wanted(&self, now: Instant, idle: Duration) -> bool {
        !self.sender.is_closed() && self.life.is_fresh(now, idle)
    }

    /// What has come since its last request. The runtime knows it, if it has looked for events meanwhile and did so lately.
    fn pending(&self, now: Instant, turns: u64) -> Pending {
        let has_looked = self.came_back.is_some_and(|before| before < turns) && self.life.idle_for(now) < LATELY;
        if has_looked { self.socket.heard() } else { self.socket.pending() }
    }
}

impl Connection {
    /// It has carried a request before this one.
    pub(super) fn was_used(&self) -> bool {
        match self {
            Connection::Own(own) => own.life.was_used,
            Connection::Stream { was_used, .. } => *was_used,
        }
    }

    /// How many bytes have come on it, for whichever request.
    pub(super) fn received(&self) -> u64 {
        match self {
            Connection::Own(own) => own.socket.received(),
            Connection::Stream { socket, .. } => socket.received(),
        }
    }
}

impl State {
    /// `carries`: what is expected of the first connection.
    pub(super) fn new(carries: usize, counts: &Arc<Counts>) -> State {
        counts.add_pool();
        State {
            idle: Vec::new(),
            shared: Vec::new(),
            waiting: VecDeque::new(),
            opening: 0,
            begun: VecDeque::new(),
            carries,
            last_id: 0,
            is_swept: false,
            counts: Arc::clone(counts),
        }
    }

    /// An attempt to open a connection begins, and gets this number.
    pub(super) fn begin(&mut self) -> u64 {
        self.opening += 1;
        if self.begun.len() == REMEMBERED {
            self.begun.pop_front();
        }
        let number = self.counts.begin();
        self.begun.push_back(number);
        number
    }

    /// The number of the last attempt that has begun, or 0.
    pub(super) fn last_begun(&self) -> u64 {
        self.begun.back().copied().unwrap_or(0)
    }

    /// The number of the first attempt that has begun after that with the number `last`, or `last` if none has.
    pub(super) fn first_begun_after(&self, last: u64) -> u64 {
        let at = self.begun.partition_point(|number| *number <= last);
        self.begun.get(at).copied().unwrap_or(last)
    }

    pub(super) fn add(&mut self, opened: Opened, times: &Times) {
        let life = Life::new(times);
        match opened {
            Opened::Http1(sender, socket) => {
                self.carries = 1;
                self.idle.push(Own { sender, socket, life, came_back: None });
            }
            Opened::Http2(sender, socket, most) => {
                self.carries = (*most.borrow()).clamp(1, MAX_STREAMS);
                self.last_id += 1;
                self.shared.push(Shared { id: self.last_id, sender, socket, life, streams: 0, most });
            }
        }
    }

    /// A connection, or a stream of one, that can take a request now. `turns` as in [`State::put_back`].
    pub(super) fn take(&mut self, idle: Duration, turns: u64) -> Option<Connection> {
        let now = Instant::now();
        while let Some(at) = self.shared.iter().position(Shared::has_room) {
            let shared = &mut self.shared[at];
            if !shared.is_wanted(now, idle) {
                self.shared.remove(at);
                continue;
            }
            // The end of a connection in use is noticed by its driver, which is awake.
            if shared.streams == 0 && shared.socket.pending() == Pending::End {
                self.shared.remove(at);
                continue;
            }
            shared.streams += 1;
            let was_used = std::mem::replace(&mut shared.life.was_used, true);
            let (sender, socket) = (shared.sender.clone(), shared.socket.clone());
            return Some(Connection::Stream { id: shared.id, sender, socket, was_used });
        }
        // One that has carried nothing takes its first request before its driver has run.
        while let Some(at) = self.idle.iter().rposition(|own| own.sender.is_ready() || !own.life.was_used) {
            let own = self.idle.swap_remove(at);
            if !own.is_wanted(now, idle) {
                continue;
            }
            // Before a request, a server has nothing to say but that it ends the connection; a new one may have sent
            // session tickets.
            match own.pending(now, turns) {
                Pending::Bytes if own.life.was_used => {}
                Pending::End => {}
                Pending::Nothing | Pending::Bytes => return Some(Connection::Own(own)),
            }
        }
        None
    }

    /// Takes back what `take` gave, after a whole answer or unused. `turns`: how often the runtime has looked for events.
    pub(super) fn put_back(&mut self, connection: Connection, has_been_used: bool, turns: u64) {
        let now = Instant::now();
        match connection {
            Connection::Own(mut own) => {
                own.life.was_used |= has_been_used;
                own.life.idle_since = now;
                own.came_back = Some(turns);
                let kept = MAX_IDLE.div_ceil(self.counts.pools());
                if self.idle.len() >= kept {
                    // Those that have ended meanwhile take no place.
                    self.idle.retain(|own| !own.sender.is_closed());
                }
                if !own.sender.is_closed() && own.life.is_young(now) && self.idle.len() < kept {
                    self.idle.push(own);
                }
            }
            Connection::Stream { id, .. } => self.stream_ended(id),
        }
    }

    pub(super) fn stream_ended(&mut self, id: u64) {
        if let Some(shared) = self.shared.iter_mut().find(|shared| shared.id == id) {
            shared.streams -= 1;
            shared.life.idle_since = Instant::now();
        }
    }

    /// The connection takes no further requests.
    pub(super) fn retire(&mut self, id: u64) {
        self.shared.retain(|shared| shared.id != id);
    }

    /// Closes the HTTP/1.1 connections that wait.
    pub(super) fn close_idle(&mut self) {
        self.idle.clear();
    }

    /// Lets go of connections that have ended, are too old, or have long had nothing to do.
    pub(super) fn drop_stale(&mut self, now: Instant, idle: Duration) {
        self.shared.retain(|shared| shared.is_wanted(now, idle));
        self.idle.retain(|own| own.is_wanted(now, idle));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.shared.is_empty() && self.idle.is_empty()
    }

    /// An attempt has failed. It fails the oldest of those who came before it began, as many as it would have served; who
    /// came later has another attempt made for it.
    pub(super) fn fail(&mut self, attempt: u64, reason: &str) {
        self.forget_the_gone();
        let handshake = Handshake { number: attempt, last: self.counts.begun() };
        for _ in 0..self.carries {
            if self.waiting.front().is_none_or(|waiter| waiter.came >= attempt) {
                return;
            }
            if let Some(waiter) = self.waiting.pop_front() {
                let _ = waiter.place.send(Err(FailedHandshake { handshake, reason: reason.to_owned() }));
            }
        }
    }

    pub(super) fn forget_the_gone(&mut self) {
        self.waiting.retain(|waiter| !waiter.place.is_closed());
    }
}

impl Shared {
    fn is_wanted(&self, now: Instant, idle: Duration) -> bool {
        let is_wanted = if self.streams > 0 { self.life.is_young(now) } else { self.life.is_fresh(now, idle) };
        is_wanted && !self.sender.is_closed()
    }

    fn has_room(&self) -> bool {
        self.streams < (*self.most.borrow()).min(MAX_STREAMS)
    }
}
