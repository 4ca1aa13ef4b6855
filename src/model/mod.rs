//! Which identifier is sent upstream for the model that a client asks for.

pub(crate) mod behind;
pub(crate) mod body;
pub(crate) mod catalogue;
pub(crate) mod create;
pub(crate) mod identifier;
pub(crate) mod lookup;
pub(crate) mod resolve;
pub(crate) mod retention;
pub(crate) mod rules;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use tokio::sync::Notify;

pub(crate) use catalogue::{CallError, Catalogue};
pub(crate) use resolve::{How, Target};

use crate::error::{Refusal, RefusalKind};
use crate::settings::{self, callers::CallerEntry};
use crate::upstream::Upstream;
use create::{Made, SendRecorded};
use lookup::{Asker, Lookups};
use resolve::{Known, Resolution};
use rules::{Rules, Verdict};

/// What was learned is tried anew after this long.
const LEARNED_FOR: Duration = Duration::from_secs(12 * 3600);
const FIRST_RETRY: Duration = Duration::from_secs(2);
const LONGEST_RETRY: Duration = Duration::from_secs(300);
/// A catalogue is not read again so soon because a model was not found in it, however the last reading ended.
const FRESH: Duration = Duration::from_secs(5);

/// The models of one upstream, as far as they are known. Clones know the same.
#[derive(Debug, Clone)]
pub(crate) struct Models {
    settings: settings::Models,
    catalogue: Arc<ArcSwapOption<Listed>>,
    /// By (account, model); the region is the upstream's.
    learned: Arc<Mutex<HashMap<(String, String), Learned>>>,
    /// What stands behind ARNs that do not tell.
    lookups: Arc<Lookups>,
    /// One creation at a time for each model, and how the last one has failed.
    busy: Arc<Mutex<HashMap<String, Creation>>>,
    /// Held during a listing; when the last one ended, well or not.
    refreshing: Arc<tokio::sync::Mutex<Option<tokio::time::Instant>>>,
    /// The upstream no longer knows what the catalogue holds.
    is_outdated: Arc<Notify>,
}

/// Held during a creation.
type Creation = Arc<tokio::sync::Mutex<Option<FailedCreation>>>;

/// Who waited for a creation while it failed shares its outcome.
#[derive(Debug)]
struct FailedCreation {
    at: Instant,
    refusal: Refusal,
}

#[derive(Debug)]
struct Listed {
    catalogue: Catalogue,
    at: Instant,
    /// Whose credential listed it.
    account: String,
}

#[derive(Debug)]
struct Learned {
    identifier: String,
    until: Instant,
}

impl Models {
    pub(crate) fn new(settings: settings::Models) -> Models {
        Models {
            settings,
            catalogue: Arc::default(),
            learned: Arc::default(),
            lookups: Arc::default(),
            busy: Arc::default(),
            refreshing: Arc::default(),
            is_outdated: Arc::default(),
        }
    }

    /// The same models under other rules. Profiles that were learned under other geographies are not carried over.
    pub(crate) fn under(&self, settings: settings::Models) -> Models {
        let learned =
            if settings.geographies == self.settings.geographies { Arc::clone(&self.learned) } else { Arc::default() };
        Models { settings, learned, ..self.clone() }
    }

    /// Decides what to send for `asked`; creates a profile, or looks one up, where that is needed.
    pub(crate) async fn target(
        &self,
        asked: &str,
        upstream: &Upstream,
        asker: &Asker,
        own: &impl SendRecorded,
    ) -> Result<Target, Refusal> {
        crate::operation::check_identifier(asked)?;
        let account = account(upstream);
        let resolution = {
            let listed = self.catalogue.load();
            let learned = self.learned(&account, self.learned_as(asked));
            let caller = asker.entry.as_deref();
            resolve::resolve(asked, Known { learned: learned.as_deref(), ..self.known(listed.as_ref(), caller) })?
        };
        self.carry_out(resolution, asked, upstream, &account, asker, own).await
    }

    /// The profile for a model that the upstream would not serve by its identifier; none when there is no way.
    pub(crate) async fn after_on_demand_refusal(
        &self,
        asked: &str,
        sent: &Target,
        upstream: &Upstream,
        asker: &Asker,
        own: &impl SendRecorded,
    ) -> Option<Result<Target, Refusal>> {
        if sent.is_profile {
            return None;
        }
        let model = match identifier::read(&sent.identifier, |_| false) {
            Ok(identifier::Identifier::Model { id, .. } | identifier::Identifier::ModelArn { id }) => id,
            _ => return None,
        };
        self.refresh_unless_fresh(upstream, asker).await;
        let account = account(upstream);
        let resolution = {
            let listed = self.catalogue.load();
            let learned = self.learned(&account, model);
            let caller = asker.entry.as_deref();
            resolve::profile_for(model, Known { learned: learned.as_deref(), ..self.known(listed.as_ref(), caller) })
        };
        match resolution {
            Ok(Resolution::Send(target)) if !target.is_profile => None,
            Ok(resolution) => Some(self.carry_out(resolution, asked, upstream, &account, asker, own).await),
            Err(refusal) => Some(Err(refusal)),
        }
    }

    /// Remembers the profile that a model was served through after it was refused by its identifier.
    pub(crate) fn remember(&self, asked: &str, sent: &Target, upstream: &Upstream) {
        self.learn(&account(upstream), self.learned_as(asked), &sent.identifier);
    }

    /// Forgets a profile that the upstream no longer knows, and has the catalogue read anew if it came from there.
    pub(crate) fn forget(&self, asked: &str, sent: &Target, upstream: &Upstream) {
        let key = (account(upstream), self.learned_as(asked).to_owned());
        let mut learned = lock(&self.learned);
        // What another request has learned meanwhile stays.
        if learned.get(&key).is_some_and(|entry| entry.identifier == sent.identifier) {
            learned.remove(&key);
        }
        drop(learned);
        if self.catalogue.load().as_ref().is_some_and(|listed| listed.catalogue.profile(&sent.identifier).is_some()) {
            self.is_outdated.notify_one();
        }
    }

    /// What is learned about a model is learned under its identifier, however the model was asked for.
    fn learned_as<'a>(&'a self, asked: &'a str) -> &'a str {
        let name = resolve::unalias(asked, &self.settings);
        match identifier::read(name, |_| false) {
            Ok(identifier::Identifier::Model { id, .. } | identifier::Identifier::ModelArn { id }) => id,
            _ => name,
        }
    }

    /// Decides what to send for a profile that is read.
    pub(crate) async fn described_profile(
        &self,
        name: &str,
        upstream: &Upstream,
        asker: &Asker,
    ) -> Result<Target, Refusal> {
        if !self.is_listed() {
            self.refresh_unless_fresh(upstream, asker).await;
        }
        resolve::described_profile(name, self.known(self.catalogue.load().as_ref(), None))
    }

    /// Refuses to have a profile created from something that could not be invoked itself.
    pub(crate) async fn check_copy_from(
        &self,
        source: &str,
        upstream: &Upstream,
        asker: &Asker,
    ) -> Result<(), Refusal> {
        let caller = asker.entry.as_deref();
        let verdict = resolve::check(source, self.known(self.catalogue.load().as_ref(), caller))?;
        if verdict == Verdict::LookUp {
            let looked = self.look_up(source, upstream, asker).await;
            let listed = self.catalogue.load();
            let looked_up = Some(looked.as_deref());
            resolve::check(source, Known { looked_up, ..self.known(listed.as_ref(), caller) })?;
        }
        Ok(())
    }

    async fn carry_out(
        &self,
        resolution: Resolution,
        asked: &str,
        upstream: &Upstream,
        account: &str,
        asker: &Asker,
        own: &impl SendRecorded,
    ) -> Result<Target, Refusal> {
        match resolution {
            Resolution::Send(target) => Ok(target),
            Resolution::LookUp { arn } => {
                let looked = self.look_up(&arn, upstream, asker).await;
                let listed = self.catalogue.load();
                let known = self.known(listed.as_ref(), asker.entry.as_deref());
                match resolve::resolve(asked, Known { looked_up: Some(looked.as_deref()), ..known })? {
                    Resolution::Send(target) => Ok(target),
                    _ => Err(Refusal::new(RefusalKind::Validation, format!("{arn} cannot be resolved."))),
                }
            }
            Resolution::Create { model, source_arn } => {
                let alone = Arc::clone(lock(&self.busy).entry(model.clone()).or_default());
                let came = Instant::now();
                let mut failed = alone.lock().await;
                if let Some(failed) = failed.as_ref().filter(|failed| failed.at >= came) {
                    return Err(failed.refusal.clone());
                }
                if let Some(identifier) = self.learned(account, &model) {
                    return Ok(Target { identifier, is_profile: true, how: How::Learned });
                }
                let made = self.own_profile(&model, &source_arn, upstream, account, asker, own).await;
                let (identifier, how) = made.inspect_err(|refusal| {
                    *failed = Some(FailedCreation { at: Instant::now(), refusal: refusal.clone() });
                })?;
                self.learn(account, &model, &identifier);
                Ok(Target { identifier, is_profile: true, how })
            }
        }
    }

    /// The profile with the daemon's name for a model: the one that is there, or else a new one.
    async fn own_profile(
        &self,
        model: &str,
        source_arn: &str,
        upstream: &Upstream,
        account: &str,
        asker: &Asker,
        own: &impl SendRecorded,
    ) -> Result<(String, How), Refusal> {
        let rules = Rules::new(&self.settings, asker.entry.as_deref());
        let existing = self.catalogue.load().as_ref().filter(|listed| listed.account == account).and_then(|listed| {
            // One that is of another model only has the name.
            let found = listed.catalogue.application_profile(&create::name_for(model))?;
            found.is_only_of(model).then(|| found.clone())
        });
        match existing {
            Some(profile) => Ok((usable(profile, model, rules)?, How::Discovered)),
            None => match create::create(upstream, model, source_arn, asker, own).await? {
                Made::New(arn) => Ok((arn, How::Created)),
                Made::Found(profile) => Ok((usable(profile, model, rules)?, How::Discovered)),
            },
        }
    }

    fn known<'a>(&'a self, listed: Option<&'a Arc<Listed>>, caller: Option<&'a CallerEntry>) -> Known<'a> {
        let catalogue = listed.map(|listed| &listed.catalogue);
        Known { settings: &self.settings, caller, catalogue, learned: None, looked_up: None }
    }

    fn learned(&self, account: &str, model: &str) -> Option<String> {
        let learned = lock(&self.learned);
        if learned.is_empty() {
            return None;
        }
        let entry = learned.get(&(account.to_owned(), model.to_owned()))?;
        (entry.until > Instant::now()).then(|| entry.identifier.clone())
    }

    fn learn(&self, account: &str, model: &str, identifier: &str) {
        let entry = Learned { identifier: identifier.to_owned(), until: Instant::now() + LEARNED_FOR };
        lock(&self.learned).insert((account.to_owned(), model.to_owned()), entry);
    }

    /// Reads the catalogue; the old one is kept on failure.
    pub(crate) async fn refresh(&self, upstream: &Upstream) -> Result<(), CallError> {
        let mut ended = self.refreshing.lock().await;
        let fetched = self.fetch(upstream).await;
        *ended = Some(tokio::time::Instant::now());
        fetched
    }

    /// The same unless it was tried a moment ago.
    async fn refresh_unless_fresh(&self, upstream: &Upstream, asker: &Asker) {
        unless_fresh(&self.refreshing, FRESH, async || {
            let fetched = match catalogue::turn(upstream, asker) {
                Ok(_turn) => self.fetch(upstream).await,
                Err(unreachable) => Err(unreachable),
            };
            if let Err(reason) = fetched {
                tracing::warn!(region = %upstream.region, %reason, "models could not be listed");
            }
        })
        .await;
    }

    async fn fetch(&self, upstream: &Upstream) -> Result<(), CallError> {
        let account = account(upstream);
        let catalogue = catalogue::fetch(upstream).await?;
        self.catalogue.store(Some(Arc::new(Listed { catalogue, at: Instant::now(), account })));
        Ok(())
    }

    /// Keeps the catalogue fresh until dropped, and reads it anew when the credential changes. A reading that fails is tried
    /// again with growing pauses, however fresh the old catalogue is.
    pub(crate) async fn keep_fresh(&self, upstream: &Upstream) {
        let mut changed = upstream.credentials().subscribe();
        changed.mark_unchanged();
        let is_known = self.listed_ago().is_some_and(|age| age < self.settings.refresh_interval);
        let mut retry = (!is_known).then_some(FIRST_RETRY);
        let mut due = tokio::time::Instant::now() + retry.unwrap_or(self.settings.refresh_interval);
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(due) => {}
                _ = changed.changed() => {}
                () = self.is_outdated.notified() => {
                    // One that failed is due again soon, and not sooner because of this.
                    if retry.is_none() {
                        let ended = *self.refreshing.lock().await;
                        due = due.min(ended.map_or_else(tokio::time::Instant::now, |ended| ended + FRESH));
                    }
                    continue;
                }
            }
            match self.refresh(upstream).await {
                Ok(()) => retry = None,
                Err(reason) => {
                    tracing::warn!(region = %upstream.region, %reason, "models could not be listed; trying again");
                    retry = Some(retry.map_or(FIRST_RETRY, |pause| (pause * 2).min(LONGEST_RETRY)));
                }
            }
            due = tokio::time::Instant::now() + retry.unwrap_or(self.settings.refresh_interval);
        }
    }

    /// How long ago the models were listed; none if they never were.
    pub(crate) fn listed_ago(&self) -> Option<Duration> {
        self.catalogue.load().as_ref().map(|listed| listed.at.elapsed())
    }

    /// The catalogue is known; for labels and listings.
    pub(crate) fn is_listed(&self) -> bool {
        self.catalogue.load().is_some()
    }

    /// How many models the last listing had; none before the first one.
    pub(crate) fn count(&self) -> Option<usize> {
        self.catalogue.load().as_ref().map(|listed| listed.catalogue.models().len())
    }

    /// A model that the catalogue knows, by the identifier or profile that was asked for: the bounded label of metrics.
    pub(crate) fn label(&self, asked: &str) -> Option<String> {
        let listed = self.catalogue.load();
        let catalogue = &listed.as_ref()?.catalogue;
        let name = resolve::unalias(asked, &self.settings);
        if catalogue.model(name).is_some() {
            return Some(name.to_owned());
        }
        let profile = catalogue.profile(name)?;
        Some(if profile.is_application() {
            profile.model_ids().first()?.to_string()
        } else {
            profile.inference_profile_id.clone()
        })
    }

    /// The identifiers of all models, and the identifiers, ARNs and names of all profiles.
    pub(crate) fn names(&self) -> Vec<String> {
        let listed = self.catalogue.load();
        listed.as_ref().map(|listed| listed.catalogue.names().map(str::to_owned).collect()).unwrap_or_default()
    }

    /// Every model of the catalogue with what would be sent for it, or why it cannot be invoked.
    pub(crate) fn overview(&self, account: &str) -> Vec<Overview> {
        let listed = self.catalogue.load();
        let Some(current) = listed.as_ref() else { return Vec::new() };
        current.catalogue.models().into_iter().map(|model| self.overview_of(current, model, account)).collect()
    }

    fn overview_of(&self, listed: &Arc<Listed>, model: &catalogue::FoundationModel, account: &str) -> Overview {
        let learned = self.learned(account, &model.model_id);
        let known = Known { learned: learned.as_deref(), ..self.known(Some(listed), None) };
        let sent = match resolve::resolve(&model.model_id, known) {
            Ok(Resolution::Send(target)) if target.is_profile || model.on_demand() => Sent::As(target.identifier),
            Ok(Resolution::Send(_)) => {
                Sent::Never(format!("it offers {} only", model.inference_types_supported.join(", ")))
            }
            Ok(Resolution::Create { .. } | Resolution::LookUp { .. }) => Sent::AsNewProfile,
            Err(refusal) => Sent::Never(refusal.message.into_owned()),
        };
        Overview { model: model.clone(), sent }
    }
}

/// One line of `bedrock-sidecar models`.
#[derive(Debug)]
pub(crate) struct Overview {
    pub model: catalogue::FoundationModel,
    pub sent: Sent,
}

/// What would be sent for a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Sent {
    /// This identifier.
    As(String),
    /// The ARN of a profile that the daemon creates at the first request.
    AsNewProfile,
    /// Nothing: why the model cannot be invoked.
    Never(String),
}

impl Sent {
    pub(crate) fn is_invokable(&self) -> bool {
        !matches!(self, Sent::Never(_))
    }

    pub(crate) fn identifier(&self) -> Option<&str> {
        match self {
            Sent::As(identifier) => Some(identifier),
            Sent::AsNewProfile | Sent::Never(_) => None,
        }
    }

    pub(crate) fn reason(&self) -> Option<&str> {
        match self {
            Sent::Never(reason) => Some(reason),
            Sent::As(_) | Sent::AsNewProfile => None,
        }
    }
}

/// A profile that bears the daemon's name for a model: it is used only if it is one of exactly that model. Anybody who may
/// make profiles in the account could have given it the name.
fn usable(profile: catalogue::Profile, model: &str, rules: Rules<'_>) -> Result<String, Refusal> {
    let arn = profile.inference_profile_arn.clone();
    if !profile.is_only_of(model) || !profile.is_active() {
        return Err(Refusal::new(
            RefusalKind::ServiceUnavailable,
            format!(
                "{model} needs an inference profile, and {arn}, which has the name that bedrock-sidecar gives it (\"{}\"), is not an active profile of exactly this model; find out who made it, and delete it.",
                profile.inference_profile_name
            ),
        ));
    }
    rules.application(&arn, &profile)?;
    Ok(arn)
}

/// Requests that arrive together share one listing, well or not: none lists that came before the last one had ended, nor
/// soon after.
async fn unless_fresh(
    last: &tokio::sync::Mutex<Option<tokio::time::Instant>>,
    fresh: Duration,
    list: impl AsyncFnOnce(),
) {
    let came = tokio::time::Instant::now();
    let mut ended = last.lock().await;
    if ended.is_some_and(|ended| ended >= came || ended.elapsed() < fresh) {
        return;
    }
    list().await;
    *ended = Some(tokio::time::Instant::now());
}

fn account(upstream: &Upstream) -> String {
    upstream.credentials().account_key()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Every critical section here is a single insert, removal or look-up.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test]
    async fn requests_that_wait_for_a_listing_do_not_each_repeat_it() {
        let (last, lists) = (tokio::sync::Mutex::new(None), AtomicU32::new(0));
        let ask = |fresh| {
            unless_fresh(&last, fresh, async || {
                lists.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(10)).await;
            })
        };
        // However long it takes: none of these came after its end.
        tokio::join!(ask(Duration::ZERO), ask(Duration::ZERO), ask(Duration::ZERO));
        assert_eq!(lists.load(Ordering::Relaxed), 1);
        ask(Duration::from_secs(600)).await;
        assert_eq!(lists.load(Ordering::Relaxed), 1);
        ask(Duration::ZERO).await;
        assert_eq!(lists.load(Ordering::Relaxed), 2);
    }
}
