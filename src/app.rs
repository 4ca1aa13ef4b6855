//! The only place that constructs: settings become listeners, upstreams, credentials and the road between them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::admin::failures::Failures;
use crate::admin::{self, desk::Desk, thread};
use crate::caller::{Callers, HostRole, Peers};
use crate::credentials::Credentials;
use crate::crypto;
use crate::ledger::{Ledger, LedgerError, StateDir};
use crate::lifecycle::roll_call::RollCall;
use crate::lifecycle::{Event, Events, InheritError, Inherited, notify, pulse};
use crate::limits::fleet::Dynamo;
use crate::limits::{Limits, Names, SystemClock};
use crate::listen::descriptors::{self, Provided};
use crate::listen::places::{Kind, Places};
use crate::listen::requests::{self, Requests};
use crate::listen::tls::Material;
use crate::listen::{BindError, Listener, Shared};
use crate::metrics::Metrics;
use crate::model::retention::Retention;
use crate::model::{Models, behind};
use crate::own_call;
use crate::receive::budget::Budget;
use crate::road::{Region, Road};
use crate::service;
use crate::settings::listen::Timeouts;
use crate::settings::tls::TlsError;
use crate::settings::{self, Settings};
use crate::upstream::Upstream;

/// How long a start or a reload waits for credentials and models before it goes on without them.
const STARTUP_TIMEOUT: Duration = Duration::from_secs(5);
/// What shipping gets at the end. What is not shipped by then is in the ledger, and goes after the next start.
const SHIPPING_TIMEOUT: Duration = Duration::from_secs(5);

/// How long requests that are cut off get to write their records.
const CUT_TIMEOUT: Duration = Duration::from_secs(2);

/// What the end of the ledger and of the limits may take beside.
const STOP_MARGIN: Duration = Duration::from_secs(10);

/// The admin address's own places: a flood of requests must not hide the daemon from its admin.
const ADMIN_CONNECTIONS: usize = 64;
const ADMIN_CONNECTIONS_PER_USER: usize = 32;
/// Its questions are short, and so is its patience.
const ADMIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Why the daemon could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address or the Unix socket cannot be bound.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// What the service manager passes does not fit `[listen]`.
    #[error(transparent)]
    Inherited(#[from] InheritError),
    /// The kernel does not say who connects, and `[[callers]]` go by that.
    #[error(
        "[[callers]] has entries with users or groups, and the kernel does not say which user has connected by TCP ({0}): allow AF_NETLINK in RestrictAddressFamilies=, or serve the unix socket alone."
    )]
    Peers(std::io::Error),
    /// A file of `[listen.tls]` cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The ledger in the state directory cannot be opened.
    #[error("{0}.")]
    Audit(#[from] LedgerError),
    /// The saved use of daily limits and budgets cannot be read.
    #[error("limits.json in the state directory cannot be used: {0}.")]
    Limits(#[from] std::io::Error),
    /// The admin address gets no thread of its own.
    #[error("the thread of the admin address cannot start: {0}.")]
    AdminThread(std::io::Error),
    /// The HTTP client for an upstream cannot be built; the text says why.
    #[error("{0}.")]
    Upstream(String),
}

/// A daemon whose sockets are bound.
#[derive(Debug)]
pub struct App {
    settings: Settings,
    listeners: Vec<Listener>,
    /// Of the TLS listener.
    material: Option<Arc<Material>>,
    admin: Listener,
    peers: Arc<Peers>,
    places: Arc<Places>,
    requests: Arc<Requests>,
    metrics: Arc<Metrics>,
}

/// What outlives a reload.
#[derive(Debug)]
struct Lasting {
    audit: Arc<Ledger>,
    limits: Arc<Limits>,
    host: Arc<HostRole>,
    metrics: Arc<Metrics>,
    failures: Arc<Failures>,
    begun: Instant,
    buffered: Arc<Budget>,
    requests: Arc<Requests>,
    desk: Arc<Desk>,
    /// See `Road::cut_off`.
    cut_off: Arc<AtomicBool>,
}

/// One road and its background tasks, which end when it is replaced.
#[derive(Debug)]
struct Built {
    road: Arc<Road>,
    _tasks: JoinSet<()>,
}

impl App {
    /// Listens where the settings say, on sockets that were inherited or else on its own. Nothing is contacted.
    ///
    /// # Errors
    /// An address or socket that cannot be bound, a file of `[listen.tls]` that cannot be used, a kernel that does not
    /// tell what `[[callers]]` need, or an inherited socket that the settings do not name.
    pub fn bind(settings: Settings, mut inherited: Inherited) -> Result<App, StartError> {
        let peers = peers(&settings)?;
        let most = settings.listen.max_connections;
        let bounds = requests::Bounds::of(most, settings.listen.max_connections_per_user);
        let Provided { connections, requests: bounds, too_few } = descriptors::provide(most, bounds, ADMIN_CONNECTIONS);
        if let Some(sentence) = too_few {
            tracing::warn!("{sentence}");
        }
        let mut of_a_user = settings.listen.max_connections_per_user;
        if connections < most {
            of_a_user = of_a_user.min(connections.div_ceil(2));
        }
        let metrics = Arc::default();
        let places = Places::new(Kind::Main, connections, of_a_user, Arc::clone(&metrics));
        let mut listeners = Vec::new();
        for address in &settings.listen.addresses {
            listeners.push(Listener::tcp(*address, &mut inherited)?);
        }
        if let Some(socket) = &settings.listen.unix_socket {
            listeners.push(Listener::unix(socket, &mut inherited)?);
        }
        let mut material = None;
        if let Some(tls) = &settings.listen.tls {
            let loaded = Arc::new(Material::load(tls.clone())?);
            listeners.push(Listener::tls(tls.address, Arc::clone(&loaded), &mut inherited)?);
            material = Some(loaded);
        }
        let admin = Listener::tcp(settings.listen.admin_address, &mut inherited)?;
        inherited.finish()?;
        let requests = Requests::new(bounds);
        Ok(App { settings, listeners, material, admin, peers, places, requests, metrics })
    }

    /// The addresses that requests may be sent to, as bound.
    pub fn addresses(&self) -> Vec<String> {
        self.listeners.iter().map(Listener::name).collect()
    }

    /// The address of the admin listener, as bound.
    pub fn admin_address(&self) -> String {
        self.admin.name()
    }

    /// Serves until an event says to stop; then lets what is in flight come to its end, for as long as `drain.timeout`.
    ///
    /// # Errors
    /// The state directory or an upstream cannot be used. Once it serves, it returns none.
    pub async fn run(self, mut events: Events) -> Result<(), StartError> {
        let App { mut settings, listeners, material, admin, peers, places, requests, metrics } = self;
        let names: Vec<String> = listeners.iter().map(Listener::name).collect();
        let audit = Ledger::start(&settings.audit).await?;
        let limits = Limits::new(&settings.limits, SystemClock);
        let use_file = StateDir::find(&settings.audit).root.join("limits.json");
        let spent = limits.persist_with(use_file, Arc::clone(&audit), past_names(&settings)).await?;
        let fleet = match &settings.limits.fleet {
            Some(fleet) => Some(limits.join_fleet(Dynamo::connect(&fleet.table, &fleet.region, audit.host_id()).await)),
            None => None,
        };
        let host = host_role(&settings).await;
        let (buffered, desk, failures, begun) = (Arc::default(), Arc::default(), Arc::default(), Instant::now());
        let cut_off = Arc::default();
        let lasting = Lasting { audit, limits, host, metrics, failures, begun, buffered, requests, desk, cut_off };
        let mut built = build(&settings, &lasting).await?;
        lasting.audit.begin_chain(&own_call::record(&built.road));
        let road = Arc::new(ArcSwap::new(Arc::clone(&built.road)));

        let (stop, stopping) = watch::channel(false);
        let (cut, cutting) = watch::channel(false);
        let (drain, draining) = watch::channel(false);
        let listen = &settings.listen;
        let shared = Shared::new(places, listen.timeouts, &peers, &lasting.metrics);
        let mut accepting = JoinSet::new();
        let mut loops = RollCall::default();
        for listener in listeners {
            let road = Arc::clone(&road);
            let service = move |client, request| service::serve(road.load_full(), client, request);
            let shared = Arc::clone(&shared);
            let calls = loops.add();
            accepting.spawn(listener.serve(
                shared,
                draining.clone(),
                stopping.clone(),
                cutting.clone(),
                calls,
                service,
            ));
        }
        let admin_name = admin.name();
        let places =
            Places::new(Kind::Admin, ADMIN_CONNECTIONS, ADMIN_CONNECTIONS_PER_USER, Arc::clone(&lasting.metrics));
        let shared = Shared::new(places, admin_timeouts(listen.timeouts), &peers, &lasting.metrics);
        let admin = thread::serve(admin, shared, draining, stopping, cutting, loops.add(), Arc::clone(&road));
        accepting.spawn(admin.map_err(StartError::AdminThread)?);
        let certificates = material.map(|material| tokio::spawn(async move { material.follow().await }));

        tracing::info!(addresses = %names.join(","), admin_address = %admin_name, version = env!("CARGO_PKG_VERSION"), module = %crypto::module(), "listening");
        let places = names.join(", ");
        notify::ready(&status_line(&built.road, &places));
        let (told_road, told_places) = (Arc::clone(&road), places.clone());
        let pulse = tokio::spawn(pulse::keep_telling(loops, move || status_line(&told_road.load(), &told_places)));
        loop {
            match events.next().await {
                Event::Stop => break,
                Event::Reload => {
                    notify::reloading();
                    match reload(&settings, &lasting).await {
                        Ok((new_settings, new)) => {
                            road.store(Arc::clone(&new.road));
                            (settings, built) = (new_settings, new);
                            tracing::info!("configuration reloaded");
                        }
                        Err(reason) => {
                            tracing::error!(%reason, "the new configuration cannot be used; the old one stays in force")
                        }
                    }
                    notify::ready(&status_line(&built.road, &places));
                }
            }
        }

        pulse.abort();
        notify::stopping(settings.drain_timeout + CUT_TIMEOUT + SHIPPING_TIMEOUT + STOP_MARGIN);
        let deadline = Instant::now() + settings.drain_timeout;
        tracing::info!(
            timeout_seconds = settings.drain_timeout.as_secs(),
            connections = lasting.metrics.connections(),
            "draining"
        );
        let _ = stop.send(true);
        while accepting.join_next().await.is_some() {}
        if let Some(certificates) = certificates {
            certificates.abort();
        }
        // Every connection listens for it until it has ended.
        let _ = drain.send(true);
        if tokio::time::timeout_at(deadline, drain.closed()).await.is_err() {
            tracing::warn!("requests were still in flight when drain.timeout had passed; they are cut off");
            lasting.cut_off.store(true, Ordering::Relaxed);
            let _ = cut.send(true);
            let _ = tokio::time::timeout(CUT_TIMEOUT, lasting.metrics.until_idle()).await;
        }
        if let Some(fleet) = fleet {
            fleet.stop().await;
        }
        if let Err(error) = spent.stop().await {
            tracing::error!(%error, "the use of daily limits and budgets could not be written");
        }
        lasting.audit.stop(Instant::now() + SHIPPING_TIMEOUT).await;
        tracing::info!("stopped");
        Ok(())
    }
}

/// Where nobody is known by a user, a kernel that tells none is only worth a warning.
fn peers(settings: &Settings) -> Result<Arc<Peers>, StartError> {
    let by_user = settings.callers.entries.iter().any(|entry| !entry.users.is_empty() || !entry.groups.is_empty());
    let by_tcp = !settings.listen.addresses.is_empty() || settings.listen.tls.is_some();
    match Peers::open() {
        Ok(peers) => Ok(Arc::new(peers)),
        Err(error) if by_user && by_tcp => Err(StartError::Peers(error)),
        Err(error) => {
            tracing::warn!(%error, "the kernel does not say which users connect by TCP (does RestrictAddressFamilies= lack AF_NETLINK?); entries with users and groups fit nobody");
            Ok(Arc::new(Peers::blind()))
        }
    }
}

/// How limits name the models of records.
fn past_names(settings: &Settings) -> Arc<Names> {
    let models = settings.models.clone();
    Arc::new(move |asked, profile| behind::of_record(asked, profile, &models))
}

fn admin_timeouts(timeouts: Timeouts) -> Timeouts {
    let short = |timeout: Duration| timeout.min(ADMIN_TIMEOUT);
    Timeouts { idle: short(timeouts.idle), header: short(timeouts.header), write: short(timeouts.write) }
}

/// The keys of this host's role, by which apps on it are recognised. Where the environment holds the commercial keys, the
/// default chain would find those, so there it is not asked.
async fn host_role(settings: &Settings) -> Arc<HostRole> {
    let commercial_keys = matches!(settings.credentials.source, settings::SecretLocation::Environment)
        && std::env::var_os("AWS_ACCESS_KEY_ID").is_some();
    if commercial_keys {
        return Arc::new(HostRole::unknown());
    }
    HostRole::start(crate::credentials::source::aws_sdk_config(&settings.audit.region).await)
}

async fn reload(old: &Settings, lasting: &Lasting) -> Result<(Settings, Built), String> {
    let Some(path) = &old.path else {
        return Err("the daemon runs on built-in defaults, so there is no file to read again".to_owned());
    };
    let new = Settings::load(path).map_err(|error| error.to_string())?;
    if new.listen != old.listen || new.log != old.log || new.log_level != old.log_level {
        tracing::warn!("changes under [listen] and [log] take effect at the next restart");
    }
    if new.threads != old.threads {
        tracing::warn!("changes under [runtime] take effect at the next restart");
    }
    if new.limits.fleet.is_some() && old.limits.fleet.is_none() {
        tracing::warn!("[fleet] takes effect at the next restart");
    }
    let new = Settings { listen: old.listen.clone(), log: old.log, log_level: old.log_level, ..new };
    let built = build(&new, lasting).await.map_err(|error| error.to_string())?;
    lasting.audit.apply(&new.audit);
    lasting.limits.apply(&new.limits);
    Ok((new, built))
}

/// Builds the road and lets it come to know its credential and models.
async fn build(settings: &Settings, lasting: &Lasting) -> Result<Built, StartError> {
    let (regions, credentials) = commercial(settings).await?;
    let road = Arc::new(Road {
        regions,
        credentials,
        callers: Callers::new(settings, Arc::clone(&lasting.host)),
        limits: Arc::clone(&lasting.limits),
        audit: Arc::clone(&lasting.audit),
        settings: settings.clone(),
        metrics: Arc::clone(&lasting.metrics),
        failures: Arc::clone(&lasting.failures),
        begun: lasting.begun.into_std(),
        buffered: Arc::clone(&lasting.buffered),
        requests: Arc::clone(&lasting.requests),
        desk: Arc::clone(&lasting.desk),
        cut_off: Arc::clone(&lasting.cut_off),
    });
    let _ = tokio::time::timeout(STARTUP_TIMEOUT, prepare(&road)).await;
    let mut tasks = JoinSet::new();
    let fresh = Arc::clone(&road);
    tasks.spawn(async move { fresh.credentials.keep_fresh().await });
    for index in 0..road.regions.len() {
        let fresh = Arc::clone(&road);
        tasks.spawn(async move {
            let region = &fresh.regions[index];
            region.models.keep_fresh(&region.upstream).await;
        });
        if !settings.policy.require_data_retention.is_empty() {
            let fresh = Arc::clone(&road);
            tasks.spawn(async move {
                let region = &fresh.regions[index];
                region.retention.keep_fresh(&region.upstream).await;
            });
        }
    }
    Ok(Built { road, _tasks: tasks })
}

/// The commercial side that settings describe. Nothing is contacted, unless the secret has to tell the region.
pub(crate) async fn commercial(settings: &Settings) -> Result<(Vec<Region>, Arc<Credentials>), StartError> {
    let credentials = Arc::new(Credentials::new(&settings.credentials).await);
    let mut upstreams = settings.upstreams.clone();
    if settings.upstream_is_default {
        let _ = tokio::time::timeout(STARTUP_TIMEOUT, credentials.load()).await;
        if let Some(region) = credentials.region() {
            upstreams = vec![settings::Upstream::of_region(&region)];
        }
    }
    for upstream in &upstreams {
        let place = format!("ca_file of the upstream {}", upstream.region);
        let ca = upstream.ca.as_deref().unwrap_or_default();
        for warning in settings::tls::out_of_date(std::path::Path::new(&place), ca, std::time::SystemTime::now()) {
            tracing::warn!("{warning}");
        }
    }
    let regions: Result<Vec<Region>, String> = upstreams
        .iter()
        .map(|upstream| {
            let models = Models::new(settings.models.clone());
            let upstream = Upstream::new(upstream, settings.timeouts, Arc::clone(&credentials))?;
            Ok(Region { upstream, models, retention: Retention::default() })
        })
        .collect();
    Ok((regions.map_err(StartError::Upstream)?, credentials))
}

/// Reads the credential and the models for the first time. What fails is tried again in the background.
async fn prepare(road: &Road) {
    if !road.credentials.status().available {
        road.credentials.load().await;
    }
    if !road.credentials.status().available {
        return;
    }
    for region in &road.regions {
        if let Err(reason) = region.models.refresh(&region.upstream).await {
            tracing::warn!(region = %region.upstream.region, %reason, "models could not be listed; trying again");
        }
        if !road.settings.policy.require_data_retention.is_empty() {
            region.retention.refresh(&region.upstream).await;
        }
    }
}

/// What `systemctl status` shows.
fn status_line(road: &Road, places: &str) -> String {
    match admin::not_ready(road).first() {
        Some(reason) => format!("Not ready: {reason} Listening on {places}"),
        None => {
            let credential = road.credentials.status().description.unwrap_or("credential");
            let passed_over = admin::passed_over(road);
            format!(
                "Ready: commercial Bedrock of {} ({credential}){passed_over}. Listening on {places}",
                road.first_region()
            )
        }
    }
}
