//! The road: built from settings, and from what a former road has that the settings have not changed.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{Lasting, StartError};
use crate::caller::Callers;
use crate::credentials::Credentials;
use crate::model::Models;
use crate::operation::Plane;
use crate::partition::Partition;
use crate::road::{Account, Region, Road};
use crate::settings::{self, Settings};
use crate::upstream::Upstream;

/// How long the models may be listed, and a credential that there is already may be read again, before a road is used.
pub(super) const SHORT: Duration = Duration::from_secs(5);

/// A road, and the tasks that keep fresh what it is made of. A task goes over to the next road with what it cares for.
#[derive(Debug)]
pub(super) struct Built {
    pub road: Arc<Road>,
    /// One for each of the road's accounts.
    accounts: Vec<Upkeep>,
    /// One for each of the road's regions.
    regions: Vec<Upkeep>,
}

/// Ends its tasks with the last road that has it.
type Upkeep = Arc<JoinSet<()>>;

/// Builds the road and lets it come to know its credentials and models. A source that gives no credential yet is waited for
/// as long as `patience` says.
///
/// # Errors
/// An upstream's client cannot be built.
pub(super) async fn build(
    settings: &Settings,
    lasting: &Lasting,
    former: Option<&Built>,
    patience: Duration,
) -> Result<Built, StartError> {
    let (accounts, regions) = upstreams(settings, former.map(|former| &*former.road)).await?;
    let road = Arc::new(Road {
        credentials: Arc::clone(&main_credentials(settings, &accounts)?.credentials),
        partitions: regions.iter().map(Region::partition).collect(),
        regions,
        accounts,
        callers: Callers::new(settings, Arc::clone(&lasting.host)),
        limits: Arc::clone(&lasting.limits),
        audit: Arc::clone(&lasting.audit),
        settings: settings.clone(),
        metrics: Arc::clone(&lasting.metrics),
        failures: Arc::clone(&lasting.failures),
        telemetry: Arc::clone(&lasting.telemetry),
        begun: lasting.begun.into_std(),
        buffered: Arc::clone(&lasting.buffered),
        requests: Arc::clone(&lasting.requests),
        desk: Arc::clone(&lasting.desk),
        followers: Arc::clone(&lasting.followers),
        cut_off: Arc::clone(&lasting.cut_off),
        stopping: Arc::clone(&lasting.stopping),
        reload_refused: Arc::clone(&lasting.reload_refused),
    });
    prepare(&road, patience).await;
    let accounts = road.accounts.iter().map(|account| {
        let kept = former.and_then(|former| former.upkeep_of_account(account));
        kept.unwrap_or_else(|| Arc::new(keep_credential(account)))
    });
    let regions = road.regions.iter().map(|region| {
        let kept = former.and_then(|former| former.upkeep_of_region(region, settings));
        kept.unwrap_or_else(|| Arc::new(keep_region(region, settings)))
    });
    let (accounts, regions) = (accounts.collect(), regions.collect());
    Ok(Built { road, accounts, regions })
}

impl Built {
    fn upkeep_of_account(&self, account: &Account) -> Option<Upkeep> {
        let is_it = |own: &Account| Arc::ptr_eq(&own.credentials, &account.credentials);
        self.accounts.get(self.road.accounts.iter().position(is_it)?).cloned()
    }

    fn upkeep_of_region(&self, region: &Region, settings: &Settings) -> Option<Upkeep> {
        let is_it = |own: &Region| {
            Arc::ptr_eq(&own.upstream, &region.upstream)
                && Arc::ptr_eq(&own.models, &region.models)
                && Arc::ptr_eq(&own.retention, &region.retention)
                && asks_retention(&self.road.settings) == asks_retention(settings)
        };
        self.regions.get(self.road.regions.iter().position(is_it)?).cloned()
    }
}

/// The top-level source; the first upstream's, if none uses that.
fn main_credentials<'a>(settings: &Settings, accounts: &'a [Account]) -> Result<&'a Account, StartError> {
    let main = accounts.iter().find(|account| account.settings == settings.credentials);
    main.or(accounts.first()).ok_or_else(|| StartError::Upstream("there is no upstream".to_owned()))
}

fn asks_retention(settings: &Settings) -> bool {
    !settings.policy.require_data_retention.is_empty()
}

fn keep_credential(account: &Account) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let credentials = Arc::clone(&account.credentials);
    tasks.spawn(async move { credentials.keep_fresh().await });
    tasks
}

fn keep_region(region: &Region, settings: &Settings) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let kept = region.clone();
    tasks.spawn(async move { kept.models.keep_fresh(&kept.upstream).await });
    let probed = Arc::clone(&region.upstream);
    tasks.spawn(async move { probed.keep_probing().await });
    if asks_retention(settings) {
        let kept = region.clone();
        tasks.spawn(async move { kept.retention.keep_fresh(&kept.upstream).await });
    }
    tasks
}

/// The upstreams that settings describe. What a former road has of it is taken over as it is. Nothing is contacted,
/// unless the secret has to tell the region.
pub(crate) async fn upstreams(
    settings: &Settings,
    former: Option<&Road>,
) -> Result<(Vec<Account>, Vec<Region>), StartError> {
    let mut upstreams = settings.upstreams.clone();
    let known = former.map(|road| road.accounts.as_slice()).unwrap_or_default();
    let mut read = None;
    if settings.upstream_is_default {
        let credentials = credential_of_any_region(&settings.credentials, known).await;
        if let Some(region) = credentials.region() {
            upstreams = vec![settings::Upstream::of_region(&region, &settings.credentials, &settings.mantle)];
        }
        read = Some(credentials);
    }
    let accounts = accounts(&upstreams, known, read.as_deref());
    let mut regions = Vec::new();
    for upstream in upstreams {
        let place = format!("ca_file of the upstream {}", upstream.region);
        let ca = upstream.ca.as_deref().unwrap_or_default();
        for warning in settings::tls::out_of_date(Path::new(&place), ca, SystemTime::now()) {
            tracing::warn!("{warning}");
        }
        regions.push(region(upstream, settings, &accounts, former).map_err(StartError::Upstream)?);
    }
    Ok((accounts, regions))
}

/// What the source gives now, whatever its region. A store that is in use keeps what it has.
async fn credential_of_any_region(wanted: &settings::Credentials, known: &[Account]) -> Arc<Credentials> {
    let known = known.iter().find(|account| account.settings == *wanted);
    let credentials = Arc::new(match known {
        Some(account) => account.credentials.with_regions(BTreeSet::new()),
        None => Credentials::new(wanted, BTreeSet::new()),
    });
    let _ = timeout(SHORT, credentials.load()).await;
    credentials
}

/// One for each source that an upstream names. A store that is in use goes on as long as it is for the same regions;
/// otherwise one for the new regions begins with what `read` has fetched, or else with what the one in use holds.
fn accounts(upstreams: &[settings::Upstream], known: &[Account], read: Option<&Credentials>) -> Vec<Account> {
    let mut accounts = Vec::<Account>::new();
    for upstream in upstreams {
        let wanted = &upstream.credentials;
        if accounts.iter().any(|account| account.settings == *wanted) {
            continue;
        }
        let of_it = upstreams.iter().filter(|other| other.credentials == *wanted);
        let regions: BTreeSet<String> = of_it.map(|other| other.region.clone()).collect();
        let known = known.iter().find(|account| account.settings == *wanted).map(|account| &account.credentials);
        // What a source held for one partition is not shown to the other, whatever it holds now.
        let moves = known.is_some_and(|known| !are_of_one_partition(known.regions(), &regions));
        let carried = read.or(known.map(|known| &**known)).filter(|_| !moves);
        let credentials = match (known, carried) {
            (Some(known), _) if *known.regions() == regions => Arc::clone(known),
            (_, Some(other)) => Arc::new(other.with_regions(regions)),
            (_, None) => Arc::new(Credentials::new(wanted, regions)),
        };
        accounts.push(Account { settings: wanted.clone(), credentials });
    }
    accounts
}

fn are_of_one_partition(some: &BTreeSet<String>, others: &BTreeSet<String>) -> bool {
    let partition = |regions: &BTreeSet<String>| regions.first().map(|region| Partition::of_region(region));
    partition(some) == partition(others)
}

fn region(
    wanted: settings::Upstream,
    settings: &Settings,
    accounts: &[Account],
    former: Option<&Road>,
) -> Result<Region, String> {
    let is_same_place = |region: &&Region| {
        let own = &region.settings;
        own.region == wanted.region
            && own.endpoint(Plane::Control) == wanted.endpoint(Plane::Control)
            && own.credentials == wanted.credentials
    };
    let exactly = former.and_then(|road| {
        let same = road.regions.iter().find(|region| region.settings == wanted)?;
        (road.settings.timeouts == settings.timeouts).then_some(&same.upstream)
    });
    let account = accounts.iter().find(|account| account.settings == wanted.credentials);
    let credentials = &account.ok_or("the upstream has no credentials")?.credentials;
    let upstream = match exactly {
        Some(same) if Arc::ptr_eq(same.credentials(), credentials) => Arc::clone(same),
        Some(same) => Arc::new(same.with_credentials(Arc::clone(credentials))),
        None => Arc::new(Upstream::new(&wanted, settings.timeouts, Arc::clone(credentials))?),
    };
    // What is known of an account's models in a region does not depend on the connections by which it was learned.
    let known = former.and_then(|road| Some((road, road.regions.iter().find(is_same_place)?)));
    let rules = || settings.models.in_partition(wanted.partition());
    let models = match known {
        Some((road, known)) if road.settings.models == settings.models => Arc::clone(&known.models),
        Some((_, known)) => Arc::new(known.models.under(rules())),
        None => Arc::new(Models::new(rules())),
    };
    let retention = known.map(|(_, known)| Arc::clone(&known.retention)).unwrap_or_default();
    Ok(Region { settings: wanted, upstream, models, retention })
}

/// Reads the credentials and the models. What fails is tried again in the background; what is known already is kept.
async fn prepare(road: &Arc<Road>, patience: Duration) {
    let mut reads = JoinSet::new();
    for account in &road.accounts {
        let credentials = Arc::clone(&account.credentials);
        let longest = if credentials.status().available { SHORT } else { patience };
        reads.spawn(async move { timeout(longest, credentials.load()).await });
    }
    reads.join_all().await;
    let mut listings = JoinSet::new();
    for region in road.regions.iter().filter(|region| region.upstream.credentials().status().available) {
        let (region, asks) = (region.clone(), asks_retention(&road.settings));
        listings.spawn(async move {
            let listing = async {
                if let Err(reason) = region.models.refresh(&region.upstream).await {
                    tracing::warn!(region = %region.upstream.region, %reason, "models could not be listed; trying again");
                }
                if asks {
                    region.retention.refresh(&region.upstream).await;
                }
            };
            timeout(SHORT, listing).await
        });
    }
    listings.join_all().await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::SecretLocation;

    /// Without `[[upstreams]]` the secret says where requests go. What is in use is not touched until the reload is over.
    #[tokio::test]
    async fn a_new_region_in_the_secret_is_found_beside_the_store_in_use() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let write = |key: &str, region: &str| {
            std::fs::write(file.path(), format!(r#"{{"bedrock_api_key":"ABSK{key}","region":"{region}"}}"#)).unwrap();
        };
        write("b25l", "us-east-1");
        let source = SecretLocation::File(file.path().to_owned());
        let wanted = settings::Credentials { source, refresh_interval: Duration::from_secs(300) };
        let upstreams =
            |region: &str| vec![settings::Upstream::of_region(region, &wanted, &settings::Mantle::default())];
        let first = credential_of_any_region(&wanted, &[]).await;
        assert_eq!(first.region().as_deref(), Some("us-east-1"));
        let in_use = accounts(&upstreams("us-east-1"), &[], Some(&first));
        assert!(in_use[0].credentials.status().available, "it has been read already");

        write("dHdv", "us-west-2");
        let read = credential_of_any_region(&wanted, &in_use).await;
        assert_eq!(read.region().as_deref(), Some("us-west-2"));
        let next = accounts(&upstreams("us-west-2"), &in_use, Some(&read));
        assert_eq!(next[0].credentials.region().as_deref(), Some("us-west-2"));
        assert_eq!(in_use[0].credentials.region().as_deref(), Some("us-east-1"));

        let same = accounts(&upstreams("us-west-2"), &next, Some(&read));
        assert!(Arc::ptr_eq(&same[0].credentials, &next[0].credentials));
        // A source that is gone leaves the region as it was.
        std::fs::remove_file(file.path()).unwrap();
        assert_eq!(credential_of_any_region(&wanted, &next).await.region().as_deref(), Some("us-west-2"));
    }

    /// What a source has given for one partition is not shown to the other one, not even as the key before.
    #[tokio::test]
    async fn a_key_stays_in_its_partition_when_its_upstream_moves() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "AKIAOLD:s").unwrap();
        let source = SecretLocation::File(file.path().to_owned());
        let wanted = settings::Credentials { source, refresh_interval: Duration::from_secs(300) };
        let of = |region: &str| [settings::Upstream::of_region(region, &wanted, &settings::Mantle::default())];
        let known = accounts(&of("us-east-1"), &[], None);
        known[0].credentials.load().await;
        for (region, is_carried) in [("us-west-2", true), ("us-gov-west-1", false)] {
            let moved = accounts(&of(region), &known, None);
            assert_eq!(moved[0].credentials.current(SystemTime::now()).is_ok(), is_carried, "{region}");
        }
    }
}
