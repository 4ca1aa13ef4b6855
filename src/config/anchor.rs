//! `[audit.anchor]` as it is written.

use serde::Deserialize;
use toml::Spanned;

use super::Endpoint;

/// Where the end of the hash chain is written every minute, for someone else to keep.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Anchor {
    pub to: AnchorPlace,
    pub bucket: Option<Spanned<String>>,
    pub prefix: Option<Spanned<String>>,
    pub region: Option<Spanned<String>>,
    pub endpoint: Option<Endpoint>,
    pub object_lock_mode: Option<ObjectLockMode>,
    pub object_lock_days: Option<Spanned<u32>>,
}

/// The places that an anchor can be written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum AnchorPlace {
    /// The daemon's own log.
    Log,
    /// A bucket of S3.
    S3,
}

/// How S3 locks an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum ObjectLockMode {
    /// Who has a permission of its own can still delete it.
    Governance,
    /// Nobody can delete it before its time.
    Compliance,
}
