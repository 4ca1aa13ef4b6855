//! Where the commercial credential is read from. Each read is one attempt; when to read again is decided in `mod`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_config::meta::region::ProvideRegion;
use aws_config::profile::{ProfileFileCredentialsProvider, ProfileFileRegionProvider};
use aws_config::provider_config::ProviderConfig;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region};
use aws_credential_types::provider::ProvideCredentials;
use aws_sdk_secretsmanager::Client as SecretsManager;
use aws_sdk_secretsmanager::error::{DisplayErrorContext, ProvideErrorMetadata};
use zeroize::Zeroizing;

use super::file::{self, Lookout};
use super::secret::{Credential, pair, parse};
use crate::file_stamp::FileStamp;
use crate::sdk_failure::{bounded, unanswered};
use crate::settings::{self, SecretLocation};

/// A file that takes longer cannot be read.
const LONGEST_LOOK: Duration = Duration::from_secs(5);

/// A place that can be read again and again.
#[derive(Debug)]
pub(crate) enum Source {
    SecretsManager { client: SecretsManager, secret_id: String, region: String },
    Environment,
    File { path: PathBuf, lookout: Lookout },
    Profile { name: String, lookout: Lookout },
}

impl Source {
    /// Prepares the client; nothing is contacted yet.
    pub(crate) async fn new(location: &SecretLocation) -> Source {
        let lookout = Lookout::new(LONGEST_LOOK);
        match location {
            SecretLocation::SecretsManager { secret_id, region } => {
                let config = aws_sdk_config(region).await;
                Source::SecretsManager {
                    client: SecretsManager::new(&config),
                    secret_id: secret_id.clone(),
                    region: region.clone(),
                }
            }
            SecretLocation::Environment => Source::Environment,
            SecretLocation::File(path) => Source::File { path: path.clone(), lookout },
            SecretLocation::Profile(name) => Source::Profile { name: name.clone(), lookout },
        }
    }

    /// Reads the credential.
    ///
    /// # Errors
    /// A sentence that tells the admin what to mend; it never quotes what was read.
    pub(crate) async fn read(&self) -> Result<Credential, String> {
        match self {
            Source::SecretsManager { client, secret_id, region } => {
                let text = secret_value(client, secret_id, region).await?;
                parse(&text).map_err(|why| format!("the secret {secret_id} cannot be used: {why}"))
            }
            Source::Environment => from_environment(|name| std::env::var(name).ok()),
            Source::File { path, lookout } => from_file(path, lookout).await,
            Source::Profile { name, lookout } => from_profile(name, lookout).await,
        }
    }

    /// What changes when a file of the source is replaced or rewritten; none where there is no file, or it does not answer.
    pub(crate) async fn file_stamps(&self) -> Option<Vec<Option<FileStamp>>> {
        let (paths, lookout) = match self {
            Source::File { path, lookout } => (vec![path.clone()], lookout),
            Source::Profile { lookout, .. } => (profile_files(|name| std::env::var(name).ok()), lookout),
            Source::SecretsManager { .. } | Source::Environment => return None,
        };
        lookout.look(move || paths.iter().map(|path| FileStamp::of(path)).collect()).await
    }

    /// It is in files, whose changes can be seen.
    pub(crate) fn has_files(&self) -> bool {
        matches!(self, Source::File { .. } | Source::Profile { .. })
    }
}

async fn from_file(path: &Path, lookout: &Lookout) -> Result<Credential, String> {
    let own = path.to_owned();
    let seen = lookout.look(move || (settings::secrets::exposed(&own), file::read(&own))).await;
    let Some((warning, text)) = seen else { return Err(unanswering(path)) };
    if let Some(warning) = warning {
        tracing::warn!("{warning}");
    }
    let text = text.map_err(|error| format!("the credentials file {} cannot be read: {error}", path.display()))?;
    parse(&text).map_err(|why| format!("the credentials file {} cannot be used: {why}", path.display()))
}

/// The profile as its files are now: a provider of the SDK keeps what it has read first.
async fn from_profile(name: &str, lookout: &Lookout) -> Result<Credential, String> {
    let paths = profile_files(|name| std::env::var(name).ok());
    for path in paths {
        let own = path.clone();
        match lookout.look(move || file::regular(&own).map(|_| ())).await {
            None => return Err(unanswering(&path)),
            // Whether a file may be missing or closed is for the SDK to say.
            Some(Err(error)) if error.kind() == std::io::ErrorKind::Other => {
                return Err(format!("the AWS profile's file {} cannot be read: {error}", path.display()));
            }
            Some(_) => {}
        }
    }
    let context = ProviderConfig::without_region().with_http_client(http_client());
    // The keys are of the commercial partition: this host's own region, from its environment or IMDS, would send AssumeRole
    // to GovCloud's STS, which knows none of them.
    let region = ProfileFileRegionProvider::builder().configure(&context).profile_name(name).build();
    let region = region.region().await.unwrap_or_else(|| Region::from_static(settings::DEFAULT_REGION));
    let context = context.with_region(Some(region));
    let provider = ProfileFileCredentialsProvider::builder().configure(&context).profile_name(name).build();
    match provider.provide_credentials().await {
        Ok(keys) => Credential::from_keys(keys).map_err(|why| format!("the AWS profile {name} cannot be used: {why}")),
        Err(error) => {
            // It may quote what a credential_process wrote to its standard error, keys included: not for callers.
            let reason = bounded(&DisplayErrorContext(&error).to_string());
            tracing::warn!(profile = %name, %reason, "the AWS profile gives no credentials");
            Err(format!("the AWS profile {name} gives no credentials; the daemon's log says why"))
        }
    }
}

/// Where the SDK looks for profiles.
fn profile_files(variable: impl Fn(&str) -> Option<String>) -> Vec<PathBuf> {
    let home = variable("HOME").map(PathBuf::from);
    let named = [("AWS_CONFIG_FILE", "~/.aws/config"), ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials")];
    let files = named.into_iter().filter_map(|(name, default)| {
        let path = variable(name).unwrap_or_else(|| default.to_owned());
        match path.strip_prefix("~/") {
            Some(rest) => Some(home.as_ref()?.join(rest)),
            None => Some(PathBuf::from(path)),
        }
    });
    files.collect()
}

fn unanswering(path: &Path) -> String {
    format!(
        "the file {} does not answer; look at the file system that it is on, and at what else keeps it from being read",
        path.display()
    )
}

/// The configuration that GovCloud clients share: the SDK's default chain, FIPS hosts unless an endpoint is set, short limits.
pub(crate) async fn aws_sdk_config(region: &str) -> aws_config::SdkConfig {
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(Duration::from_secs(5))
        .operation_attempt_timeout(Duration::from_secs(10))
        .operation_timeout(Duration::from_secs(30))
        .build();
    // The SDKs refuse FIPS together with a custom endpoint, so an endpoint variable turns it off.
    let custom_endpoint = std::env::vars_os().any(|(name, _)| name.to_string_lossy().starts_with("AWS_ENDPOINT_URL"));
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .region(Region::new(region.to_owned()))
        .http_client(http_client())
        .retry_config(RetryConfig::standard().with_max_attempts(3))
        .timeout_config(timeouts);
    if std::env::var_os("AWS_USE_FIPS_ENDPOINT").is_none() && !custom_endpoint {
        loader = loader.use_fips(true);
    }
    loader.load().await
}

/// The HTTP stack of the AWS SDKs: rustls on aws-lc-rs, like ours.
pub(crate) fn http_client() -> aws_smithy_runtime_api::client::http::SharedHttpClient {
    use aws_smithy_http_client::tls;
    aws_smithy_http_client::Builder::new().tls_provider(tls::Provider::Rustls(crate::crypto::SDK_CRYPTO)).build_https()
}

async fn secret_value(client: &SecretsManager, secret_id: &str, region: &str) -> Result<Zeroizing<String>, String> {
    let output = client.get_secret_value().secret_id(secret_id).send().await.map_err(|error| {
        let place = format!("the secret {secret_id} in {region}");
        match error.code() {
            Some("ResourceNotFoundException") => {
                format!("{place} does not exist; create it or correct secret_id and region under [credentials]")
            }
            Some("AccessDeniedException") => format!(
                "{place} may not be read by this host's role; allow it secretsmanager:GetSecretValue (and kms:Decrypt on its key)"
            ),
            Some(code) => format!("{place} cannot be read: {code}: {}", error.message().unwrap_or("no message")),
            None => format!("{place} cannot be read: {}", unanswered(&error).sentence),
        }
    })?;
    if let Some(text) = output.secret_string() {
        return Ok(Zeroizing::new(text.to_owned()));
    }
    let binary = output.secret_binary().map(|blob| blob.as_ref().to_vec()).unwrap_or_default();
    String::from_utf8(binary).map(Zeroizing::new).map_err(|_| format!("the secret {secret_id} is binary and not text"))
}

/// The variables of the AWS SDKs; the API key counts more, as it does for them.
fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Result<Credential, String> {
    let set = |name: &str| variable(name).filter(|value| !value.trim().is_empty()).map(Zeroizing::new);
    if let Some(token) = set("AWS_BEARER_TOKEN_BEDROCK") {
        return parse(&token).map_err(|why| format!("AWS_BEARER_TOKEN_BEDROCK cannot be used: {why}"));
    }
    let (id, secret) = (set("AWS_ACCESS_KEY_ID"), set("AWS_SECRET_ACCESS_KEY"));
    match (id, secret) {
        (Some(id), Some(secret)) => {
            let token = set("AWS_SESSION_TOKEN");
            pair(id.trim(), secret.trim(), token.as_ref().map(|token| token.trim()))
                .map_err(|why| format!("AWS_ACCESS_KEY_ID cannot be used: {why}"))
        }
        _ => Err("the environment holds no commercial credential; set AWS_BEARER_TOKEN_BEDROCK, or AWS_ACCESS_KEY_ID \
             and AWS_SECRET_ACCESS_KEY, or choose another source under [credentials]"
            .to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credentials::secret::CredentialKind;

    #[test]
    fn the_api_key_of_the_environment_counts_more_than_aws_keys() {
        let both = |name: &str| match name {
            "AWS_BEARER_TOKEN_BEDROCK" => Some("ABSKx".to_owned()),
            "AWS_ACCESS_KEY_ID" => Some("AKIAX".to_owned()),
            "AWS_SECRET_ACCESS_KEY" => Some("s".to_owned()),
            _ => None,
        };
        assert!(matches!(from_environment(both).unwrap().kind, CredentialKind::Bearer { .. }));
        let keys = |name: &str| both(name).filter(|_| name != "AWS_BEARER_TOKEN_BEDROCK");
        assert!(matches!(from_environment(keys).unwrap().kind, CredentialKind::AwsKeys(_)));
        assert!(from_environment(|_| None).unwrap_err().contains("AWS_BEARER_TOKEN_BEDROCK"));
    }

    #[test]
    fn temporary_keys_of_the_environment_need_their_token() {
        let keys = |name: &str| match name {
            "AWS_ACCESS_KEY_ID" => Some("ASIACANARY".to_owned()),
            "AWS_SECRET_ACCESS_KEY" => Some("CANARY".to_owned()),
            _ => None,
        };
        let why = from_environment(keys).unwrap_err();
        assert!(why.contains("needs its aws_session_token") && !why.contains("CANARY"), "{why}");
        let with_token = |name: &str| keys(name).or_else(|| (name == "AWS_SESSION_TOKEN").then(|| "t".to_owned()));
        assert!(from_environment(with_token).is_ok());
    }

    #[test]
    fn profiles_are_where_the_sdk_looks_for_them() {
        let home = |name: &str| (name == "HOME").then(|| "/home/x".to_owned());
        let paths = |named: &[&str]| named.iter().map(PathBuf::from).collect::<Vec<_>>();
        assert_eq!(profile_files(home), paths(&["/home/x/.aws/config", "/home/x/.aws/credentials"]));
        let named = |name: &str| home(name).or_else(|| (name == "AWS_CONFIG_FILE").then(|| "/etc/aws".to_owned()));
        assert_eq!(profile_files(named), paths(&["/etc/aws", "/home/x/.aws/credentials"]));
        assert_eq!(profile_files(|_| None), paths(&[]));
    }
}
