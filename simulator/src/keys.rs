//! The credentials the simulator knows, and the obviously fake ones it starts with.

use serde::{Deserialize, Serialize};

use crate::partition;

/// An access key pair, with the session token that belongs to it when it is temporary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AwsKey {
    /// `AKIA…` or `ASIA…`.
    pub access_key_id: String,
    /// The secret.
    pub secret_access_key: String,
    /// Of temporary keys only.
    #[serde(default)]
    pub session_token: Option<String>,
}

/// The long-term API key known from the start: `ABSK` + base64("BedrockAPIKey-abcd-at-123456789012:not-a-real-secret-only-for-the-simulator").
pub const DEFAULT_BEARER_TOKEN: &str =
    "ABSKQmVkcm9ja0FQSUtleS1hYmNkLWF0LTEyMzQ1Njc4OTAxMjpub3QtYS1yZWFsLXNlY3JldC1vbmx5LWZvci10aGUtc2ltdWxhdG9y";
/// A second long-term API key, NOT known from the start: for tests that rotate.
pub const ROTATED_BEARER_TOKEN: &str =
    "ABSKQmVkcm9ja0FQSUtleS1yb3RhLWF0LTEyMzQ1Njc4OTAxMjphbm90aGVyLWZha2Utc2VjcmV0LWFmdGVyLXJvdGF0aW9u";
/// The long-lived access key id known from the start.
pub const DEFAULT_ACCESS_KEY_ID: &str = "AKIASIMULATOREXAMPLE";
/// Its secret.
pub const DEFAULT_SECRET_ACCESS_KEY: &str = "simulator/secret+access/key/EXAMPLEKEY01";
/// The temporary access key id known from the start.
pub const DEFAULT_TEMPORARY_ACCESS_KEY_ID: &str = "ASIASIMULATOREXAMPLE";
/// Its secret.
pub const DEFAULT_TEMPORARY_SECRET_ACCESS_KEY: &str = "simulator/temporary+secret/EXAMPLEKEY02";
/// Its session token.
pub const DEFAULT_SESSION_TOKEN: &str = "FwoGZXIvYXdzEXAMPLE//simulator+session/token==";

/// The bearer key known from the start in GovCloud, which commercial Bedrock does not know.
pub const GOVCLOUD_BEARER_TOKEN: &str =
    "ABSKQmVkcm9ja0FQSUtleS1nb3ZjLWF0LTIxMDk4NzY1NDMyMTpnb3ZjbG91ZC1mYWtlLXNlY3JldC1mb3ItdGhlLXNpbXVsYXRvcg==";
/// The access key id known from the start in GovCloud: as a host's own role has it, with a session token.
pub const GOVCLOUD_ACCESS_KEY_ID: &str = "ASIAGOVCLOUDEXAMPLE1";
/// Its secret.
pub const GOVCLOUD_SECRET_ACCESS_KEY: &str = "simulator/govcloud+secret/key/EXAMPLEKEY03";
/// Its session token.
pub const GOVCLOUD_SESSION_TOKEN: &str = "FwoGZXIvYXdzEXAMPLE//simulator+govcloud/token==";

impl AwsKey {
    /// The temporary pair known from the start in GovCloud.
    pub fn govcloud() -> AwsKey {
        AwsKey {
            access_key_id: GOVCLOUD_ACCESS_KEY_ID.to_owned(),
            secret_access_key: GOVCLOUD_SECRET_ACCESS_KEY.to_owned(),
            session_token: Some(GOVCLOUD_SESSION_TOKEN.to_owned()),
        }
    }

    /// The long-lived pair known from the start.
    pub fn default_long_lived() -> AwsKey {
        AwsKey {
            access_key_id: DEFAULT_ACCESS_KEY_ID.to_owned(),
            secret_access_key: DEFAULT_SECRET_ACCESS_KEY.to_owned(),
            session_token: None,
        }
    }

    /// The temporary pair known from the start.
    pub fn default_temporary() -> AwsKey {
        AwsKey {
            access_key_id: DEFAULT_TEMPORARY_ACCESS_KEY_ID.to_owned(),
            secret_access_key: DEFAULT_TEMPORARY_SECRET_ACCESS_KEY.to_owned(),
            session_token: Some(DEFAULT_SESSION_TOKEN.to_owned()),
        }
    }
}

/// All that is known. Also the body of `POST /_simulator/credentials`, where a list left out stays as it was.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Known {
    pub(crate) bearer_tokens: Vec<String>,
    pub(crate) aws_keys: Vec<AwsKey>,
    /// Bearer tokens and access key ids that were good once.
    pub(crate) expired: Vec<String>,
    /// Of IAM Roles Anywhere.
    pub(crate) sessions: Vec<Session>,
}

/// Temporary keys with their end, in seconds since the epoch.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Session {
    pub(crate) key: AwsKey,
    pub(crate) until: i64,
}

impl Default for Known {
    fn default() -> Known {
        Known {
            bearer_tokens: vec![DEFAULT_BEARER_TOKEN.to_owned()],
            aws_keys: vec![AwsKey::default_long_lived(), AwsKey::default_temporary()],
            expired: Vec::new(),
            sessions: Vec::new(),
        }
    }
}

/// A change to what is known.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Change {
    pub(crate) bearer_tokens: Option<Vec<String>>,
    pub(crate) aws_keys: Option<Vec<AwsKey>>,
    pub(crate) expired: Option<Vec<String>>,
    /// Everything known now expires.
    #[serde(default)]
    pub(crate) expire_all: bool,
    /// Back to the defaults, before anything else in this change.
    #[serde(default)]
    pub(crate) reset: bool,
}

impl Known {
    /// What is known from the start in a region: keys of its own partition alone.
    pub(crate) fn of_region(region: &str) -> Known {
        if !partition::is_govcloud(region) {
            return Known::default();
        }
        Known {
            bearer_tokens: vec![GOVCLOUD_BEARER_TOKEN.to_owned()],
            aws_keys: vec![AwsKey::govcloud()],
            expired: Vec::new(),
            sessions: Vec::new(),
        }
    }

    pub(crate) fn apply(&mut self, change: Change, region: &str) {
        if change.reset {
            *self = Known::of_region(region);
        }
        if let Some(tokens) = change.bearer_tokens {
            self.bearer_tokens = tokens;
        }
        if let Some(keys) = change.aws_keys {
            self.aws_keys = keys;
        }
        if let Some(expired) = change.expired {
            self.expired = expired;
        }
        if change.expire_all {
            self.expired.extend(self.bearer_tokens.iter().cloned());
            self.expired.extend(self.all_keys().map(|key| key.access_key_id.clone()).collect::<Vec<_>>());
        }
    }

    pub(crate) fn key(&self, access_key_id: &str) -> Option<&AwsKey> {
        self.all_keys().find(|key| key.access_key_id == access_key_id)
    }

    fn all_keys(&self) -> impl Iterator<Item = &AwsKey> {
        self.aws_keys.iter().chain(self.sessions.iter().map(|session| &session.key))
    }

    /// These are the keys of a session that is over.
    pub(crate) fn has_ended(&self, access_key_id: &str, now: i64) -> bool {
        self.sessions.iter().any(|session| session.key.access_key_id == access_key_id && session.until <= now)
    }

    pub(crate) fn is_expired(&self, credential: &str) -> bool {
        self.expired.iter().any(|expired| expired == credential)
    }
}
