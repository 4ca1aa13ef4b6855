//! What can be wrong with a request's head.

use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderName};
use http::{HeaderMap, Uri, Version};

use crate::error::{Refusal, RefusalKind};

/// Carries the number of a `Fault` in the request that stands in for a refused head. Clients that send it are refused.
pub(crate) const FAULT_HEADER: &str = "x-bedrock-sidecar-head-fault";

const CARRIER: HeaderName = HeaderName::from_static(FAULT_HEADER);

/// The longest head that is served, in bytes.
pub(crate) const MAX_HEAD: usize = 64 * 1024;
pub(super) const MAX_HEADERS: usize = 100;

/// What is wrong with a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    RequestLine,
    HeaderLine,
    Folded,
    BareLineEnd,
    LengthAndEncoding,
    Length,
    Encoding,
    Host,
    Repeated,
    TooLarge,
    TooSlow,
}

pub(super) const FAULTS: [Fault; 11] = [
    Fault::RequestLine,
    Fault::HeaderLine,
    Fault::Folded,
    Fault::BareLineEnd,
    Fault::LengthAndEncoding,
    Fault::Length,
    Fault::Encoding,
    Fault::Host,
    Fault::Repeated,
    Fault::TooLarge,
    Fault::TooSlow,
];

impl Fault {
    /// The fault of a request's head, of either protocol: what a stand-in carries, or what the HTTP library lets pass over
    /// HTTP/2.
    pub(crate) fn of(version: Version, uri: &Uri, headers: &HeaderMap) -> Option<Fault> {
        if version == Version::HTTP_2 {
            return Fault::of_http2(uri, headers);
        }
        let number: usize = headers.get(CARRIER)?.to_str().ok()?.parse().ok()?;
        FAULTS.get(number).copied()
    }

    /// What would be refused over HTTP/1 as well.
    fn of_http2(uri: &Uri, headers: &HeaderMap) -> Option<Fault> {
        // Its length, if it were written for HTTP/1.
        let target = uri.path_and_query().map_or(0, |target| target.as_str().len());
        let length = headers.iter().fold(target, |sum, (name, value)| sum + name.as_str().len() + value.len() + 4);
        if headers.len() > MAX_HEADERS || length > MAX_HEAD {
            return Some(Fault::TooLarge);
        }
        let is_repeated = |name: HeaderName| headers.get_all(name).iter().nth(1).is_some();
        if is_repeated(HOST) {
            return Some(Fault::Host);
        }
        (is_repeated(AUTHORIZATION) || is_repeated(CONTENT_TYPE)).then_some(Fault::Repeated)
    }

    /// The HTTP/1 request that stands for one with this fault.
    pub(super) fn stand_in(self) -> String {
        let number = FAULTS.iter().position(|known| *known == self).unwrap_or_default();
        format!("GET / HTTP/1.1\r\nhost: localhost\r\n{FAULT_HEADER}: {number}\r\nconnection: close\r\n\r\n")
    }

    pub(crate) fn refusal(self) -> Refusal {
        let (kind, message) = match self {
            Fault::RequestLine => {
                (RefusalKind::Validation, "the request line is malformed; send a method, a path and HTTP/1.1.")
            }
            Fault::HeaderLine => (RefusalKind::Validation, "a header line is malformed."),
            Fault::Folded => {
                (RefusalKind::Validation, "a header is folded over several lines, which is obsolete and ambiguous.")
            }
            Fault::BareLineEnd => {
                (RefusalKind::Validation, "a line of the head ends with a bare CR or LF; lines end with CR LF.")
            }
            Fault::LengthAndEncoding => (
                RefusalKind::Validation,
                "the request has both Content-Length and Transfer-Encoding; send one of them.",
            ),
            Fault::Length => (RefusalKind::Validation, "Content-Length is not a number, or stands more than once."),
            Fault::Encoding => {
                (RefusalKind::Validation, "the only Transfer-Encoding served is chunked, once, on HTTP/1.1.")
            }
            Fault::Host => (RefusalKind::Validation, "the request must have exactly one Host header."),
            Fault::Repeated => (RefusalKind::Validation, "a header that must stand once stands more than once."),
            Fault::TooLarge => (RefusalKind::HeadTooLarge, "the request's head exceeds 64 KiB or 100 headers."),
            Fault::TooSlow => {
                (RefusalKind::RequestTimeout, "the request's head did not arrive within listen.header_timeout.")
            }
        };
        Refusal::new(kind, message).closing()
    }
}
