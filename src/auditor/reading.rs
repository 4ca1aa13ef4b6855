//! Reading the index for somebody who may leave meanwhile: a search that nobody waits for any more is ended, and none lasts for
//! ever. It keeps the writer from tidying up the database, and a thread from others.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, InterruptHandle};

use crate::error::{Refusal, RefusalKind};
use crate::ledger::Ledger;
use crate::ledger::index::{IndexError, open_to_read};
use crate::panics;

/// What one search may take.
const LONGEST: Duration = Duration::from_secs(30);

/// Reads the index. `held` is dropped when the search has ended, which may be after whoever asked has left.
///
/// # Errors
/// 503 when the index cannot be read now, or the search takes too long.
pub(super) async fn read<T: Send + 'static>(
    ledger: &Ledger,
    held: impl Send + 'static,
    read: impl FnOnce(&mut Connection) -> Result<T, IndexError> + Send + 'static,
) -> Result<T, Refusal> {
    let reading = tokio::time::timeout(2 * LONGEST, ledger.readers().enter()).await;
    let reading = reading.map_err(|_elapsed| unavailable(&"its database is being tidied up"))?;
    let path = ledger.database();
    let asker = Asker::default();
    let search = Arc::clone(&asker.0);
    let search = tokio::task::spawn_blocking(move || {
        let _held = (held, reading);
        panics::contain(|| {
            let mut db = open_to_read(&path)?;
            if !begin(&search, db.get_interrupt_handle()) {
                return Ok(None);
            }
            read(&mut db).map(Some)
        })
    });
    let found = tokio::time::timeout(LONGEST, search).await.map_err(|_elapsed| {
        let sentence =
            "the search of the ledger has taken 30 s and is ended; ask for a shorter time, or with fewer filters.";
        Refusal::new(RefusalKind::ServiceUnavailable, sentence)
    })?;
    let found = found.map_err(|error| unavailable(&error))?.map_err(|_panicked| unavailable(&panics::MESSAGE))?;
    let found = found.map_err(|error| {
        let refusal = unavailable(&error);
        if error.is_corrupt() {
            ledger.report_damage(error);
        }
        refusal
    })?;
    found.ok_or_else(|| unavailable(&"nobody waits for the answer"))
}

fn unavailable(error: &dyn std::fmt::Display) -> Refusal {
    Refusal::new(RefusalKind::ServiceUnavailable, format!("the ledger cannot be read: {error}"))
        .retry_after(Duration::from_secs(5))
}

/// How far a search is, for who may end it.
#[derive(Default)]
enum Search {
    #[default]
    Waits,
    Runs(InterruptHandle),
    /// It is not wanted any more.
    Ended,
}

/// Whoever waits for a search. Dropped, the search ends.
#[derive(Default)]
struct Asker(Arc<Mutex<Search>>);

impl Drop for Asker {
    fn drop(&mut self) {
        if let Search::Runs(handle) = std::mem::replace(&mut *lock(&self.0), Search::Ended) {
            handle.interrupt();
        }
    }
}

/// False if nobody waits for it.
fn begin(search: &Mutex<Search>, handle: InterruptHandle) -> bool {
    let mut search = lock(search);
    let is_wanted = !matches!(*search, Search::Ended);
    if is_wanted {
        *search = Search::Runs(handle);
    }
    is_wanted
}

fn lock(search: &Mutex<Search>) -> std::sync::MutexGuard<'_, Search> {
    search.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Its rows come one by one, and without an end.
    const LONG: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n";

    #[test]
    fn a_search_ends_with_whoever_waits_for_it() {
        let asker = Asker::default();
        let search = Arc::clone(&asker.0);
        let (begun, has_begun) = std::sync::mpsc::channel();
        let reader = std::thread::spawn(move || {
            let db = Connection::open_in_memory().unwrap();
            assert!(begin(&search, db.get_interrupt_handle()));
            let mut select = db.prepare(LONG).unwrap();
            let mut rows = select.query([]).unwrap();
            rows.next().unwrap();
            begun.send(()).unwrap();
            loop {
                if let Err(error) = rows.next() {
                    return error;
                }
            }
        });
        has_begun.recv().unwrap();
        drop(asker);
        let error = reader.join().unwrap();
        assert_eq!(error.sqlite_error_code(), Some(rusqlite::ErrorCode::OperationInterrupted));
    }

    #[test]
    fn a_search_that_nobody_waits_for_does_not_begin() {
        let asker = Asker::default();
        let search = Arc::clone(&asker.0);
        drop(asker);
        assert!(!begin(&search, Connection::open_in_memory().unwrap().get_interrupt_handle()));
    }
}
