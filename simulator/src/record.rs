//! Everything that arrived, answered or refused, kept so that tests can look for leaks.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Serialize, Serializer};

/// One request as it arrived, and how its exchange went.
#[derive(Debug, Clone, Serialize)]
pub struct Received {
    /// Counts up from 1 over the simulator's life.
    pub number: u64,
    /// The simulator's region, so that a test with several of them can tell which was asked.
    pub region: String,
    /// The HTTP method.
    pub method: String,
    /// Path and query exactly as on the wire.
    pub path: String,
    /// Headers in order. HTTP/2's `:authority` is listed first, as `:authority`.
    pub headers: Vec<(String, String)>,
    /// When all of it had arrived, in microseconds since 1970, so that requests to several simulators can be put in order.
    pub arrived_us: u64,
    /// The body; empty when it was too large to keep.
    #[serde(serialize_with = "as_base64")]
    pub body: Bytes,
    /// The body's length, also when it was too large to keep.
    pub body_length: usize,
    /// `HTTP/1.1` or `HTTP/2.0`.
    pub http_version: String,
    /// Whether it came over TLS.
    pub tls: bool,
    /// Counts connections, so that a test can see reuse.
    pub connection: u64,
    /// The port from which the client has connected, by which a proxy between knows what it did to the connection.
    pub client_port: u16,
    /// The operation, by AWS's name; `None` when no operation has this path.
    pub operation: Option<String>,
    /// The model as it was asked for.
    pub model: Option<String>,
    /// The foundation model that answers for it.
    pub model_resolved: Option<String>,
    /// `bearer`, `sigv4` or `none`.
    pub auth: String,
    /// The access key id of a SigV4 request.
    pub access_key_id: Option<String>,
    /// What leaked: why a strict stand-in refused it. Empty in a sound exchange.
    pub leaks: Vec<String>,
    /// The fault that was applied, by its kind.
    pub fault: Option<String>,
    /// The status answered; `None` while unanswered, or when a fault answered nothing.
    pub status: Option<u16>,
    /// The error type answered.
    pub error_type: Option<String>,
    /// The x-amzn-RequestId answered.
    pub request_id: String,
    /// Bytes of body handed to the connection.
    pub bytes_sent: u64,
    /// The CRC-32 of those bytes.
    pub sent_crc32: u32,
    /// How the exchange ended, seen from here.
    pub ended: Ended,
    /// How the answer was written, where the simulator framed it by hand (see the `framing` module).
    pub framing: Option<String>,
    /// The HTTP/2 stream, where the simulator framed it by hand.
    pub stream: Option<u32>,
    /// Bytes of body that the whole answer has, whatever a fault or a framing then left out of it.
    pub answer_length: u64,
    /// Whether all of `answer_length` was sent and the answer was then ended as its protocol wants.
    pub sent_whole: bool,
    /// The input tokens that the answer reports, in its body or headers.
    pub input_tokens: Option<u64>,
    /// The output tokens that the answer reports, in its body or headers.
    pub output_tokens: Option<u64>,
    /// The code by which the client reset the HTTP/2 stream, where the simulator framed it by hand.
    pub client_reset: Option<u32>,
    /// Whether that reset came when all bytes of the answer's body had been sent: needless, and counted by real servers.
    pub cancelled_whole: bool,
    /// The first events of the client's half of a bidirectional stream, verified: the JSON in their bytes.
    pub events: Vec<String>,
    /// How many there were.
    pub event_count: u64,
    /// Whether their signed end came.
    pub has_final_frame: bool,
}

impl Received {
    /// The first value of a header, whatever its case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// How an exchange ended, seen from the simulator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// Still going on.
    Open,
    /// The whole answer was handed to the connection.
    Completed,
    /// The connection or stream was closed by the other side first.
    ClientWentAway,
    /// A fault broke it off.
    Cut,
}

fn as_base64<S: Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&STANDARD.encode(bytes))
}

/// The record. Bounded by count and bytes, the oldest go first.
#[derive(Debug, Clone)]
pub(crate) struct Record(Arc<Mutex<Kept>>);

#[derive(Debug)]
struct Kept {
    requests: VecDeque<Received>,
    limit: usize,
    longest_body: usize,
    bytes: usize,
    next_number: u64,
}

const MAX_BYTES: usize = 256 * 1024 * 1024;

impl Record {
    pub(crate) fn new(limit: usize, longest_body: usize) -> Record {
        let kept = Kept { requests: VecDeque::new(), limit, longest_body, bytes: 0, next_number: 1 };
        Record(Arc::new(Mutex::new(kept)))
    }

    pub(crate) fn open(&self, mut received: Received) -> Open {
        let mut kept = self.lock();
        let number = kept.next_number;
        kept.next_number += 1;
        received.number = number;
        if received.body.len() > kept.longest_body {
            received.body = Bytes::new();
        }
        if kept.limit > 0 {
            kept.bytes += received.body.len();
            kept.requests.push_back(received);
        }
        while kept.requests.len() > kept.limit || (kept.bytes > MAX_BYTES && kept.requests.len() > 1) {
            if let Some(oldest) = kept.requests.pop_front() {
                kept.bytes -= oldest.body.len();
            }
        }
        Open { record: self.clone(), number }
    }

    pub(crate) fn all(&self) -> Vec<Received> {
        self.lock().requests.iter().cloned().collect()
    }

    pub(crate) fn clear(&self) {
        let mut kept = self.lock();
        kept.requests.clear();
        kept.bytes = 0;
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The handle by which an exchange completes its own entry.
#[derive(Debug, Clone)]
pub(crate) struct Open {
    record: Record,
    number: u64,
}

impl Open {
    pub(crate) fn update(&self, change: impl FnOnce(&mut Received)) {
        let mut kept = self.record.lock();
        // Entries are in order of their numbers, without gaps.
        let Some(first) = kept.requests.front().map(|received| received.number) else { return };
        let index = self.number.checked_sub(first).and_then(|index| usize::try_from(index).ok());
        if let Some(received) = index.and_then(|index| kept.requests.get_mut(index)) {
            change(received);
        }
    }

    pub(crate) fn sent(&self, bytes: &[u8]) {
        self.update(|received| {
            received.bytes_sent += bytes.len() as u64;
            let mut crc = crc32fast::Hasher::new_with_initial(received.sent_crc32);
            crc.update(bytes);
            received.sent_crc32 = crc.finalize();
        });
    }

    pub(crate) fn close(self, how: Ended) {
        self.update(|received| {
            received.ended = how;
            received.sent_whole = how == Ended::Completed && received.bytes_sent == received.answer_length;
        });
    }
}
