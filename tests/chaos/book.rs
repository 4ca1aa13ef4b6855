//! What clients have sent, and what they saw.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Instant;

use bytes::Bytes;

/// How an answer ended for its client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    /// As its protocol ends whole answers.
    Whole,
    /// The client could see that it was cut.
    Cut(String),
    /// The client left amid it.
    Left,
}

/// An answer, as far as it came.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// `x-bedrock-sidecar-request-id`.
    pub(crate) id: Option<String>,
    /// `x-amzn-requestid`.
    pub(crate) upstream_id: Option<String>,
    pub(crate) region: Option<String>,
    pub(crate) error_type: Option<String>,
    pub(crate) content_type: Option<String>,
    /// Input and output tokens that headers tell.
    pub(crate) tokens: Option<(u64, u64)>,
    pub(crate) bytes: u64,
    pub(crate) crc32: u32,
    /// The body, unless it is long.
    pub(crate) body: Option<Bytes>,
    pub(crate) end: End,
}

/// What a client saw of its request.
#[derive(Debug, Clone)]
pub(crate) enum Saw {
    /// No connection could be made.
    Unconnected(String),
    /// The connection ended before the answer.
    Nothing(String),
    /// The client left before the answer.
    Left,
    /// Nothing came for far too long.
    Hung(&'static str),
    Answer(Answer),
}

/// A request.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) operation: &'static str,
    pub(crate) model: &'static str,
    pub(crate) caller: &'static str,
    pub(crate) began: Instant,
    /// It was sent on a connection that had been used before.
    pub(crate) reused: bool,
    /// The client takes no byte for so long that it may be cut off.
    pub(crate) slow: bool,
    /// When, and what; none while it is under way.
    pub(crate) saw: Option<(Instant, Saw)>,
}

/// All requests by the length of their bodies, which no two share.
#[derive(Debug, Default)]
pub(crate) struct Book(Mutex<Pages>);

#[derive(Debug, Default)]
struct Pages {
    next: usize,
    entries: BTreeMap<usize, Entry>,
}

/// The shortest body.
const SHORTEST: usize = 400;

impl Book {
    /// Enters a request before it is sent; `at_least` is the length that its body shall have at least.
    pub(crate) fn enter(&self, at_least: usize, entry: Entry) -> usize {
        let mut pages = self.0.lock().unwrap();
        pages.next += 1;
        let length = SHORTEST + at_least + pages.next;
        assert!(pages.entries.insert(length, entry).is_none(), "two requests of {length} bytes");
        length
    }

    pub(crate) fn saw(&self, length: usize, saw: Saw) {
        let mut pages = self.0.lock().unwrap();
        pages.entries.get_mut(&length).unwrap().saw = Some((Instant::now(), saw));
    }

    /// The requests whose clients are not done with them.
    pub(crate) fn under_way(&self) -> Vec<Entry> {
        self.0.lock().unwrap().entries.values().filter(|entry| entry.saw.is_none()).cloned().collect()
    }

    pub(crate) fn entries(&self) -> BTreeMap<usize, Entry> {
        self.0.lock().unwrap().entries.clone()
    }
}
