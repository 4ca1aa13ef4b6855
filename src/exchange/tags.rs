//! The record's `tags`: headers of the client that stay on this side, but are worth keeping. Those that the configuration
//! names, and the ids of the client's own tracing.

use http::HeaderMap;
use http::header::HeaderName;
use serde_json::{Map, Value};

use super::trace;

/// So many headers are kept.
const MOST: usize = 8;
/// Longest value that is kept, in bytes.
const MAX_VALUE: usize = 256;

/// The values of the headers that are to be kept, as a JSON object in text: records are flat, in the ledger as in DynamoDB.
/// Several headers of one name are joined as HTTP joins them. `ids` are those of `trace`.
pub(super) fn of(headers: &HeaderMap, names: &[HeaderName], ids: [Option<&str>; 2]) -> Option<String> {
    let mut tags = Map::new();
    for name in names {
        let mut joined = Vec::new();
        for value in headers.get_all(name) {
            if !joined.is_empty() {
                joined.extend_from_slice(b", ");
            }
            joined.extend_from_slice(value.as_bytes());
            if joined.len() > MAX_VALUE {
                break;
            }
        }
        let text = String::from_utf8_lossy(&joined);
        let text = &text[..text.floor_char_boundary(MAX_VALUE)];
        if !text.is_empty() {
            tags.insert(name.as_str().to_owned(), Value::from(text));
        }
    }
    for (name, value) in trace::IDS.into_iter().zip(ids) {
        if let Some(value) = value
            && tags.len() < MOST
            && !names.contains(&name)
        {
            tags.insert(name.as_str().to_owned(), Value::from(value));
        }
    }
    (!tags.is_empty()).then(|| Value::Object(tags).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(headers: &HeaderMap, names: &[HeaderName]) -> Option<String> {
        super::of(headers, names, trace::ids(headers))
    }

    fn names(count: usize) -> Vec<HeaderName> {
        (0..count).map(|n| HeaderName::from_bytes(format!("x-{n}{}", "n".repeat(60)).as_bytes()).unwrap()).collect()
    }

    #[test]
    fn only_what_is_named_is_kept_and_what_is_absent_is_not_there() {
        let names = [HeaderName::from_static("traceparent"), HeaderName::from_static("x-session")];
        let mut headers = HeaderMap::new();
        assert_eq!(of(&headers, &names), None);
        headers.insert("x-other", "o".parse().unwrap());
        headers.insert("x-session", "".parse().unwrap());
        assert_eq!(of(&headers, &names), None);
        headers.insert("traceparent", "00-a".parse().unwrap());
        headers.append("traceparent", "00-b\"".parse().unwrap());
        assert_eq!(of(&headers, &names).unwrap(), r#"{"traceparent":"00-a, 00-b\""}"#);
    }

    #[test]
    fn whatever_a_client_sends_stays_within_bounds_and_can_be_read() {
        let names = names(8);
        for value in ["\"".repeat(5000), "é".repeat(3000), "a".repeat(255) + "é", "\\".repeat(300)] {
            let headers: HeaderMap = names
                .iter()
                .map(|name| (name.clone(), http::HeaderValue::from_bytes(value.as_bytes()).unwrap()))
                .collect();
            let tags = of(&headers, &names).unwrap();
            assert!(tags.len() < 8 * 1024, "{}", tags.len());
            let read: Map<String, Value> = serde_json::from_str(&tags).unwrap();
            assert!(read.len() == 8 && read.values().all(|value| value.as_str().unwrap().len() <= MAX_VALUE));
        }
        let mut broken = HeaderMap::new();
        broken.insert(&names[0], http::HeaderValue::from_bytes(b"\xff\xfe\t").unwrap());
        assert!(of(&broken, &names).unwrap().len() < 8 * 1024);
    }

    #[test]
    fn ids_of_traces_are_kept_in_their_form_and_as_far_as_there_is_room() {
        let (parent, root) =
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "Root=1-5759e988-bd862e3fe1be46a994272793");
        let mut headers = HeaderMap::new();
        headers.insert("traceparent", parent.parse().unwrap());
        headers.insert("x-amzn-trace-id", root.parse().unwrap());
        let both = format!(r#"{{"traceparent":"{parent}","x-amzn-trace-id":"{root}"}}"#);
        assert_eq!(of(&headers, &[]).unwrap(), both);
        assert_eq!(of(&headers, &[trace::AMZN_TRACE_ID]).unwrap(), both);
        headers.append("traceparent", parent.parse().unwrap());
        headers.insert("x-amzn-trace-id", "Root=1; what a prompt may say".parse().unwrap());
        assert_eq!(of(&headers, &[]), None, "one of two, and none of its form");
        let named = of(&headers, &[trace::TRACEPARENT]).unwrap();
        assert_eq!(named, format!(r#"{{"traceparent":"{parent}, {parent}"}}"#), "what is named is kept as it is");

        let names = names(8);
        for name in &names[..7] {
            headers.insert(name, "v".parse().unwrap());
        }
        headers.insert("traceparent", parent.parse().unwrap());
        headers.insert("x-amzn-trace-id", root.parse().unwrap());
        let read = |names| serde_json::from_str::<Map<String, Value>>(&of(&headers, names).unwrap()).unwrap();
        let tags = read(&names);
        assert!(tags.len() == 8 && tags.contains_key("traceparent"), "{tags:?}");
    }
}
