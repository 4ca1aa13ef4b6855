//! The word that connections are to end.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;

/// Of one listener. It goes to the connections that are there; those that come later hear the next one.
#[derive(Debug, Default)]
pub(crate) struct Farewell(ArcSwap<watch::Sender<bool>>);

impl Farewell {
    /// For a connection, which holds it until it has ended.
    pub(crate) fn heard(&self) -> watch::Receiver<bool> {
        self.0.load().subscribe()
    }

    /// Tells the connections that are there. What is returned is closed when all of them have ended.
    pub(crate) fn say(&self) -> Arc<watch::Sender<bool>> {
        let told = self.0.swap(Arc::default());
        told.send_replace(true);
        told
    }
}
