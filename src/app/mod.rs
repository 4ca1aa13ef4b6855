//! The only place that constructs: settings become listeners, upstreams, credentials and the road between them.

mod build;
mod front;
mod reload;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

pub(crate) use build::upstreams;

use crate::admin::failures::Failures;
use crate::admin::{self, desk::Desk};
use crate::caller::{HostRole, Peers};
use crate::credentials::source::aws_sdk_config;
use crate::crypto;
use crate::ledger::{Ledger, LedgerError, StateDir};
use crate::lifecycle::roll_call::RollCall;
use crate::lifecycle::{Event, Events, InheritError, Inherited, notify, pulse};
use crate::limits::fleet::OwnDynamo;
use crate::limits::{Limits, Names, SystemClock};
use crate::listen::descriptors::{self, Provided};
use crate::listen::places::{Kind, Places};
use crate::listen::requests::{self, Requests};
use crate::listen::{BindError, Shared};
use crate::metrics::Metrics;
use crate::model::behind;
use crate::own_call;
use crate::partition::Partition;
use crate::receive::budget::Budget;
use crate::road::Road;
use crate::settings::tls::TlsError;
use crate::settings::{self, Settings};
use crate::telemetry::{self, Telemetry};
use crate::workers::Workers;
use build::{Built, SHORT, build};
use front::{Bound, Front};
use reload::Prepared;

/// What shipping gets at the end. What is not shipped by then is in the ledger, and goes after the next start.
const SHIPPING_TIMEOUT: Duration = Duration::from_secs(5);

/// How long requests that are cut off get to write their records.
const CUT_TIMEOUT: Duration = Duration::from_secs(2);

/// What the end of the ledger and of the limits may take beside.
const STOP_MARGIN: Duration = Duration::from_secs(20);

/// The admin address's own places: a flood of requests must not hide the daemon from its admin.
const ADMIN_CONNECTIONS: usize = 64;
const ADMIN_CONNECTIONS_PER_USER: usize = 32;

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
    /// There is no thread, or no descriptor, for those that serve requests.
    #[error("the threads that serve requests cannot start: {0}.")]
    Workers(std::io::Error),
    /// The admin address gets no thread of its own.
    #[error("the thread of the admin address cannot start: {0}.")]
    AdminThread(std::io::Error),
    /// The HTTP client for an upstream cannot be built; the text says why.
    #[error("{0}.")]
    Upstream(String),
    /// No collector can be reached as `[telemetry]` says.
    #[error("otlp_endpoint under [telemetry] cannot be used: {0}.")]
    Telemetry(String),
}

/// A daemon whose sockets are bound.
#[derive(Debug)]
pub struct App {
    settings: Settings,
    bound: Vec<Bound>,
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
    telemetry: Arc<Telemetry>,
    begun: Instant,
    buffered: Arc<Budget>,
    requests: Arc<Requests>,
    desk: Arc<Desk>,
    followers: Arc<Desk>,
    /// See `Road`.
    cut_off: Arc<AtomicBool>,
    stopping: Arc<AtomicBool>,
    reload_refused: Arc<ArcSwapOption<String>>,
}

impl Lasting {
    fn new(
        audit: Arc<Ledger>,
        limits: Arc<Limits>,
        host: Arc<HostRole>,
        metrics: Arc<Metrics>,
        requests: Arc<Requests>,
    ) -> Lasting {
        Lasting {
            audit,
            limits,
            host,
            metrics,
            failures: Arc::default(),
            telemetry: Arc::new(Telemetry::new()),
            begun: Instant::now(),
            buffered: Arc::default(),
            requests,
            desk: Arc::default(),
            followers: Arc::default(),
            cut_off: Arc::default(),
            stopping: Arc::default(),
            reload_refused: Arc::default(),
        }
    }
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
        let threads = settings.threads.get();
        let Provided { connections, requests: bounds, too_few } =
            descriptors::provide(most, bounds, ADMIN_CONNECTIONS, threads);
        if let Some(sentence) = too_few {
            tracing::warn!("{sentence}");
        }
        let mut of_a_user = settings.listen.max_connections_per_user;
        if connections < most {
            of_a_user = of_a_user.min(connections.div_ceil(2));
        }
        let metrics = Arc::default();
        let places = Places::new(Kind::Main, connections, of_a_user, Arc::clone(&metrics));
        let bound = front::bind(&settings.listen, &mut inherited)?;
        inherited.finish()?;
        let requests = Requests::new(bounds);
        Ok(App { settings, bound, peers, places, requests, metrics })
    }

    /// The addresses that requests may be sent to, as bound.
    pub fn addresses(&self) -> Vec<String> {
        self.bound.iter().filter(|bound| !bound.is_admin()).map(Bound::name).collect()
    }

    /// The address of the admin listener, as bound.
    pub fn admin_address(&self) -> String {
        self.bound.iter().find(|bound| bound.is_admin()).map(Bound::name).unwrap_or_default()
    }

    /// Serves until an event says to stop; then lets what is in flight come to its end, for as long as `drain.timeout`. A
    /// stop that comes before it serves ends it at once.
    ///
    /// # Errors
    /// The state directory or an upstream cannot be used. Once it serves, it returns none.
    pub async fn run(self, mut events: Events) -> Result<(), StartError> {
        let (addresses, admin_address) = (self.addresses().join(","), self.admin_address());
        let App { settings, bound, peers, places, requests, metrics } = self;
        let Some(audit) = events.unless_stopped(Ledger::start(&settings.audit)).await else { return Ok(()) };
        let audit = audit?;
        let start = async {
            let limits = Limits::new(&settings.limits, SystemClock);
            let use_file = StateDir::find(&settings.audit).root.join("limits.json");
            let spent = limits.persist_with(use_file, Arc::clone(&audit), past_names(&settings)).await?;
            let fleet = settings.limits.fleet.as_ref();
            let fleet = fleet.map(|fleet| limits.join_fleet(OwnDynamo::new(&fleet.table, &fleet.region)));
            let host = host_role(&settings);
            let lasting = Arc::new(Lasting::new(Arc::clone(&audit), limits, host, metrics, requests));
            let built = build(&settings, &lasting, None, SHORT).await?;
            let told = telemetry::Change::between(None, settings.telemetry.as_ref()).map_err(StartError::Telemetry)?;
            lasting.telemetry.apply(told, audit.host_id()).await;
            Ok::<_, StartError>((lasting, built, spent, fleet))
        };
        let Some(started) = events.unless_stopped(start).await else {
            audit.stop(Instant::now() + SHIPPING_TIMEOUT).await;
            tracing::info!("stopped before it served");
            return Ok(());
        };
        let (lasting, built, spent, fleet) = started?;
        lasting.audit.begin_chain(&own_call::record(&built.road));

        let road = Arc::new(ArcSwap::new(Arc::clone(&built.road)));
        let loops = Arc::<RollCall>::default();
        let workers = Workers::start(settings.threads, &loops).map_err(StartError::Workers)?;
        let shared = |places, workers| Shared::new(places, settings.listen.timeouts, &peers, &lasting.metrics, workers);
        let admin =
            Places::new(Kind::Admin, ADMIN_CONNECTIONS, ADMIN_CONNECTIONS_PER_USER, Arc::clone(&lasting.metrics));
        let (main, admin) = (shared(places, Some(&workers)), shared(admin, None));
        let mut front = Front::new(road, main, admin, watch::Sender::new(false), loops, Arc::clone(&workers));
        for bound in bound {
            front.open(bound)?;
        }
        tracing::info!(%addresses, %admin_address, version = env!("CARGO_PKG_VERSION"), module = %crypto::module(), "listening");
        let built = serve(events, &lasting, &mut front, built).await;
        let _told = stop(&lasting, front, built.road.settings.drain_timeout).await;
        workers.stop().await;
        lasting.telemetry.stop().await;
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

/// Serves until the daemon is told to stop, and says what the last road was. A reload is prepared beside: signals and the
/// service manager are attended to meanwhile.
async fn serve(mut events: Events, lasting: &Arc<Lasting>, front: &mut Front, built: Built) -> Arc<Built> {
    let mut built = Arc::new(built);
    let status = Arc::new(ArcSwap::from_pointee(status_line(&built.road, front)));
    notify::ready(&status.load()());
    let told = Arc::clone(&status);
    let loops = Arc::clone(front.loops());
    let _pulse = pulse::start(loops, move || told.load()());
    let mut reloads = JoinSet::new();
    let mut once_more = false;
    loop {
        tokio::select! {
            event = events.next() => match event {
                Event::Stop => return built,
                Event::Reload => once_more = true,
            },
            // The one before may have closed an address that this one binds again.
            () = front.closed(), if once_more && reloads.is_empty() => {
                once_more = false;
                notify::reloading();
                let (former, lasting) = (Arc::clone(&built), Arc::clone(lasting));
                reloads.spawn(reload::prepare(former, lasting, front.standing(), reload::LONGEST));
            }
            Some(outcome) = reloads.join_next() => {
                match take_over(outcome, lasting, front).await {
                    Ok(new) => {
                        built = Arc::new(new);
                        lasting.reload_refused.store(None);
                        tracing::info!("configuration reloaded");
                    }
                    Err(reason) => {
                        tracing::error!(%reason, "the new configuration cannot be used; the old one stays in force");
                        lasting.reload_refused.store(Some(Arc::new(reason)));
                    }
                }
                status.store(Arc::new(status_line(&built.road, front)));
                notify::ready(&status.load()());
            }
        }
    }
}

async fn take_over(
    outcome: Result<Result<Prepared, String>, JoinError>,
    lasting: &Lasting,
    front: &mut Front,
) -> Result<Built, String> {
    let prepared =
        outcome.map_err(|error| format!("an error in the daemon's own code ended the reload: {error}"))??;
    prepared.take_over(lasting, front).await
}

/// Lets requests come to their ends, and cuts off what has not by then. The service manager hears of the stop until what is
/// returned is dropped.
async fn stop(lasting: &Lasting, mut front: Front, timeout: Duration) -> JoinSet<()> {
    lasting.stopping.store(true, Ordering::Relaxed);
    tracing::info!(timeout_seconds = timeout.as_secs(), connections = lasting.metrics.connections(), "draining");
    let metrics = Arc::clone(&lasting.metrics);
    let told = pulse::start_drain(timeout, CUT_TIMEOUT + SHIPPING_TIMEOUT + STOP_MARGIN, move || metrics.in_flight());
    if !front.drain(timeout).await {
        // What is left may be connections without a request.
        if lasting.metrics.in_flight() > 0 {
            tracing::warn!("requests were still in flight when drain.timeout had passed; they are cut off");
        }
        lasting.cut_off.store(true, Ordering::Relaxed);
        front.cut();
    }
    // What ran beside its connection may not have ended with it.
    let _ = tokio::time::timeout(CUT_TIMEOUT, lasting.metrics.until_idle()).await;
    told
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

/// The keys of this host's role, by which apps on it are recognised. Where the environment holds the commercial keys, the
/// default chain would find those, so there it is not asked.
fn host_role(settings: &Settings) -> Arc<HostRole> {
    let by_environment =
        |upstream: &settings::Upstream| matches!(upstream.credentials.source, settings::SecretLocation::Environment);
    if settings.upstreams.iter().any(by_environment) && std::env::var_os("AWS_ACCESS_KEY_ID").is_some() {
        return Arc::new(HostRole::unknown());
    }
    let region = settings.audit.region.clone();
    HostRole::start(move || {
        let region = region.clone();
        async move { aws_sdk_config(&region).await }
    })
}

/// What `systemctl status` shows, at any time.
fn status_line(road: &Arc<Road>, front: &Front) -> impl Fn() -> String + Send + Sync + 'static {
    let (road, places) = (Arc::clone(road), front.names().join(", "));
    move || {
        let state = match admin::not_ready(&road).first() {
            Some(reason) => format!("Not ready: {reason} Listening on {places}"),
            None => {
                let kinds = road.accounts.iter().map(|account| account.credentials.status().description);
                let kinds: Vec<&str> = kinds.map(|kind| kind.unwrap_or("no credential")).collect();
                let (region, kinds, failing) = (road.first_region(), kinds.join(", "), admin::passed_over(&road));
                let whose = match Partition::of_region(region) {
                    Partition::Commercial => "commercial",
                    Partition::Govcloud => "GovCloud's",
                };
                format!("Ready: {whose} Bedrock of {region} ({kinds}){failing}. Listening on {places}")
            }
        };
        match &*road.reload_refused.load() {
            Some(reason) => format!("{state}. The last reload was refused: {reason}"),
            None => state,
        }
    }
}

#[cfg(test)]
mod tests;
