//! When a batch is sent: when it is whole, or has waited long enough for the records that it lacks. A call costs about as
//! much for one record as for a whole batch.

use std::time::Duration;

use tokio::time::Instant;

use super::BATCH_SIZE;
use crate::ledger::integer::to_unsigned;

/// So long a batch waits for the records that it lacks.
const MAX_WAIT: Duration = Duration::from_millis(100);

/// The batch that is sent next.
#[derive(Debug, Default)]
pub(super) struct Filling {
    /// When it is sent, whole or not; none while it has no records.
    due: Option<Instant>,
}

impl Filling {
    /// Whether it is to be sent, when so many records wait. Those that were pruned may make it seem whole.
    pub(super) fn is_due(&mut self, waiting: i64, now: Instant) -> bool {
        if waiting <= 0 {
            self.due = None;
            return false;
        }
        to_unsigned(waiting) >= BATCH_SIZE as u64 || *self.due.get_or_insert(now + MAX_WAIT) <= now
    }

    /// It was sent, or its records are gone.
    pub(super) fn begin_next(&mut self) {
        self.due = None;
    }

    /// Returns when it is due; never, while it has no records.
    pub(super) async fn wait(&self) {
        match self.due {
            Some(due) => tokio::time::sleep_until(due).await,
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_batch_goes_at_once_and_a_part_when_it_has_waited() {
        let mut filling = Filling::default();
        let begun = Instant::now();
        let whole = i64::try_from(BATCH_SIZE).unwrap();
        assert!(!filling.is_due(0, begun));
        assert!(!filling.is_due(1, begun + MAX_WAIT), "its time begins with its first record");
        assert!(!filling.is_due(whole - 1, begun + MAX_WAIT));
        assert!(filling.is_due(whole, begun + MAX_WAIT));
        filling.begin_next();
        assert!(!filling.is_due(3, begun + 2 * MAX_WAIT), "what is left has its own time");
        assert!(filling.is_due(3, begun + 3 * MAX_WAIT));
        assert!(!filling.is_due(0, begun + 3 * MAX_WAIT));
        assert!(!filling.is_due(1, begun + 3 * MAX_WAIT));
    }
}
