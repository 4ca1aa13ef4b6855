//! How long the parts of a request took. The log's line and the metrics tell it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The times of a request that has ended.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Timings {
    /// From the request's head to the answer's end.
    pub whole: Duration,
    /// It waited for limits, and for memory for its body.
    pub queued: Duration,
    /// It waited for connections to upstreams.
    pub connecting: Duration,
}

/// Time that adds up in pieces, in nanoseconds. What is measured counts although whoever waits is dropped.
#[derive(Debug, Clone, Default)]
pub(crate) struct Waited(Arc<AtomicU64>);

/// A piece of time that ends when it is dropped.
#[derive(Debug)]
#[must_use = "time is measured until this is dropped"]
pub(crate) struct Measuring {
    waited: Waited,
    since: Instant,
}

impl Waited {
    /// From now on.
    pub(crate) fn measure(&self) -> Measuring {
        Measuring { waited: self.clone(), since: Instant::now() }
    }

    /// What has been added up so far.
    pub(crate) fn total(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }
}

impl Drop for Measuring {
    fn drop(&mut self) {
        let nanos = u64::try_from(self.since.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.waited.0.fetch_add(nanos, Ordering::Relaxed);
    }
}
