//! The current credential of an account: fetched, kept, refreshed, and replaced without an outage.

mod aws_files;
mod file;
mod host_process;
mod process;
mod profile;
mod renewal;
pub(crate) mod roles_anywhere;
pub(crate) mod secret;
pub(crate) mod source;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

pub(crate) use secret::{Credential, CredentialKind};
pub(crate) use source::Source;

use crate::error::{Refusal, RefusalKind};
use crate::operation::Plane;
use crate::partition::Partition;
use crate::settings;
use crate::workers;

const FIRST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(60);
/// How long a source that has given nothing of use is left alone at most, although requests need a credential.
const LONGEST_NEED: Duration = Duration::from_secs(10);
/// How soon the source is read again for a refused key after it gave the same key once more, and how far that grows.
const FIRST_REJECTION_PAUSE: Duration = Duration::from_secs(10);
const LONGEST_REJECTION_PAUSE: Duration = Duration::from_secs(300);
/// A source that takes longer has given nothing. Secrets Manager and a process have 30 s, STS takes time too.
const LONGEST_FETCH: Duration = Duration::from_secs(45);
/// A request waits no longer for a fetch, which goes on without it.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// The store that all requests share. It holds at most the current credential and the one before.
#[derive(Debug)]
pub(crate) struct Credentials {
    source: Arc<Source>,
    /// Since when the source is read.
    begun: Instant,
    refresh_interval: Duration,
    held: ArcSwap<Held>,
    /// Held during a fetch, so that all who need one wait for the same. Who holds it may replace what is held.
    fetching: Arc<tokio::sync::Mutex<()>>,
    /// Of the upstreams that the credential is for; empty where any will do.
    regions: BTreeSet<String>,
    /// Requests go by it. One that a reload prepares shows first whom the credential serves that the source gives now.
    is_in_use: AtomicBool,
    uncounted: Uncounted,
    changed: watch::Sender<u64>,
}

/// Reads that /metrics has not counted yet.
#[derive(Debug, Default)]
struct Uncounted {
    successes: AtomicU64,
    failures: AtomicU64,
}

#[derive(Debug, Clone, Default)]
struct Held {
    current: Option<Arc<Credential>>,
    previous: Option<Arc<Credential>>,
    /// When the last fetch ended, however it did.
    ended: Option<Instant>,
    /// When the source last gave a usable credential.
    confirmed: Option<Instant>,
    problem: Option<String>,
    /// Fetches in a row that gave nothing of use.
    fruitless: u32,
    in_vain: Option<InVain>,
}

/// The upstream refuses a key, and the source still gives it, or has made another one that may be refused as well.
#[derive(Debug, Clone, Copy)]
struct InVain {
    fingerprint: [u8; 32],
    /// Fetches in a row.
    times: u32,
    last: Instant,
}

/// Why the source is to be read.
#[derive(Debug, Clone, Copy)]
enum Cause {
    /// It is time.
    Due,
    /// A request needs a credential, and there is none that could work.
    Needed,
    /// The upstream has refused this key.
    Rejected { fingerprint: [u8; 32] },
}

/// For /metrics and /ready.
#[derive(Debug, Clone)]
pub(crate) struct Status {
    pub available: bool,
    pub description: Option<&'static str>,
    /// Since the source last confirmed the credential.
    pub age: Option<Duration>,
    /// The same; since the first read if it never has.
    pub unconfirmed_for: Duration,
    /// Until the credential expires; none while that is not known, zero once it has.
    pub expires_in: Option<Duration>,
    /// Until the certificate ends by which the credential is had; none without one, zero once it has.
    pub certificate_ends_in: Option<Duration>,
    pub problem: Option<String>,
}

/// Reads of a source, for /metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Reads {
    pub successes: u64,
    pub failures: u64,
}

impl std::ops::AddAssign for Reads {
    fn add_assign(&mut self, other: Reads) {
        self.successes += other.successes;
        self.failures += other.failures;
    }
}

impl Credentials {
    /// For upstreams of these regions, or of any if none is named.
    pub(crate) fn new(settings: &settings::Credentials, regions: BTreeSet<String>) -> Credentials {
        Credentials {
            source: Arc::new(Source::new(&settings.source)),
            begun: Instant::now(),
            refresh_interval: settings.refresh_interval,
            held: ArcSwap::default(),
            fetching: Arc::default(),
            regions,
            is_in_use: AtomicBool::new(true),
            uncounted: Uncounted::default(),
            changed: watch::Sender::new(0),
        }
    }

    /// A store of the same source for upstreams of other regions, not in use yet. It begins with what this one holds, and
    /// neither changes the other.
    pub(crate) fn with_regions(&self, regions: BTreeSet<String>) -> Credentials {
        Credentials {
            source: Arc::clone(&self.source),
            begun: self.begun,
            refresh_interval: self.refresh_interval,
            held: ArcSwap::new(self.held.load_full()),
            fetching: Arc::default(),
            regions,
            is_in_use: AtomicBool::new(false),
            uncounted: Uncounted::default(),
            changed: watch::Sender::new(0),
        }
    }

    /// From now on, no upstream that has a credential loses it to another one.
    pub(crate) fn put_in_use(&self) {
        self.is_in_use.store(true, Ordering::Relaxed);
    }

    /// The partition whose account it is of, as sentences name it.
    pub(crate) fn whose(&self) -> &'static str {
        match self.partition() {
            Partition::Govcloud => "GovCloud",
            Partition::Commercial => "commercial",
        }
    }

    /// The partition of the upstreams that it is for; the commercial one before there are any.
    fn partition(&self) -> Partition {
        self.regions.first().map(|region| Partition::of_region(region)).unwrap_or_default()
    }

    /// The regions of the upstreams that the credential is for.
    pub(crate) fn regions(&self) -> &BTreeSet<String> {
        &self.regions
    }

    /// The credential to use now.
    ///
    /// # Errors
    /// 503 with the reason when there is none or it has expired: never the client's fault.
    pub(crate) fn current(&self, now: SystemTime) -> Result<Arc<Credential>, Refusal> {
        let held = self.held.load();
        match &held.current {
            None => {
                let reason = held.problem.as_deref().unwrap_or("the source has not been read yet");
                Err(unavailable(format!("no {} credential: {reason}.", self.whose())))
            }
            Some(current) if current.is_expired(now) => {
                let reason = held.problem.as_deref().unwrap_or("the source is about to be read again");
                let what = current.description();
                Err(unavailable(match current.has() {
                    "have" => format!("the {} {what} have expired and {reason}.", self.whose()),
                    _ => format!("the {} {what} has expired and {reason}.", self.whose()),
                }))
            }
            Some(current) => Ok(Arc::clone(current)),
        }
    }

    /// The same, after a fetch if there is none that could work. All who wait share the fetch. Nobody waits for a source that
    /// has just given nothing of use.
    pub(crate) async fn obtain(self: &Arc<Self>) -> Result<Arc<Credential>, Refusal> {
        if let Ok(current) = self.current(SystemTime::now()) {
            return Ok(current);
        }
        let is_under_way = self.fetching.try_lock().is_err();
        if self.held.load().fruitless == 0 || (self.calls_for(Cause::Needed) && !is_under_way) {
            // In a box: most requests find a credential, and their futures need no room for this.
            let _ = Box::pin(timeout(LONGEST_WAIT, self.fetch(Cause::Needed))).await;
        }
        self.current(SystemTime::now())
    }

    /// What to try after the upstream has refused `rejected` as stale: the outcome of one fetch that begins after that, and
    /// that all requests in flight share. What was fetched before says nothing: the key may have been rotated since.
    ///
    /// After a source has given the refused key again, it is not read for a rejection for a while, which grows: an upstream
    /// that refuses every request must not cause a read for each.
    ///
    /// A source that still gives the refused key, while the key before it is there, yields that one: a rotated key may
    /// take a moment to be known everywhere.
    pub(crate) async fn after_rejection(self: &Arc<Self>, rejected: &Arc<Credential>) -> Option<Arc<Credential>> {
        let cause = Cause::Rejected { fingerprint: rejected.fingerprint };
        if self.calls_for(cause) {
            let _ = timeout(LONGEST_WAIT, self.fetch(cause)).await;
        }
        let held = self.held.load();
        let current = held.current.as_ref()?;
        if current.fingerprint == rejected.fingerprint
            && let Some(previous) = held.previous.as_ref().filter(|previous| !previous.is_expired(SystemTime::now()))
        {
            return Some(Arc::clone(previous));
        }
        Some(Arc::clone(current))
    }

    /// Reads the source once, unless another read has made that needless by the time it can begin. A read that has begun goes
    /// on though nobody waits for it any more; one that has not begun by then does not begin.
    async fn fetch(self: &Arc<Self>, cause: Cause) {
        let (mut ended, has_ended) = oneshot::channel::<()>();
        let at_once = Arc::clone(&self.fetching).try_lock_owned();
        let store = Arc::clone(self);
        // Requests of all workers share it, and none of them may hold the lock.
        workers::elsewhere().spawn(async move {
            let alone = match at_once {
                Ok(alone) => alone,
                Err(_) => tokio::select! {
                    biased;
                    () = ended.closed() => return,
                    alone = Arc::clone(&store.fetching).lock_owned() => alone,
                },
            };
            if store.calls_for(cause) {
                store.read(cause).await;
            }
            drop(alone);
            drop(ended);
        });
        let _ = has_ended.await;
    }

    fn calls_for(&self, cause: Cause) -> bool {
        let held = self.held.load();
        match cause {
            Cause::Due => true,
            Cause::Needed => {
                let pause = retry_after(held.fruitless).min(LONGEST_NEED);
                let is_too_soon = held.fruitless > 0 && held.ended.is_some_and(|ended| ended.elapsed() < pause);
                !is_too_soon && held.current.as_ref().is_none_or(|current| current.is_expired(SystemTime::now()))
            }
            Cause::Rejected { fingerprint } => {
                let is_current = held.current.as_ref().is_some_and(|current| current.fingerprint == fingerprint);
                let is_too_soon = held
                    .in_vain
                    .is_some_and(|one| one.fingerprint == fingerprint && one.last.elapsed() < pause_after(one.times));
                is_current && !is_too_soon
            }
        }
    }

    async fn read(&self, cause: Cause) {
        let outcome = timeout(LONGEST_FETCH, self.source.read())
            .await
            .unwrap_or_else(|_| Err(format!("the source has given no answer within {} s", LONGEST_FETCH.as_secs())));
        let outcome = outcome.and_then(|credential| credential.check_partition(self.partition()).map(|()| credential));
        let mut held = Held::clone(&self.held.load());
        held.ended = Some(Instant::now());
        let before = held.current.as_ref().map(|current| current.fingerprint);
        let is_given = outcome.is_ok();
        let is_refused = |current: &Arc<Credential>| matches!(cause, Cause::Rejected { fingerprint, .. } if fingerprint == current.fingerprint);
        let is_refused = held.current.as_ref().is_some_and(is_refused);
        let outcome = outcome.and_then(|credential| self.take(&mut held, credential, is_refused));
        match outcome {
            Ok(()) => {
                self.uncounted.successes.fetch_add(1, Ordering::Relaxed);
                held.fruitless = 0;
                held.confirmed = Some(Instant::now());
                held.problem = None;
            }
            Err(problem) => {
                self.uncounted.failures.fetch_add(1, Ordering::Relaxed);
                held.fruitless = held.fruitless.saturating_add(1);
                let is_news = held.problem.as_ref() != Some(&problem);
                if is_news && is_given {
                    tracing::error!(reason = %problem, "the source gives a {} credential that cannot work", self.whose());
                } else if is_news {
                    tracing::warn!(reason = %problem, "the {} credential could not be read; trying again", self.whose());
                }
                held.problem = Some(problem);
            }
        }
        let after = held.current.as_ref().map(|current| current.fingerprint);
        held.in_vain = match cause {
            // A source that makes keys never gives the same again. The next one is not asked for at once if this is refused too.
            Cause::Rejected { fingerprint } if after == Some(fingerprint) || self.source.makes_keys() => {
                let times = held.in_vain.filter(|one| one.fingerprint == fingerprint).map_or(0, |one| one.times);
                after.map(|after| InVain { fingerprint: after, times: times.saturating_add(1), last: Instant::now() })
            }
            _ => held.in_vain.filter(|one| after == Some(one.fingerprint)),
        };
        let is_new = after != before;
        if is_new && let Some(current) = &held.current {
            tracing::info!(
                kind = current.description(),
                account = current.account,
                "{} credential loaded",
                self.whose()
            );
        }
        self.held.store(Arc::new(held));
        if is_new {
            self.changed.send_modify(|version| *version += 1);
        }
    }

    /// Makes what the source has given the current credential. One that cannot work takes the place of none that can: once
    /// the store is in use, no upstream that has a usable credential loses it, unless that one has just been refused
    /// (`is_refused`).
    ///
    /// # Errors
    /// Why it cannot work.
    fn take(&self, held: &mut Held, mut fetched: Credential, is_refused: bool) -> Result<(), String> {
        let now = SystemTime::now();
        let current = held.current.as_ref();
        if let Some(current) = current.filter(|current| current.fingerprint == fetched.fingerprint) {
            // A process may tell a later end of the same keys, or repeat an earlier one.
            fetched.expiry = fetched.expiry.map(|expiry| current.expiry.map_or(expiry, |known| expiry.max(known)));
            let is_expired = fetched.is_expired(now);
            held.current = Some(Arc::new(fetched));
            return if is_expired { Err(NO_NEWER.to_owned()) } else { Ok(()) };
        }
        let served = current.filter(|current| !current.is_expired(now)).and_then(|current| self.served_by(current));
        let objection = match fetched.is_expired(now) {
            true => Some(format!("its {} {} expired", fetched.description(), fetched.has())),
            false => {
                let keeps_all = !is_refused && self.is_in_use.load(Ordering::Relaxed);
                self.wrong_region(&fetched, served.as_ref().filter(|_| keeps_all))
            }
        };
        match objection {
            Some(why) if served.is_some() => Err(format!(
                "the source gives a credential that cannot work ({why}), and the one before stays in use; put a valid one into it"
            )),
            _ => {
                let is_expired = fetched.is_expired(now);
                held.previous = held.current.replace(Arc::new(fetched));
                if is_expired { Err(NO_NEWER.to_owned()) } else { Ok(()) }
            }
        }
    }

    /// The regions whose upstreams would take a credential, as far as they are known; none if no upstream would.
    fn served_by(&self, credential: &Credential) -> Option<BTreeSet<&str>> {
        let takes = |region: &&str| credential.check_region(region).is_ok();
        let served: BTreeSet<&str> = self.regions.iter().map(String::as_str).filter(takes).collect();
        (self.regions.is_empty() || !served.is_empty()).then_some(served)
    }

    /// Why no upstream would take a credential, or which of those that `served` names would be left without one.
    fn wrong_region(&self, credential: &Credential, served: Option<&BTreeSet<&str>>) -> Option<String> {
        let CredentialKind::Bearer { only_region: Some(only), .. } = &credential.kind else { return None };
        let named = |regions: Vec<&str>| {
            Some(format!("its {} is valid in {only} only, and not in {}", credential.description(), regions.join(", ")))
        };
        if self.served_by(credential).is_none() {
            return named(self.regions.iter().map(String::as_str).collect());
        }
        let lost: Vec<&str> = served.into_iter().flatten().copied().filter(|region| region != only).collect();
        if lost.is_empty() { None } else { named(lost) }
    }

    /// Counts up whenever another credential has become the current one.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    pub(crate) fn status(&self) -> Status {
        let held = self.held.load();
        let now = SystemTime::now();
        let current = held.current.as_ref();
        Status {
            available: current.is_some_and(|current| !current.is_expired(now)),
            description: current.map(|current| current.description()),
            age: held.confirmed.map(|confirmed| confirmed.elapsed()),
            unconfirmed_for: held.confirmed.unwrap_or(self.begun).elapsed(),
            expires_in: current.and_then(|c| c.expiry).map(|expiry| expiry.duration_since(now).unwrap_or_default()),
            certificate_ends_in: self
                .source
                .certificate_ends()
                .map(|ends| ends.duration_since(now).unwrap_or_default()),
            problem: held.problem.clone(),
        }
    }

    /// The reads since this was last asked.
    pub(crate) fn take_reads(&self) -> Reads {
        Reads {
            successes: self.uncounted.successes.swap(0, Ordering::Relaxed),
            failures: self.uncounted.failures.swap(0, Ordering::Relaxed),
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

    /// Reads the source now.
    pub(crate) async fn load(self: &Arc<Self>) {
        self.fetch(Cause::Due).await;
    }
}

/// What is said of a credential that has expired, after the source has been read.
const NO_NEWER: &str = "the source gives no newer one; put a valid one into it";

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

    /// Refuses a key that the host of a plane takes for none: AWS's documentation says that API keys are not good for the
    /// operations of the agent runtime.
    pub(crate) fn check_plane(&self, plane: Plane, region: &str) -> Result<(), Refusal> {
        match (&self.kind, plane) {
            (CredentialKind::Bearer { .. }, Plane::AgentRuntime) => Err(Refusal::new(
                RefusalKind::AccessDenied,
                format!(
                    "AWS takes no Bedrock API key for Rerank, and the credential of the upstream {region} is one; give that upstream AWS keys (docs/credentials.md)."
                ),
            )),
            _ => Ok(()),
        }
    }
}

/// How long after so many fetches in a row that gave nothing of use.
fn retry_after(fruitless: u32) -> Duration {
    FIRST_RETRY.saturating_mul(1 << fruitless.saturating_sub(1).min(8)).min(LONGEST_RETRY)
}

/// How long the source is left alone after so many rejections in vain.
fn pause_after(times: u32) -> Duration {
    FIRST_REJECTION_PAUSE.saturating_mul(1 << times.saturating_sub(1).min(8)).min(LONGEST_REJECTION_PAUSE)
}

fn unavailable(message: String) -> Refusal {
    Refusal::new(RefusalKind::ServiceUnavailable, message)
}

#[cfg(test)]
mod tests;
