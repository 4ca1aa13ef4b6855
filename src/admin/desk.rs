//! How many questions about records are answered at once, and how often a local user may have the whole fleet's table
//! searched: such a question costs thousands of reads.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::caller::User;
use crate::error::{Refusal, RefusalKind};

/// Questions under way, in all and of one asker.
const AT_ONCE: usize = 16;
const OF_ONE: usize = 4;
/// Of all turns, those that only auditors get.
const FOR_AUDITORS: usize = 4;
/// Questions to the table that an asker who is no auditor may have in a row, and how soon one more.
const BURST: u32 = 8;
const EVERY: Duration = Duration::from_secs(2);
/// Askers that are remembered.
const MOST_ASKERS: usize = 1_024;

/// Who asks: the user of the connection, and the caller's entry.
pub(crate) type Asker = (User, Option<String>);

/// What has to be known of a question.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Question {
    /// Whoever asks may see every record.
    pub is_auditor: bool,
    /// It goes to the fleet's table, and not to this host's ledger.
    pub to_table: bool,
}

/// Everyone who asks, shared by all connections.
#[derive(Debug, Default)]
pub(crate) struct Desk {
    askers: Mutex<HashMap<Asker, Visits>>,
}

#[derive(Debug)]
struct Visits {
    running: usize,
    /// Questions to the table that are still allowed, as of `since`.
    left: u32,
    since: Instant,
}

/// The right to one answer, held while it is made.
#[derive(Debug)]
pub(crate) struct Turn {
    desk: Arc<Desk>,
    asker: Asker,
}

impl Desk {
    /// A turn for one question.
    ///
    /// # Errors
    /// 429 if too many are being answered, or this asker has asked the table too often.
    pub(crate) fn turn(self: &Arc<Desk>, asker: Asker, question: Question, now: Instant) -> Result<Turn, Refusal> {
        let Question { is_auditor, to_table } = question;
        let is_metered = to_table && !is_auditor;
        let mut askers = self.lock();
        if askers.len() >= MOST_ASKERS && !askers.contains_key(&asker) {
            askers.retain(|_, visits| visits.running > 0 || visits.refilled(now) < BURST);
            if askers.len() >= MOST_ASKERS && !is_auditor {
                return Err(busy("too many users ask about records at present; try again in 2 s."));
            }
        }
        let most = if is_auditor { AT_ONCE } else { AT_ONCE - FOR_AUDITORS };
        let all: usize = askers.values().map(|visits| visits.running).sum();
        let visits = askers.entry(asker.clone()).or_insert(Visits { running: 0, left: BURST, since: now });
        if visits.running >= OF_ONE || all >= most {
            return Err(busy("too many questions about records are being answered; try again in 2 s."));
        }
        if is_metered {
            let left = visits.refilled(now);
            if left == 0 {
                return Err(busy(
                    "the table is searched for one user only once every 2 s; try again in 2 s, or ask this host's ledger (source=ledger).",
                ));
            }
            if left == BURST || left != visits.left {
                visits.since = now;
            }
            visits.left = left - 1;
        }
        visits.running += 1;
        drop(askers);
        Ok(Turn { desk: Arc::clone(self), asker })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Asker, Visits>> {
        self.askers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Visits {
    fn refilled(&self, now: Instant) -> u32 {
        let more = now.saturating_duration_since(self.since).as_secs() / EVERY.as_secs();
        self.left.saturating_add(u32::try_from(more).unwrap_or(BURST)).min(BURST)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(visits) = self.desk.lock().get_mut(&self.asker) {
            visits.running = visits.running.saturating_sub(1);
        }
    }
}

fn busy(message: &'static str) -> Refusal {
    Refusal::new(RefusalKind::Throttling, message).retry_after(EVERY)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEDGER: Question = Question { is_auditor: false, to_table: false };
    const TABLE: Question = Question { to_table: true, ..LEDGER };

    fn user(uid: u32) -> Asker {
        (User::Local(uid), None)
    }

    #[test]
    fn nobody_takes_all_turns() {
        let (desk, now) = (Arc::new(Desk::default()), Instant::now());
        let take = |uid| desk.turn(user(uid), LEDGER, now);
        let mut held: Vec<_> = (0..OF_ONE).map(|_| take(1).unwrap()).collect();
        assert_eq!(take(1).unwrap_err().kind, RefusalKind::Throttling);
        held.push(take(2).unwrap());
        held.remove(0);
        held.push(take(1).unwrap());
        held.extend((0..50).flat_map(|uid| take(100 + uid)));
        assert_eq!(held.len(), AT_ONCE - FOR_AUDITORS);
        let auditor = Question { is_auditor: true, to_table: true };
        held.extend((0..50).flat_map(|uid| desk.turn(user(uid), auditor, now)));
        assert_eq!(held.len(), AT_ONCE, "some are kept for auditors");
    }

    #[test]
    fn the_table_is_searched_so_often_for_one() {
        let (desk, start) = (Arc::new(Desk::default()), Instant::now());
        let ask = |uid, after| desk.turn(user(uid), TABLE, start + Duration::from_secs(after)).is_ok();
        assert_eq!((0..100).filter(|_| ask(1, 0)).count(), BURST as usize);
        assert!(ask(2, 0), "another user has turns of its own");
        assert!(!ask(1, 1) && ask(1, 2) && !ask(1, 3) && ask(1, 4));
        assert!(desk.turn(user(1), LEDGER, start + Duration::from_secs(4)).is_ok(), "the ledger may be asked");
        for uid in 0..3_000 {
            ask(uid, 10_000);
        }
        assert!(desk.lock().len() <= MOST_ASKERS);
    }
}
