//! The part of the fleet's limits that this host may use: what the hot path draws from, without ever waiting for the
//! network.

use serde::Serialize;

use super::super::clock::SECOND;
use super::super::limit::{Exceeded, Limit};
use super::amount::{Amount, Terms};
use super::window::{WINDOW, Window};
use crate::config::limits::OnUnavailable;
use crate::error::{Refusal, RefusalKind};
use crate::settings::limits::Fleet;

/// What this host may use in any sixty seconds, as its agent last learned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Allowance {
    /// The limit of the whole fleet, once the table has told it.
    pub(super) limit: Option<Amount>,
    pub(super) cap: Amount,
    /// When the lease has run out unless it is renewed.
    pub(super) until: u64,
    /// The host's part of the limit when the table cannot be reached.
    pub(super) share: Amount,
    /// When the share may be used in full: by then every host's lease has run out, and its use is a window old.
    pub(super) share_from: u64,
    /// How soon a larger lease may be had, in nanoseconds.
    pub(super) growth_wait: u64,
}

/// Limits, lease and use of the fleet's limits on this host.
#[derive(Debug)]
pub struct LocalLease {
    settings: Fleet,
    allowance: Allowance,
    requests: Counter,
    tokens: Counter,
    /// The last check found no lease and no share.
    closed: bool,
}

/// One of the two limits, and what was used of it.
#[derive(Debug)]
struct Counter {
    /// None: not limited.
    limit: Option<u64>,
    used: Window,
    refused: Window,
    /// The largest amount that was asked for at once: halves when it has not been seen for a while.
    largest: u64,
    largest_at: u64,
}

/// What an admitted request has drawn, and when.
#[derive(Debug, Clone, Copy)]
pub struct Draw {
    slot: u64,
    tokens: u64,
}

/// The fleet in numbers.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FleetStatus {
    /// What this host may use in sixty seconds.
    pub lease: Amount,
    /// What it has used in the last sixty.
    pub used: Amount,
    /// The table has been heard of within the lease's time.
    pub leased: bool,
}

impl LocalLease {
    /// No lease yet, and nothing used. `now` is in nanoseconds of the host's clock, here and below.
    pub fn new(settings: &Fleet, now: u64) -> LocalLease {
        LocalLease {
            requests: Counter::new(settings.requests_per_minute, now),
            tokens: Counter::new(settings.tokens_per_minute, now),
            settings: settings.clone(),
            allowance: Allowance { growth_wait: SECOND, share_from: u64::MAX, ..Allowance::default() },
            closed: false,
        }
    }

    /// Other limits from now on; the lease follows once the agent has been to the table.
    pub(in crate::limits) fn change(&mut self, settings: &Fleet) {
        self.settings = settings.clone();
        self.apply_limit();
    }

    /// The table's limit; until that is known, the configured one.
    fn apply_limit(&mut self) {
        let limit = self.allowance.limit.unwrap_or(self.configured().limit);
        self.requests.limit = Some(limit.requests).filter(|limit| *limit > 0);
        self.tokens.limit = Some(limit.tokens).filter(|limit| *limit > 0);
    }

    /// The limits of the whole fleet as this host is configured with them.
    pub(in crate::limits) fn configured(&self) -> Terms {
        let Fleet { requests_per_minute, tokens_per_minute, revision, .. } = self.settings;
        let limit = Amount { requests: requests_per_minute.unwrap_or(0), tokens: tokens_per_minute.unwrap_or(0) };
        Terms { limit, revision }
    }

    /// What the agent has learned.
    pub(super) fn set_allowance(&mut self, allowance: Allowance) {
        let before = std::mem::replace(&mut self.allowance, allowance);
        if before.limit != allowance.limit {
            self.apply_limit();
        }
    }

    /// What may be used in sixty seconds, from what is known now.
    fn cap(&self, now: u64) -> Amount {
        let Allowance { cap, until, share, share_from, .. } = self.allowance;
        if now < until {
            cap
        } else if self.settings.on_unavailable == OnUnavailable::Deny {
            Amount::default()
        } else if now < share_from {
            // Others may still use all of theirs.
            cap.min(share)
        } else {
            share
        }
    }

    /// Whether the request may pass now. `first_attempt`: it has not been refused before, so it is new demand.
    pub(in crate::limits) fn check(&mut self, tokens: u64, first_attempt: bool, now: u64) -> Result<(), Exceeded> {
        let cap = self.cap(now);
        self.closed = now >= self.allowance.until && cap == Amount::default();
        let growth_wait = self.allowance.growth_wait;
        let requests_wait = self.requests.check(1, cap.requests, growth_wait, now);
        let tokens_wait = self.tokens.check(tokens, cap.tokens, growth_wait, now);
        // Only what is short is asked for: clients that try again would make the other look short too.
        if first_attempt && requests_wait > 0 {
            self.requests.refused.add(1, now);
        }
        if first_attempt && tokens_wait > 0 {
            self.tokens.refused.add(tokens, now);
        }
        self.tokens.note_largest(tokens, now);
        let (limit, configured, wait) = if tokens_wait > requests_wait {
            (Limit::TokensPerMinute, self.tokens.limit, tokens_wait)
        } else {
            (Limit::RequestsPerMinute, self.requests.limit, requests_wait)
        };
        if wait == 0 {
            return Ok(());
        }
        // A lease may grow at any moment, unless the whole limit is too small.
        Err(Exceeded { limit, configured: configured.unwrap_or(0), wait, may_clear_early: wait < u64::MAX, left: None })
    }

    /// The check and the taking as one step, where no other limit has a say.
    pub fn draw(&mut self, tokens: u64, now: u64) -> Option<Draw> {
        self.check(tokens, true, now).is_ok().then(|| self.take(tokens, now))
    }

    /// Counts a request that every limit has admitted.
    pub(in crate::limits) fn take(&mut self, tokens: u64, now: u64) -> Draw {
        self.requests.used.add(1, now);
        Draw { slot: self.tokens.used.add(tokens, now), tokens }
    }

    /// Puts the tokens that were used in the place of those that were drawn. A surplus goes back to the moment of the
    /// drawing; what is above it counts from now on.
    pub(in crate::limits) fn settle(&mut self, draw: &mut Draw, tokens: u64, now: u64) {
        match draw.tokens.checked_sub(tokens) {
            Some(surplus) => self.tokens.used.take_back(surplus, draw.slot, now),
            None => {
                self.tokens.used.add(tokens - draw.tokens, now);
            }
        }
        draw.tokens = tokens;
    }

    /// Gives back what the request itself took: it never went upstream.
    pub(in crate::limits) fn give_back_request(&mut self, draw: Draw, now: u64) {
        self.requests.used.take_back(1, draw.slot, now);
    }

    /// What was used in the last sixty seconds.
    pub(super) fn used(&mut self, now: u64) -> Amount {
        Amount { requests: self.requests.used.sum(now), tokens: self.tokens.used.sum(now) }
    }

    /// What would have been used in the last sixty seconds without limits of the fleet.
    pub(super) fn asked(&mut self, now: u64) -> Amount {
        let used = self.used(now);
        Amount {
            requests: used.requests.saturating_add(self.requests.refused.sum(now)),
            tokens: used.tokens.saturating_add(self.tokens.refused.sum(now)),
        }
    }

    /// Requests were refused for want of a lease within the last minute.
    pub(super) fn starved(&mut self, now: u64) -> bool {
        self.requests.refused.sum(now) > 0 || self.tokens.refused.sum(now) > 0
    }

    /// The largest single amount asked for lately.
    pub(super) fn largest(&mut self, now: u64) -> Amount {
        Amount { requests: 1, tokens: self.tokens.largest(now) }
    }

    /// The refusals that the usual sentence does not fit.
    pub(in crate::limits) fn refusal(&self, exceeded: &Exceeded) -> Option<Refusal> {
        if exceeded.wait == u64::MAX {
            return Some(Refusal::new(
                RefusalKind::Validation,
                format!(
                    "the request may use more tokens than all hosts together in a minute (fleet {} = {}); lower its max_tokens or its size.",
                    exceeded.limit.key(),
                    exceeded.configured
                ),
            ));
        }
        if self.closed && self.settings.on_unavailable == OnUnavailable::Deny {
            return Some(
                Refusal::new(
                    RefusalKind::ServiceUnavailable,
                    format!(
                        "the fleet's limits are kept in the DynamoDB table {}, which cannot be reached, and on_unavailable = \"deny\"; try again when it can.",
                        self.settings.table
                    ),
                )
                .retry_after(std::time::Duration::from_secs(5)),
            );
        }
        None
    }

    pub(in crate::limits) fn status(&mut self, now: u64) -> FleetStatus {
        FleetStatus { lease: self.cap(now), used: self.used(now), leased: now < self.allowance.until }
    }
}

impl Counter {
    fn new(limit: Option<u64>, now: u64) -> Counter {
        Counter { limit, used: Window::new(now), refused: Window::new(now), largest: 0, largest_at: now }
    }

    /// Nanoseconds to wait; `u64::MAX`: it never fits.
    fn check(&mut self, amount: u64, cap: u64, growth_wait: u64, now: u64) -> u64 {
        let Some(limit) = self.limit else { return 0 };
        if amount == 0 {
            return 0;
        }
        if amount > limit {
            return u64::MAX;
        }
        let used = self.used.sum(now);
        if used.saturating_add(amount) <= cap {
            0
        } else if amount <= cap {
            // By then the use is old enough, or a larger lease was got before.
            self.used.until(cap - amount, now).max(1)
        } else {
            growth_wait.max(1)
        }
    }

    fn note_largest(&mut self, amount: u64, now: u64) {
        if amount >= self.largest {
            self.largest = amount;
            self.largest_at = now;
        }
    }

    fn largest(&mut self, now: u64) -> u64 {
        while self.largest > 0 && now.saturating_sub(self.largest_at) >= WINDOW {
            self.largest /= 2;
            self.largest_at += WINDOW;
        }
        self.largest.max(1)
    }
}
