//! `[credentials]`, and the same keys of an upstream of its own: where the credential is.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;

use super::roles_anywhere::{self, RolesAnywhere};
use super::{DAY, at_most, names};
use crate::config::{self, ConfigError, CredentialSource, Source};
use crate::partition::Partition;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Credentials {
    pub source: SecretLocation,
    pub refresh_interval: Duration,
}

/// Where a credential is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SecretLocation {
    SecretsManager {
        secret_id: String,
        region: String,
    },
    Environment,
    File(PathBuf),
    Profile(String),
    RolesAnywhere(Box<RolesAnywhere>),
    /// This host's own role, by the SDKs' default chain.
    Host {
        /// Of the upstream.
        region: String,
        /// A commercial upstream takes its key from the environment, where the chain would find it.
        beside_environment: bool,
    },
}

impl SecretLocation {
    /// The file that holds the credential or the private key, if there is one.
    pub(crate) fn file(&self) -> Option<&Path> {
        match self {
            SecretLocation::File(path) => Some(path),
            SecretLocation::RolesAnywhere(known) => Some(&known.private_key_file),
            _ => None,
        }
    }
}

impl fmt::Display for SecretLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SecretLocation::SecretsManager { secret_id, region } => write!(f, "secret {secret_id} in {region}"),
            SecretLocation::Environment => f.write_str("credentials from the environment"),
            SecretLocation::File(path) => write!(f, "credentials file {}", path.display()),
            SecretLocation::Profile(name) => write!(f, "AWS profile {name}"),
            SecretLocation::RolesAnywhere(known) => write!(f, "IAM Roles Anywhere for {}", known.role_arn),
            SecretLocation::Host { region, .. } => write!(f, "this host's own role for {region}"),
        }
    }
}

const NO_SECRET: &str = "secret_id is empty; write the name of the secret that holds the commercial credential here, or choose another source.";

/// `place` names the table in sentences; `upstream` is the region of the one upstream that these are for, if they are.
pub(super) fn credentials(
    credentials: Option<Spanned<config::Credentials>>,
    place: &str,
    upstream: Option<&str>,
    source: &Source,
) -> Result<Credentials, ConfigError> {
    let Some(credentials) = credentials else {
        return Ok(Credentials { source: SecretLocation::Environment, refresh_interval: Duration::from_secs(300) });
    };
    let span = credentials.span();
    let written = credentials.into_inner();
    let needs = |key: &str, of: &str| {
        source.error(span.clone(), format!("source = \"{of}\" needs {key} beside it in {place}."))
    };
    let set = [
        ("secret_id", written.secret_id.is_some()),
        ("region", written.region.is_some()),
        ("file", written.file.is_some()),
        ("profile", written.profile.is_some()),
        ("trust_anchor_arn", written.trust_anchor_arn.is_some()),
        ("profile_arn", written.profile_arn.is_some()),
        ("role_arn", written.role_arn.is_some()),
        ("certificate_file", written.certificate_file.is_some()),
        ("private_key_file", written.private_key_file.is_some()),
        ("endpoint", written.endpoint.is_some()),
    ];
    let only = |of: &str, keys: &[&str]| match set.iter().find(|(key, is_set)| *is_set && !keys.contains(key)) {
        Some((key, _)) => {
            let sentence = format!("{key} has no meaning with source = \"{of}\"; remove it from {place}.");
            Err(source.error(span.clone(), sentence))
        }
        None => Ok(()),
    };
    let mut refresh_interval = Duration::from_secs(300);
    let secret = match written.source {
        CredentialSource::SecretsManager => {
            only("secrets_manager", &["secret_id", "region"])?;
            let secret_id = written.secret_id.ok_or_else(|| needs("secret_id", "secrets_manager"))?;
            if secret_id.get_ref().trim().is_empty() {
                return Err(source.error(secret_id.span(), NO_SECRET));
            }
            let (secret_id, region) = names::secret(&secret_id, written.region.as_ref(), source)?;
            SecretLocation::SecretsManager { secret_id, region }
        }
        CredentialSource::Environment => {
            only("environment", &[])?;
            SecretLocation::Environment
        }
        CredentialSource::File => {
            only("file", &["file"])?;
            SecretLocation::File(written.file.ok_or_else(|| needs("file", "file"))?.0)
        }
        CredentialSource::Profile => {
            only("profile", &["profile"])?;
            SecretLocation::Profile(
                written
                    .profile
                    .map(Spanned::into_inner)
                    .filter(|name| !name.trim().is_empty() && !name.contains(char::is_control))
                    .ok_or_else(|| needs("profile", "profile"))?,
            )
        }
        CredentialSource::Host => {
            only("host", &[])?;
            let region = upstream.filter(|region| Partition::of_region(region) == Partition::Govcloud);
            let sentence = "source = \"host\" is this host's own role, which only GovCloud knows; write it as the credentials of an upstream in GovCloud.";
            let region = region.ok_or_else(|| source.error(span.clone(), sentence))?;
            SecretLocation::Host { region: region.to_owned(), beside_environment: false }
        }
        CredentialSource::RolesAnywhere => {
            only("roles_anywhere", &roles_anywhere::KEYS)?;
            // Each reading is a session of its own, and all hosts of an account share the service's quota.
            refresh_interval = Duration::from_secs(1200);
            SecretLocation::RolesAnywhere(Box::new(roles_anywhere::roles_anywhere(&written, &span, place, source)?))
        }
    };
    if let Some(written) = &written.refresh_interval {
        refresh_interval = at_most("refresh_interval", written, DAY, source)?;
    }
    Ok(Credentials { source: secret, refresh_interval })
}
