//! `audit list --set-aside` and `audit retry`: the records that the table does not take. The list also has those whose
//! place in the chain another record has.

use std::io::Write;

use super::args::{Format, List};
use super::error::CliError;
use super::output;
use super::source::open;
use crate::auditor::search_index::with_hash;
use crate::ledger::StateDir;
use crate::ledger::index::read::{conflicts, set_aside_after};

/// Shows them, each with what the table said, or whose place it claims: as the attribute `setAside`, or in a line of its own in a table.
pub(super) fn list(args: &List, state_dir: &StateDir, out: &mut (dyn Write + Send)) -> Result<(), CliError> {
    let mut found = Vec::new();
    if let Some(db) = &open(state_dir)?.db {
        found = set_aside_after(db, 0, args.limit)?;
        let left = args.limit.saturating_sub(found.len());
        found.extend(conflicts(db, left)?.into_iter().map(|kept| {
            let reason = match kept.rival {
                Some(hash) => format!("another record has its place in the chain, with the chainHash {hash}"),
                None => "another record had its place in the chain, and was deleted since".to_owned(),
            };
            (kept.record, reason)
        }));
    }
    let mut writer = output::Writer::with_column(args.format, "setAside", out)?;
    for (record, reason) in found {
        let mut item = with_hash(&record.item, &record.hash);
        if args.format == Format::Table {
            writer.write(&item)?;
            writer.remark(&reason)?;
        } else {
            if let Some(fields) = item.as_object_mut() {
                fields.insert("setAside".to_owned(), reason.into());
            }
            writer.write(&item)?;
        }
    }
    Ok(writer.finish()?)
}

/// Leaves a mark for the daemon.
pub(super) fn retry(state_dir: &StateDir, out: &mut (dyn Write + Send)) -> Result<(), CliError> {
    let count = match &open(state_dir)?.db {
        Some(db) => set_aside_after(db, 0, usize::MAX)?.len(),
        None => 0,
    };
    if count == 0 {
        return Ok(writeln!(out, "no record is set aside")?);
    }
    let mark = state_dir.retry_mark();
    std::fs::write(&mark, []).map_err(|source| CliError::File { path: mark, source })?;
    Ok(writeln!(
        out,
        "{count} records that are set aside will be sent again within ten seconds, or when the daemon starts"
    )?)
}
