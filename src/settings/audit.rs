//! `[audit]`: where records are kept, for how long, and how many.

use std::time::Duration;

use super::names::any_region;
use super::{Audit, anchor, names};
use crate::config::{self, ConfigError, OnFull, Source};

/// A ledger needs some room before the first record can stand in it.
const LEAST_LEDGER_BYTES: u64 = 4_000;

/// Takes `[audit]` over, and warns of what is odd.
pub(super) fn audit(audit: config::Audit, warnings: &mut Vec<String>, source: &Source) -> Result<Audit, ConfigError> {
    // A table is owed every record; without one, nobody waits for the oldest.
    let by_default = if audit.table.get_ref().is_empty() { OnFull::Prune } else { OnFull::Deny };
    let region = any_region(&audit.region, source)?;
    let table = match audit.table.get_ref().as_str() {
        "" => None,
        _ => Some(names::table(&audit.table, &region, source)?),
    };
    let bytes = audit.max_ledger_bytes.get_ref().get();
    if bytes < LEAST_LEDGER_BYTES {
        let sentence =
            format!("a ledger of {bytes} bytes has no room for a record; give it {LEAST_LEDGER_BYTES} at least.");
        return Err(source.error(audit.max_ledger_bytes.span(), sentence));
    }
    let mut warn = |span, sentence: &str| warnings.push(source.error(span, sentence).to_string());
    if bytes < 1 << 20 {
        warn(
            audit.max_ledger_bytes.span(),
            "a ledger of less than 1 MiB (1048576) is full after a few hundred requests.",
        );
    }
    let retention = audit.retention.get_ref().0;
    if retention < Duration::from_secs(3600) {
        warn(audit.retention.span(), "records are deleted within the hour.");
    }
    Ok(Audit {
        state_dir: audit.state_dir.map(|path| path.0),
        table,
        anchor: audit.anchor.map(|written| anchor::anchor(written, &region, source)).transpose()?,
        region,
        retention,
        on_failure: audit.on_failure,
        durability: audit.durability,
        max_ledger_bytes: bytes,
        on_full: audit.on_full.unwrap_or(by_default),
    })
}
