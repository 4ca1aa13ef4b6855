//! The identity of this host: the keys of its own role, which the apps on it sign with as well, and the ARN they belong
//! to. Both are fetched in the background; a request only reads what is known by then.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use aws_config::SdkConfig;
use aws_credential_types::Credentials;
use aws_credential_types::provider::ProvideCredentials;
use aws_sdk_sts::error::ProvideErrorMetadata;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};

use super::signing_key::SigningKeys;
use crate::sdk_failure::unanswered;
use crate::settings::callers::Secret;

/// The instance's keys change every few hours; apps may hold the new ones this much earlier than we do.
const INTERVAL: Duration = Duration::from_secs(60);

/// Reached by doubling while every look brings other keys, as with providers that make new ones for each caller.
const LONGEST_INTERVAL: Duration = Duration::from_secs(1800);

/// Between two looks that requests cause.
const SHORTEST_INTERVAL: Duration = Duration::from_secs(10);

/// For the credential chain and for STS each; both run beside the requests.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(20);

/// The current keys and those before them, which apps may use until they expire.
const KEPT: usize = 2;

/// What is known of the host's role. Requests read it; `refresh` alone writes it.
#[derive(Debug)]
pub struct HostRole {
    known: ArcSwap<Known>,
    /// Somebody signs with a key that is not known: look again.
    wanted: Notify,
    /// When the last look ended.
    looked: watch::Sender<Option<Instant>>,
}

#[derive(Debug, Clone)]
struct Known {
    /// The newest first.
    keys: Vec<HostKey>,
    user_arn: Arc<str>,
}

/// One set of the role's keys.
#[derive(Debug, Clone)]
pub struct HostKey {
    access_key_id: String,
    pub signing: Arc<SigningKeys>,
    /// Whose keys STS says these are; none until it has answered.
    pub user_arn: Option<Arc<str>>,
    expires: Option<SystemTime>,
}

impl HostRole {
    /// Knows no keys; its ARN is a placeholder that names the host.
    pub fn unknown() -> HostRole {
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let name: String = name
            .trim()
            .chars()
            .filter(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'))
            .take(64)
            .collect();
        let name = if name.is_empty() { "unnamed" } else { &name };
        let user_arn = format!("arn:aws-us-gov:iam::unknown:host/{name}").into();
        HostRole {
            known: ArcSwap::from_pointee(Known { keys: Vec::new(), user_arn }),
            wanted: Notify::new(),
            looked: watch::Sender::new(None),
        }
    }

    /// Looks for the host's keys in the background, by the credential chain of the configuration that `make` gives, for as
    /// long as the answer is held (and up to one interval longer). A chain that has no keys is made anew for the next look: it
    /// reads files once.
    pub fn start<F: Future<Output = SdkConfig> + Send + 'static>(
        make: impl Fn() -> F + Send + 'static,
    ) -> Arc<HostRole> {
        let host = Arc::new(HostRole::unknown());
        let held = Arc::downgrade(&host);
        tokio::spawn(async move {
            let mut interval = INTERVAL;
            let mut made = None;
            while let Some(host) = held.upgrade() {
                let config = match made.take() {
                    Some(config) => config,
                    None => make().await,
                };
                let found = host.look(&config).await;
                made = found.map(|_| config);
                let changed = found == Some(true);
                host.looked.send_replace(Some(Instant::now()));
                interval = if changed { (interval * 2).min(LONGEST_INTERVAL) } else { INTERVAL };
                // Ends early when a key is wanted.
                let _ = timeout(interval, host.wanted.notified()).await;
            }
        });
        host
    }

    /// The ARN for whoever has not proven another one.
    pub fn user_arn(&self) -> Arc<str> {
        self.known.load().user_arn.clone()
    }

    /// The role's key of that id, unless it has expired.
    pub fn key(&self, access_key_id: &str, now: SystemTime) -> Option<HostKey> {
        let known = self.known.load();
        let live = |key: &&HostKey| key.expires.is_none_or(|expires| now < expires);
        known.keys.iter().filter(live).find(|key| key.access_key_id == access_key_id).cloned()
    }

    /// The ids of the keys that are known.
    pub fn key_ids(&self) -> Vec<String> {
        self.known.load().keys.iter().map(|key| key.access_key_id.clone()).collect()
    }

    /// Whether any key of the role is known yet.
    pub fn has_keys(&self) -> bool {
        !self.known.load().keys.is_empty()
    }

    /// Waits, a second at most, for a key that apps may hold before we do: after the instance's keys have changed. Costs
    /// nothing where the host has no role, and at most one look every ten seconds however many keys are made up.
    pub async fn await_new_key(&self, access_key_id: &str, now: SystemTime) {
        let temporary = access_key_id.starts_with("ASIA");
        if !temporary || !self.has_keys() || self.key(access_key_id, now).is_some() {
            return;
        }
        let mut looked = self.looked.subscribe();
        let recently = looked.borrow_and_update().is_none_or(|at| at.elapsed() < SHORTEST_INTERVAL);
        if !recently {
            self.wanted.notify_one();
            let _ = Box::pin(timeout(Duration::from_secs(1), looked.changed())).await;
        }
    }

    /// Takes note of keys; true when they were not known. Their ARN follows with `name`.
    pub fn learn(&self, credentials: &Credentials) -> bool {
        let secret = Secret::new(credentials.secret_access_key());
        let known = self.known.load();
        let same = |key: &HostKey| key.access_key_id == credentials.access_key_id() && key.signing.is(&secret);
        if known.keys.first().is_some_and(same) {
            return false;
        }
        let key = HostKey {
            access_key_id: credentials.access_key_id().to_owned(),
            signing: Arc::new(SigningKeys::new(secret)),
            user_arn: None,
            expires: credentials.expiry(),
        };
        let others = known.keys.iter().filter(|other| other.access_key_id != key.access_key_id).cloned();
        let keys = std::iter::once(key.clone()).chain(others).take(KEPT).collect();
        self.known.store(Arc::new(Known { keys, user_arn: known.user_arn.clone() }));
        true
    }

    /// Takes note of whose keys these are.
    pub fn name(&self, access_key_id: &str, user_arn: &str) {
        let user_arn: Arc<str> = user_arn.into();
        let mut keys = self.known.load().keys.clone();
        for key in keys.iter_mut().filter(|key| key.access_key_id == access_key_id) {
            key.user_arn = Some(user_arn.clone());
        }
        self.known.store(Arc::new(Known { keys, user_arn }));
    }

    /// One look at the credential chain, and at STS for keys without a name. True when the keys are new ones.
    pub async fn refresh(&self, config: &SdkConfig) -> bool {
        self.look(config).await == Some(true)
    }

    /// The same; none when the chain has no keys.
    async fn look(&self, config: &SdkConfig) -> Option<bool> {
        let provider = config.credentials_provider()?;
        let credentials = match timeout(LOOKUP_TIMEOUT, provider.provide_credentials()).await {
            Ok(Ok(credentials)) => credentials,
            Ok(Err(error)) => {
                tracing::debug!(%error, "this host has no role keys; callers' signatures are not verified by them");
                return None;
            }
            Err(_) => return None,
        };
        let before = self.known.load().keys.len();
        let changed = self.learn(&credentials);
        let unnamed = self.known.load().keys.first().is_some_and(|key| key.user_arn.is_none());
        if unnamed {
            self.ask_name(config, credentials).await;
        }
        Some(changed && before > 0)
    }

    async fn ask_name(&self, config: &SdkConfig, credentials: Credentials) {
        let access_key_id = credentials.access_key_id().to_owned();
        let config = aws_sdk_sts::config::Builder::from(config).credentials_provider(credentials).build();
        let sts = aws_sdk_sts::Client::from_conf(config);
        match timeout(LOOKUP_TIMEOUT, sts.get_caller_identity().send()).await {
            Ok(Ok(identity)) => {
                if let Some(arn) = identity.arn() {
                    tracing::info!(user_arn = arn, "this host's role is known");
                    self.name(&access_key_id, arn);
                }
            }
            Ok(Err(error)) => {
                let reason = match error.code() {
                    Some(code) => format!("{code}: {}", error.message().unwrap_or("no message")),
                    None => unanswered(&error).sentence,
                };
                tracing::warn!(%reason, "STS does not say whose keys this host has; it is asked again");
            }
            Err(_) => tracing::warn!("STS does not answer; it is asked again"),
        }
    }
}
