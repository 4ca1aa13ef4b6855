//! `[telemetry]` as it is written.

use std::fmt;

use serde::Deserialize;
use toml::Spanned;

use super::{Endpoint, FilePath, Span};

/// Whom OpenTelemetry's traces and metrics are sent to.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Telemetry {
    pub otlp_endpoint: Option<Spanned<Endpoint>>,
    pub ca_file: Option<Spanned<FilePath>>,
    pub signals: Option<Spanned<Vec<Signal>>>,
    pub metrics_interval: Option<Spanned<Span>>,
}

/// What is exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Signal {
    /// A span for each request.
    Traces,
    /// Histograms over all of them.
    Metrics,
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Signal::Traces => "traces",
            Signal::Metrics => "metrics",
        })
    }
}
