//! Who reads the index, and the writer's checkpoint. SQLite does not get all of it done while somebody reads what was there
//! before, and until it is done, no file of the journal can be deleted. So while the writer waits for it, nobody new begins to
//! read: else readers that overlap could fill the disk.

use std::sync::Arc;

use tokio::sync::watch;

/// Everyone who reads the index in this process, and takes long.
#[derive(Debug, Default)]
pub(crate) struct Readers(watch::Sender<State>);

#[derive(Debug, Default)]
struct State {
    reading: usize,
    /// The writer waits.
    held_back: bool,
}

/// The right to read, as long as it is held.
#[derive(Debug)]
pub(crate) struct Reading(Arc<Readers>);

impl Readers {
    /// Waits until the writer does not wait.
    pub(crate) async fn enter(self: &Arc<Self>) -> Reading {
        let mut state = self.0.subscribe();
        loop {
            let entered = self.0.send_if_modified(|state| {
                state.reading += usize::from(!state.held_back);
                !state.held_back
            });
            if entered {
                return Reading(Arc::clone(self));
            }
            // The sender is here, so that it cannot be gone.
            let _ = state.wait_for(|state| !state.held_back).await;
        }
    }

    /// Whether a checkpoint was kept from its end. Who reads outside of this process is waited for by nobody.
    pub(super) fn checkpointed(&self, all: bool) {
        self.0.send_if_modified(|state| {
            let held_back = !all && state.reading > 0;
            std::mem::replace(&mut state.held_back, held_back) != held_back
        });
    }

    /// Whether the writer waits.
    pub(super) fn are_held_back(&self) -> bool {
        self.0.borrow().held_back
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.0.send_modify(|state| state.reading -= 1);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn enters(readers: &Arc<Readers>) -> Option<Reading> {
        let entering = pin!(readers.enter());
        match entering.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(reading) => Some(reading),
            Poll::Pending => None,
        }
    }

    #[test]
    fn nobody_begins_to_read_while_the_writer_waits() {
        let readers = Arc::new(Readers::default());
        let (first, second) = (enters(&readers), enters(&readers));
        assert!(first.is_some() && second.is_some(), "readers overlap");
        readers.checkpointed(false);
        assert!(readers.are_held_back() && enters(&readers).is_none());
        drop(first);
        readers.checkpointed(false);
        assert!(readers.are_held_back() && enters(&readers).is_none(), "one still reads");
        drop(second);
        assert!(enters(&readers).is_none(), "the writer has its try first");
        readers.checkpointed(true);
        assert!(!readers.are_held_back() && enters(&readers).is_some());
    }

    /// It is not ours to end.
    #[test]
    fn a_reader_elsewhere_holds_nobody_back() {
        let readers = Arc::new(Readers::default());
        readers.checkpointed(false);
        assert!(!readers.are_held_back() && enters(&readers).is_some());
    }

    #[tokio::test]
    async fn whoever_waits_is_let_in() {
        let readers = Arc::new(Readers::default());
        let reading = readers.enter().await;
        readers.checkpointed(false);
        let waiting = Arc::clone(&readers);
        let waiting = tokio::spawn(async move { waiting.enter().await });
        drop(reading);
        readers.checkpointed(true);
        drop(waiting.await.unwrap());
        readers.checkpointed(false);
        assert!(!readers.are_held_back(), "nobody reads");
    }
}
