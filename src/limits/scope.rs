//! The state of one scope: the host, a caller, or a pattern on models.

use super::bucket::{Bucket, SavedBucket};
use super::calendar::{Calendar, Period};
use super::cost::Cost;
use super::limit::{Exceeded, Limit, ScopeId};
use super::spent::Spent;
use crate::settings::limits::Rates;

/// One scope's limits and counts. Times are nanoseconds of the limits' clock, money is nano-dollars.
#[derive(Debug)]
pub(super) struct Scope {
    pub(super) id: ScopeId,
    pub(super) rates: Rates,
    requests: Option<Bucket>,
    tokens: Option<Bucket>,
    running: u64,
    /// What requests in flight have reserved and not settled.
    reserved: Cost,
    pub(super) spent: Spent,
    /// Requests refused, by limit.
    pub(super) limited: [u64; Limit::ALL.len()],
}

/// A budget of which four fifths are spent: said once in a period.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Warning {
    pub(super) id: ScopeId,
    pub(super) limit: Limit,
    pub(super) spent: u64,
    pub(super) configured: u64,
}

impl Scope {
    pub(super) fn new(id: ScopeId, rates: Rates, period: Period, now: u64) -> Scope {
        let mut scope = Scope {
            id,
            rates: Rates::default(),
            requests: None,
            tokens: None,
            running: 0,
            reserved: Cost::default(),
            spent: Spent::none(period),
            limited: Default::default(),
        };
        scope.change(rates, now);
        scope
    }

    /// Other limits from now on; what is in flight and what was used stays counted.
    pub(super) fn change(&mut self, rates: Rates, now: u64) {
        let burst = rates.request_burst.or(rates.requests_per_minute).unwrap_or(0);
        change(&mut self.requests, rates.requests_per_minute, burst, now);
        change(&mut self.tokens, rates.tokens_per_minute, rates.tokens_per_minute.unwrap_or(0), now);
        self.rates = rates;
    }

    /// Whether the request may pass now; of several limits that forbid it, the one that will last longest.
    pub(super) fn check(&mut self, cost: Cost, now: u64, calendar: &Calendar, period: Period) -> Result<(), Exceeded> {
        self.spent.turn(period, now);
        let mut worst: Option<Exceeded> = None;
        let mut exceeded = |limit, configured, wait, may_clear_early, left| {
            if worst.is_none_or(|other| other.wait < wait) {
                worst = Some(Exceeded { limit, configured, wait, may_clear_early, left });
            }
        };
        let unused = |used: u64, most: u64| most.checked_sub(used).filter(|left| *left > 0);
        let rates = &self.rates;
        if let Some(most) = rates.concurrent_requests
            && self.running >= most
        {
            exceeded(Limit::ConcurrentRequests, most, 0, true, None);
        }
        if let (Some(bucket), Some(rate)) = (&mut self.requests, rates.requests_per_minute) {
            let wait = bucket.wait(1, now);
            if wait > 0 {
                exceeded(Limit::RequestsPerMinute, rate, wait, false, None);
            }
        }
        if let (Some(bucket), Some(rate)) = (&mut self.tokens, rates.tokens_per_minute) {
            let wait = bucket.wait(cost.tokens, now);
            if wait > 0 {
                let left = u64::try_from(bucket.level(now)).ok().filter(|left| *left > 0);
                exceeded(Limit::TokensPerMinute, rate, wait, self.reserved.tokens > 0, left);
            }
        }
        if let Some(most) = rates.tokens_per_day
            && over(self.spent.tokens_today(), cost.tokens, most)
        {
            let left = unused(self.spent.tokens_today(), most);
            exceeded(Limit::TokensPerDay, most, calendar.until_day_ends(), self.reserved.tokens > 0, left);
        }
        if let Some(most) = rates.usd_per_day
            && over(self.spent.nano_usd_today(), cost.nano_usd, most)
        {
            let left = unused(self.spent.nano_usd_today(), most);
            exceeded(Limit::UsdPerDay, most, calendar.until_day_ends(), self.reserved.nano_usd > 0, left);
        }
        if let Some(most) = rates.usd_per_month
            && over(self.spent.nano_usd_this_month(), cost.nano_usd, most)
        {
            let left = unused(self.spent.nano_usd_this_month(), most);
            exceeded(Limit::UsdPerMonth, most, calendar.until_month_ends(), self.reserved.nano_usd > 0, left);
        }
        worst.map_or(Ok(()), Err)
    }

    /// Counts a request that every scope has admitted.
    pub(super) fn take(&mut self, cost: Cost) {
        self.running += 1;
        if let Some(bucket) = &mut self.requests {
            bucket.take(1);
        }
        if let Some(bucket) = &mut self.tokens {
            bucket.take(cost.tokens);
        }
        self.reserved.tokens = self.reserved.tokens.saturating_add(cost.tokens);
        self.reserved.nano_usd = self.reserved.nano_usd.saturating_add(cost.nano_usd);
        self.spent.add(cost);
    }

    /// Replaces what a request had been counted with. `first`: it was a reservation until now.
    pub(super) fn settle(
        &mut self,
        counted: Cost,
        actual: Cost,
        admitted: Period,
        first: bool,
        now: u64,
    ) -> Option<Warning> {
        if first {
            self.unreserve(counted);
        }
        if let Some(bucket) = &mut self.tokens {
            match counted.tokens.checked_sub(actual.tokens) {
                Some(surplus) => bucket.give_back(surplus, now),
                None => bucket.take(actual.tokens - counted.tokens),
            }
        }
        self.spent.replace(counted, actual, admitted);
        self.warning()
    }

    /// Gives back what the request itself took: it never went upstream.
    pub(super) fn give_back_request(&mut self, now: u64) {
        if let Some(bucket) = &mut self.requests {
            bucket.give_back(1, now);
        }
    }

    /// What was reserved is settled, or stays spent.
    pub(super) fn unreserve(&mut self, cost: Cost) {
        self.reserved.tokens = self.reserved.tokens.saturating_sub(cost.tokens);
        self.reserved.nano_usd = self.reserved.nano_usd.saturating_sub(cost.nano_usd);
    }

    /// The request's last byte has gone.
    pub(super) fn end(&mut self) {
        self.running = self.running.saturating_sub(1);
    }

    pub(super) fn running(&self) -> u64 {
        self.running
    }

    /// Whole tokens left in this minute's bucket; none without such a limit.
    pub(super) fn tokens_left(&mut self, now: u64) -> Option<i64> {
        self.tokens.as_mut().map(|bucket| bucket.level(now))
    }

    pub(super) fn requests_left(&mut self, now: u64) -> Option<i64> {
        self.requests.as_mut().map(|bucket| bucket.level(now))
    }

    /// What the minute's buckets lack: of requests and of tokens.
    pub(super) fn saved_buckets(&mut self, now: u64) -> (Option<SavedBucket>, Option<SavedBucket>) {
        let saved = |bucket: &mut Option<Bucket>| bucket.as_mut().and_then(|bucket| bucket.saved(now));
        (saved(&mut self.requests), saved(&mut self.tokens))
    }

    pub(super) fn restore_buckets(&mut self, requests: Option<SavedBucket>, tokens: Option<SavedBucket>, now: u64) {
        for (bucket, saved) in [(&mut self.requests, requests), (&mut self.tokens, tokens)] {
            if let (Some(bucket), Some(saved)) = (bucket, saved) {
                bucket.restore(saved, now);
            }
        }
    }

    /// A budget has passed 80 %, reservations not counted, and nobody has said so in its period.
    fn warning(&mut self) -> Option<Warning> {
        let passed = |spent: u64, reserved: u64, most: u64| {
            u128::from(spent.saturating_sub(reserved)) * 5 >= u128::from(most) * 4
        };
        let reserved = self.reserved.nano_usd;
        let (today, this_month) = (self.spent.days.used(), self.spent.months.used());
        if let Some(most) = self.rates.usd_per_day
            && !today.warned
            && passed(today.nano_usd, reserved, most)
        {
            self.spent.days.warn();
            let spent = today.nano_usd.saturating_sub(reserved);
            return Some(Warning { id: self.id.clone(), limit: Limit::UsdPerDay, spent, configured: most });
        }
        if let Some(most) = self.rates.usd_per_month
            && !this_month.warned
            && passed(this_month.nano_usd, reserved, most)
        {
            self.spent.months.warn();
            let spent = this_month.nano_usd.saturating_sub(reserved);
            return Some(Warning { id: self.id.clone(), limit: Limit::UsdPerMonth, spent, configured: most });
        }
        None
    }
}

/// Whether `more` does not fit. More than the whole limit fits when nothing has been used: else it never could.
fn over(used: u64, more: u64, most: u64) -> bool {
    more > 0 && used.saturating_add(more.min(most)) > most
}

fn change(bucket: &mut Option<Bucket>, rate: Option<u64>, capacity: u64, now: u64) {
    match (bucket.as_mut(), rate) {
        (Some(bucket), Some(rate)) => bucket.change(rate, capacity, now),
        (None, Some(rate)) => *bucket = Some(Bucket::new(rate, capacity, now)),
        (_, None) => *bucket = None,
    }
}
