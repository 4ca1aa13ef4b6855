//! Which groups a uid is in, read again from the host's files once a minute.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use crate::settings::accounts::Accounts;

const LIFETIME: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub(super) struct Memberships(Mutex<Option<(SystemTime, Arc<Accounts>)>>);

impl Memberships {
    pub(super) fn accounts(&self, now: SystemTime) -> Arc<Accounts> {
        self.read_if_old(now, Accounts::read)
    }

    /// Whether a user is in the group of that name; false where there is no such group.
    pub(super) fn is_member(&self, uid: u32, group: &str, now: SystemTime) -> bool {
        let accounts = self.accounts(now);
        accounts.gid(group).is_some_and(|gid| accounts.groups_of(uid).contains(&gid))
    }

    fn read_if_old(&self, now: SystemTime, read: impl Fn() -> Accounts) -> Arc<Accounts> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*kept {
            // A clock that was set back makes the age an error, and the files are read.
            Some((at, accounts)) if now.duration_since(*at).is_ok_and(|age| age < LIFETIME) => accounts.clone(),
            _ => {
                let accounts = Arc::new(read());
                *kept = Some((now, accounts.clone()));
                accounts
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_again_when_a_minute_has_passed_or_the_clock_was_set_back() {
        let reads = std::cell::Cell::new(0);
        let read = || {
            reads.set(reads.get() + 1);
            Accounts::default()
        };
        let memberships = Memberships::default();
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        for (seconds, expected) in [(0, 1), (59, 1), (60, 2), (100, 2), (10, 3)] {
            memberships.read_if_old(start + Duration::from_secs(seconds), read);
            assert_eq!(reads.get(), expected, "after {seconds} s");
        }
    }
}
