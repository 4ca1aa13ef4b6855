//! The state of one scope: the host, a caller, or a pattern on models.

use std::fmt;

use super::bucket::Bucket;
use super::calendar::{Calendar, Period};
use crate::settings::limits::Rates;

/// Whose limit it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Whose {
    Host,
    Caller(Box<str>),
    /// The pattern as it is configured.
    Model(Box<str>),
    Fleet,
}

/// Which limit it is, by its key in the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Limit {
    RequestsPerMinute,
    ConcurrentRequests,
    TokensPerMinute,
    TokensPerDay,
    UsdPerDay,
    UsdPerMonth,
}

/// A request's weight: what it takes from each scope that applies to it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Cost {
    pub tokens: u64,
    pub nano_usd: u64,
}

/// Why a scope does not admit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Block {
    pub limit: Limit,
    pub configured: u64,
    /// Nanoseconds until time alone will have lifted it; 0 where only the end of other requests will.
    pub wait: u64,
    /// Requests in flight may lift it sooner.
    pub hopeful: bool,
}

#[derive(Debug)]
pub(super) struct Scope {
    pub whose: Whose,
    pub rates: Rates,
    requests: Option<Bucket>,
    tokens: Option<Bucket>,
    running: u64,
    /// What requests in flight have reserved and not settled.
    reserved: Cost,
    pub spent: Spent,
    /// Requests refused, by limit.
    pub limited: [u64; Limit::ALL.len()],
}

/// What was used in the current day and month, reservations included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Spent {
    pub period: Period,
    pub tokens_today: u64,
    pub nano_usd_today: u64,
    pub nano_usd_this_month: u64,
    pub warned_today: bool,
    pub warned_this_month: bool,
}

/// A budget of which four fifths are spent: said once in a period.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Warning {
    pub whose: Whose,
    pub limit: Limit,
    pub spent: u64,
    pub configured: u64,
}

impl Scope {
    pub fn new(whose: Whose, rates: Rates, period: Period, now: u64) -> Scope {
        let mut scope = Scope {
            whose,
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
    pub fn change(&mut self, rates: Rates, now: u64) {
        let burst = rates.request_burst.or(rates.requests_per_minute).unwrap_or(0);
        change(&mut self.requests, rates.requests_per_minute, burst, now);
        change(&mut self.tokens, rates.tokens_per_minute, rates.tokens_per_minute.unwrap_or(0), now);
        self.rates = rates;
    }

    /// Whether the request may pass now; of several limits that forbid it, the one that will last longest.
    pub fn check(&mut self, cost: Cost, now: u64, calendar: &Calendar, period: Period) -> Result<(), Block> {
        self.spent.turn(period);
        let mut worst: Option<Block> = None;
        let mut block = |limit, configured, wait, hopeful| {
            if worst.is_none_or(|other| other.wait < wait) {
                worst = Some(Block { limit, configured, wait, hopeful });
            }
        };
        let rates = &self.rates;
        if let Some(most) = rates.concurrent_requests
            && self.running >= most
        {
            block(Limit::ConcurrentRequests, most, 0, true);
        }
        if let (Some(bucket), Some(rate)) = (&mut self.requests, rates.requests_per_minute) {
            let wait = bucket.wait(1, now);
            if wait > 0 {
                block(Limit::RequestsPerMinute, rate, wait, false);
            }
        }
        if let (Some(bucket), Some(rate)) = (&mut self.tokens, rates.tokens_per_minute) {
            let wait = bucket.wait(cost.tokens, now);
            if wait > 0 {
                block(Limit::TokensPerMinute, rate, wait, self.reserved.tokens > 0);
            }
        }
        if let Some(most) = rates.tokens_per_day
            && over(self.spent.tokens_today, cost.tokens, most)
        {
            block(Limit::TokensPerDay, most, calendar.until_day_ends(), self.reserved.tokens > 0);
        }
        if let Some(most) = rates.usd_per_day
            && over(self.spent.nano_usd_today, cost.nano_usd, most)
        {
            block(Limit::UsdPerDay, most, calendar.until_day_ends(), self.reserved.nano_usd > 0);
        }
        if let Some(most) = rates.usd_per_month
            && over(self.spent.nano_usd_this_month, cost.nano_usd, most)
        {
            block(Limit::UsdPerMonth, most, calendar.until_month_ends(), self.reserved.nano_usd > 0);
        }
        worst.map_or(Ok(()), Err)
    }

    /// Counts a request that every scope has admitted.
    pub fn take(&mut self, cost: Cost) {
        self.running += 1;
        if let Some(bucket) = &mut self.requests {
            bucket.take(1);
        }
        if let Some(bucket) = &mut self.tokens {
            bucket.take(cost.tokens);
        }
        self.reserved.tokens += cost.tokens;
        self.reserved.nano_usd += cost.nano_usd;
        self.spent.add(cost);
    }

    /// Replaces what a request had been counted with. `first`: it was a reservation until now.
    pub fn settle(&mut self, counted: Cost, actual: Cost, admitted: Period, first: bool, now: u64) -> Option<Warning> {
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

    /// A request that never went upstream, or (`ended`) one whose end is all that is left to count.
    pub fn give_back_request(&mut self, now: u64) {
        if let Some(bucket) = &mut self.requests {
            bucket.give_back(1, now);
        }
    }

    pub fn unreserve(&mut self, cost: Cost) {
        self.reserved.tokens = self.reserved.tokens.saturating_sub(cost.tokens);
        self.reserved.nano_usd = self.reserved.nano_usd.saturating_sub(cost.nano_usd);
    }

    pub fn end(&mut self) {
        self.running = self.running.saturating_sub(1);
    }

    pub fn running(&self) -> u64 {
        self.running
    }

    /// Whole tokens left in this minute's bucket; none without such a limit.
    pub fn tokens_left(&mut self, now: u64) -> Option<i64> {
        self.tokens.as_mut().map(|bucket| bucket.level(now))
    }

    pub fn requests_left(&mut self, now: u64) -> Option<i64> {
        self.requests.as_mut().map(|bucket| bucket.level(now))
    }

    /// A budget has passed 80 %, reservations not counted, and nobody has said so in its period.
    fn warning(&mut self) -> Option<Warning> {
        let passed = |spent: u64, reserved: u64, most: u64| {
            u128::from(spent.saturating_sub(reserved)) * 5 >= u128::from(most) * 4
        };
        let reserved = self.reserved.nano_usd;
        if let Some(most) = self.rates.usd_per_day
            && !self.spent.warned_today
            && passed(self.spent.nano_usd_today, reserved, most)
        {
            self.spent.warned_today = true;
            let spent = self.spent.nano_usd_today - reserved.min(self.spent.nano_usd_today);
            return Some(Warning { whose: self.whose.clone(), limit: Limit::UsdPerDay, spent, configured: most });
        }
        if let Some(most) = self.rates.usd_per_month
            && !self.spent.warned_this_month
            && passed(self.spent.nano_usd_this_month, reserved, most)
        {
            self.spent.warned_this_month = true;
            let spent = self.spent.nano_usd_this_month - reserved.min(self.spent.nano_usd_this_month);
            return Some(Warning { whose: self.whose.clone(), limit: Limit::UsdPerMonth, spent, configured: most });
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

impl Spent {
    pub fn none(period: Period) -> Spent {
        Spent {
            period,
            tokens_today: 0,
            nano_usd_today: 0,
            nano_usd_this_month: 0,
            warned_today: false,
            warned_this_month: false,
        }
    }

    /// A new day starts at nothing, and so does a new month.
    pub fn turn(&mut self, period: Period) {
        if self.period == period {
            return;
        }
        if self.period.month != period.month {
            *self = Spent::none(period);
        } else {
            let (nano_usd_this_month, warned_this_month) = (self.nano_usd_this_month, self.warned_this_month);
            *self = Spent { nano_usd_this_month, warned_this_month, ..Spent::none(period) };
        }
    }

    fn add(&mut self, cost: Cost) {
        self.tokens_today = self.tokens_today.saturating_add(cost.tokens);
        self.nano_usd_today = self.nano_usd_today.saturating_add(cost.nano_usd);
        self.nano_usd_this_month = self.nano_usd_this_month.saturating_add(cost.nano_usd);
    }

    /// A request counts in the period in which it was admitted; what it turns out to use after that is nobody's.
    fn replace(&mut self, counted: Cost, actual: Cost, admitted: Period) {
        if admitted.day == self.period.day {
            self.tokens_today = self.tokens_today.saturating_sub(counted.tokens).saturating_add(actual.tokens);
            self.nano_usd_today = self.nano_usd_today.saturating_sub(counted.nano_usd).saturating_add(actual.nano_usd);
        }
        if admitted.month == self.period.month {
            let month = &mut self.nano_usd_this_month;
            *month = month.saturating_sub(counted.nano_usd).saturating_add(actual.nano_usd);
        }
    }
}

impl Limit {
    pub const ALL: [Limit; 6] = [
        Limit::RequestsPerMinute,
        Limit::ConcurrentRequests,
        Limit::TokensPerMinute,
        Limit::TokensPerDay,
        Limit::UsdPerDay,
        Limit::UsdPerMonth,
    ];

    /// The key in the configuration, which is also the metric's label.
    pub fn key(self) -> &'static str {
        match self {
            Limit::RequestsPerMinute => "requests_per_minute",
            Limit::ConcurrentRequests => "concurrent_requests",
            Limit::TokensPerMinute => "tokens_per_minute",
            Limit::TokensPerDay => "tokens_per_day",
            Limit::UsdPerDay => "usd_per_day",
            Limit::UsdPerMonth => "usd_per_month",
        }
    }
}

impl Whose {
    /// The metric's label, of which there are four.
    pub fn label(&self) -> &'static str {
        match self {
            Whose::Host => "host",
            Whose::Caller(_) => "caller",
            Whose::Model(_) => "model",
            Whose::Fleet => "fleet",
        }
    }
}

impl fmt::Display for Whose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Whose::Host => f.write_str("this host"),
            Whose::Caller(name) => write!(f, "the caller \"{name}\""),
            Whose::Model(pattern) => write!(f, "the group of models \"{pattern}\""),
            Whose::Fleet => f.write_str("the fleet"),
        }
    }
}
