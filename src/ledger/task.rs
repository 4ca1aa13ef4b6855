//! What the ledger's threads say to each other.

use tokio::sync::oneshot;

use super::index::IndexError;
use super::index::write::ShippingProgress;

/// A message to the thread that writes the index.
#[derive(Debug)]
pub(crate) enum Task {
    /// There are ended records in the journal that are not in the index.
    RecordsEnded,
    /// A request could not be recorded; find out whether the next one can.
    RecordingFails,
    /// Records have reached the table, or never will; the ids are of this generation of the index.
    Shipped(u64, Vec<ShippingProgress>),
    /// A reader found the index damaged.
    IndexDamaged(IndexError),
    /// Answer when everything that has ended by now is in the index.
    Flush(oneshot::Sender<()>),
    /// Write what there is and end.
    Stop,
}

/// How far the index is, published for the shipper.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct IndexProgress {
    /// Counts how often the index was opened: ids of one generation mean nothing in the next.
    pub(crate) generation: u64,
    /// Of the newest record.
    pub(crate) last_id: i64,
    /// Up to this record the table has confirmed all, apart from those it refused.
    pub(crate) shipped_id: i64,
}
