//! How much memory bodies may take together: those of requests, and answers that the legacy REST API holds
//! (`limits.max_buffered_bytes`). One user gets half of what the
//! others leave, so that there is always room for another.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::caller::User;
use crate::error::{Refusal, RefusalKind};
use crate::timings::Waited;

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
    /// Nobody with nothing is in it. Few are at once, and to compare them costs less than to hash them.
    users: BTreeMap<User, usize>,
    /// How often there was no room.
    refused: u64,
}

/// The part of the budget that one body has; dropping it gives it back. It grows before the body does.
#[derive(Debug)]
pub(crate) struct Held {
    budget: Arc<Budget>,
    user: User,
    bytes: usize,
    /// What it waits for room is added to this.
    waited: Option<Waited>,
    /// It waits for room up to then; `LONGEST_WAIT` if this is none.
    until: Option<Instant>,
}

/// Bytes in memory, with their part of the budget.
struct Kept<B> {
    bytes: B,
    _held: Held,
}

impl<B: AsRef<[u8]>> AsRef<[u8]> for Kept<B> {
    fn as_ref(&self) -> &[u8] {
        self.bytes.as_ref()
    }
}

impl Budget {
    /// For a body of this user, of which nothing has come yet.
    pub(crate) fn hold(self: &Arc<Budget>, user: User) -> Held {
        Held { budget: Arc::clone(self), user, bytes: 0, waited: None, until: None }
    }

    /// Bytes that are taken now.
    pub(crate) fn taken(&self) -> usize {
        self.lock().total
    }

    /// How many bodies have found no room so far.
    pub(crate) fn refused(&self) -> u64 {
        self.lock().refused
    }

    fn try_take(&self, user: User, more: usize, most: usize) -> bool {
        let mut taken = self.lock();
        let own = taken.users.get(&user).copied().unwrap_or(0);
        let others = taken.total.saturating_sub(own).min(most);
        if taken.total.saturating_add(more) > most || own.saturating_add(more) > (most - others) / 2 {
            return false;
        }
        taken.total += more;
        taken.users.insert(user, own + more);
        true
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    /// What it waits for room is added to `waited`.
    pub(crate) fn waiting_in(mut self, waited: &Waited) -> Held {
        self.waited = Some(waited.clone());
        self
    }

    /// It waits for room until then: nobody waits for the end of its client's body, so it may wait as others are served.
    pub(crate) fn waiting_until(mut self, until: Instant) -> Held {
        self.until = Some(until);
        self
    }

    /// Bytes that may be in memory for it.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Goes with these bytes, and is given back when the last reader lets go of them.
    pub(crate) fn keep(self, bytes: impl AsRef<[u8]> + Send + 'static) -> Bytes {
        if bytes.as_ref().is_empty() {
            return Bytes::new();
        }
        Bytes::from_owner(Kept { bytes, _held: self })
    }

    /// Makes it at least `bytes`, of a budget of `most`. Waits a moment for others to give theirs back.
    ///
    /// # Errors
    /// 503 if there is no room.
    pub(crate) async fn grow_to(&mut self, bytes: usize, most: usize) -> Result<(), Refusal> {
        let Some(more) = bytes.checked_sub(self.bytes).filter(|more| *more > 0) else { return Ok(()) };
        let until = self.until.unwrap_or_else(|| Instant::now() + LONGEST_WAIT);
        let mut waiting = None;
        loop {
            let freed = self.budget.freed.notified();
            if self.budget.try_take(self.user, more, most) {
                self.bytes = bytes;
                return Ok(());
            }
            if waiting.is_none() {
                waiting = self.waited.as_ref().map(Waited::measure);
            }
            if tokio::time::timeout_at(until, freed).await.is_err() {
                self.budget.lock().refused += 1;
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
        if let Entry::Occupied(mut own) = taken.users.entry(self.user) {
            *own.get_mut() = own.get().saturating_sub(self.bytes);
            if *own.get() == 0 {
                own.remove();
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
    async fn one_user_has_half_of_what_the_others_leave() {
        let budget = Arc::new(Budget::default());
        let mut one = budget.hold(User::Local(1));
        one.grow_to(50, 100).await.unwrap();
        one.grow_to(20, 100).await.unwrap();
        let refusal = budget.hold(User::Local(1)).grow_to(1, 100).await.unwrap_err();
        assert_eq!((refusal.kind, refusal.retry_after), (RefusalKind::ServiceUnavailable, Some(TRY_AGAIN)));
        let mut other = budget.hold(User::Local(2));
        assert!(other.grow_to(26, 100).await.is_err());
        other.grow_to(25, 100).await.unwrap();
        let mut unknown = budget.hold(User::Unknown);
        assert!(unknown.grow_to(13, 100).await.is_err());
        unknown.grow_to(12, 100).await.unwrap();
        assert_eq!((budget.taken(), budget.refused()), (87, 3));
        drop((one, other, unknown));
        assert_eq!(budget.taken(), 0);
        assert!(budget.lock().users.is_empty());
    }

    #[tokio::test]
    async fn what_is_kept_is_given_back_with_its_last_reader() {
        let budget = Arc::new(Budget::default());
        let mut held = budget.hold(User::Local(1));
        held.grow_to(10, 100).await.unwrap();
        let kept = held.keep(vec![7; 10]);
        let part = kept.slice(3..5);
        drop(kept);
        assert_eq!((budget.taken(), &part[..]), (10, &[7, 7][..]));
        drop(part);
        assert_eq!(budget.taken(), 0);
    }

    #[tokio::test]
    async fn what_is_given_back_goes_to_who_waits() {
        let budget = Arc::new(Budget::default());
        let mut first = budget.hold(User::Local(1));
        first.grow_to(50, 100).await.unwrap();
        let (waiting, waited) = (Arc::clone(&budget), Waited::default());
        let told = waited.clone();
        let waiter = tokio::spawn(async move { waiting.hold(User::Local(1)).waiting_in(&told).grow_to(40, 100).await });
        tokio::time::sleep(LONGEST_WAIT / 2).await;
        assert!(!waiter.is_finished());
        drop(first);
        waiter.await.unwrap().unwrap();
        assert!(waited.total() >= LONGEST_WAIT / 2, "{waited:?}");
    }

    #[tokio::test]
    async fn who_may_wait_longer_waits_longer() {
        let budget = Arc::new(Budget::default());
        let mut first = budget.hold(User::Local(1));
        first.grow_to(50, 100).await.unwrap();
        let mut patient = budget.hold(User::Local(1)).waiting_until(Instant::now() + 30 * LONGEST_WAIT);
        let waiter = tokio::spawn(async move { patient.grow_to(40, 100).await });
        // One that came later has given up meanwhile.
        assert!(budget.hold(User::Local(1)).grow_to(40, 100).await.is_err());
        assert!(!waiter.is_finished());
        drop(first);
        waiter.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn who_gives_up_has_waited_all_the_same() {
        let budget = Arc::new(Budget::default());
        let mut first = budget.hold(User::Local(1));
        first.grow_to(50, 100).await.unwrap();
        assert!(first.waited.is_none());
        let waited = Waited::default();
        let mut second = budget.hold(User::Local(1)).waiting_in(&waited);
        let left = tokio::time::timeout(LONGEST_WAIT / 10, second.grow_to(40, 100)).await;
        assert!(left.is_err() && waited.total() >= LONGEST_WAIT / 10, "{waited:?}");
    }
}
