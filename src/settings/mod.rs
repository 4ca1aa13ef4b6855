//! The configuration as it is meant: every value checked, every default filled in. What cannot work is refused here,
//! before anything has been bound or contacted.

pub(crate) mod accounts;
mod admin;
pub(crate) mod anchor;
mod audit;
pub(crate) mod callers;
mod credentials;
pub(crate) mod failover;
pub(crate) mod guardrails;
pub(crate) mod headers;
pub mod limits;
pub(crate) mod listen;
mod mantle;
pub mod model_price;
mod models;
mod names;
mod partitions;
mod patterns;
pub(crate) mod roles_anywhere;
pub(crate) mod secrets;
mod telemetry;
pub(crate) mod tls;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use toml::Spanned;

pub use anchor::{Anchor, S3Anchor};

use crate::config::{self, Config, ConfigError, Durability, Endpoint, Log, OnFailure, OnFull, Source};
use crate::operation::{Plane, Planes};
use crate::partition::{Partition, Partitions};

use audit::audit;
use credentials::credentials;
pub(crate) use credentials::{Credentials, SecretLocation};
pub(crate) use mantle::Mantle;
pub(crate) use models::{Models, Pin};
pub(crate) use names::is_region;
use names::{any_region, upstream_region};
pub(crate) use telemetry::Telemetry;

/// Everything the daemon was told.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The file these come from; none when the built-in defaults are used.
    pub(crate) path: Option<PathBuf>,
    pub(crate) listen: listen::Listen,
    pub(crate) admin: admin::Admin,
    pub(crate) upstreams: Vec<Upstream>,
    /// No `[[upstreams]]` is configured: a region that the credential names replaces the default one.
    pub(crate) upstream_is_default: bool,
    pub(crate) upstreams_policy: failover::UpstreamsPolicy,
    pub(crate) timeouts: Timeouts,
    pub(crate) credentials: Credentials,
    pub(crate) models: Models,
    pub(crate) headers: headers::Headers,
    pub(crate) guardrails: guardrails::Guardrails,
    pub(crate) mantle: Mantle,
    pub(crate) max_body_bytes: usize,
    pub(crate) max_buffered_bytes: usize,
    pub(crate) callers: callers::Callers,
    pub(crate) policy: callers::Policy,
    pub(crate) limits: limits::Limits,
    pub(crate) audit: Audit,
    pub(crate) drain_timeout: Duration,
    pub(crate) log: config::LogFormat,
    pub(crate) log_level: config::LogLevel,
    /// Whom traces and metrics are sent to.
    pub(crate) telemetry: Option<Telemetry>,
    /// Sentences about what is odd, but may be meant, each with its place.
    pub(crate) warnings: Vec<String>,
    /// Core dumps and debuggers may see the process's memory.
    pub(crate) core_dumps: bool,
    /// Threads that serve requests.
    pub(crate) threads: NonZeroUsize,
}

/// One region and the hosts that serve it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Upstream {
    pub region: String,
    /// The host of each plane.
    pub endpoints: Planes<Endpoint>,
    /// Whether it is used.
    pub used: Planes<bool>,
    /// Trusted instead of the system's roots.
    pub ca: Option<Vec<CertificateDer<'static>>>,
    /// The top-level ones, unless it has its own.
    pub credentials: Credentials,
    /// Its share of the requests, where they are spread.
    pub weight: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Timeouts {
    /// TCP and TLS handshakes together.
    pub connect: Duration,
    /// From the request's last byte to the answer's head.
    pub first_byte: Duration,
    /// Between two reads of an answer's body.
    pub idle: Duration,
}

/// What `[audit]` means.
#[derive(Debug, Clone)]
pub struct Audit {
    /// Where the ledger stands; `ledger::StateDir::find` says what holds without it.
    pub state_dir: Option<PathBuf>,
    /// The DynamoDB table; none keeps records on this host.
    pub table: Option<String>,
    /// The table's region.
    pub region: String,
    /// How long a record is kept from the start of its request.
    pub retention: Duration,
    /// What happens to requests that cannot be recorded.
    pub on_failure: OnFailure,
    /// What a record survives once its request is on its way.
    pub durability: Durability,
    /// How large the ledger on this host may grow, in bytes.
    pub max_ledger_bytes: u64,
    /// What happens when the ledger has reached its bound.
    pub on_full: OnFull,
    /// Where the end of the chain is written every minute.
    pub anchor: Option<Anchor>,
}

/// Regions in which Bedrock has FIPS hosts (AWS's FIPS endpoint list).
const FIPS_REGIONS: [&str; 6] =
    ["us-east-1", "us-east-2", "us-west-2", "ca-central-1", "us-gov-west-1", "us-gov-east-1"];

/// The region used when neither the configuration nor the credential names one.
pub(crate) const DEFAULT_REGION: &str = "us-east-1";

impl Settings {
    /// Reads, parses and checks a file, and the files that it names.
    ///
    /// # Errors
    /// The first thing that cannot be used, with its line and column.
    pub fn load(path: &Path) -> Result<Settings, ConfigError> {
        let settings = Settings::from_source(&Source::read(path)?)?;
        Ok(Settings { path: Some(path.to_owned()), ..settings })
    }

    /// Parses and checks the text of a file.
    pub(crate) fn from_source(source: &Source) -> Result<Settings, ConfigError> {
        Settings::new(source.parse()?, source)
    }

    /// What holds without a file.
    ///
    /// # Errors
    /// None is known: the defaults pass the same checks as a file.
    pub fn built_in() -> Result<Settings, ConfigError> {
        Settings::new(Config::default(), &Source::new(Path::new("(built-in defaults)"), String::new()))
    }

    fn new(config: Config, source: &Source) -> Result<Settings, ConfigError> {
        let mut warnings = Vec::new();
        let upstream_is_default = config.upstreams.is_none();
        let policy = callers::policy(config.policy, !config.callers.is_empty(), &mut warnings, source)?;
        let listen = listen::Listen::new(config.listen, source)?;
        let admin = admin::Admin::new(config.admin, source)?;
        let max_buffered_bytes = limits::max_buffered_bytes(&config.limits, source)?;
        let prices = limits::Prices::of_file(config.limits.prices_file.as_ref(), source)?;
        let has_client_ca = listen.tls.as_ref().is_some_and(|tls| tls.client_ca_file.is_some());
        let around = callers::Around { policy: &policy, prices: prices.as_ref(), has_client_ca, source };
        let callers = callers::callers(config.callers, &around, &mut warnings)?;
        let timeout = |key, written, longest| at_most(key, written, longest, source);
        let audit = audit(config.audit, &mut warnings, source)?;
        let written = config.upstreams.as_ref().map(|upstreams| upstreams.get_ref().as_slice());
        let upstreams_policy = failover::policy(&config.upstreams_policy, written, &mut warnings, source);
        let of_its_own = config.credentials.as_ref().map(Spanned::span);
        let credentials = credentials(config.credentials, "[credentials]", None, source)?;
        let mantle = Mantle::new(&config.mantle);
        let upstreams = upstreams(config.upstreams, &credentials, &mantle, &mut warnings, source)?;
        mantle.check_used(&upstreams, source)?;
        let partitions: Partitions = upstreams.iter().map(Upstream::partition).collect();
        if let Some(span) = of_its_own
            && upstreams.iter().all(|upstream| upstream.credentials != credentials)
        {
            let sentence = "every upstream has credentials of its own, so this table is not used.";
            warnings.push(source.error(span, sentence).to_string());
        }
        Ok(Settings {
            path: None,
            listen,
            admin,
            upstreams,
            upstream_is_default,
            upstreams_policy,
            timeouts: Timeouts {
                connect: timeout("connect", &config.upstream_timeouts.connect, DAY / 144)?,
                first_byte: timeout("first_byte", &config.upstream_timeouts.first_byte, DAY)?,
                idle: timeout("idle", &config.upstream_timeouts.idle, DAY)?,
            },
            credentials,
            models: models::models(config.models, partitions, &mut warnings, source)?,
            headers: headers::headers(config.headers, source)?,
            guardrails: guardrails::guardrails(config.guardrails, source)?,
            mantle,
            max_body_bytes: config.limits.max_body_bytes.get(),
            max_buffered_bytes,
            limits: limits::Limits::new(config.limits, &callers, config.fleet, prices, &audit, source)?,
            callers,
            policy,
            audit,
            drain_timeout: timeout("timeout", &config.drain.timeout, DAY)?,
            log: format(&config.log),
            log_level: config.log.level,
            telemetry: telemetry::telemetry(config.telemetry, source)?,
            warnings,
            core_dumps: config.process.core_dumps,
            threads: threads(&config.runtime.threads, source)?,
        })
    }

    /// Those that have an upstream.
    pub(crate) fn partitions(&self) -> Partitions {
        self.upstreams.iter().map(Upstream::partition).collect()
    }

    /// What an admin should know, though the daemon runs.
    pub(crate) fn all_warnings(&self) -> impl Iterator<Item = &String> {
        self.warnings.iter().chain(&self.callers.warnings)
    }
}

/// More would not run, and each takes memory.
const MOST_THREADS: u16 = 512;

/// What serves requests needs no more where nothing is said, and hosts have hundreds of cores.
const MOST_BY_ITSELF: NonZeroUsize = NonZeroUsize::MIN.saturating_add(7);

/// One a core where nothing is said, as far as they are of use.
fn threads(written: &Spanned<u16>, source: &Source) -> Result<NonZeroUsize, ConfigError> {
    if *written.get_ref() > MOST_THREADS {
        let sentence = format!("runtime.threads must be at most {MOST_THREADS}; 0 means one for each core, 8 at most.");
        return Err(source.error(written.span(), sentence));
    }
    let cores = || std::thread::available_parallelism().map_or(NonZeroUsize::MIN, |cores| cores.min(MOST_BY_ITSELF));
    Ok(NonZeroUsize::new(usize::from(*written.get_ref())).unwrap_or_else(cores))
}

/// A day, to measure what is too long by.
const DAY: Duration = Duration::from_secs(86_400);

/// A duration, unless it is so long that it cannot be meant.
fn at_most(
    key: &str,
    written: &Spanned<config::Span>,
    longest: Duration,
    source: &Source,
) -> Result<Duration, ConfigError> {
    let config::Span(duration) = *written.get_ref();
    if duration <= longest {
        return Ok(duration);
    }
    let minutes = longest.as_secs() / 60;
    let longest = if minutes.is_multiple_of(1440) { format!("{}d", minutes / 1440) } else { format!("{minutes}m") };
    Err(source.error(written.span(), format!("{key} is at most \"{longest}\".")))
}

fn format(log: &Log) -> config::LogFormat {
    log.format
}

fn upstreams(
    upstreams: Option<Spanned<Vec<Spanned<config::Upstream>>>>,
    credentials: &Credentials,
    mantle: &Mantle,
    warnings: &mut Vec<String>,
    source: &Source,
) -> Result<Vec<Upstream>, ConfigError> {
    let Some(upstreams) = upstreams else {
        let is_fips = FIPS_REGIONS.contains(&DEFAULT_REGION);
        let beside = mantle::Beside { region: DEFAULT_REGION, is_fips, is_private: false };
        mantle.is_used(None, &beside, warnings, source)?;
        return Ok(vec![Upstream::of_region(DEFAULT_REGION, credentials, mantle)]);
    };
    if upstreams.get_ref().is_empty() {
        return Err(source.error(upstreams.span(), "the list of upstreams is empty; name one region or leave it out."));
    }
    let mut known = Vec::<Upstream>::new();
    for upstream in upstreams.into_inner() {
        let span = upstream.span();
        let upstream = one_upstream(upstream.into_inner(), credentials, mantle, warnings, source)?;
        partitions::check_apart(&upstream, &known, span.clone(), source)?;
        let is_same_host = |other: &Upstream| other.endpoint(Plane::Runtime) == upstream.endpoint(Plane::Runtime);
        if known.iter().any(|other| other.region == upstream.region && is_same_host(other)) {
            return Err(
                source.error(span, format!("region {} is named twice with the same endpoint.", upstream.region))
            );
        }
        known.push(upstream);
    }
    partitions::note_environment(&mut known);
    Ok(known)
}

fn one_upstream(
    upstream: config::Upstream,
    shared: &Credentials,
    mantle: &Mantle,
    warnings: &mut Vec<String>,
    source: &Source,
) -> Result<Upstream, ConfigError> {
    let region = upstream_region(&upstream.region, upstream.partition.as_ref(), source)?;
    let has_fips = FIPS_REGIONS.contains(&region.as_str());
    if upstream.fips == Some(true) && !has_fips && upstream.runtime_endpoint.is_none() {
        let partition = Partition::of_region(&region);
        let others = FIPS_REGIONS.into_iter().filter(|other| Partition::of_region(other) == partition);
        let others = others.collect::<Vec<_>>().join(", ");
        return Err(source.error(
            upstream.region.span(),
            format!("Bedrock has no FIPS host in {region}; choose one of {others} or set fips = false."),
        ));
    }
    let fips = upstream.fips.unwrap_or(has_fips);
    let written = Planes::each(|plane| match plane {
        Plane::Runtime => upstream.runtime_endpoint.as_ref(),
        Plane::Control => upstream.control_endpoint.as_ref(),
        Plane::AgentRuntime => upstream.agent_runtime_endpoint.as_ref(),
        Plane::Mantle => upstream.mantle_endpoint.as_ref(),
    });
    for endpoint in written.iter().flatten() {
        names::serves(endpoint, &region, source)?;
    }
    let endpoints = Planes::each(|plane| match written.of(plane) {
        Some(endpoint) => endpoint.get_ref().clone(),
        None => host(plane, &region, fips),
    });
    let ca = upstream.ca_file.map(|file| ca_certificates(&file, source)).transpose()?;
    let own = upstream
        .credentials
        .map(|own| credentials(Some(own), "the upstream's credentials", Some(&region), source))
        .transpose()?;
    let weight = failover::weight(upstream.weight.as_ref(), source)?;
    let is_of_fips = |endpoint: &Spanned<Endpoint>| endpoint.get_ref().host.contains("bedrock-runtime-fips");
    let is_fips = fips || upstream.runtime_endpoint.as_ref().is_some_and(is_of_fips);
    let is_private = upstream.runtime_endpoint.is_some() || upstream.control_endpoint.is_some();
    let beside = mantle::Beside { region: &region, is_fips, is_private };
    let mantle = mantle.is_used(upstream.mantle_endpoint.as_ref(), &beside, warnings, source)?;
    let used = Planes::each(|plane| match plane {
        Plane::Runtime | Plane::Control => true,
        Plane::AgentRuntime => written.of(plane).is_some() || !is_private,
        Plane::Mantle => mantle,
    });
    Ok(Upstream { endpoints, used, region, ca, credentials: own.unwrap_or_else(|| shared.clone()), weight })
}

impl Upstream {
    /// The partition that it is in.
    pub(crate) fn partition(&self) -> Partition {
        Partition::of_region(&self.region)
    }

    /// Whether the host of a plane is used.
    pub(crate) fn serves(&self, plane: Plane) -> bool {
        *self.used.of(plane)
    }

    /// The host of a plane.
    pub(crate) fn endpoint(&self, plane: Plane) -> &Endpoint {
        self.endpoints.of(plane)
    }

    /// AWS's own hosts of a region, FIPS where it has them.
    pub(crate) fn of_region(region: &str, credentials: &Credentials, mantle: &Mantle) -> Upstream {
        let fips = FIPS_REGIONS.contains(&region);
        Upstream {
            region: region.to_owned(),
            endpoints: Planes::each(|plane| host(plane, region, fips)),
            used: Planes::each(|plane| plane != Plane::Mantle || mantle.enabled),
            ca: None,
            credentials: credentials.clone(),
            weight: 1,
        }
    }
}

/// AWS's own host of a plane.
fn host(plane: Plane, region: &str, fips: bool) -> Endpoint {
    let service = match plane {
        Plane::Runtime => "bedrock-runtime",
        Plane::Control => "bedrock",
        Plane::AgentRuntime => "bedrock-agent-runtime",
        Plane::Mantle => return mantle::host(region),
    };
    Endpoint::https(format!("{service}{}.{region}.amazonaws.com", if fips { "-fips" } else { "" }))
}

fn ca_certificates(
    file: &Spanned<config::FilePath>,
    source: &Source,
) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    let path = &file.get_ref().0;
    let fail =
        |why: String| source.error(file.span(), format!("the CA file {} cannot be used: {why}.", path.display()));
    tls::certificates(path).map_err(fail)
}

#[cfg(test)]
mod tests;
