//! What the pools of one endpoint count together, for the metrics and for themselves.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http1,
    Http2,
}

#[derive(Debug, Default)]
pub(super) struct Counts {
    http1: AtomicI64,
    http2: AtomicI64,
    /// Attempts to open a connection, up to the peer's SETTINGS in HTTP/2.
    pub succeeded: AtomicU64,
    pub failed: AtomicU64,
    /// Attempts that have begun so far.
    begun: AtomicU64,
    pools: AtomicUsize,
}

/// How many connections a pool has, and what came of opening them since this was last asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct PoolStatus {
    pub http1: i64,
    pub http2: i64,
    pub succeeded: u64,
    pub failed: u64,
}

impl Counts {
    /// Counts a connection as long as its driver runs.
    pub(super) fn connection(self: &Arc<Counts>, protocol: Protocol) -> Counted {
        self.of(protocol).fetch_add(1, Ordering::Relaxed);
        Counted(Arc::clone(self), protocol)
    }

    /// Numbers an attempt to open a connection, from 1.
    pub(super) fn begin(&self) -> u64 {
        self.begun.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The number of the last attempt that has begun, or 0.
    pub(super) fn begun(&self) -> u64 {
        self.begun.load(Ordering::Relaxed)
    }

    pub(super) fn add_pool(&self) {
        self.pools.fetch_add(1, Ordering::Relaxed);
    }

    /// How many pools count here; never 0.
    pub(super) fn pools(&self) -> usize {
        self.pools.load(Ordering::Relaxed).max(1)
    }

    pub(super) fn take(&self) -> PoolStatus {
        PoolStatus {
            http1: self.http1.load(Ordering::Relaxed),
            http2: self.http2.load(Ordering::Relaxed),
            succeeded: self.succeeded.swap(0, Ordering::Relaxed),
            failed: self.failed.swap(0, Ordering::Relaxed),
        }
    }

    fn of(&self, protocol: Protocol) -> &AtomicI64 {
        match protocol {
            Protocol::Http1 => &self.http1,
            Protocol::Http2 => &self.http2,
        }
    }
}

#[derive(Debug)]
pub(super) struct Counted(Arc<Counts>, Protocol);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.of(self.1).fetch_sub(1, Ordering::Relaxed);
    }
}
