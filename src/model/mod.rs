//! Which identifier is sent upstream for the model that a client asks for.

pub(crate) mod behind;
pub(crate) mod body;
pub(crate) mod catalogue;
mod counted;
pub(crate) mod create;
pub(crate) mod identifier;
mod listing;
pub(crate) mod lookup;
mod mantle;
mod overview;
mod reranked;
pub(crate) mod resolve;
pub(crate) mod retention;
pub(crate) mod rules;
pub(crate) mod serving;
mod shown;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use tokio::sync::Notify;

pub(crate) use catalogue::{CallError, Catalogue};
pub(crate) use overview::{Overview, Sent};
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

/// The models of one upstream, as far as they are known. Clones know the same.
#[derive(Debug, Clone)]
pub(crate) struct Models {
    settings: settings::Models,
    /// Since when they are listed, or tried to be.
    begun: Instant,
    catalogue: Arc<ArcSwapOption<Listed>>,
    /// By (account, model); the region is the upstream's.
    learned: Arc<Mutex<HashMap<(String, String), Learned>>>,
    /// What stands behind ARNs that do not tell.
    lookups: Arc<Lookups>,
    /// One creation at a time for each model, and how the last one has failed.
    busy: Arc<Mutex<HashMap<String, Creation>>>,
    /// Held during a listing; when and how the last one ended.
    refreshing: Arc<tokio::sync::Mutex<Option<listing::Ended>>>,
    /// The upstream no longer knows what the catalogue holds.
    is_outdated: Arc<Notify>,
    /// Where its mantle host serves which model.
    routes: Arc<mantle::Routes>,
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
            begun: Instant::now(),
            catalogue: Arc::default(),
            learned: Arc::default(),
            lookups: Arc::default(),
            busy: Arc::default(),
            refreshing: Arc::default(),
            is_outdated: Arc::default(),
            routes: Arc::default(),
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
        let resolution = {
            let listed = self.catalogue.load();
            let learned = self.learned(|| account(upstream), || self.learned_as(asked));
            let caller = asker.entry.as_deref();
            resolve::resolve(asked, Known { learned: learned.as_deref(), ..self.known(listed.as_ref(), caller) })?
        };
        match resolution {
            Resolution::Send(target) => Ok(target),
            // In a box: a request's future is large enough without what it seldom needs.
            other => Box::pin(self.carry_out(other, asked, upstream, asker, own)).await,
        }
    }

    /// The profile for a model that the upstream would not serve by its identifier; none when there is no way. An error where
    /// nobody knows, because profiles cannot be listed.
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
        let model = match identifier::read(&sent.identifier, self.settings.partition, |_| false) {
            Ok(identifier::Identifier::Model { id, .. } | identifier::Identifier::ModelArn { id }) => id,
            _ => return None,
        };
        let listing = self.refresh_unless_fresh(upstream, asker).await;
        let (resolution, is_known) = {
            let listed = self.catalogue.load();
            let learned = self.learned(|| account(upstream), || model);
            let caller = asker.entry.as_deref();
            let known = Known { learned: learned.as_deref(), ..self.known(listed.as_ref(), caller) };
            let is_known = known.catalogue.is_some_and(|catalogue| catalogue.model(model).is_some());
            (resolve::profile_for(model, known), is_known)
        };
        match (resolution, listing) {
            // What a listing has told of the model before holds.
            (Ok(Resolution::Send(target)), Err(why)) if !target.is_profile && !is_known => {
                Some(Err(unlisted(model, &upstream.region, &why)))
            }
            (Ok(Resolution::Send(target)), _) if !target.is_profile => None,
            (Ok(resolution), _) => Some(self.carry_out(resolution, asked, upstream, asker, own).await),
            (Err(refusal), _) => Some(Err(refusal)),
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
        match identifier::read(name, self.settings.partition, |_| false) {
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
            // What is not known then is said below.
            let _ = self.refresh_unless_fresh(upstream, asker).await;
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
                let account = account(upstream);
                let alone = Arc::clone(lock(&self.busy).entry(model.clone()).or_default());
                let came = Instant::now();
                let mut failed = alone.lock().await;
                if let Some(failed) = failed.as_ref().filter(|failed| failed.at >= came) {
                    return Err(failed.refusal.clone());
                }
                if let Some(identifier) = self.learned(|| account.clone(), || &model) {
                    return Ok(Target { identifier, is_profile: true, how: How::Learned });
                }
                let made = self.own_profile(&model, &source_arn, upstream, &account, asker, own).await;
                let (identifier, how) = made.inspect_err(|refusal| {
                    *failed = Some(FailedCreation { at: Instant::now(), refusal: refusal.clone() });
                })?;
                self.learn(&account, &model, &identifier);
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

    /// The profile that was learned for a model in an account. Most times nothing was, and neither is asked for.
    fn learned<'a>(&self, account: impl FnOnce() -> String, model: impl FnOnce() -> &'a str) -> Option<String> {
        let learned = lock(&self.learned);
        if learned.is_empty() {
            return None;
        }
        let entry = learned.get(&(account(), model().to_owned()))?;
        (entry.until > Instant::now()).then(|| entry.identifier.clone())
    }

    fn learn(&self, account: &str, model: &str, identifier: &str) {
        let entry = Learned { identifier: identifier.to_owned(), until: Instant::now() + LEARNED_FOR };
        lock(&self.learned).insert((account.to_owned(), model.to_owned()), entry);
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

fn unlisted(model: &str, region: &str, why: &str) -> Refusal {
    Refusal::new(
        RefusalKind::ServiceUnavailable,
        format!(
            "{model} needs an inference profile, and those of {region} could not be listed: {why}; until they can be, name a profile in the request."
        ),
    )
}

fn account(upstream: &Upstream) -> String {
    upstream.credentials().account_key()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Every critical section here is a single insert, removal or look-up.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
