//! Old records are deleted, a step each turn; of a ledger that is too full also those that are not so old.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::IndexWriter;
use crate::ledger::index::prune::PruneRule;
use crate::ledger::index::{Index, IndexError};
use crate::ledger::integer::to_signed;

pub(super) const PRUNE_INTERVAL: Duration = Duration::from_secs(60);

/// What was decided when pruning began.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pruning {
    /// The time up to which a record's date can be true, in milliseconds since 1970. Not the careful time: records that a
    /// clock has dated rightly would be from the future by it, and as old as those that a slow clock has dated.
    latest_ms: i64,
    /// The time by which records are old, in milliseconds since 1970.
    careful_ms: i64,
    /// A ledger that is too full is emptied down to the goal, not just below the point where it began.
    must_prune: bool,
}

impl IndexWriter {
    pub(super) fn begin_pruning(&mut self, must_prune: bool) -> Result<(), IndexError> {
        let newest = self.index.as_ref().map(Index::newest_started_ms).transpose()?.flatten();
        let known = self.wall_clock.observe(self.clock.now_ms(), self.clock.instant(), newest);
        self.core.good_ms.store(known.good_ms, Relaxed);
        self.pruning = Some(Pruning { latest_ms: known.latest_ms(), careful_ms: known.careful_ms(), must_prune });
        self.next_prune = self.clock.instant() + PRUNE_INTERVAL;
        Ok(())
    }

    /// Deletes a bounded number of old records, if it is time for that.
    pub(super) fn prune_step(&mut self) -> Result<(), IndexError> {
        let (Some(index), Some(Pruning { latest_ms, careful_ms, must_prune })) = (&mut self.index, self.pruning) else {
            return Ok(());
        };
        let settings = self.core.settings.load();
        let retention = i64::try_from(settings.retention.as_millis()).unwrap_or(i64::MAX);
        let rule = PruneRule {
            now_ms: latest_ms,
            before_ms: careful_ms.saturating_sub(retention),
            max_bytes: settings.max_ledger_bytes,
            local_only: settings.table.is_none(),
            max_unshipped_bytes: must_prune.then_some(settings.max_ledger_bytes / 100 * 85),
        };
        let before = index.state;
        let pruned = index.prune(rule)?;
        let counts = &self.core.counts;
        counts.pending.fetch_sub(to_signed(pruned.unshipped), Relaxed);
        counts.bytes.fetch_sub(to_signed(before.unshipped_bytes - index.state.unshipped_bytes), Relaxed);
        if pruned.records + pruned.conflicts > 0 {
            counts.set_aside.store(index.set_aside_count()?, Relaxed);
        }
        if !pruned.more {
            self.pruning = None;
        }
        if pruned.unshipped > 0 && settings.table.is_some() {
            tracing::warn!(
                records = pruned.unshipped,
                "audit: the ledger is full; the oldest records were deleted before they had reached the table"
            );
        }
        if pruned.records > 0 {
            self.checkpoint()?;
        }
        Ok(())
    }
}
