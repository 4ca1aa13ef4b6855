//! What is odd about the journal or the index, told where an admin looks.

use std::sync::atomic::Ordering::Relaxed;

use crate::ledger::core::Core;
use crate::ledger::health::Component;
use crate::ledger::index::Index;
use crate::ledger::journal::read::segment_path;

/// The file is deleted some day, so a copy is kept.
pub(super) fn report_undecodable(core: &Core, segment: u64, entries: u64) {
    let path = segment_path(&core.state_dir.journal(), segment);
    let copy = match core.state_dir.set_aside(&path, true) {
        Ok(copy) => format!("a copy is {}", copy.display()),
        Err(error) => format!("it cannot be copied: {error}"),
    };
    core.health.report_incident(&format!(
        "{entries} entries of the journal file {} are no records and are passed over; {copy}",
        path.display()
    ));
}

/// Records that are kept aside cannot pass unnoticed.
pub(super) fn report_conflicts(core: &Core, index: &Index, conflicts: &[u64]) {
    let Some(first) = conflicts.first() else { return };
    core.counts.set_aside.store(index.set_aside_count().unwrap_or(0), Relaxed);
    core.health.report_failure(
        Component::Index,
        &format!(
            "{} records claim a place in the chain that another record has, the first of them record {first}; they are kept aside, and `bedrock-sidecar audit list --set-aside` shows them",
            conflicts.len(),
        ),
    );
}

/// What was lost with a damaged database is counted, and logged in full.
pub(super) fn report_incidents(core: &Core, index: &mut Index) {
    for incident in index.take_incidents() {
        core.health.report_incident(&incident);
    }
    core.counts.set_aside.store(index.set_aside_count().unwrap_or(0), Relaxed);
}
