//! The part of the fleet's limits that this host may use: what the hot path draws from, without ever waiting for the
//! network.

use serde::Serialize;

use super::super::clock::SECOND;
use super::super::scope::{Block, Limit};
use super::window::Window;
use crate::config::limits::OnUnavailable;
use crate::error::{Kind, Refusal};
use crate::settings::limits::Fleet;

/// An amount of both things that the fleet shares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Pair {
    pub requests: u64,
    pub tokens: u64,
}

/// What this host may use in any sixty seconds, as its agent last learned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lease {
    pub cap: Pair,
    /// When the lease has run out unless it is renewed.
    pub until: u64,
    /// The host's part of the limit when the table cannot be reached.
    pub share: Pair,
    /// When the share may be used in full: by then every host's lease has run out, and its use is a window old.
    pub share_from: u64,
    /// How soon a larger lease may be had, in nanoseconds.
    pub patience: u64,
}

#[derive(Debug)]
pub struct Local {
    settings: Fleet,
    lease: Lease,
    pub requests: Meter,
    pub tokens: Meter,
    /// The last check found no lease and no share.
    closed: bool,
}

/// One of the two limits.
#[derive(Debug)]
pub struct Meter {
    /// None: not limited.
    pub limit: Option<u64>,
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
    pub lease: Pair,
    /// What it has used in the last sixty.
    pub used: Pair,
    /// The table has been heard of within the lease's time.
    pub leased: bool,
}

impl Local {
    pub fn new(settings: &Fleet, now: u64) -> Local {
        Local {
            requests: Meter::new(settings.requests_per_minute, now),
            tokens: Meter::new(settings.tokens_per_minute, now),
            settings: settings.clone(),
            lease: Lease { patience: SECOND, share_from: u64::MAX, ..Lease::default() },
            closed: false,
        }
    }

    /// Other limits from now on; the lease follows once the agent has been to the table.
    pub fn change(&mut self, settings: &Fleet) {
        self.requests.limit = settings.requests_per_minute;
        self.tokens.limit = settings.tokens_per_minute;
        self.settings = settings.clone();
    }

    pub fn settings(&self) -> &Fleet {
        &self.settings
    }

    pub fn lease(&mut self, lease: Lease) {
        self.lease = lease;
    }

    /// What may be used in sixty seconds, from what is known now.
    fn cap(&self, now: u64) -> Pair {
        let Lease { cap, until, share, share_from, .. } = self.lease;
        if now < until {
            cap
        } else if self.settings.on_unavailable == OnUnavailable::Deny {
            Pair::default()
        } else if now < share_from {
            // Others may still use all of theirs.
            cap.min(share)
        } else {
            share
        }
    }

    /// Whether the request may pass now. `fresh`: it has not been refused before, so it is new demand.
    pub(in crate::limits) fn check(&mut self, tokens: u64, fresh: bool, now: u64) -> Result<(), Block> {
        let cap = self.cap(now);
        self.closed = now >= self.lease.until && cap == Pair::default();
        let patience = self.lease.patience;
        let requests = self.requests.check(1, cap.requests, patience, now);
        let tokens_wait = self.tokens.check(tokens, cap.tokens, patience, now);
        if fresh && (requests > 0 || tokens_wait > 0) {
            self.requests.refused.add(1, now);
            self.tokens.refused.add(tokens, now);
        }
        self.tokens.saw(tokens, now);
        let (limit, configured, wait) = if tokens_wait > requests {
            (Limit::TokensPerMinute, self.tokens.limit, tokens_wait)
        } else {
            (Limit::RequestsPerMinute, self.requests.limit, requests)
        };
        if wait == 0 {
            return Ok(());
        }
        // A lease may grow at any moment, unless the whole limit is too small.
        Err(Block { limit, configured: configured.unwrap_or(0), wait, hopeful: wait < u64::MAX })
    }

    pub fn take(&mut self, tokens: u64, now: u64) -> Draw {
        self.requests.used.add(1, now);
        Draw { slot: self.tokens.used.add(tokens, now), tokens }
    }

    /// Puts the tokens that were used in the place of those that were drawn. A surplus goes back to the moment of the
    /// drawing; what is above it counts from now on.
    pub fn settle(&mut self, draw: &mut Draw, tokens: u64, now: u64) {
        match draw.tokens.checked_sub(tokens) {
            Some(surplus) => self.tokens.used.take_back(surplus, draw.slot, now),
            None => {
                self.tokens.used.add(tokens - draw.tokens, now);
            }
        }
        draw.tokens = tokens;
    }

    pub fn give_back_request(&mut self, draw: Draw, now: u64) {
        self.requests.used.take_back(1, draw.slot, now);
    }

    /// What was used in the last sixty seconds.
    pub fn used(&mut self, now: u64) -> Pair {
        Pair { requests: self.requests.used.sum(now), tokens: self.tokens.used.sum(now) }
    }

    /// What would have been used in the last sixty seconds without limits of the fleet.
    pub fn asked(&mut self, now: u64) -> Pair {
        let used = self.used(now);
        Pair {
            requests: used.requests.saturating_add(self.requests.refused.sum(now)),
            tokens: used.tokens.saturating_add(self.tokens.refused.sum(now)),
        }
    }

    /// Requests were refused for want of a lease within the last minute.
    pub fn starved(&mut self, now: u64) -> bool {
        self.requests.refused.sum(now) > 0
    }

    /// The largest single amount asked for lately.
    pub fn largest(&mut self, now: u64) -> Pair {
        Pair { requests: 1, tokens: self.tokens.largest(now) }
    }

    /// The refusals that the usual sentence does not fit.
    pub(in crate::limits) fn refusal(&self, block: &Block) -> Option<Refusal> {
        if block.wait == u64::MAX {
            return Some(Refusal::new(
                Kind::Validation,
                format!(
                    "the request may use more tokens than all hosts together in a minute (fleet {} = {}); lower its max_tokens or its size.",
                    block.limit.key(),
                    block.configured
                ),
            ));
        }
        if self.closed && self.settings.on_unavailable == OnUnavailable::Deny {
            return Some(
                Refusal::new(
                    Kind::ServiceUnavailable,
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

    pub fn status(&mut self, now: u64) -> FleetStatus {
        FleetStatus { lease: self.cap(now), used: self.used(now), leased: now < self.lease.until }
    }
}

impl Meter {
    fn new(limit: Option<u64>, now: u64) -> Meter {
        Meter { limit, used: Window::new(now), refused: Window::new(now), largest: 0, largest_at: now }
    }

    /// Nanoseconds to wait; `u64::MAX`: it never fits.
    fn check(&mut self, amount: u64, cap: u64, patience: u64, now: u64) -> u64 {
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
            patience.max(1)
        }
    }

    fn saw(&mut self, amount: u64, now: u64) {
        if amount >= self.largest {
            self.largest = amount;
            self.largest_at = now;
        }
    }

    fn largest(&mut self, now: u64) -> u64 {
        while self.largest > 0 && now.saturating_sub(self.largest_at) >= super::window::WINDOW {
            self.largest /= 2;
            self.largest_at += super::window::WINDOW;
        }
        self.largest.max(1)
    }
}

impl Pair {
    pub fn min(self, other: Pair) -> Pair {
        Pair { requests: self.requests.min(other.requests), tokens: self.tokens.min(other.tokens) }
    }

    pub fn max(self, other: Pair) -> Pair {
        Pair { requests: self.requests.max(other.requests), tokens: self.tokens.max(other.tokens) }
    }
}
