//! A token bucket in whole numbers: it fills evenly with a minute's allowance a minute, and may go into debt.

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
    fn a_changed_limit_keeps_what_was_used() {
        let mut bucket = Bucket::new(10, 10, 0);
        bucket.take(10);
        bucket.change(100, 100, 0);
        assert_eq!(bucket.level(0), 90);
        bucket.change(10, 10, 0);
        assert_eq!(bucket.level(0), 10);
    }
}
