//! What of the client's request goes upstream: everything but its own authentication, its connection and its way here.

use http::HeaderMap;
use http::header::{ACCEPT_ENCODING, CONNECTION, HeaderName, HeaderValue};

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

/// `x-amz-` covers every SigV4 header (date, token, content hash); `x-amzn-bedrock-…` is no such header and stays.
const PREFIXES_OF_THE_CLIENT: [&str; 4] = ["x-amz-", "x-forwarded-", "x-bedrock-sidecar-", "proxy-"];

/// The headers that go upstream.
pub(crate) fn request_headers(client: &HeaderMap) -> HeaderMap {
    let named = named_by_connection(client);
    let mut headers = HeaderMap::with_capacity(client.len() + 4);
    for (name, value) in client {
        if !belongs_to_client(name.as_str()) && !named.iter().any(|n| n.eq_ignore_ascii_case(name.as_str())) {
            headers.append(name.clone(), value.clone());
        }
    }
    // A compressed stream could be held back by its coder, and its usage could not be read.
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    headers
}

fn belongs_to_client(name: &str) -> bool {
    OF_THE_CONNECTION.contains(&name)
        || OF_THE_CLIENT.contains(&name)
        || PREFIXES_OF_THE_CLIENT.iter().any(|prefix| name.starts_with(prefix))
}

/// Removes what belongs to the upstream connection from an answer's headers.
pub(crate) fn response_headers(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = named_by_connection(headers).iter().filter_map(|n| n.parse().ok()).collect();
    for name in named {
        headers.remove(name);
    }
    for name in [
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ] {
        headers.remove(name);
    }
}

fn named_by_connection(headers: &HeaderMap) -> Vec<String> {
    let lines = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect()
}

/// The query without the parameters of a presigned request.
pub(crate) fn query(query: &str) -> Option<String> {
    let is_signature = |pair: &&str| {
        let name = pair.split('=').next().unwrap_or_default();
        let name = percent_encoding::percent_decode_str(name).decode_utf8_lossy().to_ascii_lowercase();
        name.starts_with("x-amz-") || name == "awsaccesskeyid" || name == "signature"
    };
    if !query.split('&').any(|pair| is_signature(&pair)) {
        return Some(query.to_owned()).filter(|query| !query.is_empty());
    }
    let kept: Vec<&str> = query.split('&').filter(|pair| !pair.is_empty() && !is_signature(pair)).collect();
    (!kept.is_empty()).then(|| kept.join("&"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_trace_of_the_client_is_stripped_and_the_rest_stays() {
        let mut client = HeaderMap::new();
        for (name, value) in [
            ("authorization", "AWS4-HMAC-SHA256 Credential=AKIAGOV/…"),
            ("x-amz-date", "x"),
            ("x-amz-security-token", "x"),
            ("x-amz-content-sha256", "x"),
            ("x-amz-user-agent", "x"),
            ("cookie", "x"),
            ("x-forwarded-for", "x"),
            ("x-api-key", "x"),
            ("proxy-authorization", "x"),
            ("connection", "keep-alive, X-Hop"),
            ("x-hop", "x"),
            ("te", "trailers"),
            ("accept-encoding", "gzip"),
        ] {
            client.append(HeaderName::from_static(name), value.parse().unwrap());
        }
        assert_eq!(request_headers(&client).len(), 1);
        client.append("x-amzn-bedrock-trace", HeaderValue::from_static("ENABLED"));
        client.append("content-type", HeaderValue::from_static("application/json"));
        client.append("accept", HeaderValue::from_static("*/*"));
        client.append("anthropic-beta", HeaderValue::from_static("a"));
        client.append("anthropic-beta", HeaderValue::from_static("b"));
        let sent = request_headers(&client);
        assert_eq!(sent.len(), 6);
        assert_eq!(sent[ACCEPT_ENCODING], "identity");
    }

    #[test]
    fn presigned_parameters_leave_the_query() {
        assert_eq!(query(""), None);
        assert_eq!(query("maxResults=5&nextToken=a%3D"), Some("maxResults=5&nextToken=a%3D".into()));
        assert_eq!(query("X-Amz-Algorithm=a&type=APPLICATION&X-Amz-Signature=b"), Some("type=APPLICATION".into()));
        assert_eq!(query("x%2Damz-security-token=t&X-AMZ-Date=1"), None);
    }
}
