//! Signatures of the events that a client streams. Each covers the one before it, the first that of the request itself, and
//! so nothing can be left out, added, repeated or put elsewhere without a key.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;

use super::{format_date, hash};
use crate::eventstream::{TIMESTAMP, push_header};
use crate::hexadecimal::hexadecimal;

/// What the request's own signature says in place of its body's hash.
pub(crate) const PAYLOAD: &str = "STREAMING-AWS4-HMAC-SHA256-EVENTS";

const ALGORITHM: &str = "AWS4-HMAC-SHA256-PAYLOAD";

/// Length of a signature in bytes.
pub(crate) const LENGTH: usize = 32;

/// The header under which a frame tells when it was signed, in milliseconds since 1970. It is signed, too.
pub(crate) fn date_header(milliseconds: i64) -> Vec<u8> {
    let mut header = Vec::new();
    push_header(&mut header, ":date", TIMESTAMP, &milliseconds.to_be_bytes());
    header
}

/// The moment that a frame names; none if there is no such moment.
pub(crate) fn moment(milliseconds: i64) -> Option<SystemTime> {
    UNIX_EPOCH.checked_add(Duration::from_millis(u64::try_from(milliseconds).ok()?))
}

/// `date/region/service/aws4_request`, with the date of the frame: a stream may last past midnight.
pub(crate) fn scope(date: &str, region: &str, service: &str) -> String {
    [date.get(..8).unwrap_or_default(), "/", region, "/", service, "/aws4_request"].concat()
}

/// What is signed of one frame. `prior` is the signature before it, in hexadecimal digits.
fn string_to_sign(date: &str, scope: &str, prior: &str, milliseconds: i64, payload: &[u8]) -> String {
    [ALGORITHM, date, scope, prior, &hash(&date_header(milliseconds)), &hash(payload)].join("\n")
}

/// The signatures of one stream, in their order.
#[derive(Debug)]
pub(crate) struct Chain {
    region: String,
    service: String,
    /// In hexadecimal digits.
    prior: String,
}

impl Chain {
    /// `seed` is the signature of the request, in hexadecimal digits.
    pub(crate) fn new(region: &str, service: &str, seed: &str) -> Chain {
        Chain { region: region.to_owned(), service: service.to_owned(), prior: seed.to_owned() }
    }

    /// The next signature, under the key that `key_of` gives for a scope. The one after it covers it.
    pub(crate) fn next(
        &mut self,
        milliseconds: i64,
        payload: &[u8],
        key_of: impl FnOnce(&str) -> Arc<hmac::Key>,
    ) -> [u8; LENGTH] {
        let date = moment(milliseconds).map(format_date).unwrap_or_default();
        let scope = scope(&date, &self.region, &self.service);
        let text = string_to_sign(&date, &scope, &self.prior, milliseconds, payload);
        let tag = hmac::sign(&key_of(&scope), text.as_bytes());
        let mut signature = [0; LENGTH];
        signature.copy_from_slice(tag.as_ref());
        self.prior = hexadecimal(&signature);
        signature
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::eventstream::{self, STRING};
    use crate::sigv4::DerivedKeys;

    const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

    /// The message of AWS's own test vector for this: a payload and one header.
    fn message() -> Bytes {
        let mut headers = Vec::new();
        push_header(&mut headers, "some-header", STRING, b"value");
        eventstream::frame(&headers, b"test payload")
    }

    /// The string to sign that AWS's SDK for Rust holds its signer to.
    #[test]
    fn the_string_to_sign_is_the_published_vector() {
        let date = format_date(moment(123_456_789_000).unwrap());
        let scope = scope(&date, "us-east-1", "testservice");
        let text = string_to_sign(&date, &scope, &hash(b"last message sts"), 123_456_789_000, &message());
        assert_eq!(
            text.lines().collect::<Vec<_>>(),
            [
                "AWS4-HMAC-SHA256-PAYLOAD",
                "19731129T213309Z",
                "19731129/us-east-1/testservice/aws4_request",
                "be1f8c7d79ef8e1abc5254a2c70e4da3bfaf4f07328f527444e1fc6ea67273e2",
                "0c0e3b3bf66b59b976181bd7d401927bbd624107303c713fd1e5f3d3c8dd1b1e",
                "f2eba0f2e95967ee9fbc6db5e678d2fd599229c0d04b11e4fc8e0f2a02a806c6",
            ]
        );
    }

    #[test]
    fn every_signature_depends_on_all_before_it_and_on_its_own_date_and_payload() {
        let keys = DerivedKeys::default();
        let sign = |seed: &str, frames: &[(i64, &[u8])]| {
            let mut chain = Chain::new("us-east-1", "bedrock", seed);
            let mut last = [0; LENGTH];
            for (date, payload) in frames {
                last = chain.next(*date, payload, |scope| keys.of_scope(SECRET, scope));
            }
            last
        };
        let one: (i64, &[u8]) = (1_700_000_000_000, b"one");
        let two: (i64, &[u8]) = (1_700_000_001_000, b"two");
        let good = sign("seed", &[one, two]);
        assert_eq!(good, sign("seed", &[one, two]));
        for (what, other) in [
            ("another request", sign("deed", &[one, two])),
            ("another order", sign("seed", &[two, one])),
            ("one left out", sign("seed", &[two])),
            ("one repeated", sign("seed", &[one, one, two])),
            ("another payload", sign("seed", &[one, (two.0, b"tw0")])),
            ("another millisecond", sign("seed", &[one, (two.0 + 1, two.1)])),
            ("a payload before it", sign("seed", &[(one.0, b"on3"), two])),
        ] {
            assert_ne!(good, other, "{what}");
        }
    }
}
