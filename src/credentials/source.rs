//! Where a credential is read from. Each read is one attempt; when to read again is decided in `mod`.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, ConfigLoader, Region};
use aws_credential_types::credential_fn::provide_credentials_fn;
use aws_credential_types::provider::ProvideCredentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_secretsmanager::Client as SecretsManager;
use aws_sdk_secretsmanager::error::{DisplayErrorContext, ProvideErrorMetadata};
use tokio::sync::Mutex;
use zeroize::Zeroizing;

use super::aws_files::{self, LONGEST_LOOK};
use super::file::{self, Lookout, unanswering};
use super::roles_anywhere::Sessions;
use super::secret::{Credential, pair, parse};
use super::{host_process, profile};
use crate::file_stamp::FileStamp;
use crate::sdk_failure::{bounded, unanswered};
use crate::settings::{self, SecretLocation};

/// A place that can be read again and again.
#[derive(Debug)]
pub(crate) enum Source {
    SecretsManager { client: Mutex<Option<SecretsManager>>, secret_id: String, region: String },
    Environment,
    File { path: PathBuf, lookout: Lookout },
    Profile { name: String },
    Host { region: String, beside_environment: bool },
    RolesAnywhere(Sessions),
}

impl Source {
    /// Whether each reading makes new keys.
    pub(super) fn makes_keys(&self) -> bool {
        matches!(self, Source::RolesAnywhere(_))
    }

    /// When the certificate ends that the keys are had for; none where there is no certificate, or it was not read yet.
    pub(super) fn certificate_ends(&self) -> Option<SystemTime> {
        match self {
            Source::RolesAnywhere(sessions) => sessions.certificate_ends(),
            _ => None,
        }
    }

    /// Nothing is contacted yet.
    pub(crate) fn new(location: &SecretLocation) -> Source {
        match location {
            SecretLocation::SecretsManager { secret_id, region } => Source::SecretsManager {
                client: Mutex::default(),
                secret_id: secret_id.clone(),
                region: region.clone(),
            },
            SecretLocation::Environment => Source::Environment,
            SecretLocation::File(path) => Source::File { path: path.clone(), lookout: Lookout::new(LONGEST_LOOK) },
            SecretLocation::Profile(name) => Source::Profile { name: name.clone() },
            SecretLocation::Host { region, beside_environment } => {
                Source::Host { region: region.clone(), beside_environment: *beside_environment }
            }
            SecretLocation::RolesAnywhere(settings) => Source::RolesAnywhere(Sessions::new(settings)),
        }
    }

    /// Reads the credential.
    ///
    /// # Errors
    /// A sentence that tells the admin what to mend; it never quotes what was read.
    pub(crate) async fn read(&self) -> Result<Credential, String> {
        match self {
            Source::SecretsManager { client, secret_id, region } => {
                // After a failure it is made anew: the SDK reads this host's configuration once.
                let mut made = client.lock().await;
                let client = match made.take() {
                    Some(client) => client,
                    None => SecretsManager::new(&aws_sdk_config(region).await),
                };
                let text = secret_value(&client, secret_id, region).await?;
                *made = Some(client);
                parse(&text).map_err(|why| format!("the secret {secret_id} cannot be used: {why}"))
            }
            Source::Environment => from_environment(|name| std::env::var(name).ok()),
            Source::File { path, lookout } => from_file(path, lookout).await,
            Source::Profile { name } => profile::read(name).await,
            Source::Host { beside_environment: true, .. } if std::env::var_os("AWS_ACCESS_KEY_ID").is_some() => Err("the environment holds the commercial AWS keys, and this host's role cannot be found behind them; give those in another way, such as a file".to_owned()),
            Source::Host { region, .. } => of_host(region).await,
            Source::RolesAnywhere(sessions) => sessions.begin().await,
        }
    }

    /// What changes when a file of the source is replaced or rewritten; none where there is no file, or it does not answer.
    pub(crate) async fn file_stamps(&self) -> Option<Vec<Option<FileStamp>>> {
        match self {
            Source::File { path, lookout } => {
                let path = path.clone();
                lookout.look(move || vec![FileStamp::of(&path)]).await
            }
            Source::Profile { .. } => aws_files::stamps().await,
            Source::RolesAnywhere(sessions) => sessions.file_stamps().await,
            Source::SecretsManager { .. } | Source::Environment | Source::Host { .. } => None,
        }
    }

    /// It is in files, whose changes can be seen.
    pub(crate) fn has_files(&self) -> bool {
        matches!(self, Source::File { .. } | Source::Profile { .. } | Source::RolesAnywhere(_))
    }
}

/// The keys of this host's own role. The chain is made anew each time: its providers keep what they have read.
async fn of_host(region: &str) -> Result<Credential, String> {
    let none = || {
        "this host has no keys of its own; attach a role to the instance, or give the service the variables or files by which the AWS SDKs find one".to_owned()
    };
    let provider = aws_sdk_config(region).await.credentials_provider().ok_or_else(none)?;
    match provider.provide_credentials().await {
        Ok(keys) => Credential::from_keys(keys).map_err(|why| format!("this host's own keys cannot be used: {why}")),
        Err(error) => {
            let reason = bounded(&DisplayErrorContext(&error).to_string());
            tracing::warn!(%reason, "this host's role gives no credentials");
            Err(none())
        }
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

/// The configuration that GovCloud clients share: the SDK's default chain, FIPS hosts unless an endpoint is set, short limits.
/// A client keeps what it has read, and should be made anew when it has no credentials.
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
    on_this_host(loader).await
}

/// With this host's own configuration. If its files do not answer, there are no credentials, and the error that the client
/// gives names the file.
pub(crate) async fn on_this_host(loader: ConfigLoader) -> aws_config::SdkConfig {
    let loader = match aws_files::read().await {
        Ok(files) => match profile::of_host(&files).await {
            Some(by_process) => return host_process::configuration(by_process, loader.profile_files(files)).await,
            None => loader.profile_files(files),
        },
        Err(problem) => {
            let refused = provide_credentials_fn(move || {
                let problem = problem.clone();
                async move { Err(CredentialsError::provider_error(problem)) }
            });
            loader.profile_files(aws_files::none()).credentials_provider(refused)
        }
    };
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
}
