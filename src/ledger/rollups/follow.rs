//! Following the index: new records are counted every five minutes, so that a question has little left to count.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::{RollupError, Rollups};
use crate::ledger::clock::now_ms;
use crate::ledger::core::Core;
use crate::ledger::task::{IndexProgress, Task};
use crate::panics;

/// From a record's end, or the daemon's start, until it is counted if nobody asks.
pub(crate) const INTERVAL: Duration = Duration::from_secs(300);
/// The part of the ledger's bound that new records may fill before they are counted sooner, or they might be deleted before.
const EAGER_PART: u64 = 8;
/// About what a record takes of that bound.
const RECORD_BYTES: u64 = 1024;
/// While there is much to count, it is counted for so long, and others have the core and the disk for as long.
const TURN: Duration = Duration::from_millis(50);

/// Counts what is new, so long after it, until the ledger stops. Where nothing is new, it sleeps.
pub(crate) async fn follow(
    core: Arc<Core>,
    rollups: Arc<Rollups>,
    mut progress: watch::Receiver<IndexProgress>,
    interval: Duration,
) {
    let mut stopping = core.stopping.subscribe();
    let following = async {
        let mut fails = false;
        let mut counted_id = counted_until(&rollups).await;
        loop {
            let are_many = |progress: &IndexProgress| {
                let most = core.settings.load().max_ledger_bytes / EAGER_PART / RECORD_BYTES;
                (progress.last_id - counted_id).unsigned_abs() > most
            };
            tokio::select! {
                () = tokio::time::sleep(interval) => {}
                many = progress.wait_for(are_many) => if many.is_err() {
                    return;
                },
            }
            counted_id = progress.borrow_and_update().last_id;
            let counted = count_all(&rollups).await;
            if let Err(error) = &counted
                && !fails
            {
                tracing::warn!(%error, "the dashboard's figures cannot be counted; they are tried again when there are new records");
            }
            fails = counted.is_err();
            if let Err(RollupError::Ledger(error)) = counted
                && error.is_corrupt()
            {
                core.send(Task::IndexDamaged(error));
            }
            if progress.changed().await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = following => {}
        _ = stopping.wait_for(|stop| *stop) => {}
    }
}

/// The last record that an earlier process has counted; 0 if there is none.
async fn counted_until(rollups: &Arc<Rollups>) -> i64 {
    let rollups = rollups.clone();
    tokio::task::spawn_blocking(move || rollups.counted_until()).await.ok().flatten().unwrap_or(0)
}

async fn count_all(rollups: &Arc<Rollups>) -> Result<(), RollupError> {
    loop {
        let counting = rollups.clone();
        let counted = tokio::task::spawn_blocking(move || panics::contain(|| counting.catch_up(TURN, now_ms()))).await;
        // A panic was logged with its place; the next records are tried again.
        let Ok(Ok(counted)) = counted else { return Ok(()) };
        if counted?.is_done {
            return Ok(());
        }
        tokio::time::sleep(TURN).await;
    }
}
