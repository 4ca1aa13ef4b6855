//! What must never arrive here: traces of the client's own authentication, of GovCloud, of the hop before the daemon.

use serde_json::Value;

use crate::partition;

/// Headers that only a proxy adds or that belong to one hop.
const FORBIDDEN: [&str; 13] = [
    "via",
    "forwarded",
    "cookie",
    "x-real-ip",
    "proxy-authorization",
    "proxy-connection",
    "proxy-authenticate",
    "keep-alive",
    "upgrade",
    "x-source-partition",
    "x-destination-partition",
    "origin",
    "x-amz-cf-id",
];

/// Headers that Bedrock defines or HTTP needs, beside those that sign the request.
const DEFINED: [&str; 12] = [
    ":authority",
    "accept",
    "accept-encoding",
    "authorization",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "host",
    "x-amz-content-sha256",
    "x-amz-date",
    "x-amz-security-token",
];

/// What the daemon says of itself. Other clients, SDKs among them, may call directly and say what they like.
const DAEMON: &str = "bedrock-sidecar/";

/// Lists the headers that a request of the daemon may not have: it sends none but those that Bedrock defines and those
/// that a test lets its configuration add.
pub(crate) fn foreign(headers: &[(String, String)], added: &[String]) -> Vec<String> {
    if !is_daemon(headers) {
        return Vec::new();
    }
    let agents = headers.iter().filter(|(name, _)| name == "user-agent").count();
    let is_foreign = |name: &&str| {
        !DEFINED.contains(name)
            && *name != "user-agent"
            && !["anthropic-", "openai-", "x-amzn-bedrock-"].iter().any(|prefix| name.starts_with(prefix))
            && !added.iter().any(|added| added == name)
    };
    let mut found: Vec<String> = headers
        .iter()
        .map(|(name, _)| name.as_str())
        .filter(is_foreign)
        .map(|name| format!("a header that Bedrock does not define: {name}"))
        .collect();
    if agents > 1 {
        found.push(format!("{agents} User-Agent headers"));
    }
    found
}

/// Whether the daemon has sent this.
pub(crate) fn is_daemon(headers: &[(String, String)]) -> bool {
    headers.iter().any(|(name, agent)| name == "user-agent" && agent.starts_with(DAEMON))
}

/// Lists what leaked into a request; empty when it is sound. `own_ports` are those the simulator listens on. GovCloud's own
/// names are leaks in commercial regions only.
pub(crate) fn find(
    region: &str,
    raw_target: &str,
    headers: &[(String, String)],
    body: &[u8],
    own_ports: &[u16],
) -> Vec<String> {
    let is_commercial = !partition::is_govcloud(region);
    let mut leaks = Vec::new();
    let bearer = crate::auth::Kind::of(headers) == crate::auth::Kind::Bearer;
    let authorizations = headers.iter().filter(|(name, _)| name == "authorization").count();
    if authorizations > 1 {
        leaks.push(format!("{authorizations} Authorization headers"));
    }
    for (name, value) in headers {
        if FORBIDDEN.contains(&name.as_str())
            || name.starts_with("x-forwarded-")
            || name.starts_with("x-bedrock-sidecar-")
        {
            leaks.push(format!("header {name}"));
        }
        if bearer && ["x-amz-date", "x-amz-security-token", "x-amz-content-sha256"].contains(&name.as_str()) {
            leaks.push(format!("a SigV4 header beside a bearer key: {name}"));
        }
        if is_commercial && is_govcloud(value) {
            leaks.push(format!("a GovCloud trace in header {name}"));
        }
    }
    let (path, query) = raw_target.split_once('?').unwrap_or((raw_target, ""));
    for (name, _) in crate::route::query_pairs(query) {
        if name.to_ascii_lowercase().starts_with("x-amz-") {
            leaks.push(format!("presigned query parameter {name}"));
        }
    }
    if is_commercial && is_govcloud(&percent_encoding::percent_decode_str(path).decode_utf8_lossy()) {
        leaks.push("a GovCloud identifier in the path".to_owned());
    }
    if is_commercial {
        leaks.extend(leaks_of_body(body));
    }
    leaks.extend(foreign_host(headers, own_ports));
    leaks
}

fn is_govcloud(text: &str) -> bool {
    text.contains("aws-us-gov") || text.contains("us-gov.") || text.contains("us-gov-")
}

/// Only identifiers are looked at: a prompt may speak of GovCloud as it likes.
fn leaks_of_body(body: &[u8]) -> Option<String> {
    const IDENTIFIERS: [&str; 9] = [
        "/model",
        "/modelId",
        "/modelSource/copyFrom",
        "/guardrailConfig/guardrailIdentifier",
        "/amazon-bedrock-guardrailConfig/guardrailIdentifier",
        "/guardrailIdentifier",
        "/projectIdentifier",
        "/outputDataConfig/s3OutputDataConfig/kmsKeyId",
        "/inferenceProfileName",
    ];
    // A cheap look first: bodies may be 25 MB.
    if !std::str::from_utf8(body).is_ok_and(|text| text.contains("us-gov")) {
        return None;
    }
    let value: Value = serde_json::from_slice(body).ok()?;
    IDENTIFIERS
        .iter()
        .find(|pointer| value.pointer(pointer).and_then(Value::as_str).is_some_and(is_govcloud))
        .map(|pointer| format!("a GovCloud identifier in the body at {pointer}"))
}

/// A daemon that passes on the Host of its own listener would be refused by AWS's front door.
fn foreign_host(headers: &[(String, String)], own_ports: &[u16]) -> Option<String> {
    let hosts: Vec<&str> = headers.iter().filter(|(name, _)| name == "host").map(|(_, value)| value.as_str()).collect();
    if hosts.len() > 1 {
        return Some(format!("{} Host headers", hosts.len()));
    }
    let host = hosts.first()?;
    let (name, port) = host.rsplit_once(':').unwrap_or((host, ""));
    let at_aws = name.ends_with(".amazonaws.com") || name.ends_with(".api.aws");
    let ours = port.parse().is_ok_and(|port: u16| own_ports.contains(&port));
    (!at_aws && !ours).then(|| format!("a Host that is not this server's: {host}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaks(target: &str, headers: &[(&str, &str)], body: &str) -> Vec<String> {
        let headers: Vec<_> = headers.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        find("us-east-1", target, &headers, body.as_bytes(), &[8000])
    }

    #[test]
    fn a_sound_request_has_none() {
        let headers = [("host", "127.0.0.1:8000"), ("authorization", "Bearer ABSKx"), ("connection", "keep-alive")];
        assert!(leaks("/model/a/invoke", &headers, r#"{"prompt":"arn:aws-us-gov:x"}"#).is_empty());
    }

    #[test]
    fn the_daemon_sends_only_headers_that_bedrock_defines() {
        let foreign = |agent: &str, name: &str| {
            let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
            foreign(&[pair("user-agent", agent), pair("accept", "*/*"), pair(name, "x")], &["x-added".to_owned()])
        };
        for name in ["x-amzn-bedrock-trace", "anthropic-beta", "x-amz-date", "content-length", "x-added"] {
            assert!(foreign("bedrock-sidecar/1", name).is_empty(), "{name}");
        }
        for name in [
            "user-agent",
            "amz-sdk-request",
            "x-stainless-os",
            "x-claude-code-session-id",
            "x-amzn-trace-id",
            "traceparent",
        ] {
            assert_eq!(foreign("bedrock-sidecar/1", name).len(), 1, "{name}");
            assert!(foreign("Boto3/1", name).is_empty(), "a direct call: {name}");
        }
    }

    #[test]
    fn each_leak_is_named() {
        let cases: [(&str, (&str, &str), &str); 7] = [
            ("/model/us-gov.a/invoke", ("accept", "*/*"), ""),
            ("/model/a/invoke?X-Amz-Signature=1", ("accept", "*/*"), ""),
            ("/model/a/invoke", ("x-forwarded-for", "10.0.0.1"), ""),
            ("/model/a/invoke", ("via", "1.1 x"), ""),
            ("/model/a/invoke", ("x-amz-date", "20250101T000000Z"), ""),
            ("/model/a/invoke", ("host", "localhost:8790"), ""),
            ("/inference-profiles", ("accept", "*/*"), r#"{"modelSource":{"copyFrom":"arn:aws-us-gov:bedrock"}}"#),
        ];
        for (target, header, body) in cases {
            assert_eq!(
                leaks(target, &[("authorization", "Bearer ABSKx"), header], body).len(),
                1,
                "{target} {header:?}"
            );
        }
    }
}
