//! How many requests there may be in progress, all together and of one user. An HTTP/2 connection carries many, and each
//! may need a connection to AWS, and with it a file descriptor.
//!
//! As with connections, some are kept for users who have few.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::shares::{self, Shares};
use crate::caller::User;
use crate::error::{Refusal, RefusalKind};

/// However few connections there may be, one of HTTP/2 carries so many requests.
const LEAST: usize = 64;
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// All requests in progress on the main listeners.
#[derive(Debug)]
pub(crate) struct Requests {
    of_a_user: usize,
    taken: Mutex<Shares>,
}

/// How many there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    most: usize,
    of_a_user: usize,
    spare: usize,
}

/// One request in progress, until dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    requests: Arc<Requests>,
    user: User,
}

impl Bounds {
    /// As many as there may be connections, and as many of a user.
    pub(crate) fn of(connections: usize, connections_of_a_user: usize) -> Bounds {
        let most = connections.max(LEAST);
        Bounds { most, of_a_user: connections_of_a_user.max(LEAST / 2), spare: shares::spare(most) }
    }

    /// With the spare ones.
    pub(crate) fn all(self) -> usize {
        self.most + self.spare
    }

    /// No more than this many in all.
    pub(crate) fn within(self, all: usize) -> Bounds {
        if all >= self.all() {
            return self;
        }
        let most = (all - all / 8).max(1);
        Bounds { most, of_a_user: self.of_a_user.min(most.div_ceil(2)), spare: all / 8 }
    }
}

impl Requests {
    pub(crate) fn new(bounds: Bounds) -> Arc<Requests> {
        let Bounds { most, of_a_user, spare } = bounds;
        Arc::new(Requests { of_a_user, taken: Mutex::new(Shares::new(most, spare)) })
    }

    /// The right to one request of this user.
    ///
    /// # Errors
    /// 503 if there are too many.
    pub(crate) fn turn(self: &Arc<Requests>, user: User) -> Result<Turn, Refusal> {
        let mut taken = self.taken();
        if taken.of(user) >= self.of_a_user {
            return Err(full(
                "this user has as many requests in progress as a user may have (listen.max_connections_per_user)",
            ));
        }
        if !taken.has_room() && !taken.has_spare_for(user) {
            return Err(full("there are as many requests in progress as there may be (listen.max_connections)"));
        }
        taken.take(user);
        drop(taken);
        Ok(Turn { requests: Arc::clone(self), user })
    }

    fn taken(&self) -> MutexGuard<'_, Shares> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.requests.taken().give_back(self.user);
    }
}

fn full(why: &str) -> Refusal {
    Refusal::new(RefusalKind::ServiceUnavailable, format!("{why}; try again in 1 s.")).retry_after(TRY_AGAIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_has_all_requests_and_a_newcomer_finds_room() {
        let requests = Requests::new(Bounds::of(64, 32));
        let take = |uid, count| (0..count).map_while(|_| requests.turn(User::Local(uid)).ok()).collect::<Vec<_>>();
        let first = take(1, 100);
        assert_eq!(first.len(), 32);
        let second = take(2, 100);
        assert_eq!(second.len(), 32);
        let newcomer = take(3, 100);
        assert_eq!(newcomer.len(), 2, "of the spare ones");
        let refusal = requests.turn(User::Local(3)).unwrap_err();
        assert_eq!((refusal.kind, refusal.retry_after), (RefusalKind::ServiceUnavailable, Some(TRY_AGAIN)));
        drop(first);
        assert_eq!(take(3, 100).len(), 30);
        drop((second, newcomer));
        assert!(requests.taken().has_room() && requests.taken().greatest() == 0);
    }

    #[test]
    fn few_descriptors_mean_few_requests() {
        let bounds = Bounds::of(1024, 512).within(80);
        assert_eq!((bounds.most, bounds.of_a_user, bounds.spare), (70, 35, 10));
        assert_eq!(Bounds::of(1024, 512).within(5000).all(), 1152);
    }
}
