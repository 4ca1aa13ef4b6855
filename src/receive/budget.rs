//! How much memory the bodies of requests may take together: `limits.max_buffered_bytes`, and half of it for one user.
//!
//! A user who has little in it (a 64th of the whole) may go an eighth beyond the whole: two users who have half each do
//! not shut out the others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::error::{Refusal, RefusalKind};

/// A body waits so long for others to be sent.
const LONGEST_WAIT: Duration = Duration::from_secs(1);
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// The bodies that are in memory, by the users of their connections.
#[derive(Debug, Default)]
pub(crate) struct Budget {
    taken: Mutex<Taken>,
    freed: Notify,
}

#[derive(Debug, Default)]
struct Taken {
    total: usize,
    /// Nobody with nothing is in it.
    users: HashMap<Option<u32>, usize>,
}

/// The part of the budget that one body has; dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Held {
    budget: Arc<Budget>,
    uid: Option<u32>,
    bytes: usize,
}

impl Budget {
    /// For a body of this user, of which nothing has come yet.
    pub(crate) fn hold(self: &Arc<Budget>, uid: Option<u32>) -> Held {
        Held { budget: Arc::clone(self), uid, bytes: 0 }
    }

    /// Bytes that are taken now.
    pub(crate) fn taken(&self) -> usize {
        self.lock().total
    }

    fn try_take(&self, uid: Option<u32>, more: usize, most: usize) -> bool {
        let mut taken = self.lock();
        let own = taken.users.get(&uid).copied().unwrap_or(0);
        let (all, own) = (taken.total.saturating_add(more), own.saturating_add(more));
        let is_little = own <= most / 64;
        if own > most / 2 || all > if is_little { most.saturating_add(most / 8) } else { most } {
            return false;
        }
        taken.total += more;
        taken.users.insert(uid, own);
        true
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    /// Makes it at least `bytes`, of a budget of `most`. Waits a moment for others to give theirs back.
    ///
    /// # Errors
    /// 503 if there is no room.
    pub(crate) async fn grow_to(&mut self, bytes: usize, most: usize) -> Result<(), Refusal> {
        let Some(more) = bytes.checked_sub(self.bytes).filter(|more| *more > 0) else { return Ok(()) };
        let until = Instant::now() + LONGEST_WAIT;
        loop {
            let freed = self.budget.freed.notified();
            if self.budget.try_take(self.uid, more, most) {
                self.bytes = bytes;
                return Ok(());
            }
            if tokio::time::timeout_at(until, freed).await.is_err() {
                return Err(Refusal::new(
                    RefusalKind::ServiceUnavailable,
                    "the bodies of other requests take all the memory there is for them, or for this user's (limits.max_buffered_bytes); try again in 1 s.",
                )
                .retry_after(TRY_AGAIN)
                .closing());
            }
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.bytes == 0 {
            return;
        }
        let mut taken = self.budget.lock();
        taken.total -= self.bytes.min(taken.total);
        if let Some(own) = taken.users.get_mut(&self.uid) {
            *own = own.saturating_sub(self.bytes);
            if *own == 0 {
                taken.users.remove(&self.uid);
            }
        }
        drop(taken);
        self.budget.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_user_has_half_and_all_have_no_more_than_the_whole() {
        let budget = Arc::new(Budget::default());
        let mut one = budget.hold(Some(1));
        one.grow_to(50, 100).await.unwrap();
        one.grow_to(20, 100).await.unwrap();
        let refusal = budget.hold(Some(1)).grow_to(1, 100).await.unwrap_err();
        assert_eq!((refusal.kind, refusal.retry_after), (RefusalKind::ServiceUnavailable, Some(TRY_AGAIN)));
        let mut other = budget.hold(Some(2));
        other.grow_to(30, 100).await.unwrap();
        let mut unknown = budget.hold(None);
        assert!(unknown.grow_to(21, 100).await.is_err());
        unknown.grow_to(20, 100).await.unwrap();
        assert_eq!(budget.taken(), 100);
        drop((one, other, unknown));
        assert_eq!(budget.taken(), 0);
        assert!(budget.lock().users.is_empty());
    }

    #[tokio::test]
    async fn two_users_with_half_each_do_not_shut_out_who_has_little() {
        let budget = Arc::new(Budget::default());
        let mut halves = [budget.hold(Some(1)), budget.hold(Some(2))];
        for half in &mut halves {
            half.grow_to(320, 640).await.unwrap();
        }
        assert!(budget.hold(Some(1)).grow_to(1, 640).await.is_err());
        assert!(budget.hold(Some(3)).grow_to(11, 640).await.is_err(), "more than little");
        let mut little = Vec::new();
        for uid in 3..11 {
            let mut held = budget.hold(Some(uid));
            held.grow_to(10, 640).await.unwrap();
            little.push(held);
        }
        assert!(budget.hold(Some(11)).grow_to(1, 640).await.is_err(), "an eighth is the end");
    }

    #[tokio::test]
    async fn what_is_given_back_goes_to_who_waits() {
        let budget = Arc::new(Budget::default());
        let mut first = budget.hold(Some(1));
        first.grow_to(50, 100).await.unwrap();
        let waiting = Arc::clone(&budget);
        let waiter = tokio::spawn(async move { waiting.hold(Some(1)).grow_to(40, 100).await });
        tokio::time::sleep(LONGEST_WAIT / 2).await;
        assert!(!waiter.is_finished());
        drop(first);
        waiter.await.unwrap().unwrap();
    }
}
