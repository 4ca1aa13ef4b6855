//! The word that connections are to end.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::{Notify, watch};

/// Of one listener. It goes to the connections that are there; those that come later hear the next one.
#[derive(Debug, Default)]
pub(crate) struct Farewell {
    told: ArcSwap<watch::Sender<bool>>,
    closing: Notify,
}

impl Farewell {
    /// For a connection, which holds it until it has ended.
    pub(crate) fn heard(&self) -> watch::Receiver<bool> {
        self.told.load().subscribe()
    }

    /// Tells the connections that are there. What is returned is closed when all of them have ended.
    pub(crate) fn say(&self) -> Arc<watch::Sender<bool>> {
        let told = self.told.swap(Arc::default());
        told.send_replace(true);
        told
    }

    /// The same, and the listener closes: the last connections hear it at once.
    pub(crate) fn close(&self) -> Arc<watch::Sender<bool>> {
        let told = self.told.load_full();
        told.send_replace(true);
        self.closing.notify_one();
        told
    }

    /// Waits until the listener is to close.
    pub(crate) async fn closes(&self) {
        self.closing.notified().await;
    }
}
