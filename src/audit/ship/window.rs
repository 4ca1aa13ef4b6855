//! Batches travel side by side and may arrive out of order; what is marked as shipped is the unbroken row of records from
//! the first on. After a crash the few behind a gap are sent again, which changes nothing: same key, same item.

use std::collections::BTreeMap;

/// Batches under way, by the id of their first record.
#[derive(Debug, Default)]
pub struct Window {
    batches: BTreeMap<i64, Batch>,
}

#[derive(Debug)]
struct Batch {
    last: i64,
    bytes: u64,
    /// How many records the table confirmed; none while under way.
    confirmed: Option<u64>,
}

/// An unbroken row that has arrived.
#[derive(Debug, PartialEq, Eq)]
pub struct Arrived {
    pub last: i64,
    pub confirmed: u64,
    pub bytes: u64,
}

impl Window {
    pub fn sent(&mut self, first: i64, last: i64, bytes: u64) {
        self.batches.insert(first, Batch { last, bytes, confirmed: None });
    }

    /// Marks a batch, and takes out the row that is complete now.
    pub fn arrived(&mut self, first: i64, confirmed: u64) -> Option<Arrived> {
        self.batches.get_mut(&first)?.confirmed = Some(confirmed);
        let mut row: Option<Arrived> = None;
        while let Some(entry) = self.batches.first_entry()
            && let Some(confirmed) = entry.get().confirmed
        {
            let batch = entry.remove();
            let row = row.get_or_insert(Arrived { last: batch.last, confirmed: 0, bytes: 0 });
            row.last = batch.last;
            row.confirmed += confirmed;
            row.bytes += batch.bytes;
        }
        row
    }

    pub fn clear(&mut self) {
        self.batches.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_unbroken_row_counts() {
        let mut window = Window::default();
        window.sent(1, 25, 10);
        window.sent(26, 50, 20);
        window.sent(51, 60, 30);
        assert_eq!(window.arrived(26, 25), None);
        assert_eq!(window.arrived(1, 24), Some(Arrived { last: 50, confirmed: 49, bytes: 30 }));
        assert_eq!(window.arrived(99, 1), None);
        assert_eq!(window.arrived(51, 10), Some(Arrived { last: 60, confirmed: 10, bytes: 30 }));
    }
}
