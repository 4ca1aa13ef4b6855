//! The ids under which a client's own tracing knows the request. They are kept as they are, if they have the form that they
//! should have: a client can write whatever it likes there.

use http::HeaderMap;
use http::header::HeaderName;

use crate::telemetry::Parent;

/// The headers that carry them.
pub(super) const IDS: [HeaderName; 2] = [TRACEPARENT, AMZN_TRACE_ID];

/// W3C Trace Context.
pub(super) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// AWS X-Ray, and AWS's load balancers.
pub(super) const AMZN_TRACE_ID: HeaderName = HeaderName::from_static("x-amzn-trace-id");

/// Longest value that is kept, in bytes.
const MAX_VALUE: usize = 256;

/// What these headers say, in the same order, where they have their form.
pub(super) fn ids(headers: &HeaderMap) -> [Option<&str>; 2] {
    IDS.map(|name| only(headers, &name).filter(|value| is_good(&name, value)))
}

/// The span of the client that the request belongs to, if one of these ids names one.
pub(super) fn parent([traceparent, amzn_trace_id]: [Option<&str>; 2]) -> Option<Parent> {
    traceparent.and_then(Parent::of_traceparent).or_else(|| amzn_trace_id.and_then(Parent::of_amzn_trace_id))
}

/// The value of a header that stands there once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    values.next().is_none().then(|| value.to_str().ok())?
}

/// Whether the value of one of these headers has its form.
fn is_good(name: &HeaderName, value: &str) -> bool {
    if *name == TRACEPARENT { is_traceparent(value) } else { is_amzn_trace_id(value) }
}

/// A `traceparent` of the W3C's form (Trace Context, 3.2): version, trace id, parent id and flags, in lower-case
/// hexadecimal. What a later version puts behind them stays.
fn is_traceparent(value: &str) -> bool {
    let mut parts = value.splitn(4, '-');
    let mut part = |length: usize| parts.next().filter(|part| part.len() == length && is_lower_hex(part));
    let (Some(version), Some(trace), Some(parent)) = (part(2), part(32), part(16)) else { return false };
    let Some((flags, more)) = parts.next().and_then(|rest| rest.split_at_checked(2)) else { return false };
    let has_end = more.is_empty() || (version != "00" && more.starts_with('-'));
    let is_zero = |id: &str| id.bytes().all(|byte| byte == b'0');
    version != "ff"
        && is_lower_hex(flags)
        && has_end
        && !is_zero(trace)
        && !is_zero(parent)
        && value.len() <= MAX_VALUE
        && value.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Fields of X-Ray (`Root=1-…;Parent=…;Sampled=1`): `name=value`, separated by semicolons, with a root among them.
fn is_amzn_trace_id(value: &str) -> bool {
    let is_plain =
        |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:/+".contains(&b));
    let is_field =
        |field: &str| field.trim().split_once('=').is_some_and(|(name, value)| is_plain(name) && is_plain(value));
    value.len() <= MAX_VALUE
        && value.trim_end_matches(';').split(';').all(is_field)
        && value.split(';').any(|field| field.trim().strip_prefix("Root=").is_some_and(is_root))
}

/// `1-5759e988-bd862e3fe1be46a994272793`: version, seconds since 1970, id.
fn is_root(root: &str) -> bool {
    let parts: Vec<&str> = root.split('-').collect();
    let is_hex = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
    matches!(parts[..], ["1", seconds, id] if seconds.len() == 8 && id.len() == 24 && is_hex(seconds) && is_hex(id))
}

fn is_lower_hex(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_traceparent_has_the_form_of_the_w3c() {
        assert!(is_traceparent(PARENT));
        let later = |tail: &str| PARENT.replacen("00", "cc", 1) + tail;
        assert!(is_traceparent(&later("")) && is_traceparent(&later("-what-comes")));
        for wrong in [
            "".to_owned(),
            "00-1".to_owned(),
            PARENT.to_ascii_uppercase(),
            PARENT.replacen("00", "ff", 1),
            PARENT.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            PARENT.replace("00f067aa0ba902b7", &"0".repeat(16)),
            PARENT.replace('-', "_"),
            PARENT[..54].to_owned(),
            format!("{PARENT}-more"),
            format!("{PARENT}0"),
            later("more"),
            later("- a b"),
            later(&format!("-{}", "a".repeat(256))),
            format!(" {PARENT}"),
            PARENT.replace('f', "é"),
        ] {
            assert!(!is_traceparent(&wrong), "{wrong}");
        }
    }

    #[test]
    fn a_trace_id_of_aws_is_a_list_of_fields_with_a_root() {
        let root = "Root=1-5759e988-bd862e3fe1be46a994272793";
        for good in [
            root.to_owned(),
            format!("{root};Parent=53995c3f42cd8ad8;Sampled=1"),
            format!("Self=1-67891234-12456789abcdef012345678;{root}"),
            format!("{root}; Parent=53995c3f42cd8ad8; Lineage=a87bd80c:1|fd:2").replace('|', "/"),
            format!("{root};"),
        ] {
            assert!(is_amzn_trace_id(&good), "{good}");
        }
        for wrong in [
            String::new(),
            "r".repeat(20),
            "Parent=53995c3f42cd8ad8".to_owned(),
            root.replace("5759e988", "5759e98g"),
            root.replace("Root=1", "Root=2"),
            format!("{root};x"),
            format!("{root};;Sampled=1"),
            format!("{root};said=\"hello\""),
            format!("{root};said=a b"),
            format!("{root};said=\u{1b}[2J"),
            format!("{root};said={}", "a".repeat(256)),
        ] {
            assert!(!is_amzn_trace_id(&wrong), "{wrong}");
        }
    }
}
