//! Sending records again that were set aside: at the start, and when `bedrock-sidecar audit retry` asks for it.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::BATCH_SIZE;
use super::batch::BatchSender;
use crate::ledger::health::Component;
use crate::ledger::index::read::{IndexedRecord, set_aside_after};
use crate::ledger::index::write::ShippingProgress;
use crate::ledger::index::{IndexError, open_to_read};
use crate::ledger::task::IndexProgress;

/// At most one attempt at a time.
#[derive(Debug)]
pub(crate) struct Retry {
    /// An attempt is due, whether it was asked for or not.
    due: bool,
    /// With the generation of the index that the ids of records are of.
    running: JoinSet<(u64, Vec<ShippingProgress>)>,
}

impl Retry {
    /// What the table refused may be accepted now: it or this version may be another.
    pub(crate) fn at_start() -> Retry {
        Retry { due: true, running: JoinSet::new() }
    }

    /// What an attempt has achieved cannot be marked, because the index is another one by now.
    pub(crate) fn again(&mut self) {
        self.due = true;
    }

    /// Begins an attempt if one is due. Ids of records are of this generation of the index; before the first there is
    /// none.
    pub(crate) fn check(
        &mut self,
        sender: &Arc<BatchSender>,
        generation: u64,
        progress: &watch::Receiver<IndexProgress>,
    ) {
        if !self.running.is_empty() || generation == 0 {
            return;
        }
        // The mark goes first: who sets it again meanwhile gets another attempt.
        let asked = std::fs::remove_file(sender.core.state_dir.retry_mark()).is_ok();
        if !asked && !std::mem::take(&mut self.due) {
            return;
        }
        let records = read_all(sender);
        if progress.borrow().generation != generation {
            // Nobody knows which of the two was read.
            self.due = true;
            return;
        }
        match records {
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
                    (generation, achieved)
                });
            }
            Err(error) => {
                self.due = true;
                let sentence = format!("records that were set aside cannot be read for shipping: {error}");
                sender.core.health.report_failure(Component::Shipping, &sentence);
            }
        }
    }

    /// What an attempt has achieved when it has ended, and of which generation the ids are; never, while there is none.
    pub(crate) async fn achieved(&mut self) -> Option<(u64, Vec<ShippingProgress>)> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_achieved_is_told_with_the_generation_that_was_read() {
        let mut retry = Retry { due: false, running: JoinSet::new() };
        retry.running.spawn(async { (3, vec![ShippingProgress::TakenAfterAll { id: 7 }]) });
        let (generation, achieved) = retry.achieved().await.unwrap();
        assert_eq!((generation, taken(&achieved)), (3, 1));
    }
}
