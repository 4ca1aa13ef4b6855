//! Which limit it is, whose limit it is, and why it does not admit a request.

use std::fmt;

/// Which limit it is, by its key in the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Limit {
    RequestsPerMinute,
    ConcurrentRequests,
    TokensPerMinute,
    TokensPerDay,
    UsdPerDay,
    UsdPerMonth,
}

/// Whose limit it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum ScopeId {
    Host,
    Caller(Box<str>),
    /// The pattern as it is configured.
    Model(Box<str>),
    Fleet,
}

/// A limit that does not admit a request now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Exceeded {
    pub(super) limit: Limit,
    /// The limit's value: requests, tokens or nano-dollars.
    pub(super) configured: u64,
    /// Nanoseconds until time alone will have lifted it; 0 where only the end of other requests will.
    pub(super) wait: u64,
    /// Something else than time may lift it sooner: the end of requests in flight, or a larger lease.
    pub(super) may_clear_early: bool,
    /// What is left of it, if that is something: the request would need more.
    pub(super) left: Option<u64>,
}

impl Limit {
    pub(super) const ALL: [Limit; 6] = [
        Limit::RequestsPerMinute,
        Limit::ConcurrentRequests,
        Limit::TokensPerMinute,
        Limit::TokensPerDay,
        Limit::UsdPerDay,
        Limit::UsdPerMonth,
    ];

    /// The key in the configuration, which is also the metric's label.
    pub(super) fn key(self) -> &'static str {
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

impl ScopeId {
    /// The metric's label, of which there are four.
    pub(super) fn label(&self) -> &'static str {
        match self {
            ScopeId::Host => "host",
            ScopeId::Caller(_) => "caller",
            ScopeId::Model(_) => "model",
            ScopeId::Fleet => "fleet",
        }
    }
}

impl fmt::Display for ScopeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ScopeId::Host => f.write_str("this host"),
            ScopeId::Caller(name) => write!(f, "the caller \"{name}\""),
            ScopeId::Model(pattern) => write!(f, "the group of models \"{pattern}\""),
            ScopeId::Fleet => f.write_str("the fleet"),
        }
    }
}
