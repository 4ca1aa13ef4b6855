//! The kinds of value a configuration holds. Each refuses what it cannot mean while the file is being read, so that the
//! error carries the value's own line and column.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Error};

/// A span of time, written as a number and a unit: `500ms`, `30s`, `5m`, `12h`, `30d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span(pub Duration);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Span, D::Error> {
        read(deserializer, "a duration such as \"30s\", \"5m\" or \"30d\"", |text| {
            parse_span(text).map(Span).ok_or_else(|| format!("\"{text}\" is not a duration; write a number above 0 and a unit, such as \"30s\", \"5m\", \"12h\" or \"30d\""))
        })
    }
}

fn parse_span(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok().filter(|number| *number > 0)?;
    let millis = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    // A century is more than anyone means; the bound keeps later arithmetic on instants from overflowing.
    number.checked_mul(millis).filter(|total| *total <= 36_525 * 86_400_000).map(Duration::from_millis)
}

/// An IP address and a port; port 0 lets the kernel choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Address(pub SocketAddr);

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Address, D::Error> {
        read(deserializer, AN_ADDRESS, parse_address)
    }
}

const AN_ADDRESS: &str = "an address and a port such as \"127.0.0.1:8790\"";

fn parse_address(text: &str) -> Result<Address, String> {
    let parsed = match text.strip_prefix("localhost:") {
        Some(port) => format!("127.0.0.1:{port}").parse(),
        None => text.parse(),
    };
    parsed.map(Address).map_err(|_| {
        format!("\"{text}\" is not an IP address and a port; write for example \"127.0.0.1:8790\" or \"[::1]:8790\"")
    })
}

/// An address that only this host can reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LoopbackAddress(pub SocketAddr);

impl<'de> Deserialize<'de> for LoopbackAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<LoopbackAddress, D::Error> {
        read(deserializer, AN_ADDRESS, |text| {
            let Address(address) = parse_address(text)?;
            if address.ip().is_loopback() {
                return Ok(LoopbackAddress(address));
            }
            Err(format!(
                "{address} can be reached from other hosts; use a loopback address such as 127.0.0.1, or [listen.tls] with client certificates"
            ))
        })
    }
}

const CREDENTIALS_DIRECTORY: &str = "CREDENTIALS_DIRECTORY";

/// Where systemd keeps the credentials of the packaged unit, while it runs. Commands that an admin types, such as
/// `audit list`, read the same configuration as the service and lack its environment.
fn credentials_of_service() -> Option<PathBuf> {
    let directory = PathBuf::from("/run/credentials/bedrock-sidecar.service");
    directory.is_dir().then_some(directory)
}

/// A path that starts at the root, or with `$NAME/` for a directory that systemd names in the environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FilePath(pub PathBuf);

impl<'de> Deserialize<'de> for FilePath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<FilePath, D::Error> {
        read(deserializer, "the path of a file", |text| {
            if text.trim().is_empty() {
                return Err("an empty path leads nowhere; name a file, or leave the key out".to_owned());
            }
            if text.contains('\0') {
                return Err("a path holds no NUL character".to_owned());
            }
            let Some(rest) = text.strip_prefix('$') else {
                return Ok(FilePath(PathBuf::from(text)));
            };
            let (name, below) = rest.split_once('/').unwrap_or((rest, ""));
            let base = std::env::var_os(name).filter(|base| !base.is_empty()).map(PathBuf::from);
            let base = base.or_else(|| (name == CREDENTIALS_DIRECTORY).then(credentials_of_service).flatten());
            base.map(|base| FilePath(base.join(below))).ok_or_else(|| {
                let by_hand = if name == CREDENTIALS_DIRECTORY {
                    ", and a command by hand finds it while bedrock-sidecar.service runs"
                } else {
                    ""
                };
                format!(
                    "\"{text}\" names the environment variable {name}, which is not set; systemd sets {CREDENTIALS_DIRECTORY} for a unit with LoadCredential={by_hand}"
                )
            })
        })
    }
}

/// The URL of an AWS endpoint: scheme, host and port, without path or query. Plain `http` goes to loopback only.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub tls: bool,
    pub host: String,
    pub port: u16,
}

impl Endpoint {
    pub(crate) fn https(host: impl Into<String>) -> Endpoint {
        Endpoint { tls: true, host: host.into(), port: 443 }
    }

    /// # Errors
    /// Half a sentence that says what is wrong with the URL.
    pub(crate) fn parse(url: &str) -> Result<Endpoint, &'static str> {
        parse_endpoint(url)
    }

    /// The `Host` header's value: the port is left out where it is the scheme's own.
    pub(crate) fn authority(&self) -> String {
        let default = if self.tls { 443 } else { 80 };
        if self.port == default { self.host.clone() } else { format!("{}:{}", self.host, self.port) }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.tls { "https" } else { "http" }, self.authority())
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<'de> Deserialize<'de> for Endpoint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Endpoint, D::Error> {
        read(deserializer, "a URL such as \"https://bedrock-runtime.us-east-1.amazonaws.com\"", |text| {
            parse_endpoint(text).map_err(|why| format!("\"{text}\" is not an endpoint: {why}"))
        })
    }
}

fn parse_endpoint(text: &str) -> Result<Endpoint, &'static str> {
    let uri: http::Uri = text.parse().map_err(|_| "it is not a URL")?;
    if !matches!(uri.path(), "" | "/") || uri.query().is_some() || text.contains('#') {
        return Err("leave out path and query, they come from the request");
    }
    let authority = uri.authority().ok_or("it has no host")?;
    if authority.as_str().contains('@') {
        return Err("credentials do not belong into a URL");
    }
    let tls = match uri.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        _ => return Err("it must start with https:// (or http:// for a server on this host)"),
    };
    let host = authority.host();
    let ip = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    let loopback = host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback());
    if !tls && !loopback {
        return Err("plain http is allowed to loopback only, because the request carries a key");
    }
    // What `http` cannot read as a port it passes over, and the scheme's own would be used in its place.
    let port = match authority.as_str().strip_prefix(host) {
        Some("") => Ok(if tls { 443 } else { 80 }),
        after => after.and_then(|port| port.strip_prefix(':')).unwrap_or_default().parse(),
    };
    let port = port.ok().filter(|port| *port > 0).ok_or("a port is a number from 1 to 65535")?;
    Ok(Endpoint { tls, host: host.to_owned(), port })
}

/// A pattern on identifiers in which `*` stands for any text and `?` for one character.
#[derive(Clone, PartialEq)]
pub struct Glob {
    exact: wildmatch::WildMatch,
    any_case: wildmatch::WildMatch,
}

impl Glob {
    /// Any text is a pattern.
    pub fn new(pattern: &str) -> Glob {
        Glob {
            exact: wildmatch::WildMatch::new(pattern),
            any_case: wildmatch::WildMatch::new_case_insensitive(pattern),
        }
    }

    /// Whether the whole of `text` fits the pattern; upper and lower case differ.
    pub fn matches(&self, text: &str) -> bool {
        self.exact.matches(text)
    }

    /// The same, and `OPUS` is `opus`: for what is denied.
    pub fn matches_any_case(&self, text: &str) -> bool {
        self.any_case.matches(text)
    }

    /// The pattern is `*`, which names nothing in particular.
    pub fn is_everything(&self) -> bool {
        self.exact.to_string().bytes().all(|byte| byte == b'*')
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.exact, f)
    }
}

impl fmt::Debug for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.exact)
    }
}

impl<'de> Deserialize<'de> for Glob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Glob, D::Error> {
        read(deserializer, "a pattern such as \"anthropic.*\"", |text| match text.trim() {
            "" => Err("an empty pattern matches nothing; write \"*\" for every model or leave it out".to_owned()),
            trimmed if trimmed != text => {
                Err(format!("\"{text}\" begins or ends with white space, so it matches nothing; write \"{trimmed}\""))
            }
            _ => Ok(Glob::new(text)),
        })
    }
}

/// Reads a string and what it means at once: TOML's reader tells the place of a value in a list only with errors that arise
/// while that value is visited.
fn read<'de, D: Deserializer<'de>, T>(
    deserializer: D,
    expected: &'static str,
    meaning: impl FnOnce(&str) -> Result<T, String>,
) -> Result<T, D::Error> {
    struct Visitor<F>(&'static str, F);
    impl<T, F: FnOnce(&str) -> Result<T, String>> serde::de::Visitor<'_> for Visitor<F> {
        type Value = T;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
        fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
            (self.1)(text).map_err(E::custom)
        }
    }
    deserializer.deserialize_string(Visitor(expected, meaning))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_a_number_and_a_unit() {
        assert_eq!(parse_span("30s"), Some(Duration::from_secs(30)));
        assert_eq!(parse_span("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(parse_span("30d"), Some(Duration::from_secs(30 * 86_400)));
        for wrong in ["", "30", "s", "0s", "-1s", "1.5h", "1w", "30 s", "99999999999999999999d", "40000d"] {
            assert_eq!(parse_span(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn endpoints_carry_no_path_no_credentials_and_no_plain_text_off_host() {
        let endpoint = parse_endpoint("https://vpce-1.bedrock-runtime.us-east-1.vpce.amazonaws.com").unwrap();
        assert_eq!(endpoint.authority(), "vpce-1.bedrock-runtime.us-east-1.vpce.amazonaws.com");
        assert_eq!(parse_endpoint("http://127.0.0.1:9000/").unwrap().authority(), "127.0.0.1:9000");
        assert_eq!(parse_endpoint("http://[::1]:9000").unwrap().authority(), "[::1]:9000");
        for wrong in
            ["http://example.com", "https://a/b", "https://a/?q", "ftp://a", "a", "https://u:p@a", "https://a#f"]
                .into_iter()
                .chain(["https://localhost:99999", "https://localhost:0", "https://localhost:", "https://[::1]:x"])
        {
            assert!(parse_endpoint(wrong).is_err(), "{wrong}");
        }
    }
}
