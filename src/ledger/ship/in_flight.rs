//! Batches are sent concurrently and may be confirmed out of order. Marked as shipped is the contiguous run of records
//! from the first on. After a crash the few behind a gap are sent again, which changes nothing: same key, same item.

use std::collections::BTreeMap;

/// Batches that were sent, by the id of their first record.
#[derive(Debug, Default)]
pub(crate) struct InFlight {
    batches: BTreeMap<i64, Batch>,
}

#[derive(Debug)]
struct Batch {
    last: i64,
    /// How many records the table confirmed; none while the batch is in flight.
    confirmed: Option<u64>,
}

/// Contiguous records that are in the table or refused by it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ConfirmedRun {
    pub(crate) last: i64,
    pub(crate) confirmed: u64,
}

impl InFlight {
    pub(crate) fn sent(&mut self, first: i64, last: i64) {
        self.batches.insert(first, Batch { last, confirmed: None });
    }

    /// Marks a batch as done, and takes out the contiguous run from the first batch on, if that is done.
    pub(crate) fn finish(&mut self, first: i64, confirmed: u64) -> Option<ConfirmedRun> {
        self.batches.get_mut(&first)?.confirmed = Some(confirmed);
        let mut run: Option<ConfirmedRun> = None;
        while let Some(entry) = self.batches.first_entry()
            && let Some(confirmed) = entry.get().confirmed
        {
            let batch = entry.remove();
            let run = run.get_or_insert(ConfirmedRun { last: batch.last, confirmed: 0 });
            run.last = batch.last;
            run.confirmed += confirmed;
        }
        run
    }

    pub(crate) fn clear(&mut self) {
        self.batches.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_contiguous_run_counts() {
        let mut in_flight = InFlight::default();
        in_flight.sent(1, 25);
        in_flight.sent(26, 50);
        in_flight.sent(51, 60);
        assert_eq!(in_flight.finish(26, 25), None);
        assert_eq!(in_flight.finish(1, 24), Some(ConfirmedRun { last: 50, confirmed: 49 }));
        assert_eq!(in_flight.finish(99, 1), None);
        assert_eq!(in_flight.finish(51, 10), Some(ConfirmedRun { last: 60, confirmed: 10 }));
    }
}
