//! What a command reads: a snapshot of the ledger, or the table.

use super::error::CliError;
use crate::auditor::snapshot::Snapshot;
use crate::ledger::StateDir;
use crate::settings;

pub(super) fn open(state_dir: &StateDir) -> Result<Snapshot, CliError> {
    match state_dir.has_ledger() {
        Ok(true) => {}
        Ok(false) => return Err(CliError::NoLedger(state_dir.root.clone())),
        Err(source) => return Err(CliError::Closed { path: state_dir.root.clone(), source }),
    }
    Snapshot::open(state_dir).map_err(|source| CliError::Ledger { path: state_dir.root.clone(), source })
}

pub(super) fn table(settings: &settings::Audit) -> Result<&str, CliError> {
    settings
        .table
        .as_deref()
        .ok_or_else(|| CliError::Table("audit.table is not set, so there is no table to read".to_owned()))
}
