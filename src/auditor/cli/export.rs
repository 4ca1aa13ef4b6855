//! `audit export`: all records, oldest first, and a closing line.

use std::io::Write;

use super::args::Export;
use super::closing::Closing;
use super::error::CliError;
use super::source::open;
use super::{matches, output};
use crate::auditor::search_index::with_hash;
use crate::ledger::StateDir;
use crate::ledger::clock::now_ms;
use crate::ledger::index::open_to_read;
use crate::ledger::index::read::{IndexedRecord, records_after};

/// Records that are read at a time.
const PAGE: usize = 500;

pub(super) fn export(args: &Export, state_dir: &StateDir, out: &mut (dyn Write + Send)) -> Result<(), CliError> {
    let query = args.filters.query(args.time_range, usize::MAX);
    let now = now_ms();
    // What the ledger holds at this moment is exported. The snapshot ends before anything is written: whoever reads the
    // output may take hours, and a read transaction that is open keeps the daemon's database from being tidied up.
    let snapshot = open(state_dir)?;
    let (last_id, unindexed, has_index) = (snapshot.state.last_id, snapshot.unindexed, snapshot.db.is_some());
    drop(snapshot.db);

    let mut writer = output::Writer::new(args.format, out)?;
    let mut closing = Closing::default();
    let mut write = |row: &IndexedRecord| -> Result<(), CliError> {
        if matches(row, &query, now) {
            let item = with_hash(&row.item, &row.hash);
            closing.add(&item);
            writer.write(&item)?;
        }
        Ok(())
    };
    if has_index {
        for_each_page(state_dir, last_id, |page| page.iter().try_for_each(&mut write))?;
    }
    unindexed.iter().try_for_each(&mut write)?;
    writer.close(&closing)?;
    Ok(writer.finish()?)
}

/// Hands the records up to `last_id` to `visit`, with no transaction open meanwhile.
fn for_each_page(
    state_dir: &StateDir,
    last_id: i64,
    mut visit: impl FnMut(&[IndexedRecord]) -> Result<(), CliError>,
) -> Result<(), CliError> {
    let db = open_to_read(&state_dir.database())?;
    let mut id = 0;
    while id < last_id {
        let mut page = records_after(&db, id, PAGE)?;
        let first = page.first().map(|row| row.id);
        if id > 0 && first != Some(id + 1) {
            // Deleted in the middle, they are for `audit verify` to find; deleted from the front, they were pruned.
            let oldest = records_after(&db, 0, 1)?.first().map(|row| row.id);
            if oldest == first {
                return Err(CliError::Pruned);
            }
        }
        page.retain(|row| row.id <= last_id);
        let Some(last) = page.last() else { return Ok(()) };
        id = last.id;
        visit(&page)?;
    }
    Ok(())
}
