//! What of the client's request goes upstream: the headers that Bedrock defines and those that the configuration adds.
//! Its authentication, its connection, its way here and what its SDK tells about it stay behind.

use http::HeaderMap;
use http::header::{ACCEPT_ENCODING, CONNECTION, HeaderName, HeaderValue};

use crate::settings::headers::{Forwarded, is_ours, never_travels};

/// Headers that describe the body and the answer that is wanted.
const OF_THE_REQUEST: [&str; 3] = ["accept", "content-encoding", "content-type"];

/// Headers that Bedrock's APIs define: its own, and those of the Anthropic and OpenAI shapes.
const PREFIXES_OF_BEDROCK: [&str; 3] = ["anthropic-", "openai-", "x-amzn-bedrock-"];

/// Headers of an answer that are for the connection to the upstream, and not for the client.
const OF_THE_CONNECTION: [&str; 8] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// The headers that go upstream. `forward` are those that the configuration adds to Bedrock's own.
pub(crate) fn request_headers(client: &HeaderMap, forward: &[Forwarded]) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(client.len() + 4);
    let names_some = client.contains_key(CONNECTION);
    for (name, value) in client {
        if travels(name.as_str(), forward) && !(names_some && is_named_by_connection(client, name.as_str())) {
            headers.append(name.clone(), value.clone());
        }
    }
    // A compressed stream could be held back by its coder, and its usage could not be read.
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    headers
}

/// Whether a header of the client goes upstream; `name` is in lower case.
pub(crate) fn travels(name: &str, forward: &[Forwarded]) -> bool {
    let wanted = OF_THE_REQUEST.contains(&name)
        || PREFIXES_OF_BEDROCK.iter().any(|prefix| name.starts_with(prefix))
        || forward.iter().any(|forwarded| forwarded.matches(name));
    wanted && !never_travels(name) && !is_ours(name)
}

/// Removes what belongs to the upstream connection from an answer's headers.
pub(crate) fn response_headers(headers: &mut HeaderMap) {
    let names_some = headers.contains_key(CONNECTION);
    let is_gone = |name: &&HeaderName| {
        OF_THE_CONNECTION.contains(&name.as_str()) || (names_some && is_named_by_connection(headers, name.as_str()))
    };
    let gone: Vec<HeaderName> = headers.keys().filter(is_gone).cloned().collect();
    for name in gone {
        headers.remove(name);
    }
}

/// Whether the `Connection` header says that a header, given in lower case, is for this connection alone.
fn is_named_by_connection(headers: &HeaderMap, name: &str) -> bool {
    let mut lines = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    lines.any(|line| line.split(',').any(|named| named.trim().eq_ignore_ascii_case(name)))
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

    fn map(headers: &[(&'static str, &str)]) -> HeaderMap {
        let pairs = headers.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()));
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(name, value);
        }
        map
    }

    #[test]
    fn only_what_bedrock_defines_goes_upstream() {
        let mut client = map(&[
            ("authorization", "AWS4-HMAC-SHA256 Credential=AKIAGOV/…"),
            ("x-amz-date", "x"),
            ("x-amz-security-token", "x"),
            ("x-amz-content-sha256", "x"),
            ("x-amz-user-agent", "x"),
            ("x-amzn-trace-id", "x"),
            ("cookie", "x"),
            ("x-forwarded-for", "x"),
            ("x-api-key", "x"),
            ("proxy-authorization", "x"),
            ("connection", "keep-alive, X-Hop"),
            ("x-hop", "x"),
            ("te", "trailers"),
            ("accept-encoding", "gzip"),
            ("accept-language", "*"),
            ("sec-fetch-mode", "cors"),
            ("user-agent", "x"),
            ("amz-sdk-invocation-id", "x"),
            ("amz-sdk-request", "x"),
            ("x-stainless-os", "x"),
            ("x-claude-code-session-id", "x"),
            ("traceparent", "x"),
            ("tracestate", "x"),
            ("baggage", "x"),
            ("x-custom", "x"),
        ]);
        assert_eq!(request_headers(&client, &[]).len(), 1);
        client.extend(map(&[
            ("x-amzn-bedrock-trace", "ENABLED"),
            ("content-type", "application/json"),
            ("accept", "*/*"),
            ("anthropic-version", "2023-06-01"),
            ("openai-beta", "x"),
        ]));
        client.append("anthropic-beta", HeaderValue::from_static("a"));
        client.append("anthropic-beta", HeaderValue::from_static("b"));
        let sent = request_headers(&client, &[]);
        assert_eq!(sent.len(), 8);
        assert_eq!(sent[ACCEPT_ENCODING], "identity");
    }

    #[test]
    fn the_configuration_adds_headers_but_none_of_the_client_s_identity() {
        let forward = [Forwarded::Name("traceparent".into()), Forwarded::Prefix("x-".into())];
        let client = map(&[
            ("traceparent", "t"),
            ("baggage", "b"),
            ("x-acme-a", "a"),
            ("x-api-key", "k"),
            ("x-amz-date", "d"),
            ("x-forwarded-for", "f"),
        ]);
        let sent = request_headers(&client, &forward);
        assert_eq!(sent.len(), 3, "{sent:?}");
        assert_eq!((&sent["traceparent"], &sent["x-acme-a"]), (&client["traceparent"], &client["x-acme-a"]));
    }

    #[test]
    fn presigned_parameters_leave_the_query() {
        assert_eq!(query(""), None);
        assert_eq!(query("maxResults=5&nextToken=a%3D"), Some("maxResults=5&nextToken=a%3D".into()));
        assert_eq!(query("X-Amz-Algorithm=a&type=APPLICATION&X-Amz-Signature=b"), Some("type=APPLICATION".into()));
        assert_eq!(query("x%2Damz-security-token=t&X-AMZ-Date=1"), None);
    }
}
