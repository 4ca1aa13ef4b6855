//! The span that a request belongs to: its caller's, as `traceparent` (W3C) or `X-Amzn-Trace-Id` (X-Ray) names it.

/// Of which trace a request is a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Parent {
    pub trace_id: [u8; 16],
    /// None where the trace was begun by something that has no span of its own, such as a load balancer.
    pub span_id: Option<[u8; 8]>,
    /// The caller records the trace. Where X-Ray leaves that open, it does.
    pub is_sampled: bool,
    /// It is another process's.
    pub is_remote: bool,
}

impl Parent {
    /// From a value that has the form of a `traceparent`.
    pub(crate) fn of_traceparent(value: &str) -> Option<Parent> {
        let mut parts = value.split('-').skip(1);
        let (trace_id, span_id) = (bytes(parts.next()?)?, bytes(parts.next()?)?);
        let flags = u8::from_str_radix(parts.next()?, 16).ok()?;
        Some(Parent { trace_id, span_id: Some(span_id), is_sampled: flags & 1 == 1, is_remote: true })
    }

    /// The span of a request (see `span.rs`), for what the daemon does itself on its account. `caller` is the request's own
    /// parent.
    pub(crate) fn of_request(id: uuid::Uuid, caller: Option<Parent>) -> Parent {
        let id = id.into_bytes();
        Parent {
            trace_id: caller.map_or(id, |caller| caller.trace_id),
            span_id: id.last_chunk().copied(),
            is_sampled: caller.is_none_or(|caller| caller.is_sampled),
            is_remote: false,
        }
    }

    /// From a value that has the form of an `X-Amzn-Trace-Id`. X-Ray's ids are those of OpenTelemetry in another spelling.
    pub(crate) fn of_amzn_trace_id(value: &str) -> Option<Parent> {
        let field = |name: &str| value.split(';').find_map(|field| field.trim().strip_prefix(name)?.strip_prefix('='));
        let root = field("Root")?.strip_prefix("1-")?.replacen('-', "", 1);
        let span_id = field("Parent").and_then(bytes).filter(|id: &[u8; 8]| *id != [0; 8]);
        let trace_id = bytes(&root).filter(|id: &[u8; 16]| *id != [0; 16])?;
        Some(Parent { trace_id, span_id, is_sampled: field("Sampled") != Some("0"), is_remote: true })
    }
}

/// So many bytes in hexadecimal, no more and no fewer.
fn bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; N];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: [u8; 16] =
        [0x57, 0x59, 0xe9, 0x88, 0xbd, 0x86, 0x2e, 0x3f, 0xe1, 0xbe, 0x46, 0xa9, 0x94, 0x27, 0x27, 0x93];
    const SPAN: [u8; 8] = [0x53, 0x99, 0x5c, 0x3f, 0x42, 0xcd, 0x8a, 0xd8];

    #[test]
    fn both_spellings_name_the_same_parent() {
        let parent = Parent { trace_id: TRACE, span_id: Some(SPAN), is_sampled: true, is_remote: true };
        let w3c = "00-5759e988bd862e3fe1be46a994272793-53995c3f42cd8ad8-01";
        assert_eq!(Parent::of_traceparent(w3c), Some(parent));
        let root = "Root=1-5759e988-bd862e3fe1be46a994272793";
        assert_eq!(Parent::of_amzn_trace_id(&format!("{root};Parent=53995c3f42cd8ad8;Sampled=1")), Some(parent));
        assert_eq!(Parent::of_amzn_trace_id(&format!("Self=1-2-3; {root}")), Some(Parent { span_id: None, ..parent }));
    }

    #[test]
    fn the_caller_says_whether_the_trace_is_recorded() {
        for (flags, is_sampled) in [("00", false), ("01", true), ("02", false), ("03", true)] {
            let parent = Parent::of_traceparent(&format!("00-{}-{}-{flags}", "1".repeat(32), "2".repeat(16)));
            assert_eq!(parent.unwrap().is_sampled, is_sampled, "{flags}");
        }
        for (field, is_sampled) in [("", true), (";Sampled=0", false), (";Sampled=1", true), (";Sampled=?", true)] {
            let parent = Parent::of_amzn_trace_id(&format!("Root=1-5759e988-bd862e3fe1be46a994272793{field}"));
            assert_eq!(parent.unwrap().is_sampled, is_sampled, "{field}");
        }
    }

    #[test]
    fn what_is_no_parent_is_none() {
        let zero = format!("Root=1-00000000-{}", "0".repeat(24));
        for value in ["", "Root=1-1-2", "Parent=53995c3f42cd8ad8", "Root=1-5759e988-bd862e3fe1be46a99427279é", &zero] {
            assert_eq!(Parent::of_amzn_trace_id(value), None, "{value}");
        }
        let odd = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=0000000000000000";
        assert_eq!(Parent::of_amzn_trace_id(odd).unwrap().span_id, None);
    }
}
