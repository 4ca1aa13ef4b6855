//! How many connections there may be, all together and of one user.
//!
//! What exceeds the whole waits in the kernel's queue, and an idle connection of whoever has most of them makes room.
//! What exceeds a user's share is closed at once, so that it does not wait before others.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::activity::Activity;
use crate::caller::Peer;
use crate::metrics::Metrics;

/// How often a full house looks for somebody who waits outside.
const LOOK: Duration = Duration::from_millis(50);
/// Events that strangers cause are logged once in this time.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// The places of one kind of listener.
#[derive(Debug)]
pub(crate) struct Places {
    kind: Kind,
    most: usize,
    most_of_a_user: usize,
    free: Arc<Semaphore>,
    taken: Mutex<Taken>,
    is_full: AtomicBool,
    full_logged: Seldom,
    user_logged: Seldom,
    metrics: Arc<Metrics>,
}

/// Where a place is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Where requests to models come in.
    Main,
    /// The admin address. Here a connection without a request yields at once, also to the same user: whoever asks how the
    /// daemon is must get through.
    Admin,
}

/// Who shares a bound: a user of this host, or whoever comes from one other host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum User {
    Uid(u32),
    Host(IpAddr),
    Unknown,
}

#[derive(Debug, Default)]
struct Taken {
    next: u64,
    connections: HashMap<u64, (User, Arc<Activity>)>,
    of_user: HashMap<User, usize>,
}

/// One connection's place, given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Places>,
    number: u64,
    pub(super) activity: Arc<Activity>,
    _permit: OwnedSemaphorePermit,
}

impl Kind {
    /// The value of the label `listener`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Main => "main",
            Kind::Admin => "admin",
        }
    }

    /// For how long a connection must have been idle to make room.
    fn least_idle(self) -> Duration {
        match self {
            Kind::Main => Duration::from_secs(2),
            Kind::Admin => Duration::ZERO,
        }
    }
}

impl Taken {
    /// Whether a user has so many connections; those that were asked to end are not counted.
    fn has(&self, user: User, most: usize) -> bool {
        let all = self.of_user.get(&user).copied().unwrap_or(0);
        if all < most {
            return false;
        }
        let leaving = self.connections.values().filter(|(other, activity)| *other == user && activity.is_told());
        all - leaving.count() >= most
    }
}

impl Places {
    pub(crate) fn new(kind: Kind, most: usize, most_of_a_user: usize, metrics: Arc<Metrics>) -> Arc<Places> {
        Arc::new(Places {
            kind,
            most,
            most_of_a_user,
            free: Arc::new(Semaphore::new(most)),
            taken: Mutex::default(),
            is_full: AtomicBool::new(false),
            full_logged: Seldom::default(),
            user_logged: Seldom::default(),
            metrics,
        })
    }

    /// Waits for a place. `somebody_waits` tells whether it is needed already.
    pub(super) async fn free(&self, somebody_waits: impl Fn() -> bool) -> OwnedSemaphorePermit {
        loop {
            if let Ok(permit) = Arc::clone(&self.free).try_acquire_owned() {
                self.is_full.store(false, Relaxed);
                return permit;
            }
            if somebody_waits() {
                self.note_full();
                self.make_room(None);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Gives the place to a peer; none if its user has as many as a user may have.
    pub(super) fn take(self: &Arc<Self>, permit: OwnedSemaphorePermit, peer: &Peer) -> Option<Place> {
        let user = User::of(peer);
        let mut taken = self.taken();
        let mut has_all = taken.has(user, self.most_of_a_user);
        if has_all && self.kind == Kind::Admin {
            drop(taken);
            // It leaves a moment later, so that for so long there may be more than the bound.
            self.make_room(Some(user));
            taken = self.taken();
            has_all = taken.has(user, self.most_of_a_user);
        }
        if has_all {
            drop(taken);
            self.note_user(user);
            return None;
        }
        let activity = Activity::new();
        let number = taken.next;
        taken.next += 1;
        taken.connections.insert(number, (user, Arc::clone(&activity)));
        *taken.of_user.entry(user).or_default() += 1;
        drop(taken);
        self.metrics.connection_opened(self.kind.name());
        Some(Place { places: Arc::clone(self), number, activity, _permit: permit })
    }

    /// Asks the connection that has been idle for longest to end: of `user`, or of the user who has most connections.
    /// False if there is none.
    fn make_room(&self, user: Option<User>) -> bool {
        let taken = self.taken();
        let most = taken.of_user.values().copied().max().unwrap_or(0);
        let chosen = |candidate: &User| match user {
            Some(user) => *candidate == user,
            None => taken.of_user.get(candidate) == Some(&most),
        };
        // One at a time: those who were asked are about to leave.
        if user.is_none() && taken.connections.values().any(|(_, activity)| activity.is_told()) {
            return false;
        }
        let idle = taken.connections.values().filter(|(user, activity)| chosen(user) && !activity.is_told());
        let idle = idle.filter_map(|(_, activity)| Some((activity.idle()?, activity)));
        let longest = idle.filter(|(idle, _)| *idle >= self.kind.least_idle()).max_by_key(|(idle, _)| *idle);
        let asked = longest.is_some_and(|(_, activity)| activity.tell());
        if asked {
            self.metrics.connection_cut("room");
        }
        asked
    }

    fn note_full(&self) {
        if self.is_full.swap(true, Relaxed) {
            return;
        }
        self.metrics.connections_full(self.kind.name());
        if self.full_logged.is_due() {
            let (listener, most) = (self.kind.name(), self.most);
            tracing::warn!(listener, max_connections = most, "all connections are taken; new ones wait");
        }
    }

    fn note_user(&self, user: User) {
        self.metrics.connection_refused("user");
        if self.user_logged.is_due() {
            let (listener, most) = (self.kind.name(), self.most_of_a_user);
            let uid = if let User::Uid(uid) = user { Some(uid) } else { None };
            tracing::warn!(
                listener,
                uid,
                max_connections_per_user = most,
                "one user has as many connections as a user may have; its further ones are closed"
            );
        }
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        if let Some((user, _)) = taken.connections.remove(&self.number)
            && let Some(count) = taken.of_user.get_mut(&user)
        {
            *count -= 1;
            if *count == 0 {
                taken.of_user.remove(&user);
            }
        }
        drop(taken);
        self.places.metrics.connection_ended(self.places.kind.name());
    }
}

impl User {
    fn of(peer: &Peer) -> User {
        match (peer.uid, peer.source.parse::<IpAddr>()) {
            (Some(uid), _) => User::Uid(uid),
            (None, Ok(ip)) if !ip.is_loopback() => User::Host(ip),
            (None, _) => User::Unknown,
        }
    }
}

/// Lets one event in a while through.
#[derive(Debug, Default)]
pub(super) struct Seldom(Mutex<Option<Instant>>);

impl Seldom {
    pub(super) fn is_due(&self) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let due = last.is_none_or(|last| last.elapsed() >= LOG_INTERVAL);
        if due {
            *last = Some(Instant::now());
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(uid: u32) -> Peer {
        Peer { uid: Some(uid), source: "127.0.0.1".to_owned(), ..Peer::default() }
    }

    async fn place(places: &Arc<Places>, uid: u32) -> Option<Place> {
        let permit = places.free(|| false).await;
        places.take(permit, &of(uid))
    }

    #[tokio::test]
    async fn a_user_gets_no_more_than_its_share() {
        let places = Places::new(Kind::Main, 4, 2, Arc::default());
        let first = place(&places, 1).await.unwrap();
        let _second = place(&places, 1).await.unwrap();
        assert!(place(&places, 1).await.is_none());
        let _other = place(&places, 2).await.unwrap();
        drop(first);
        assert!(place(&places, 1).await.is_some());
        assert_eq!(places.free.available_permits(), 2, "what was refused has given its place back");
    }

    #[tokio::test]
    async fn the_longest_idle_connection_of_the_greatest_user_makes_room() {
        // Where a connection needs to have been idle for no particular time.
        let places = Places::new(Kind::Admin, 4, 3, Arc::default());
        let a_moment = || tokio::time::sleep(Duration::from_millis(20));
        let small = place(&places, 1).await.unwrap();
        let busy = place(&places, 2).await.unwrap();
        let _request = busy.activity.request();
        a_moment().await;
        let old = place(&places, 2).await.unwrap();
        a_moment().await;
        let young = place(&places, 2).await.unwrap();
        a_moment().await;
        let unneeded = tokio::time::timeout(Duration::from_millis(200), places.free(|| false)).await;
        assert!(unneeded.is_err() && !old.activity.is_told(), "nobody waits");
        let waiting = tokio::spawn({
            let places = Arc::clone(&places);
            async move { places.free(|| true).await }
        });
        old.activity.until_told().await;
        tokio::time::sleep(LOOK * 3).await;
        for other in [&small, &busy, &young] {
            assert!(!other.activity.is_told(), "one is enough");
        }
        drop(old);
        drop(waiting.await.unwrap());
    }

    #[test]
    fn hosts_are_users_where_no_uid_is_known_and_loopback_is_one() {
        let from = |source: &str| User::of(&Peer { source: source.to_owned(), ..Peer::default() });
        assert_eq!(from("127.0.0.1"), from("127.0.0.2"));
        assert_ne!(from("10.0.0.1"), from("10.0.0.2"));
    }
}
