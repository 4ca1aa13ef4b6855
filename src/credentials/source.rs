//! Where the commercial credential is read from. Each read is one attempt; when to read again is decided in `mod`.

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

use super::secret::{Credential, parse};
use crate::file_stamp::FileStamp;
use crate::sdk_failure::{bounded, unanswered};
use crate::settings::{self, SecretLocation};

/// A place that can be read again and again.
#[derive(Debug)]
pub(crate) enum Source {
    SecretsManager { client: SecretsManager, secret_id: String, region: String },
    Environment,
    File(std::path::PathBuf),
    Profile { provider: Box<ProfileFileCredentialsProvider>, name: String },
}

impl Source {
    /// Prepares the client; nothing is contacted yet.
    pub(crate) async fn new(location: &SecretLocation) -> Source {
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
            SecretLocation::File(path) => Source::File(path.clone()),
            SecretLocation::Profile(name) => {
                let context = ProviderConfig::without_region().with_http_client(http_client());
                // The keys are of the commercial partition: this host's own region, from its environment or IMDS, would send
                // AssumeRole to GovCloud's STS, which knows none of them.
                let region = ProfileFileRegionProvider::builder().configure(&context).profile_name(name).build();
                let region = region.region().await.unwrap_or_else(|| Region::from_static(settings::DEFAULT_REGION));
                let context = context.with_region(Some(region));
                let provider = ProfileFileCredentialsProvider::builder().configure(&context).profile_name(name).build();
                Source::Profile { provider: Box::new(provider), name: name.clone() }
            }
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
            Source::File(path) => {
                if let Some(warning) = settings::secrets::exposed(path) {
                    tracing::warn!("{warning}");
                }
                let text = tokio::fs::read_to_string(path).await.map(Zeroizing::new);
                let text =
                    text.map_err(|error| format!("the credentials file {} cannot be read: {error}", path.display()))?;
                parse(&text).map_err(|why| format!("the credentials file {} cannot be used: {why}", path.display()))
            }
            Source::Profile { provider, name } => match provider.provide_credentials().await {
                Ok(keys) => Ok(Credential::from_keys(keys)),
                Err(error) => {
                    // It may quote what a credential_process wrote to its standard error, keys included: not for callers.
                    let reason = bounded(&DisplayErrorContext(&error).to_string());
                    tracing::warn!(profile = %name, %reason, "the AWS profile gives no credentials");
                    Err(format!("the AWS profile {name} gives no credentials; the daemon's log says why"))
                }
            },
        }
    }

    /// What changes when a file is replaced or rewritten; none for other sources and missing files.
    pub(crate) fn file_stamp(&self) -> Option<FileStamp> {
        match self {
            Source::File(path) => FileStamp::of(path),
            _ => None,
        }
    }
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
            let keys = aws_credential_types::Credentials::new(
                id.trim(),
                secret.trim(),
                token.map(|token| token.trim().to_owned()),
                None,
                "environment",
            );
            Ok(Credential::from_keys(keys))
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
}
