//! Group commit for `durability = "disk"`: one thread flushes the journal, and every request that came meanwhile waits
//! for the same flush.

use std::sync::{Condvar, Mutex, PoisonError};

use tokio::sync::watch;

use super::core::Core;

/// Why an opening is not known to be on the disk.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FlushError {
    #[error("{0}")]
    Failed(String),
    #[error("the thread that flushes the journal has ended")]
    ThreadEnded,
}

#[derive(Debug)]
pub(crate) struct Flusher {
    request: Mutex<Request>,
    requested: Condvar,
    flushed: watch::Sender<Flushed>,
}

#[derive(Debug, Default)]
struct Request {
    flush: bool,
    stop: bool,
}

/// What the thread has done so far.
#[derive(Debug, Default, Clone)]
struct Flushed {
    /// Bytes that are on the disk, counted as the journal counts them.
    bytes: u64,
    failures: u64,
    last_failure: String,
    /// The thread has ended, so that nothing will be flushed any more.
    ended: bool,
}

/// Tells those who wait, however the thread ends.
struct Ending<'a>(&'a Flusher);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.flushed.send_modify(|flushed| flushed.ended = true);
    }
}

impl Flusher {
    pub(crate) fn new() -> Flusher {
        Flusher { request: Mutex::default(), requested: Condvar::new(), flushed: watch::Sender::default() }
    }

    /// Waits until the journal's first `bytes` bytes, by its own count, are on the disk.
    pub(crate) async fn wait_for(&self, bytes: u64) -> Result<(), FlushError> {
        let mut flushed = self.flushed.subscribe();
        let failures = flushed.borrow().failures;
        self.request_flush();
        let has_news = |flushed: &Flushed| flushed.bytes >= bytes || flushed.failures > failures || flushed.ended;
        match flushed.wait_for(has_news).await {
            Ok(flushed) if flushed.bytes >= bytes => Ok(()),
            Ok(flushed) if flushed.failures > failures => Err(FlushError::Failed(flushed.last_failure.clone())),
            _ => Err(FlushError::ThreadEnded),
        }
    }

    /// Asks for a flush that nobody waits for.
    pub(crate) fn request_flush(&self) {
        self.request(false);
    }

    /// Asks the thread to flush once more and to end.
    pub(crate) fn stop(&self) {
        self.request(true);
    }

    fn request(&self, stop: bool) {
        let mut request = self.request.lock().unwrap_or_else(PoisonError::into_inner);
        request.flush = true;
        request.stop |= stop;
        self.requested.notify_one();
    }

    /// Flushes whenever that is asked for, until it is to stop.
    pub(crate) fn run(&self, core: &Core) {
        let _ending = Ending(self);
        loop {
            let request = self.request.lock().unwrap_or_else(PoisonError::into_inner);
            let mut request =
                self.requested.wait_while(request, |request| !request.flush).unwrap_or_else(PoisonError::into_inner);
            request.flush = false;
            let stop = request.stop;
            drop(request);

            match core.sync_journal() {
                Ok(bytes) => self.flushed.send_modify(|flushed| flushed.bytes = flushed.bytes.max(bytes)),
                Err(error) => {
                    let reason = format!("the journal cannot be flushed to the disk: {error}");
                    self.flushed.send_modify(|flushed| {
                        flushed.failures += 1;
                        flushed.last_failure = reason;
                    });
                }
            }
            if stop {
                return;
            }
        }
    }
}
