//! What the ledger counts, for status and metrics.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

use super::clock::now_ms;

/// Numbers for status and metrics, and for the bound on the ledger's size.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Ended records that are in no table, and the bytes of their items.
    pub(crate) pending: AtomicI64,
    pub(crate) bytes: AtomicI64,
    shipped: AtomicU64,
    /// When records were last confirmed, in milliseconds since 1970; 0 when none were.
    shipped_ms: AtomicI64,
    pub(crate) unrecorded: AtomicU64,
    pub(crate) set_aside: AtomicU64,
    table: AtomicU64,
}

const TABLE_UNKNOWN: u64 = 0;
const TABLE_REACHABLE: u64 = 1;
const TABLE_UNREACHABLE: u64 = 2;

impl Counts {
    /// The table has confirmed so many more records.
    pub(crate) fn add_shipped(&self, records: u64) {
        if records > 0 {
            self.shipped.fetch_add(records, Relaxed);
            self.shipped_ms.store(now_ms(), Relaxed);
        }
    }

    pub(crate) fn shipped(&self) -> u64 {
        self.shipped.load(Relaxed)
    }

    /// When records were last confirmed, in milliseconds since 1970; 0 when none were since the daemon's start.
    pub(crate) fn shipped_ms(&self) -> i64 {
        self.shipped_ms.load(Relaxed)
    }

    pub(crate) fn set_table_reachable(&self, reachable: bool) {
        self.table.store(if reachable { TABLE_REACHABLE } else { TABLE_UNREACHABLE }, Relaxed);
    }

    /// None as long as nothing was tried.
    pub(crate) fn table_reachable(&self) -> Option<bool> {
        match self.table.load(Relaxed) {
            TABLE_UNKNOWN => None,
            state => Some(state == TABLE_REACHABLE),
        }
    }
}
