//! Sending records again that were set aside: at the start, and when `bedrock-sidecar audit retry` asks for it.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::task::JoinSet;

use super::BATCH_SIZE;
use super::batch::BatchSender;
use crate::ledger::health::Component;
use crate::ledger::index::read::{IndexedRecord, set_aside_after};
use crate::ledger::index::write::ShippingProgress;
use crate::ledger::index::{IndexError, open_to_read};

/// At most one attempt at a time.
#[derive(Debug)]
pub(crate) struct Retry {
    /// An attempt is due, whether it was asked for or not.
    due: bool,
    running: JoinSet<Vec<ShippingProgress>>,
}

impl Retry {
    /// What the table refused may be accepted now: it or this version may be another.
    pub(crate) fn at_start() -> Retry {
        Retry { due: true, running: JoinSet::new() }
    }

    /// Begins an attempt if one is due. Ids of records are of this generation of the index; before the first there is
    /// none.
    pub(crate) fn check(&mut self, sender: &Arc<BatchSender>, generation: u64) {
        if !self.running.is_empty() || generation == 0 {
            return;
        }
        // The mark goes first: who sets it again meanwhile gets another attempt.
        let asked = std::fs::remove_file(sender.core.state_dir.retry_mark()).is_ok();
        if !asked && !std::mem::take(&mut self.due) {
            return;
        }
        match read_all(sender) {
            Ok(records) if records.is_empty() => {}
            Ok(mut records) => {
                let sender = sender.clone();
                self.running.spawn(async move {
                    let mut achieved = Vec::new();
                    while !records.is_empty() {
                        let rest = records.split_off(records.len().min(BATCH_SIZE));
                        let batch = std::mem::replace(&mut records, rest);
                        achieved.extend(send(&sender, batch).await);
                    }
                    achieved
                });
            }
            Err(error) => {
                self.due = true;
                let sentence = format!("records that were set aside cannot be read for shipping: {error}");
                sender.core.health.report_failure(Component::Shipping, &sentence);
            }
        }
    }

    /// What an attempt has achieved when it has ended; never, while there is none.
    pub(crate) async fn achieved(&mut self) -> Option<Vec<ShippingProgress>> {
        match self.running.join_next().await {
            Some(achieved) => achieved.ok(),
            None => std::future::pending().await,
        }
    }
}

/// How many records the table took.
pub(crate) fn taken(achieved: &[ShippingProgress]) -> u64 {
    achieved.iter().filter(|step| matches!(step, ShippingProgress::TakenAfterAll { .. })).count() as u64
}

fn read_all(sender: &BatchSender) -> Result<Vec<IndexedRecord>, IndexError> {
    let db = open_to_read(&sender.core.state_dir.database())?;
    Ok(set_aside_after(&db, 0, usize::MAX)?.into_iter().map(|(record, _)| record).collect())
}

async fn send(sender: &BatchSender, records: Vec<IndexedRecord>) -> Vec<ShippingProgress> {
    let ids: Vec<i64> = records.iter().map(|record| record.id).collect();
    let delivered = sender.deliver(records).await;
    let refused: BTreeSet<i64> = delivered.rejected.iter().map(|(id, _)| *id).collect();
    let taken = ids.into_iter().filter(|id| !refused.contains(id)).map(|id| ShippingProgress::TakenAfterAll { id });
    let again = delivered.rejected.into_iter().map(|(id, reason)| ShippingProgress::SetAside { id, reason });
    taken.chain(again).collect()
}
