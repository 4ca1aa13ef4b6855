//! The state of the ledger.

use std::sync::atomic::Ordering::Relaxed;

use super::Ledger;
use super::integer::to_unsigned;

/// The state of the ledger, for status and metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Ended records that DynamoDB has not confirmed; 0 without a table.
    pub pending: u64,
    /// Bytes of the records that are in no table, against `audit.max_ledger_bytes`.
    pub bytes: u64,
    /// `audit.max_ledger_bytes`.
    pub max_bytes: u64,
    /// Requests under way.
    pub open: u64,
    /// Records that DynamoDB has confirmed since the daemon's start.
    pub shipped_total: u64,
    /// Failed attempts to write or to ship, since the daemon's start.
    pub failures_total: u64,
    /// Requests that were answered and could not be recorded, since the daemon's start.
    pub unrecorded_total: u64,
    /// Records that the table refuses for what they are.
    pub set_aside: u64,
    /// Refusals without a record of their own, which another one counts, since the daemon's start.
    pub coalesced_total: u64,
    /// Anchors that could not be written, since the daemon's start.
    pub anchor_failures_total: u64,
    /// When the last anchor was written, in milliseconds since 1970; 0 when none was since the daemon's start.
    pub anchored_ms: i64,
    /// When the table last confirmed records, in milliseconds since 1970; 0 when it has not since the daemon's start.
    pub shipped_ms: i64,
    /// `chainSeq` of the newest record; 0 before the first.
    pub newest_seq: u64,
    /// What does not work at the moment, in a sentence.
    pub last_error: Option<String>,
    /// Whether the ledger takes records.
    pub ledger_writable: bool,
    /// None without a table, or as long as nothing was tried.
    pub table_reachable: Option<bool>,
}

impl Ledger {
    /// The state at this moment.
    pub fn status(&self) -> Status {
        let (counts, health) = (&self.core.counts, &self.core.health);
        let has_table = self.core.settings.load().table.is_some();
        let (open, newest_seq) = {
            let journal = self.core.journal();
            (journal.open_count() as u64, journal.chain().seq)
        };
        Status {
            pending: if has_table { to_unsigned(counts.pending.load(Relaxed)) } else { 0 },
            bytes: to_unsigned(counts.bytes.load(Relaxed)),
            max_bytes: self.core.settings.load().max_ledger_bytes,
            open,
            shipped_total: counts.shipped(),
            failures_total: health.failures_total(),
            unrecorded_total: counts.unrecorded.load(Relaxed),
            set_aside: counts.set_aside.load(Relaxed),
            coalesced_total: self.core.coalesced_refusals(),
            anchor_failures_total: self.core.anchors.failures_total(),
            anchored_ms: self.core.anchors.last_ms(),
            shipped_ms: counts.shipped_ms(),
            newest_seq,
            last_error: health.gravest_failure(),
            ledger_writable: !health.recording_fails(),
            table_reachable: counts.table_reachable().filter(|_| has_table),
        }
    }
}
