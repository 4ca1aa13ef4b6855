//! Group commit for `durability = "disk"`: one thread flushes the journal, and every request that came meanwhile waits for
//! the same flush.

use std::sync::{Condvar, Mutex, PoisonError};

use tokio::sync::watch;

use super::core::{Part, Shared};

#[derive(Debug)]
pub struct Flusher {
    wanted: Mutex<Wanted>,
    changed: Condvar,
    done: watch::Sender<Done>,
}

#[derive(Debug, Default)]
struct Wanted {
    flush: bool,
    stop: bool,
}

#[derive(Debug, Default, Clone)]
struct Done {
    /// Bytes that are on the disk, counted as the journal counts them.
    until: u64,
    failures: u64,
    reason: String,
}

impl Flusher {
    pub fn new() -> Flusher {
        Flusher { wanted: Mutex::default(), changed: Condvar::new(), done: watch::Sender::default() }
    }

    /// Waits until the journal is on the disk up to `mark`.
    pub async fn reach(&self, mark: u64) -> Result<(), String> {
        let mut done = self.done.subscribe();
        let failures = done.borrow().failures;
        self.want(false);
        match done.wait_for(|done| done.until >= mark || done.failures > failures).await {
            Ok(done) if done.until >= mark => Ok(()),
            Ok(done) => Err(done.reason.clone()),
            Err(_) => Err("the thread that flushes the journal has ended".to_owned()),
        }
    }

    /// Asks for a flush that nobody waits for, or for the end.
    pub fn want(&self, stop: bool) {
        let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        wanted.flush = true;
        wanted.stop |= stop;
        self.changed.notify_one();
    }

    /// Flushes whenever that is wanted, until it is to stop.
    pub fn run(&self, core: &Shared) {
        loop {
            let wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
            let mut wanted =
                self.changed.wait_while(wanted, |wanted| !wanted.flush).unwrap_or_else(PoisonError::into_inner);
            wanted.flush = false;
            let stop = wanted.stop;
            drop(wanted);

            let (file, until) = core.journal().to_flush();
            match file.map_or(Ok(()), |file| file.sync_data()) {
                Ok(()) => self.done.send_modify(|done| done.until = until),
                Err(error) => {
                    // What the kernel failed to write it may have forgotten: the openings are repeated in a new file.
                    core.journal().abandon_segment();
                    let reason = format!("the journal cannot be flushed to the disk: {error}");
                    core.trouble(Part::Recording, &reason);
                    self.done.send_modify(|done| {
                        done.failures += 1;
                        done.reason = reason;
                    });
                }
            }
            if stop {
                return;
            }
        }
    }
}
