//! What `[headers]` means: which of a client's headers go upstream beside Bedrock's own, and which are kept in records.

use http::header::HeaderName;
use toml::Spanned;

use crate::config::{self, ConfigError, Source};

/// So many headers of a request are recorded at most. Ids of traces take what the configuration leaves of them.
const MAX_RECORDED: usize = 8;
/// Longest name of a recorded header, in bytes.
const MAX_NAME: usize = 64;

/// Words that stand in the names of headers which carry something secret.
const SECRET: [&str; 9] =
    ["auth", "authorization", "cookie", "credential", "credentials", "password", "secret", "signature", "token"];

/// Headers of one connection (RFC 9110, 7.6.1) and headers that the client side sets anew.
const OF_THE_CONNECTION: [&str; 11] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Headers that authenticate the client, identify it, or tell where it is.
const OF_THE_CLIENT: [&str; 14] = [
    "api-key",
    "authorization",
    "cookie",
    "cookie2",
    "forwarded",
    "from",
    "origin",
    "proxy-authenticate",
    "proxy-authorization",
    "referer",
    "via",
    "x-api-key",
    "x-data-classification",
    "x-real-ip",
];

/// `x-amz-` covers every SigV4 header (date, token, content hash); `x-amzn-bedrock-…` is no such header.
const PREFIXES_OF_THE_CLIENT: [&str; 4] = ["x-amz-", "x-forwarded-", "x-bedrock-sidecar-", "proxy-"];

/// `[headers]`, checked.
#[derive(Debug, Clone, Default)]
pub(crate) struct Headers {
    pub forward: Vec<Forwarded>,
    /// In lower case, at most eight.
    pub record: Vec<HeaderName>,
}

/// Headers that go upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Forwarded {
    Name(String),
    Prefix(String),
}

impl Forwarded {
    /// `name` is in lower case.
    pub(crate) fn matches(&self, name: &str) -> bool {
        match self {
            Forwarded::Name(wanted) => wanted == name,
            Forwarded::Prefix(prefix) => name.starts_with(prefix),
        }
    }
}

/// Headers that no configuration can send upstream; `name` may be the beginning of one.
pub(crate) fn never_travels(name: &str) -> bool {
    OF_THE_CONNECTION.contains(&name)
        || OF_THE_CLIENT.contains(&name)
        || PREFIXES_OF_THE_CLIENT.iter().any(|prefix| name.starts_with(prefix))
}

/// Headers that the daemon sets to values of its own.
pub(crate) fn is_ours(name: &str) -> bool {
    matches!(name, "accept-encoding" | "user-agent")
}

pub(super) fn headers(headers: config::Headers, source: &Source) -> Result<Headers, ConfigError> {
    if let Some(one_too_many) = headers.record.get(MAX_RECORDED) {
        let sentence = format!("at most {MAX_RECORDED} headers of a request are recorded; leave out some.");
        return Err(source.error(one_too_many.span(), sentence));
    }
    let forward = headers.forward.iter().map(|written| forwarded(written, source)).collect::<Result<_, _>>()?;
    let mut record = Vec::with_capacity(headers.record.len());
    for written in &headers.record {
        let name = recorded(written, source)?;
        if !record.contains(&name) {
            record.push(name);
        }
    }
    Ok(Headers { forward, record })
}

fn forwarded(written: &Spanned<String>, source: &Source) -> Result<Forwarded, ConfigError> {
    let text = written.get_ref();
    let fail = |sentence: String| Err(source.error(written.span(), sentence));
    let (plain, is_prefix) = match text.strip_suffix('*') {
        Some(prefix) => (prefix, true),
        None => (text.as_str(), false),
    };
    let Some(name) = header_name(plain) else { return fail(no_name(text)) };
    let name = name.as_str();
    // `x-*` would let everything pass that an app or its libraries think up.
    if is_prefix && (!name.ends_with('-') || matches!(name, "x-" | "x-amzn-")) {
        return fail(format!(
            "\"{text}\" says too little; write a prefix that ends with a dash, such as \"x-acme-*\"."
        ));
    }
    if is_ours(name) {
        return fail(format!("the header {name} is set by the daemon itself; remove it from headers.forward."));
    }
    if never_travels(name) {
        return fail(format!(
            "the header {name} belongs to the client's connection, identity or signature and never goes upstream; remove it from headers.forward."
        ));
    }
    Ok(if is_prefix { Forwarded::Prefix(name.to_owned()) } else { Forwarded::Name(name.to_owned()) })
}

fn recorded(written: &Spanned<String>, source: &Source) -> Result<HeaderName, ConfigError> {
    let text = written.get_ref();
    let Some(name) = header_name(text).filter(|name| name.as_str().len() <= MAX_NAME) else {
        return Err(source.error(written.span(), no_name(text)));
    };
    let mut words = name.as_str().split(['-', '_', '.']);
    let is_secret = words.any(|word| SECRET.contains(&word)) || matches!(name.as_str(), "x-api-key" | "api-key");
    if is_secret || name.as_str().starts_with("x-amz-") {
        let sentence =
            format!("the header {name} may carry a secret and is never recorded; remove it from headers.record.");
        return Err(source.error(written.span(), sentence));
    }
    Ok(name)
}

fn header_name(text: &str) -> Option<HeaderName> {
    HeaderName::from_bytes(text.as_bytes()).ok().filter(|_| !text.contains('*'))
}

fn no_name(text: &str) -> String {
    format!("\"{text}\" is not the name of a header; write for example \"x-acme-trace\".")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;
    use std::path::Path;

    fn read(text: &str) -> Result<Headers, String> {
        let source = Source::new(Path::new("c.toml"), text.to_owned());
        Settings::from_source(&source).map(|settings| settings.headers).map_err(|error| error.to_string())
    }

    #[test]
    fn names_are_read_in_any_case_and_a_prefix_ends_with_a_dash() {
        let headers = read("[headers]\nforward = [\"Traceparent\", \"X-Acme-*\"]\nrecord = [\"X-Claude-Code-Session-Id\", \"traceparent\", \"Traceparent\"]").unwrap();
        assert_eq!(headers.forward, [Forwarded::Name("traceparent".into()), Forwarded::Prefix("x-acme-".into())]);
        assert_eq!(headers.record, ["x-claude-code-session-id", "traceparent"]);
    }

    #[test]
    fn what_may_never_travel_or_be_kept_is_an_error_with_its_place() {
        for (key, name, word) in [
            ("forward", "", "name of a header"),
            ("forward", "a b", "name of a header"),
            ("forward", "x-*-y", "name of a header"),
            ("forward", "*", "name of a header"),
            ("forward", "x-*", "too little"),
            ("forward", "x-acme*", "too little"),
            ("forward", "x-amzn-*", "too little"),
            ("forward", "Authorization", "never goes upstream"),
            ("forward", "host", "never goes upstream"),
            ("forward", "content-length", "never goes upstream"),
            ("forward", "transfer-encoding", "never goes upstream"),
            ("forward", "connection", "never goes upstream"),
            ("forward", "cookie", "never goes upstream"),
            ("forward", "x-api-key", "never goes upstream"),
            ("forward", "X-Amz-Date", "never goes upstream"),
            ("forward", "x-amz-*", "never goes upstream"),
            ("forward", "x-amz-meta-*", "never goes upstream"),
            ("forward", "proxy-*", "never goes upstream"),
            ("forward", "x-forwarded-for", "never goes upstream"),
            ("forward", "user-agent", "set by the daemon"),
            ("forward", "accept-encoding", "set by the daemon"),
            ("record", "x y", "name of a header"),
            ("record", "x-acme-*", "name of a header"),
            ("record", "authorization", "may carry a secret"),
            ("record", "proxy-authorization", "may carry a secret"),
            ("record", "cookie", "may carry a secret"),
            ("record", "x-api-key", "may carry a secret"),
            ("record", "x-amz-security-token", "may carry a secret"),
            ("record", "x-auth-user", "may carry a secret"),
            ("record", "x-session-token", "may carry a secret"),
        ] {
            let error = read(&format!("[headers]\n{key} = [\"{name}\"]")).unwrap_err();
            assert!(error.starts_with("c.toml:2:") && error.contains(word), "{key} {name}: {error}");
        }
        let nine: Vec<String> = (0..9).map(|n| format!("\"x-{n}\"")).collect();
        let error = read(&format!("[headers]\nrecord = [{}]", nine.join(", "))).unwrap_err();
        assert!(error.contains("at most 8"), "{error}");
    }
}
