//! The configuration file as it is written. What it means is in `settings`.

mod anchor;
pub(crate) mod callers;
pub(crate) mod limits;
pub(crate) mod rate_keys;
mod telemetry;
mod values;
mod words;

use std::collections::BTreeMap;
use std::fmt;
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use crate::partition::Partition;

pub(crate) use anchor::{Anchor, AnchorPlace, ObjectLockMode};
pub(crate) use callers::DataRetention;
pub use limits::OnUnavailable;
pub(crate) use telemetry::{Signal, Telemetry};
pub use values::Glob;
pub(crate) use values::{Address, Endpoint, FilePath, LoopbackAddress, Span};
pub(crate) use words::nearest;

/// Where the packages install the configuration.
pub(crate) const DEFAULT_PATH: &str = "/etc/bedrock-sidecar/config.toml";

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    pub listen: Listen,
    pub upstreams: Option<Spanned<Vec<Spanned<Upstream>>>>,
    pub upstreams_policy: UpstreamsPolicy,
    pub upstream_timeouts: UpstreamTimeouts,
    pub credentials: Option<Spanned<Credentials>>,
    pub models: Models,
    pub headers: Headers,
    /// From guardrails that apps name to those of the commercial account.
    pub guardrails: BTreeMap<String, Spanned<String>>,
    pub mantle: Mantle,
    pub callers: Vec<Spanned<callers::Caller>>,
    pub policy: callers::Policy,
    pub limits: limits::Limits,
    pub fleet: Option<Spanned<limits::Fleet>>,
    pub audit: Audit,
    pub drain: Drain,
    pub log: Log,
    pub telemetry: Telemetry,
    pub process: Process,
    pub runtime: Runtime,
    pub admin: Admin,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Listen {
    pub addresses: Spanned<Vec<LoopbackAddress>>,
    pub unix_socket: Option<Spanned<FilePath>>,
    pub admin_address: LoopbackAddress,
    pub max_connections: Spanned<NonZeroUsize>,
    pub max_connections_per_user: Option<Spanned<NonZeroUsize>>,
    pub idle_timeout: Spanned<Span>,
    pub header_timeout: Spanned<Span>,
    pub write_timeout: Spanned<Span>,
    pub unix_socket_mode: Option<Spanned<String>>,
    pub unix_socket_group: Option<Spanned<String>>,
    pub tls: Option<callers::Tls>,
}

/// Who may see what on the admin address.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Admin {
    /// Groups of this host whose members see every record, as root does.
    pub groups: Vec<Spanned<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Upstream {
    pub region: Spanned<String>,
    pub partition: Option<Spanned<Partition>>,
    pub fips: Option<bool>,
    pub runtime_endpoint: Option<Spanned<Endpoint>>,
    pub control_endpoint: Option<Spanned<Endpoint>>,
    pub agent_runtime_endpoint: Option<Spanned<Endpoint>>,
    pub mantle_endpoint: Option<Spanned<Endpoint>>,
    pub ca_file: Option<Spanned<FilePath>>,
    pub credentials: Option<Spanned<Credentials>>,
    pub weight: Option<Spanned<i64>>,
}

/// Which upstream a request is sent to.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct UpstreamsPolicy {
    pub strategy: Spanned<Strategy>,
    pub retry_after_send: bool,
}

/// Which upstream is asked first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Strategy {
    /// The first of the file; the others stand by.
    Ordered,
    /// Each gets its share of the requests to models, by its weight.
    Spread,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct UpstreamTimeouts {
    pub connect: Spanned<Span>,
    pub first_byte: Spanned<Span>,
    pub idle: Spanned<Span>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum CredentialSource {
    SecretsManager,
    #[default]
    Environment,
    File,
    Profile,
    Host,
    RolesAnywhere,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Credentials {
    pub source: CredentialSource,
    pub secret_id: Option<Spanned<String>>,
    pub region: Option<Spanned<String>>,
    pub file: Option<FilePath>,
    pub profile: Option<Spanned<String>>,
    pub trust_anchor_arn: Option<Spanned<String>>,
    pub profile_arn: Option<Spanned<String>>,
    pub role_arn: Option<Spanned<String>>,
    pub certificate_file: Option<FilePath>,
    pub private_key_file: Option<FilePath>,
    pub endpoint: Option<Spanned<Endpoint>>,
    pub refresh_interval: Option<Spanned<Span>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Models {
    pub allow: Spanned<Vec<Spanned<Glob>>>,
    pub deny: Spanned<Vec<Spanned<Glob>>>,
    pub geographies: Vec<Spanned<String>>,
    pub create_profiles: bool,
    pub allow_profile_management: bool,
    pub list: Listings,
    pub refresh_interval: Spanned<Span>,
    pub partition: BTreeMap<Spanned<String>, Spanned<Partition>>,
    pub aliases: BTreeMap<Spanned<String>, Spanned<String>>,
}

/// What listings of models and profiles show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Listings {
    /// What the caller may use.
    Allowed,
    /// What the upstream lists.
    All,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Headers {
    pub forward: Vec<Spanned<String>>,
    pub record: Vec<Spanned<String>>,
}

/// Bedrock's second inference host.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Mantle {
    pub enabled: Spanned<bool>,
    /// Also where all other hosts are FIPS hosts.
    pub allow_non_fips: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Audit {
    pub state_dir: Option<FilePath>,
    pub table: Spanned<String>,
    pub region: Spanned<String>,
    pub retention: Spanned<Span>,
    pub on_failure: OnFailure,
    pub durability: Durability,
    pub max_ledger_bytes: Spanned<NonZeroU64>,
    pub on_full: Option<OnFull>,
    pub anchor: Option<Spanned<Anchor>>,
}

/// What happens when the ledger has reached its bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFull {
    /// It takes no more requests; `on_failure` decides about them.
    Deny,
    /// The oldest records are deleted.
    Prune,
}

/// What happens to requests that cannot be recorded.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// They are refused with 503.
    #[default]
    Deny,
    /// They are served, and counted as unrecorded.
    Allow,
}

/// What a record survives once its request is on its way.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Durability {
    /// The end of the process, `kill -9` included.
    #[default]
    Process,
    /// Also the loss of power: every record is flushed to the disk first.
    Disk,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Drain {
    pub timeout: Spanned<Span>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum LogFormat {
    #[default]
    Json,
    Text,
    Journald,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum LogLevel {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Log {
    pub format: LogFormat,
    pub level: LogLevel,
}

/// What the kernel is told of this process.
#[derive(Debug, Default, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Process {
    /// For debugging: core dumps and debuggers may see the memory, keys included.
    pub core_dumps: bool,
}

/// How the daemon uses the machine.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Runtime {
    /// Threads that serve requests; 0 for one a core.
    pub threads: Spanned<u16>,
}

impl Default for Runtime {
    fn default() -> Runtime {
        Runtime { threads: Spanned::new(0..0, 0) }
    }
}

impl Default for Listen {
    fn default() -> Listen {
        let address = |port| LoopbackAddress((std::net::Ipv4Addr::LOCALHOST, port).into());
        Listen {
            addresses: Spanned::new(0..0, vec![address(8790)]),
            unix_socket: None,
            admin_address: address(8791),
            max_connections: Spanned::new(0..0, NonZeroUsize::MIN.saturating_add(1023)),
            max_connections_per_user: None,
            idle_timeout: seconds(75),
            header_timeout: seconds(10),
            write_timeout: seconds(60),
            unix_socket_mode: None,
            unix_socket_group: None,
            tls: None,
        }
    }
}

impl Default for Admin {
    fn default() -> Admin {
        Admin { groups: vec![Spanned::new(0..0, "bedrock-sidecar".to_owned())] }
    }
}

impl Default for UpstreamsPolicy {
    fn default() -> UpstreamsPolicy {
        UpstreamsPolicy { strategy: Spanned::new(0..0, Strategy::Ordered), retry_after_send: false }
    }
}

impl Default for UpstreamTimeouts {
    fn default() -> UpstreamTimeouts {
        UpstreamTimeouts { connect: seconds(5), first_byte: seconds(15 * 60), idle: seconds(10 * 60) }
    }
}

impl Default for Models {
    fn default() -> Models {
        Models {
            allow: Spanned::new(0..0, vec![Spanned::new(0..0, Glob::new("*"))]),
            deny: Spanned::new(0..0, Vec::new()),
            geographies: vec![Spanned::new(0..0, "us".to_owned())],
            create_profiles: true,
            allow_profile_management: false,
            list: Listings::Allowed,
            refresh_interval: seconds(3600),
            partition: BTreeMap::new(),
            aliases: BTreeMap::new(),
        }
    }
}

impl Default for Mantle {
    fn default() -> Mantle {
        Mantle { enabled: Spanned::new(0..0, false), allow_non_fips: false }
    }
}

impl Default for Audit {
    fn default() -> Audit {
        Audit {
            state_dir: None,
            table: Spanned::new(0..0, String::new()),
            region: Spanned::new(0..0, "us-gov-west-1".to_owned()),
            retention: seconds(30 * 86_400),
            on_failure: OnFailure::Deny,
            durability: Durability::Process,
            max_ledger_bytes: Spanned::new(0..0, NonZeroU64::MIN.saturating_add(1_073_741_823)),
            on_full: None,
            anchor: None,
        }
    }
}

impl Default for Drain {
    fn default() -> Drain {
        Drain { timeout: seconds(30) }
    }
}

fn seconds(seconds: u64) -> Spanned<Span> {
    Spanned::new(0..0, Span(Duration::from_secs(seconds)))
}

/// A configuration that cannot be used: the place and one sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The configuration file.
    pub path: PathBuf,
    /// From 1; line and column are 1 when the error belongs to the file as a whole.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// What is wrong and how to mend it, on one line; it never quotes a secret.
    pub sentence: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.path.display(), self.line, self.column, self.sentence)
    }
}

impl std::error::Error for ConfigError {}

/// The text of a configuration file, kept until it has become settings so that errors can name their place.
#[derive(Debug)]
pub(crate) struct Source {
    pub path: PathBuf,
    text: String,
}

impl Source {
    pub(crate) fn read(path: &Path) -> Result<Source, ConfigError> {
        let fail = |why: &dyn fmt::Display| format!("the configuration cannot be read: {why}.");
        Source::read_or(path, |error| Source::new(path, String::new()).error(0..0, fail(error)))
    }

    /// Reads a TOML file, which another one may name: `unreadable` says where it is to blame.
    pub(crate) fn read_or(
        path: &Path,
        unreadable: impl FnOnce(&std::io::Error) -> ConfigError,
    ) -> Result<Source, ConfigError> {
        let bytes = std::fs::read(path).map_err(|error| unreadable(&error))?;
        String::from_utf8(bytes).map(|text| Source::new(path, text)).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            let bytes = error.into_bytes();
            let byte = bytes.get(at).copied().unwrap_or_default();
            let before = String::from_utf8_lossy(&bytes[..at]).into_owned();
            let sentence = format!("the byte 0x{byte:02x} here is not UTF-8; save the file in that encoding.");
            Source::new(path, before).error(at..at, sentence)
        })
    }

    pub(crate) fn new(path: &Path, text: String) -> Source {
        Source { path: path.to_owned(), text }
    }

    pub(crate) fn parse<T: serde::de::DeserializeOwned>(&self) -> Result<T, ConfigError> {
        if let Some((span, sentence)) = words::misshapen(&self.text) {
            return Err(self.error(span, sentence));
        }
        toml::from_str(&self.text).map_err(|error| {
            let span = error.span().unwrap_or(0..0);
            self.error(span.clone(), words::plain(&words::shaped(&self.text, &span, error.message())))
        })
    }

    /// The line of a byte offset, from 1.
    pub(crate) fn line(&self, offset: usize) -> usize {
        self.text[..offset.min(self.text.len())].matches('\n').count() + 1
    }

    /// An error at a byte range of the file.
    pub(crate) fn error(&self, span: std::ops::Range<usize>, sentence: impl Into<String>) -> ConfigError {
        let before = &self.text[..span.start.min(self.text.len())];
        let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
        let sentence = one_line(sentence.into());
        ConfigError { path: self.path.clone(), line: self.line(span.start), column, sentence }
    }
}

/// A sentence may quote a value that holds line ends or what a terminal obeys: these are shown as `\n`, `\u{1b}`.
fn one_line(sentence: String) -> String {
    if !sentence.contains(char::is_control) {
        return sentence;
    }
    let shown = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    sentence.chars().map(shown).collect()
}

#[cfg(test)]
mod documented;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_line_whatever_it_quotes() {
        let text = "[[callers]]\nname = \"a\"\nusers = [\"1\\n2\\u001b[31mé\"]";
        let source = Source::new(Path::new("config.toml"), text.to_owned());
        let caller = &source.parse::<Config>().unwrap().callers[0];
        let user = &caller.get_ref().users[0];
        let error = source.error(user.span(), format!("there is no \"{}\".", user.get_ref())).to_string();
        assert_eq!(error, r#"config.toml:3:10: there is no "1\n2\u{1b}[31mé"."#);
    }
}
