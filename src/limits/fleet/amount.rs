//! The two things that the fleet shares.

use serde::Serialize;

/// An amount of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Amount {
    /// Requests.
    pub requests: u64,
    /// Tokens, as limits count them.
    pub tokens: u64,
}

/// The limits of the whole fleet. The table keeps those of the highest revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Terms {
    /// In any sixty seconds. 0 is not limited.
    pub limit: Amount,
    /// Which they are.
    pub revision: u64,
}

impl Amount {
    /// The smaller of each.
    pub fn min(self, other: Amount) -> Amount {
        Amount { requests: self.requests.min(other.requests), tokens: self.tokens.min(other.tokens) }
    }

    /// The larger of each.
    pub fn max(self, other: Amount) -> Amount {
        Amount { requests: self.requests.max(other.requests), tokens: self.tokens.max(other.tokens) }
    }
}
