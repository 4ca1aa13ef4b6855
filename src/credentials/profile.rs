//! A profile of the AWS configuration, as its files are now: a provider of the SDK keeps what it has read first. Where a profile
//! names a process, it is run by us, for this host's own keys too.

use std::fmt;

use aws_config::meta::region::ProvideRegion;
use aws_config::profile::{ProfileFileCredentialsProvider, ProfileFileRegionProvider, ProfileSet};
use aws_config::provider_config::ProviderConfig;
use aws_config::sts::AssumeRoleProvider;
use aws_config::{Region, SdkConfig};
use aws_credential_types::Credentials as AwsKeys;
use aws_credential_types::provider::ProvideCredentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_secretsmanager::error::DisplayErrorContext;
use zeroize::Zeroizing;

use super::aws_files::{self, Files};
use super::process;
use super::secret::Credential;
use super::source::http_client;
use crate::sdk_failure::bounded;
use crate::settings;

/// The keys that a profile gives. Its process is run by us, everything else is the SDK's.
pub(super) async fn read(name: &str) -> Result<Credential, String> {
    let files = aws_files::read().await?;
    let context = ProviderConfig::without_region().with_http_client(http_client());
    // The keys are of the commercial partition: this host's own region, from its environment or IMDS, would send AssumeRole
    // to GovCloud's STS, which knows none of them.
    let region =
        ProfileFileRegionProvider::builder().configure(&context).profile_name(name).profile_files(files.clone());
    let region = region.build().region().await;
    let region = region.unwrap_or_else(|| Region::from_static(settings::DEFAULT_REGION));
    let keys = match of(&files, name).await {
        Some(by_process) => {
            let keys = by_process.keys().await?;
            let loader = aws_config::defaults(aws_config::BehaviorVersion::latest()).http_client(http_client());
            let loader = loader.region(region).profile_name(name).profile_files(files);
            by_process.assume_roles(keys, &loader.no_credentials().load().await).await
        }
        None => {
            let context = context.with_region(Some(region));
            let provider = ProfileFileCredentialsProvider::builder().configure(&context).profile_name(name);
            provider.profile_files(files).build().provide_credentials().await
        }
    };
    match keys {
        Ok(keys) => Credential::from_keys(keys).map_err(|why| format!("the AWS profile {name} cannot be used: {why}")),
        Err(error) => {
            let reason = bounded(&DisplayErrorContext(&error).to_string());
            tracing::warn!(profile = %name, %reason, "the AWS profile gives no credentials");
            Err(format!("the AWS profile {name} gives no credentials; the daemon's log says why"))
        }
    }
}

/// None if the SDK does not understand the files; what it says then is for `read` to tell.
async fn profiles(files: &Files, name: &str) -> Option<ProfileSet> {
    let selected = Some(name.to_owned().into());
    aws_config::profile::load(&Default::default(), &Default::default(), files, selected).await.ok()
}

/// Whether the SDKs' default chain would have a process give this host's own keys, unless the environment has some.
pub(super) async fn of_host(files: &Files) -> Option<ByProcess> {
    let name = std::env::var("AWS_PROFILE").unwrap_or_else(|_| "default".to_owned());
    of(files, &name).await
}

/// Whether a process gives a profile's keys.
pub(super) async fn of(files: &Files, name: &str) -> Option<ByProcess> {
    by_process(&profiles(files, name).await?, name)
}

/// Where a profile's keys begin with a process.
#[derive(PartialEq, Eq)]
pub(super) struct ByProcess {
    /// The profile's name.
    name: String,
    command: Zeroizing<String>,
    account: Option<String>,
    /// To be assumed one after the other.
    roles: Vec<Role>,
}

/// The command may hold secrets.
impl fmt::Debug for ByProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ByProcess")
            .field("name", &self.name)
            .field("account", &self.account)
            .field("roles", &self.roles)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Role {
    arn: String,
    session_name: Option<String>,
    external_id: Option<String>,
}

/// Follows `source_profile` as the SDK does. None if there is no process at its end, or if the SDK would not come there.
fn by_process(profiles: &ProfileSet, of: &str) -> Option<ByProcess> {
    let (mut name, mut seen, mut roles) = (of, Vec::new(), Vec::new());
    let base = loop {
        let profile = profiles.get_profile(name)?;
        let text = |key| profile.get(key).map(str::to_owned);
        let has = |key| profile.get(key).is_some();
        // Both, or the SDK looks on, and finds the process.
        let has_keys = !seen.is_empty() && has("aws_access_key_id") && has("aws_secret_access_key");
        if seen.contains(&name) || has_keys || has("web_identity_token_file") {
            return None;
        }
        seen.push(name);
        let Some(arn) = text("role_arn") else { break profile };
        roles.push(Role { arn, session_name: text("role_session_name"), external_id: text("external_id") });
        match profile.get("source_profile") {
            Some(itself) if itself == name => break profile,
            Some(other) => name = other,
            None => return None,
        }
    };
    let other_ways = [
        "credential_source",
        "login_session",
        "sso_session",
        "sso_start_url",
        "sso_region",
        "sso_account_id",
        "sso_role_name",
    ];
    if other_ways.iter().any(|key| base.get(key).is_some()) {
        return None;
    }
    roles.reverse();
    let command = Zeroizing::new(base.get("credential_process")?.to_owned());
    let account = base.get("aws_account_id").map(str::to_owned);
    Some(ByProcess { name: of.to_owned(), command, account, roles })
}

impl ByProcess {
    pub(super) async fn keys(&self) -> Result<AwsKeys, String> {
        let keys = process::run(&self.command, self.account.as_deref(), process::LONGEST_RUN).await;
        keys.map_err(|why| format!("the credential_process of the AWS profile {} {why}", self.name))
    }

    /// Those of the last role.
    pub(super) async fn assume_roles(
        &self,
        mut keys: AwsKeys,
        config: &SdkConfig,
    ) -> Result<AwsKeys, CredentialsError> {
        for role in &self.roles {
            let mut provider = AssumeRoleProvider::builder(&role.arn).configure(config);
            if let Some(name) = &role.session_name {
                provider = provider.session_name(name);
            }
            if let Some(id) = &role.external_id {
                provider = provider.external_id(id);
            }
            keys = provider.build_from_provider(keys).await.provide_credentials().await?;
        }
        Ok(keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn of(name: &str, config: &str) -> Option<ByProcess> {
        super::of(&aws_files::of_config(config), name).await
    }

    /// As the SDK finds its way, where a process stands at the end of it. What follows a `#` in the file is a comment.
    #[tokio::test]
    async fn a_process_is_found_behind_the_roles_that_it_is_for() {
        let process = |name: &str, roles: &[&str]| ByProcess {
            name: name.to_owned(),
            command: "keys --now".to_owned().into(),
            account: Some("123456789012".to_owned()),
            roles: roles
                .iter()
                .map(|arn| Role { arn: (*arn).to_owned(), session_name: None, external_id: None })
                .collect(),
        };
        let base = "[profile base]\ncredential_process = keys --now # x\naws_account_id = 123456789012\n";
        assert_eq!(of("base", base).await, Some(process("base", &[])));
        let chain = format!(
            "{base}[profile one]\nrole_arn = r1\nsource_profile = base\n[profile two]\nrole_arn = r2\nsource_profile = one\n"
        );
        assert_eq!(of("two", &chain).await, Some(process("two", &["r1", "r2"])));
        let itself = format!("{base}role_arn = r\nsource_profile = base\n");
        assert_eq!(of("base", &itself).await, Some(process("base", &["r"])));
        let named =
            format!("{base}[profile x]\nrole_arn = r\nsource_profile = base\nrole_session_name = s\nexternal_id = e\n");
        let role = Role { arn: "r".to_owned(), session_name: Some("s".to_owned()), external_id: Some("e".to_owned()) };
        assert_eq!(of("x", &named).await, Some(ByProcess { roles: vec![role], ..process("x", &[]) }));
        // Half a pair of keys beside it is none.
        for half in ["aws_access_key_id = AKIAX", "aws_secret_access_key = s"] {
            let half = format!("{base}{half}\n[profile x]\nrole_arn = r\nsource_profile = base\n");
            assert_eq!(of("x", &half).await, Some(process("x", &["r"])), "{half}");
        }
    }

    #[tokio::test]
    async fn what_the_sdk_takes_from_elsewhere_is_left_to_it() {
        let base = "[profile base]\ncredential_process = keys\n";
        for (name, config) in [
            ("nobody", base.to_owned()),
            ("base", format!("{base}credential_source = Environment\n")),
            ("base", format!("{base}sso_start_url = https://x\n")),
            ("base", "[profile base]\naws_access_key_id = AKIAX\naws_secret_access_key = s\n".to_owned()),
            // Keys that stand beside the process of a source are used.
            (
                "x",
                format!(
                    "{base}aws_access_key_id = AKIAX\naws_secret_access_key = s\n[profile x]\nrole_arn = r\nsource_profile = base\n"
                ),
            ),
            ("x", format!("{base}[profile x]\nrole_arn = r\ncredential_source = Environment\n")),
            (
                "x",
                "[profile x]\nrole_arn = r\nsource_profile = y\n[profile y]\nrole_arn = r\nsource_profile = x\n"
                    .to_owned(),
            ),
        ] {
            assert_eq!(of(name, &config).await, None, "{config}");
        }
    }
}
