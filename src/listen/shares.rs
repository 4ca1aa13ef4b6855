//! Who may have one more of something of which there are so many, and some beyond for users who have few.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use crate::caller::User;

/// What users have of it.
#[derive(Debug)]
pub(super) struct Shares {
    most: usize,
    spare: usize,
    total: usize,
    /// Nobody with nothing is in it. Few are at once, and to compare them costs less than to hash them.
    users: BTreeMap<User, usize>,
}

impl Shares {
    pub(super) fn new(most: usize, spare: usize) -> Shares {
        Shares { most, spare, total: 0, users: BTreeMap::new() }
    }

    /// What a user has.
    pub(super) fn of(&self, user: User) -> usize {
        self.users.get(&user).copied().unwrap_or(0)
    }

    /// What the user with most has.
    pub(super) fn greatest(&self) -> usize {
        self.users.values().copied().max().unwrap_or(0)
    }

    /// Whether nobody has any.
    pub(super) fn is_empty(&self) -> bool {
        self.users.is_empty()
    }

    /// Whether there is one for anybody.
    pub(super) fn has_room(&self) -> bool {
        !self.is_full() && self.total - self.in_spare() < self.most
    }

    /// Whether there is a spare one for this user. The last half of those is for users who have none: else a few users, each
    /// with few, would take them all.
    pub(super) fn has_spare_for(&self, user: User) -> bool {
        let own = self.of(user);
        let left = self.spare - self.in_spare();
        !self.is_full() && (own == 0 || own < self.few() && left > self.spare / 2)
    }

    pub(super) fn take(&mut self, user: User) {
        self.total += 1;
        *self.users.entry(user).or_default() += 1;
    }

    pub(super) fn give_back(&mut self, user: User) {
        self.total = self.total.saturating_sub(1);
        if let Entry::Occupied(mut count) = self.users.entry(user) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }

    fn is_full(&self) -> bool {
        self.total >= self.most + self.spare
    }

    /// How many of the spare ones are taken: what users have who have few, whenever they came. So who comes first with few
    /// and has many later on leaves them to others.
    fn in_spare(&self) -> usize {
        let few = self.few();
        self.users.values().filter(|own| **own <= few).sum::<usize>().min(self.spare)
    }

    /// Two at least, unless there are very few of all: whoever comes anew for each request may find the last one not ended.
    fn few(&self) -> usize {
        (self.most / 64).max((self.most / 4).clamp(1, 2))
    }
}

/// How much there is beyond the whole for users who have few.
pub(super) fn spare(most: usize) -> usize {
    (most / 8).max(8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(shares: &mut Shares, uid: u32, wanted: usize) -> usize {
        let user = User::Local(uid);
        let mut one = || (shares.has_room() || shares.has_spare_for(user)).then(|| shares.take(user));
        (0..wanted).map_while(|_| one()).count()
    }

    #[test]
    fn who_came_with_few_and_has_many_leaves_the_spare_ones_to_others() {
        let mut shares = Shares::new(1024, 128);
        for uid in 0..12 {
            assert_eq!(take(&mut shares, uid, 10), 10);
        }
        while (0..12).map(|uid| take(&mut shares, uid, 1)).sum::<usize>() > 0 {}
        assert!(!shares.has_room() && shares.total == 1024, "{}", shares.total);
        assert_eq!(take(&mut shares, 50, 100), 16, "few for somebody else");
        assert_eq!(take(&mut shares, 51, 100), 16);
    }

    #[test]
    fn there_are_never_more_than_all() {
        let mut shares = Shares::new(128, 16);
        let taken: usize = (0..1000).map(|uid| take(&mut shares, uid % 150, 3)).sum();
        assert_eq!((taken, shares.total), (144, 144));
        for uid in 0..150 {
            while shares.of(User::Local(uid)) > 0 {
                shares.give_back(User::Local(uid));
            }
        }
        assert!(shares.total == 0 && shares.users.is_empty());
    }
}
