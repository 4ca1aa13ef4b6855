//! A process that gives this host's own keys. The clients of AWS give up sooner than it may take, and ask again: its run goes
//! on meanwhile, and what it gives is for whoever asks next.

use std::sync::Arc;
use std::time::Instant;

use aws_config::environment::EnvironmentVariableCredentialsProvider;
use aws_config::{ConfigLoader, SdkConfig};
use aws_credential_types::Credentials as AwsKeys;
use aws_credential_types::credential_fn::provide_credentials_fn;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use super::process::LONGEST_RUN;
use super::profile::ByProcess;

/// This host's configuration, with keys that the process gives.
pub(super) async fn configuration(by_process: ByProcess, loader: ConfigLoader) -> SdkConfig {
    let config = loader.no_credentials().load().await;
    let shared = Arc::new(HostProcess { by_process, running: Mutex::default() });
    let of_roles = config.clone();
    let provider = provide_credentials_fn(move || {
        let (shared, config) = (Arc::clone(&shared), of_roles.clone());
        async move {
            // As in the default chain, they come first.
            if let Ok(keys) = EnvironmentVariableCredentialsProvider::new().provide_credentials().await {
                return Ok(keys);
            }
            let keys = shared.keys().await.map_err(CredentialsError::provider_error)?;
            shared.by_process.assume_roles(keys, &config).await
        }
    });
    config.into_builder().credentials_provider(SharedCredentialsProvider::new(provider)).build()
}

struct HostProcess {
    by_process: ByProcess,
    /// The run whose keys nobody has got yet.
    running: Mutex<Option<Run>>,
}

struct Run {
    begun: Instant,
    keys: JoinHandle<Result<AwsKeys, String>>,
}

impl HostProcess {
    /// The keys of the run that goes on, or of a new one.
    async fn keys(self: &Arc<Self>) -> Result<AwsKeys, String> {
        let mut running = self.running.lock().await;
        // It has ended, and its keys may have, too.
        if running.as_ref().is_some_and(|run| run.begun.elapsed() > LONGEST_RUN) {
            *running = None;
        }
        let run = running.get_or_insert_with(|| {
            let shared = Arc::clone(self);
            Run { begun: Instant::now(), keys: tokio::spawn(async move { shared.by_process.keys().await }) }
        });
        let keys = (&mut run.keys).await;
        *running = None;
        keys.unwrap_or_else(|error| Err(format!("the run of the credential_process has come to nothing: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::credentials::aws_files;
    use crate::credentials::profile;

    /// A process that is slower than those who ask would be started again and again otherwise, and never be done.
    #[tokio::test]
    async fn a_run_outlives_who_has_asked_for_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let keys = r#"{"Version": 1, "AccessKeyId": "AKIAX", "SecretAccessKey": "s"}"#;
        let script = format!(
            "#!/bin/sh\necho started >> {}\nuntil [ -e {} ]; do sleep 0.05; done\necho '{keys}'\n",
            path("starts").display(),
            path("go").display()
        );
        std::fs::write(path("keys.sh"), script).unwrap();
        std::fs::set_permissions(path("keys.sh"), std::fs::Permissions::from_mode(0o700)).unwrap();
        let config = format!("[profile host]\ncredential_process = {}\n", path("keys.sh").display());
        let by_process = profile::of(&aws_files::of_config(&config), "host").await.unwrap();
        let host = Arc::new(HostProcess { by_process, running: Mutex::default() });
        let starts = || std::fs::read_to_string(path("starts")).unwrap_or_default();
        tokio::select! {
            _ = host.keys() => panic!("nothing has let it go on"),
            () = async { while starts().is_empty() { tokio::time::sleep(std::time::Duration::from_millis(5)).await } } => {}
        }
        std::fs::write(path("go"), "").unwrap();
        assert_eq!(host.keys().await.unwrap().access_key_id(), "AKIAX");
        assert_eq!(starts(), "started\n");
        assert_eq!(host.keys().await.unwrap().access_key_id(), "AKIAX");
        assert_eq!(starts(), "started\nstarted\n", "what was given once is not given again");
    }
}
