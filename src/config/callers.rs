//! `[[callers]]`, `[policy]` and `[listen.tls]` as they are written.

use std::num::{NonZeroU32, NonZeroU64};

use serde::Deserialize;
use toml::Spanned;

use super::limits::{Rates, Usd, Wait};
use super::rate_keys::{rate_keys, table_with_rates, written_table};
use super::{Address, FilePath, Glob};

table_with_rates! {
    /// One `[[callers]]` table. A request belongs to the first table of which any one criterion fits: `users`, `groups`,
    /// the local key, the bearer token, `certificate_names` or `host_role`.
    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    pub struct Caller {
        /// Stands in logs and records.
        pub name: Spanned<String>,
        /// Local users by name, or by number.
        #[serde(default)]
        pub users: Vec<Spanned<String>>,
        /// Local groups by name, or by number.
        #[serde(default)]
        pub groups: Vec<Spanned<String>>,
        /// The local key that the caller signs with.
        pub access_key_id: Option<Spanned<String>>,
        /// The secret half of `access_key_id`.
        pub secret_access_key_file: Option<Spanned<FilePath>>,
        /// The token that the caller sends instead of a signature.
        pub bearer_token_file: Option<Spanned<FilePath>>,
        /// Names of the client certificate: `CN=billing`, `DNS:billing.internal`, `URI:spiffe://…`.
        #[serde(default)]
        pub certificate_names: Vec<Spanned<Glob>>,
        /// Whoever signs with the keys of this host's own role.
        #[serde(default)]
        pub host_role: bool,

        /// Models that it may call; all that are allowed, when left out.
        pub models: Option<Spanned<Vec<Spanned<Glob>>>>,
        /// Models that it may not call.
        pub deny_models: Option<Spanned<Vec<Spanned<Glob>>>>,
        /// Operations that it may call, by AWS's names; all, when left out.
        pub operations: Option<Spanned<Vec<Spanned<Glob>>>>,
        /// Operations that it may not call.
        pub deny_operations: Option<Spanned<Vec<Spanned<Glob>>>>,
        /// The level of its requests; a request's header may raise it.
        pub data_classification: Option<Spanned<String>>,
        /// Whether its requests may go to the commercial partition.
        pub commercial: Option<Commercial>,
        ..rates
    }
}

/// `[policy]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Policy {
    /// Whoever fits no `[[callers]]` is refused.
    pub require_known_caller: Option<Spanned<bool>>,
    /// Lowest level first.
    pub data_classifications: Option<Spanned<Vec<Spanned<String>>>>,
    /// Whether a request may be served in another partition because the one that should serve it does not.
    pub cross_partition_failover: bool,
    /// The levels that may go to each partition.
    pub partitions: Option<Spanned<PartitionLevels>>,
    /// The modes of Bedrock's data retention in which the daemon is ready; any, if empty.
    pub require_data_retention: Vec<DataRetention>,
}

/// `[policy.partitions]`: the data classifications that may go to each partition.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct PartitionLevels {
    /// None, if left out.
    #[serde(rename = "aws")]
    pub commercial: Option<Vec<Spanned<String>>>,
    /// All, if left out.
    #[serde(rename = "aws-us-gov")]
    pub govcloud: Option<Vec<Spanned<String>>>,
}

/// Whether a caller's requests may go to the commercial partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Commercial {
    /// None may.
    Deny,
    /// Those may whose classification may; and those without one.
    Allow,
}

/// A mode of Bedrock's data retention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum DataRetention {
    /// Nothing is kept.
    None,
    /// As each model's own terms say.
    Default,
    /// AWS may keep, and people at AWS may read, what is sent to some models.
    AwsReview,
    /// The same, and sharing with the models' providers is allowed.
    ProviderDataShare,
    /// Not set.
    Inherit,
}

impl DataRetention {
    #[cfg(test)]
    pub(crate) const ALL: [DataRetention; 5] = [
        DataRetention::None,
        DataRetention::Default,
        DataRetention::AwsReview,
        DataRetention::ProviderDataShare,
        DataRetention::Inherit,
    ];

    /// Bedrock's name for it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            DataRetention::None => "none",
            DataRetention::Default => "default",
            DataRetention::AwsReview => "aws_review",
            DataRetention::ProviderDataShare => "provider_data_share",
            DataRetention::Inherit => "inherit",
        }
    }
}

/// `[listen.tls]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tls {
    /// Where clients on other hosts connect.
    pub address: Spanned<Address>,
    /// PEM: the certificate first, then its intermediates.
    pub certificate_file: Spanned<FilePath>,
    /// PEM: PKCS#8, PKCS#1 or SEC1.
    pub private_key_file: Spanned<FilePath>,
    /// PEM: those who may issue client certificates.
    pub client_ca_file: Option<Spanned<FilePath>>,
}
