//! The current commercial credential: fetched, kept, refreshed, and replaced without an outage.

pub(crate) mod secret;
pub(crate) mod source;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use tokio::sync::{Mutex, watch};

pub(crate) use secret::{Credential, CredentialKind};
pub(crate) use source::Source;

use crate::error::{Refusal, RefusalKind};
use crate::file_stamp::FileStamp;
use crate::settings;

/// A key is replaced this long before it expires.
const BEFORE_EXPIRY: Duration = Duration::from_secs(300);
/// How often a credentials file is looked at.
const FILE_POLL: Duration = Duration::from_secs(2);
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(60);
/// How soon the source is read again for a refused key after it gave the same key once more, and how far that grows.
const FIRST_REJECTION_PAUSE: Duration = Duration::from_secs(10);
const LONGEST_REJECTION_PAUSE: Duration = Duration::from_secs(300);

/// The store that all requests share. It holds at most the current credential and the one before.
#[derive(Debug)]
pub(crate) struct Credentials {
    source: Source,
    refresh_interval: Duration,
    held: ArcSwap<Held>,
    /// Held during a fetch, so that all who need one wait for the same.
    fetching: Mutex<()>,
    /// Rejections in a row for which the source had no other key, and when the last of them was.
    in_vain: ArcSwap<Option<(u32, Instant)>>,
    changed: watch::Sender<u64>,
}

#[derive(Debug, Clone, Default)]
struct Held {
    current: Option<Arc<Credential>>,
    previous: Option<Arc<Credential>>,
    /// When the last fetch ended, well or not.
    fetched: Option<Instant>,
    /// When the source last gave a usable credential.
    confirmed: Option<Instant>,
    problem: Option<String>,
    successes: u64,
    failures: u64,
}

/// For /metrics and /ready.
#[derive(Debug, Clone)]
pub(crate) struct Status {
    pub available: bool,
    pub description: Option<&'static str>,
    /// Since the source last confirmed the credential.
    pub age: Option<Duration>,
    /// Until it expires, 0 if it has; none where it does not tell.
    pub expires_in: Option<Duration>,
    pub problem: Option<String>,
    pub successes: u64,
    pub failures: u64,
}

impl Credentials {
    pub(crate) async fn new(settings: &settings::Credentials) -> Credentials {
        Credentials {
            source: Source::new(&settings.source).await,
            refresh_interval: settings.refresh_interval,
            held: ArcSwap::default(),
            fetching: Mutex::new(()),
            in_vain: ArcSwap::default(),
            changed: watch::Sender::new(0),
        }
    }

    /// The credential to use now.
    ///
    /// # Errors
    /// 503 with the reason when there is none or it has expired: never the client's fault.
    pub(crate) fn current(&self, now: SystemTime) -> Result<Arc<Credential>, Refusal> {
        let held = self.held.load();
        let reason = || held.problem.clone().unwrap_or_else(|| "the source has not been read yet".to_owned());
        match &held.current {
            None => Err(unavailable(format!("no commercial credential: {}.", reason()))),
            Some(current) if current.expiry.is_some_and(|expiry| expiry <= now) => {
                Err(unavailable(format!("the commercial {} has expired and {}.", current.description(), reason())))
            }
            Some(current) => Ok(Arc::clone(current)),
        }
    }

    /// What to try after the upstream has refused `rejected` as stale: the outcome of one fetch that began no earlier
    /// than the refused attempt and that all requests in flight share.
    ///
    /// After a source has given the refused key again, it is not read for a rejection for a while, which grows: an upstream
    /// that refuses every request must not cause a read for each.
    ///
    /// A source that still gives the refused key, while the key before it is there, yields that one: a rotated key may
    /// take a moment to be known everywhere.
    pub(crate) async fn after_rejection(
        &self,
        rejected: &Arc<Credential>,
        attempt_began: Instant,
    ) -> Option<Arc<Credential>> {
        let before = self.held.load_full();
        if let Some(current) = before.current.as_ref().filter(|c| c.fingerprint != rejected.fingerprint) {
            return Some(Arc::clone(current));
        }
        let is_too_soon = matches!(**self.in_vain.load(), Some((times, last)) if last.elapsed() < pause_after(times));
        let was_read = !is_too_soon && self.fetch(Some(attempt_began)).await;
        let held = self.held.load();
        let current = held.current.as_ref()?;
        if was_read {
            let before = self.in_vain.load().map_or(0, |(times, _)| times);
            let is_same = current.fingerprint == rejected.fingerprint;
            self.in_vain.store(Arc::new(is_same.then(|| (before.saturating_add(1), Instant::now()))));
        }
        if current.fingerprint == rejected.fingerprint
            && let Some(previous) = &held.previous
        {
            return Some(Arc::clone(previous));
        }
        Some(Arc::clone(current))
    }

    /// Reads the source once, unless another read that began after `unless_since` has just ended. Tells whether it did.
    async fn fetch(&self, unless_since: Option<Instant>) -> bool {
        let _one_at_a_time = self.fetching.lock().await;
        if let Some(since) = unless_since
            && self.held.load().fetched.is_some_and(|fetched| fetched >= since)
        {
            return false;
        }
        let outcome = self.source.read().await;
        let mut held = Held::clone(&self.held.load());
        let now = Instant::now();
        held.fetched = Some(now);
        match outcome {
            Ok(credential) => {
                held.successes += 1;
                held.confirmed = Some(now);
                held.problem = None;
                let same = held.current.as_ref().is_some_and(|current| current.fingerprint == credential.fingerprint);
                if same {
                    self.held.store(Arc::new(held));
                    return true;
                }
                tracing::info!(
                    kind = credential.description(),
                    account = credential.account,
                    "commercial credential loaded"
                );
                held.previous = held.current.replace(Arc::new(credential));
                self.held.store(Arc::new(held));
                self.changed.send_modify(|version| *version += 1);
            }
            Err(problem) => {
                held.failures += 1;
                if held.problem.as_ref() != Some(&problem) {
                    tracing::warn!(reason = %problem, "the commercial credential could not be read; trying again");
                }
                held.problem = Some(problem);
                self.held.store(Arc::new(held));
            }
        }
        true
    }

    /// Counts up whenever another credential has become the current one.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    pub(crate) fn status(&self) -> Status {
        let held = self.held.load();
        let now = SystemTime::now();
        let expiry = held.current.as_ref().and_then(|current| current.expiry);
        let usable = held.current.as_ref().filter(|c| c.expiry.is_none_or(|expiry| expiry > now));
        Status {
            available: usable.is_some(),
            description: held.current.as_ref().map(|c| c.description()),
            age: held.confirmed.map(|confirmed| confirmed.elapsed()),
            expires_in: expiry.map(|expiry| expiry.duration_since(now).unwrap_or_default()),
            problem: held.problem.clone(),
            successes: held.successes,
            failures: held.failures,
        }
    }

    /// Names the account in cache keys; empty while there is no credential.
    pub(crate) fn account_key(&self) -> String {
        self.held.load().current.as_ref().map(|current| current.account_key()).unwrap_or_default()
    }

    /// The region that the secret names beside the key, or for which a short-term key was made.
    pub(crate) fn region(&self) -> Option<String> {
        let held = self.held.load();
        let current = held.current.as_ref()?;
        match &current.kind {
            CredentialKind::Bearer { only_region: Some(region), .. } => Some(region.clone()),
            _ => current.region.clone(),
        }
    }

    /// Reads the source for the first time.
    pub(crate) async fn load(&self) {
        self.fetch(None).await;
    }

    /// Keeps the credential fresh until dropped: by interval, before expiry, when its file changes, and with growing
    /// pauses while the source cannot be read.
    pub(crate) async fn keep_fresh(&self) {
        let mut retry = FIRST_RETRY;
        let mut stamp = self.source.file_stamp();
        loop {
            let held = self.held.load_full();
            let pause = if held.problem.is_some() || held.current.is_none() {
                let pause = retry;
                retry = (retry * 2).min(LONGEST_RETRY);
                pause
            } else {
                retry = FIRST_RETRY;
                self.until_due(&held)
            };
            self.sleep_or_file_change(pause, &mut stamp).await;
            self.fetch(None).await;
        }
    }

    fn until_due(&self, held: &Held) -> Duration {
        let Some(expiry) = held.current.as_ref().and_then(|current| current.expiry) else {
            return self.refresh_interval;
        };
        let left = expiry.duration_since(SystemTime::now()).unwrap_or_default();
        left.saturating_sub(BEFORE_EXPIRY).clamp(FIRST_RETRY * 5, self.refresh_interval.max(FIRST_RETRY * 5))
    }

    async fn sleep_or_file_change(&self, pause: Duration, stamp: &mut Option<FileStamp>) {
        let end = Instant::now() + pause;
        if !matches!(self.source, Source::File(_)) {
            return tokio::time::sleep(pause).await;
        }
        while Instant::now() < end {
            tokio::time::sleep(FILE_POLL.min(end.saturating_duration_since(Instant::now()))).await;
            let now = self.source.file_stamp();
            if now != *stamp {
                *stamp = now;
                return;
            }
        }
    }
}

impl Credential {
    /// Refuses a key that the region would refuse.
    pub(crate) fn check_region(&self, region: &str) -> Result<(), Refusal> {
        match &self.kind {
            CredentialKind::Bearer { only_region: Some(only), .. } if only != region => Err(unavailable(format!(
                "the short-term Bedrock API key is valid in {only} only, and the upstream is {region}; make the key in {region} or set the upstream's region to {only}."
            ))),
            _ => Ok(()),
        }
    }
}

/// How long the source is left alone after so many rejections in vain.
fn pause_after(times: u32) -> Duration {
    FIRST_REJECTION_PAUSE.saturating_mul(1 << times.saturating_sub(1).min(8)).min(LONGEST_REJECTION_PAUSE)
}

fn unavailable(message: String) -> Refusal {
    Refusal::new(RefusalKind::ServiceUnavailable, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::SecretLocation;

    async fn on_file(text: &str) -> (Credentials, tempfile::NamedTempFile) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let source = SecretLocation::File(file.path().to_owned());
        let settings = settings::Credentials { source, refresh_interval: Duration::from_secs(300) };
        (Credentials::new(&settings).await, file)
    }

    #[tokio::test]
    async fn a_missing_credential_is_our_fault_and_says_why() {
        let (credentials, _file) = on_file("nonsense").await;
        credentials.load().await;
        let refusal = credentials.current(SystemTime::now()).unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::ServiceUnavailable);
        assert!(refusal.message.contains("ABSK"), "{}", refusal.message);
    }

    #[tokio::test]
    async fn a_rejection_fetches_once_for_all_and_gives_the_new_key() {
        let (credentials, file) = on_file("AKIAOLD:s").await;
        credentials.load().await;
        let old = credentials.current(SystemTime::now()).unwrap();
        std::fs::write(file.path(), "AKIANEW:s").unwrap();
        let began = Instant::now();
        let (one, two) =
            tokio::join!(credentials.after_rejection(&old, began), credentials.after_rejection(&old, began));
        assert_ne!(one.unwrap().fingerprint, old.fingerprint);
        assert_ne!(two.unwrap().fingerprint, old.fingerprint);
        assert_eq!(credentials.status().successes, 2);
    }

    #[tokio::test]
    async fn a_refused_new_key_falls_back_on_the_one_before() {
        let (credentials, file) = on_file("AKIAOLD:s").await;
        credentials.load().await;
        std::fs::write(file.path(), "AKIANEW:s").unwrap();
        credentials.load().await;
        let new = credentials.current(SystemTime::now()).unwrap();
        let fallback = credentials.after_rejection(&new, Instant::now()).await.unwrap();
        assert_ne!(fallback.fingerprint, new.fingerprint);
    }

    #[tokio::test]
    async fn rejections_in_vain_cost_one_read_and_then_none_for_a_while() {
        let (credentials, file) = on_file("AKIAOLD:s").await;
        credentials.load().await;
        let old = credentials.current(SystemTime::now()).unwrap();
        for _ in 0..100 {
            credentials.after_rejection(&old, Instant::now()).await.unwrap();
        }
        assert_eq!(credentials.status().successes, 2);
        // A key that comes by another way is used at once, and its own rejection reads again.
        std::fs::write(file.path(), "AKIANEW:s").unwrap();
        credentials.load().await;
        assert_ne!(credentials.after_rejection(&old, Instant::now()).await.unwrap().fingerprint, old.fingerprint);
        assert_eq!(
            (1..=9).map(|times| pause_after(times).as_secs()).collect::<Vec<_>>(),
            [10, 20, 40, 80, 160, 300, 300, 300, 300]
        );
    }

    #[tokio::test]
    async fn an_unreadable_source_keeps_the_key_that_works() {
        let (credentials, file) = on_file("AKIAOLD:s").await;
        credentials.load().await;
        std::fs::write(file.path(), "").unwrap();
        credentials.load().await;
        assert!(credentials.current(SystemTime::now()).is_ok());
        assert!(credentials.status().problem.is_some());
    }

    #[test]
    fn a_short_term_key_is_for_one_region() {
        let credential = Credential {
            kind: CredentialKind::Bearer {
                authorization: http::HeaderValue::from_static("x"),
                only_region: Some("us-west-2".into()),
            },
            region: None,
            account: None,
            expiry: None,
            fingerprint: [0; 32],
        };
        assert!(credential.check_region("us-west-2").is_ok());
        assert!(credential.check_region("us-east-1").unwrap_err().message.contains("us-west-2"));
    }
}
