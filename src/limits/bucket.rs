//! A token bucket in whole numbers: it fills evenly with a minute's allowance a minute, and may go into debt.

use serde::{Deserialize, Serialize};

use super::clock::SECOND;

/// What one token is worth in the bucket's own unit: with it, `per_minute` units flow in each nanosecond, exactly.
const TOKEN: i128 = 60 * SECOND as i128;

#[derive(Debug, Clone)]
pub(super) struct Bucket {
    per_minute: u64,
    capacity: u64,
    /// At most `capacity` tokens; below zero after more was used than had been reserved.
    level: i128,
    /// When `level` was right.
    at: u64,
}

/// What a file keeps of a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SavedBucket {
    /// Tokens that it lacked, so that a changed limit does not matter.
    pub(super) missing: u64,
    /// When it lacked them.
    pub(super) at: u64,
}

impl Bucket {
    /// A full bucket.
    pub(super) fn new(per_minute: u64, capacity: u64, now: u64) -> Bucket {
        Bucket { per_minute: per_minute.max(1), capacity, level: i128::from(capacity) * TOKEN, at: now }
    }

    /// The nanoseconds until `amount` can be taken; 0 is now. More than the bucket holds can be taken when it is full:
    /// the debt then keeps the average.
    pub(super) fn wait(&mut self, amount: u64, now: u64) -> u64 {
        self.fill(now);
        let missing = i128::from(amount.min(self.capacity)) * TOKEN - self.level;
        if amount == 0 || missing <= 0 {
            return 0;
        }
        let rate = i128::from(self.per_minute);
        u64::try_from((missing + rate - 1) / rate).unwrap_or(u64::MAX)
    }

    pub(super) fn take(&mut self, amount: u64) {
        self.level = self.level.saturating_sub(i128::from(amount) * TOKEN);
    }

    pub(super) fn give_back(&mut self, amount: u64, now: u64) {
        // What flowed in before the gift comes first, so that the gift is not lost to an old time stamp.
        self.fill(now);
        self.level = self.level.saturating_add(i128::from(amount) * TOKEN).min(i128::from(self.capacity) * TOKEN);
    }

    /// A changed limit: what had been used stays used, as far as a smaller bucket can say so.
    pub(super) fn change(&mut self, per_minute: u64, capacity: u64, now: u64) {
        self.fill(now);
        let grown = capacity.saturating_sub(self.capacity);
        self.per_minute = per_minute.max(1);
        self.capacity = capacity;
        self.level = self.level.saturating_add(i128::from(grown) * TOKEN).min(i128::from(capacity) * TOKEN);
    }

    /// None when it is full.
    pub(super) fn saved(&mut self, now: u64) -> Option<SavedBucket> {
        self.fill(now);
        let missing = (i128::from(self.capacity) * TOKEN).saturating_sub(self.level);
        let missing = u64::try_from((missing + TOKEN - 1) / TOKEN).unwrap_or(u64::MAX);
        (missing > 0).then_some(SavedBucket { missing, at: self.at })
    }

    /// Goes on where a full bucket of an earlier run had stopped. Only the time since then flows in.
    pub(super) fn restore(&mut self, saved: SavedBucket, now: u64) {
        self.take(saved.missing);
        self.at = saved.at.min(now);
        self.fill(now);
    }

    /// Whole tokens that are there; negative in debt.
    pub(super) fn level(&mut self, now: u64) -> i64 {
        self.fill(now);
        i64::try_from(self.level.div_euclid(TOKEN)).unwrap_or(i64::MIN)
    }

    fn fill(&mut self, now: u64) {
        if now > self.at {
            let flowed = i128::from(now - self.at).saturating_mul(i128::from(self.per_minute));
            self.level = self.level.saturating_add(flowed).min(i128::from(self.capacity) * TOKEN);
            self.at = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_the_rate_to_the_nanosecond() {
        let mut bucket = Bucket::new(7, 3, 0);
        for _ in 0..3 {
            assert_eq!(bucket.wait(1, 0), 0);
            bucket.take(1);
        }
        let wait = bucket.wait(1, 0);
        assert_eq!(wait, (60 * SECOND).div_ceil(7));
        assert_eq!(bucket.wait(1, wait - 1), 1);
        assert_eq!(bucket.wait(1, wait), 0);
    }

    #[test]
    fn nothing_is_lost_to_rounding_over_a_year() {
        // Polled at odd times, exactly a year's allowance flows.
        let mut bucket = Bucket::new(599, 1, 0);
        bucket.take(1);
        let (mut taken, mut now) = (0u64, 0u64);
        let end = 60 * SECOND * 60 * 24;
        while now < end {
            now += bucket.wait(1, now).max(1);
            if now <= end && bucket.wait(1, now) == 0 {
                bucket.take(1);
                taken += 1;
            }
        }
        // Each wait is rounded up to the next nanosecond, and the surplus stays in the bucket.
        assert!((599 * 60 * 24 - 1..=599 * 60 * 24).contains(&taken), "{taken}");
    }

    #[test]
    fn debt_is_paid_before_anything_else() {
        let mut bucket = Bucket::new(60, 60, 0);
        bucket.take(120);
        assert_eq!(bucket.level(0), -60);
        assert_eq!(bucket.wait(1, 0), 61 * SECOND);
        assert_eq!(bucket.wait(0, 0), 0, "what costs nothing never waits");
        bucket.give_back(100, 0);
        assert_eq!(bucket.wait(40, 0), 0);
        bucket.give_back(u64::MAX, 0);
        assert_eq!(bucket.level(0), 60);
    }

    #[test]
    fn more_than_the_bucket_holds_waits_until_it_is_full() {
        let mut bucket = Bucket::new(60, 60, 0);
        assert_eq!(bucket.wait(1_000, 0), 0);
        bucket.take(1_000);
        assert_eq!(bucket.wait(1_000, 0), 1_000 * SECOND);
        assert_eq!(bucket.wait(u64::MAX, 1_000 * SECOND), 0);
    }

    #[test]
    fn extremes_do_not_overflow() {
        let mut bucket = Bucket::new(u64::MAX, u64::MAX, 0);
        for now in [0, 1, u64::MAX] {
            bucket.take(u64::MAX);
            bucket.wait(u64::MAX, now);
            bucket.give_back(u64::MAX, now);
        }
        bucket.change(1, 1, u64::MAX);
        assert_eq!(bucket.level(u64::MAX), 1);
    }

    #[test]
    fn a_restart_fills_no_more_than_the_time_that_passed() {
        // Level 0 at second 10, of 60; then so many seconds later, or earlier.
        for (rate, now, expected) in [(60, 10, 0), (60, 40, 30), (60, 70, 60), (60, 900, 60), (60, 3, 0), (20, 40, 10)]
        {
            let mut bucket = Bucket::new(60, 60, 0);
            bucket.wait(1, 10 * SECOND);
            bucket.take(60);
            let saved = bucket.saved(10 * SECOND).unwrap();
            let mut again = Bucket::new(rate, 60, now * SECOND);
            again.restore(saved, now * SECOND);
            assert_eq!(again.level(now * SECOND), expected, "{rate} {now}");
        }
        let mut bucket = Bucket::new(60, 60, 0);
        assert_eq!(bucket.saved(0), None);
        bucket.take(1_000);
        let mut again = Bucket::new(60, 60, 0);
        again.restore(bucket.saved(0).unwrap(), 0);
        assert_eq!(again.level(0), -940, "a debt stays a debt");
        let mut most = Bucket::new(u64::MAX, u64::MAX, 0);
        most.restore(SavedBucket { missing: u64::MAX, at: u64::MAX }, 0);
        most.take(u64::MAX);
        assert_eq!(most.saved(0).unwrap().missing, u64::MAX);
    }

    #[test]
    fn a_changed_limit_keeps_what_was_used() {
        let mut bucket = Bucket::new(10, 10, 0);
        bucket.take(10);
        bucket.change(100, 100, 0);
        assert_eq!(bucket.level(0), 90);
        bucket.change(10, 10, 0);
        assert_eq!(bucket.level(0), 10);
    }
}
