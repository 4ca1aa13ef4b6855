//! The configuration as it is meant: every value checked, every default filled in. What cannot work is refused here,
//! before anything has been bound or contacted.

pub(crate) mod accounts;
pub(crate) mod anchor;
pub(crate) mod callers;
pub mod limits;
pub(crate) mod secrets;
pub(crate) mod tls;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use toml::Spanned;

pub use anchor::{Anchor, S3Anchor};

use crate::config::{
    self, Config, ConfigError, CredentialSource, Durability, Endpoint, Log, LoopbackAddress, OnFailure, OnFull, Source,
};

/// Everything the daemon was told.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The file these come from; none when the built-in defaults are used.
    pub(crate) path: Option<PathBuf>,
    pub(crate) listen: Listen,
    pub(crate) upstreams: Vec<Upstream>,
    /// No `[[upstreams]]` is configured: a region that the credential names replaces the default one.
    pub(crate) upstream_is_default: bool,
    pub(crate) timeouts: Timeouts,
    pub(crate) credentials: Credentials,
    pub(crate) models: Models,
    pub(crate) max_body_bytes: usize,
    pub(crate) callers: callers::Callers,
    pub(crate) policy: callers::Policy,
    pub(crate) limits: limits::Limits,
    pub(crate) audit: Audit,
    pub(crate) drain_timeout: Duration,
    pub(crate) log: config::LogFormat,
    pub(crate) log_level: config::LogLevel,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listen {
    pub addresses: Vec<SocketAddr>,
    pub unix_socket: Option<PathBuf>,
    pub admin_address: SocketAddr,
    pub max_connections: usize,
    pub tls: Option<tls::Tls>,
}

/// One commercial region and the hosts that serve it.
#[derive(Debug, Clone)]
pub(crate) struct Upstream {
    pub region: String,
    /// Serves the data plane: `bedrock-runtime`.
    pub runtime: Endpoint,
    /// Serves models and profiles: `bedrock`.
    pub control: Endpoint,
    /// Trusted instead of the system's roots.
    pub ca: Option<Vec<CertificateDer<'static>>>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Timeouts {
    /// TCP and TLS handshakes together.
    pub connect: Duration,
    /// From the request's last byte to the answer's head.
    pub first_byte: Duration,
    /// Between two reads of an answer's body.
    pub idle: Duration,
}

#[derive(Debug, Clone)]
pub(crate) struct Credentials {
    pub source: SecretLocation,
    pub refresh_interval: Duration,
}

/// Where the commercial credential is.
#[derive(Debug, Clone)]
pub(crate) enum SecretLocation {
    SecretsManager { secret_id: String, region: String },
    Environment,
    File(PathBuf),
    Profile(String),
}

#[derive(Debug, Clone)]
pub(crate) struct Models {
    pub allow: callers::Rule,
    pub deny: callers::Rule,
    pub geographies: Vec<String>,
    pub create_profiles: bool,
    pub refresh_interval: Duration,
    pub aliases: BTreeMap<String, String>,
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

/// Regions in which Bedrock has FIPS hosts, outside GovCloud (AWS's FIPS endpoint list).
const FIPS_REGIONS: [&str; 4] = ["us-east-1", "us-east-2", "us-west-2", "ca-central-1"];

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
        let upstream_is_default = config.upstreams.is_none();
        let policy = callers::policy(config.policy, source)?;
        Ok(Settings {
            path: None,
            listen: listen(config.listen, source)?,
            upstreams: upstreams(config.upstreams, source)?,
            upstream_is_default,
            timeouts: Timeouts {
                connect: config.upstream_timeouts.connect.0,
                first_byte: config.upstream_timeouts.first_byte.0,
                idle: config.upstream_timeouts.idle.0,
            },
            credentials: credentials(config.credentials, source)?,
            models: models(config.models, source)?,
            callers: callers::callers(config.callers, &policy, config.limits.prices_file.is_some(), source)?,
            policy,
            max_body_bytes: config.limits.max_body_bytes.get(),
            limits: limits::Limits::new(config.limits, config.fleet, source)?,
            audit: audit(config.audit, source)?,
            drain_timeout: config.drain.timeout.0,
            log: format(&config.log),
            log_level: config.log.level,
        })
    }
}

fn format(log: &Log) -> config::LogFormat {
    log.format
}

fn listen(listen: config::Listen, source: &Source) -> Result<Listen, ConfigError> {
    let span = listen.addresses.span();
    let addresses: Vec<SocketAddr> = listen.addresses.into_inner().into_iter().map(|LoopbackAddress(a)| a).collect();
    if addresses.is_empty() && listen.unix_socket.is_none() {
        return Err(source.error(span, "nothing would listen; name at least one address or a unix_socket."));
    }
    let LoopbackAddress(admin_address) = listen.admin_address;
    let mut seen = vec![admin_address];
    for address in &addresses {
        if address.port() != 0 && seen.contains(address) {
            return Err(source.error(
                span,
                format!(
                    "{address} is named twice; give every listener, the admin address included, a port of its own."
                ),
            ));
        }
        seen.push(*address);
    }
    let tls = listen.tls.map(|tls| tls::tls(tls, &seen, source)).transpose()?;
    Ok(Listen {
        addresses,
        unix_socket: listen.unix_socket.map(|path| path.0),
        admin_address,
        max_connections: listen.max_connections.get(),
        tls,
    })
}

fn upstreams(
    upstreams: Option<Spanned<Vec<Spanned<config::Upstream>>>>,
    source: &Source,
) -> Result<Vec<Upstream>, ConfigError> {
    let Some(upstreams) = upstreams else {
        return Ok(vec![Upstream::of_region(DEFAULT_REGION)]);
    };
    if upstreams.get_ref().is_empty() {
        return Err(source.error(upstreams.span(), "the list of upstreams is empty; name one region or leave it out."));
    }
    let mut known = Vec::<Upstream>::new();
    for upstream in upstreams.into_inner() {
        let span = upstream.span();
        let upstream = one_upstream(upstream.into_inner(), source)?;
        if known.iter().any(|other| other.region == upstream.region && other.runtime == upstream.runtime) {
            return Err(
                source.error(span, format!("region {} is named twice with the same endpoint.", upstream.region))
            );
        }
        known.push(upstream);
    }
    Ok(known)
}

fn one_upstream(upstream: config::Upstream, source: &Source) -> Result<Upstream, ConfigError> {
    let region = commercial_region(&upstream.region, source)?;
    let has_fips = FIPS_REGIONS.contains(&region.as_str());
    if upstream.fips == Some(true) && !has_fips && upstream.runtime_endpoint.is_none() {
        return Err(source.error(
            upstream.region.span(),
            format!(
                "Bedrock has no FIPS host in {region}; choose one of {} or set fips = false.",
                FIPS_REGIONS.join(", ")
            ),
        ));
    }
    let fips = upstream.fips.unwrap_or(has_fips);
    let ca = upstream.ca_file.map(|file| ca_certificates(&file, source)).transpose()?;
    Ok(Upstream {
        runtime: upstream.runtime_endpoint.unwrap_or_else(|| host("bedrock-runtime", &region, fips)),
        control: upstream.control_endpoint.unwrap_or_else(|| host("bedrock", &region, fips)),
        region,
        ca,
    })
}

impl Upstream {
    /// AWS's own hosts of a commercial region, FIPS where it has them.
    pub(crate) fn of_region(region: &str) -> Upstream {
        let fips = FIPS_REGIONS.contains(&region);
        Upstream {
            region: region.to_owned(),
            runtime: host("bedrock-runtime", region, fips),
            control: host("bedrock", region, fips),
            ca: None,
        }
    }
}

fn host(service: &str, region: &str, fips: bool) -> Endpoint {
    Endpoint::https(format!("{service}{}.{region}.amazonaws.com", if fips { "-fips" } else { "" }))
}

/// The spelling of an AWS region, such as `us-east-1`.
pub(crate) fn is_region(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    parts.len() >= 3
        && parts
            .iter()
            .all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()))
        && parts.last().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()))
}

fn commercial_region(region: &Spanned<String>, source: &Source) -> Result<String, ConfigError> {
    let name = region.get_ref();
    if !is_region(name) {
        return Err(
            source.error(region.span(), format!("\"{name}\" is not an AWS region; write for example \"us-east-1\"."))
        );
    }
    if name.starts_with("us-gov-") || name.starts_with("cn-") {
        return Err(source.error(
            region.span(),
            format!(
                "{name} is not in the commercial partition; upstreams are commercial regions such as \"us-east-1\"."
            ),
        ));
    }
    Ok(name.clone())
}

fn any_region(region: &Spanned<String>, source: &Source) -> Result<String, ConfigError> {
    let name = region.get_ref();
    if is_region(name) {
        return Ok(name.clone());
    }
    Err(source.error(region.span(), format!("\"{name}\" is not an AWS region; write for example \"us-gov-west-1\".")))
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

fn credentials(credentials: Option<Spanned<config::Credentials>>, source: &Source) -> Result<Credentials, ConfigError> {
    let Some(credentials) = credentials else {
        return Ok(Credentials { source: SecretLocation::Environment, refresh_interval: Duration::from_secs(300) });
    };
    let span = credentials.span();
    let written = credentials.into_inner();
    let needs = |key: &str, of: &str| {
        source.error(span.clone(), format!("source = \"{of}\" needs {key} beside it in [credentials]."))
    };
    let stray = |key: &str, of: &str| {
        source
            .error(span.clone(), format!("{key} has no meaning with source = \"{of}\"; remove it from [credentials]."))
    };
    let refuse_stray = |of: &str, keys: &[(&str, bool)]| match keys.iter().find(|(_, set)| *set) {
        Some((key, _)) => Err(stray(key, of)),
        None => Ok(()),
    };
    let (has_secret, has_region) = (written.secret_id.is_some(), written.region.is_some());
    let (has_file, has_profile) = (written.file.is_some(), written.profile.is_some());
    let secret = match written.source {
        CredentialSource::SecretsManager => {
            refuse_stray("secrets_manager", &[("file", has_file), ("profile", has_profile)])?;
            let secret_id = written
                .secret_id
                .filter(|id| !id.trim().is_empty())
                .ok_or_else(|| needs("secret_id", "secrets_manager"))?;
            let region = match written.region {
                Some(region) => any_region(&region, source)?,
                // An ARN says where the secret is.
                None => match secret_id.split(':').nth(3).filter(|region| is_region(region)) {
                    Some(region) => region.to_owned(),
                    None => "us-gov-west-1".to_owned(),
                },
            };
            SecretLocation::SecretsManager { secret_id, region }
        }
        CredentialSource::Environment => {
            refuse_stray(
                "environment",
                &[("secret_id", has_secret), ("region", has_region), ("file", has_file), ("profile", has_profile)],
            )?;
            SecretLocation::Environment
        }
        CredentialSource::File => {
            refuse_stray("file", &[("secret_id", has_secret), ("region", has_region), ("profile", has_profile)])?;
            SecretLocation::File(written.file.ok_or_else(|| needs("file", "file"))?.0)
        }
        CredentialSource::Profile => {
            refuse_stray("profile", &[("secret_id", has_secret), ("region", has_region), ("file", has_file)])?;
            SecretLocation::Profile(
                written.profile.filter(|name| !name.is_empty()).ok_or_else(|| needs("profile", "profile"))?,
            )
        }
    };
    Ok(Credentials { source: secret, refresh_interval: written.refresh_interval.0 })
}

fn models(models: config::Models, source: &Source) -> Result<Models, ConfigError> {
    let mut geographies = Vec::new();
    for geography in &models.geographies {
        let name = geography.get_ref();
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-') {
            return Err(source.error(
                geography.span(),
                format!("\"{name}\" is not the prefix of inference profiles; write for example \"us\", \"eu\" or \"global\", without a dot."),
            ));
        }
        if name.starts_with("us-gov") {
            return Err(source
                .error(geography.span(), "us-gov profiles belong to GovCloud; commercial Bedrock has none of them."));
        }
        geographies.push(name.clone());
    }
    let mut aliases = BTreeMap::new();
    for (alias, target) in models.aliases {
        let name = target.get_ref();
        if alias.trim().is_empty() || name.trim().is_empty() {
            return Err(source.error(target.span(), "an alias and what it stands for cannot be empty."));
        }
        if name.contains(|c: char| c.is_whitespace() || c.is_control() || matches!(c, '?' | '#' | '%')) {
            return Err(source.error(target.span(), format!("\"{name}\" is not a model or profile identifier.")));
        }
        aliases.insert(alias, target.into_inner());
    }
    Ok(Models {
        allow: callers::rule(&models.allow, source),
        deny: callers::rule(&models.deny, source),
        geographies,
        create_profiles: models.create_profiles,
        refresh_interval: models.refresh_interval.0,
        aliases,
    })
}

fn audit(audit: config::Audit, source: &Source) -> Result<Audit, ConfigError> {
    // A table is owed every record; without one, nobody waits for the oldest.
    let by_default = if audit.table.is_empty() { OnFull::Prune } else { OnFull::Deny };
    let region = any_region(&audit.region, source)?;
    Ok(Audit {
        state_dir: audit.state_dir.map(|path| path.0),
        table: Some(audit.table).filter(|table| !table.is_empty()),
        anchor: audit.anchor.map(|written| anchor::anchor(written, &region, source)).transpose()?,
        region,
        retention: audit.retention.0,
        on_failure: audit.on_failure,
        durability: audit.durability,
        max_ledger_bytes: audit.max_ledger_bytes.get(),
        on_full: audit.on_full.unwrap_or(by_default),
    })
}
