//! Signature Version 4, verified independently: nothing here is shared with the daemon or taken from an AWS crate.

use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};

/// What a canonical request is made of, as it came off the wire.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Parts<'a> {
    pub(crate) method: &'a str,
    /// The path as on the wire: already encoded once.
    pub(crate) raw_path: &'a str,
    pub(crate) raw_query: &'a str,
    /// Lower-case names with their values, in wire order.
    pub(crate) headers: &'a [(String, String)],
    pub(crate) payload_hash: &'a str,
}

/// The four parts of a credential scope behind the access key id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Scope {
    pub(crate) date: String,
    pub(crate) region: String,
    pub(crate) service: String,
}

impl Scope {
    /// Splits `AKID/date/region/service/aws4_request`.
    pub(crate) fn parse(credential: &str) -> Option<(String, Scope)> {
        match credential.split('/').collect::<Vec<_>>().as_slice() {
            [id, date, region, service, "aws4_request"] => Some((
                (*id).to_owned(),
                Scope { date: (*date).to_owned(), region: (*region).to_owned(), service: (*service).to_owned() },
            )),
            _ => None,
        }
    }

    pub(crate) fn text(&self) -> String {
        format!("{}/{}/{}/aws4_request", self.date, self.region, self.service)
    }
}

/// The signature, in hexadecimal, that this request should carry.
pub(crate) fn signature(parts: &Parts<'_>, signed_headers: &[&str], time: &str, scope: &Scope, secret: &str) -> String {
    let canonical = canonical_request(parts, signed_headers);
    let to_sign = format!("AWS4-HMAC-SHA256\n{time}\n{}\n{}", scope.text(), sha256_hex(canonical.as_bytes()));
    hex(&hmac(&signing_key(scope, secret), to_sign.as_bytes()))
}

/// The key of a scope.
pub(crate) fn signing_key(scope: &Scope, secret: &str) -> Vec<u8> {
    [&scope.date, &scope.region, &scope.service, "aws4_request"]
        .iter()
        .fold(format!("AWS4{secret}").into_bytes(), |key, part| hmac(&key, part.as_bytes()))
}

/// Byte for byte what AWS hashes: the wire path is encoded once more, as for every service but S3.
pub(crate) fn canonical_request(parts: &Parts<'_>, signed_headers: &[&str]) -> String {
    let mut headers = String::new();
    for name in signed_headers {
        let values: Vec<String> =
            parts.headers.iter().filter(|(known, _)| known == name).map(|(_, value)| squeeze(value)).collect();
        headers.push_str(&format!("{name}:{}\n", values.join(",")));
    }
    format!(
        "{}\n{}\n{}\n{headers}\n{}\n{}",
        parts.method,
        canonical_path(parts.raw_path),
        canonical_query(parts.raw_query),
        signed_headers.join(";"),
        parts.payload_hash
    )
}

fn canonical_path(raw_path: &str) -> String {
    if raw_path.is_empty() { "/".to_owned() } else { encode(raw_path.as_bytes(), true) }
}

fn canonical_query(raw_query: &str) -> String {
    let recode = |text: &str| {
        let decoded: Vec<u8> = percent_encoding::percent_decode_str(text).collect();
        encode(&decoded, false)
    };
    let mut pairs: Vec<(String, String)> = raw_query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (recode(name), recode(value)))
        .collect();
    pairs.sort();
    pairs.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
}

/// Encodes everything outside RFC 3986's unreserved set.
pub(crate) fn encode(bytes: &[u8], keep_slash: bool) -> String {
    let mut text = String::with_capacity(bytes.len());
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || (keep_slash && byte == b'/') {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

/// Trims a header value and makes runs of spaces one.
fn squeeze(value: &str) -> String {
    value.split([' ', '\t']).filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

pub(crate) fn sha256_hex(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

pub(crate) fn hmac(key: &[u8], message: &[u8]) -> Vec<u8> {
    // HMAC takes keys of any length: this cannot fail, and an empty key would only make a signature that fits nothing.
    Hmac::<Sha256>::new_from_slice(key)
        .map(|mut mac| {
            mac.update(message);
            mac.finalize().into_bytes().to_vec()
        })
        .unwrap_or_default()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    /// The worked example of AWS's documentation: ListUsers of IAM, 30 August 2015.
    #[test]
    fn the_example_of_the_documentation_verifies() {
        let headers = [
            header("content-type", "application/x-www-form-urlencoded; charset=utf-8"),
            header("host", "iam.amazonaws.com"),
            header("x-amz-date", "20150830T123600Z"),
        ];
        let empty = sha256_hex(b"");
        let parts = Parts {
            method: "GET",
            raw_path: "/",
            raw_query: "Action=ListUsers&Version=2010-05-08",
            headers: &headers,
            payload_hash: &empty,
        };
        let signed = ["content-type", "host", "x-amz-date"];
        let scope = Scope { date: "20150830".into(), region: "us-east-1".into(), service: "iam".into() };
        assert_eq!(
            sha256_hex(canonical_request(&parts, &signed).as_bytes()),
            "f536975d06c0309214f805bb90ccff089219ecd68b2577efef23edd43b7e1a59"
        );
        assert_eq!(
            signature(&parts, &signed, "20150830T123600Z", &scope, "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"),
            "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7"
        );
    }

    /// `get-vanilla` of AWS's published test suite.
    #[test]
    fn get_vanilla_of_the_test_suite_verifies() {
        let headers = [header("host", "example.amazonaws.com"), header("x-amz-date", "20150830T123600Z")];
        let empty = sha256_hex(b"");
        let parts = Parts { method: "GET", raw_path: "/", raw_query: "", headers: &headers, payload_hash: &empty };
        let scope = Scope { date: "20150830".into(), region: "us-east-1".into(), service: "service".into() };
        assert_eq!(
            signature(
                &parts,
                &["host", "x-amz-date"],
                "20150830T123600Z",
                &scope,
                "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
            ),
            "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"
        );
    }

    #[test]
    fn the_wire_path_is_encoded_a_second_time() {
        assert_eq!(canonical_path("/model/a-v1%3A0/invoke"), "/model/a-v1%253A0/invoke");
        assert_eq!(canonical_path("/model/a-v1:0/invoke"), "/model/a-v1%3A0/invoke");
    }

    #[test]
    fn a_query_is_sorted_and_normalised() {
        assert_eq!(canonical_query("b=2&a=%7e&A=x%20y&flag"), "A=x%20y&a=~&b=2&flag=");
    }
}
