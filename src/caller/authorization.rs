//! What a request says about its signature: the `Authorization` header of SigV4, or its presigned query form. Strict,
//! because a lenient reading of a signature is how two readers come to differ.

use std::borrow::Cow;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use percent_encoding::percent_decode_str;

use crate::ascii::{self, Alphabet};
use crate::error::{Refusal, RefusalKind};
use crate::settings::callers::is_access_key_id;
use crate::sigv4::ALGORITHM;

/// More than any SDK signs.
const MAX_SIGNED_HEADERS: usize = 128;

/// What a request claims, unproven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Claim<'a> {
    /// No credential that we read.
    Nothing,
    /// `Authorization: Bearer`; the token.
    Bearer(&'a str),
    /// A SigV4 signature.
    Signature(Authorization<'a>),
}

/// A SigV4 signature and what it says it covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Authorization<'a> {
    pub access_key_id: Cow<'a, str>,
    /// `date/region/service/aws4_request`.
    pub scope: Cow<'a, str>,
    /// The names as written: lowercase, sorted, each once, joined by `;`.
    pub signed_headers: Cow<'a, str>,
    /// 64 lowercase hexadecimal digits.
    pub signature: Cow<'a, str>,
    /// The presigned form's date and lifetime; none for the header form.
    pub presigned: Option<Presigned<'a>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Presigned<'a> {
    pub date: Cow<'a, str>,
    /// Seconds, at most seven days.
    pub expires: u32,
}

impl Authorization<'_> {
    /// The scope's date, region and service.
    pub(crate) fn scope_parts(&self) -> (&str, &str, &str) {
        let mut parts = self.scope.split('/');
        let mut part = || parts.next().unwrap_or_default();
        (part(), part(), part())
    }

    pub(crate) fn signs(&self, name: &str) -> bool {
        self.signed_headers.split(';').any(|signed| signed == name)
    }
}

/// Why a signature cannot be read, in AWS's words where it has some.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("The request has more than one credential; send one Authorization header or one presigned query.")]
    Several,
    #[error("Authorization header requires '{0}' parameter.")]
    Missing(&'static str),
    #[error("Authorization header has the parameter '{0}' twice.")]
    Twice(&'static str),
    #[error("Authorization header has a part that is not key=value with a known key.")]
    Unknown,
    #[error(
        "Credential must have exactly 5 slash-delimited elements, such as keyid/date/region/service/aws4_request, without special characters."
    )]
    Credential,
    #[error("SignedHeaders must be lowercase header names in ascending order, each once, separated by ';'.")]
    SignedHeaders,
    #[error("Signature must be 64 lowercase hexadecimal digits.")]
    Signature,
    #[error("The signature must be made with AWS4-HMAC-SHA256.")]
    Algorithm,
    #[error("X-Amz-Expires must be a number of seconds from 1 to 604800.")]
    Expires,
    #[error("The credential is not text.")]
    Text,
}

impl From<Malformed> for Refusal {
    fn from(malformed: Malformed) -> Refusal {
        let kind = match malformed {
            Malformed::Algorithm => RefusalKind::SignatureDoesNotMatch,
            _ => RefusalKind::Validation,
        };
        Refusal::new(kind, malformed.to_string())
    }
}

/// Reads the claim of a request from its headers and its raw query. No secret is touched.
pub(crate) fn claim<'a>(headers: &'a HeaderMap, query: Option<&'a str>) -> Result<Claim<'a>, Malformed> {
    let presigned = query.filter(|query| query.contains("X-Amz-"));
    let presigned = presigned.map(parse_presigned).transpose()?.flatten();
    let mut values = headers.get_all(AUTHORIZATION).into_iter();
    let Some(value) = values.next() else {
        return Ok(presigned.map_or(Claim::Nothing, Claim::Signature));
    };
    if presigned.is_some() || values.next().is_some() {
        return Err(Malformed::Several);
    }
    let text = value.to_str().map_err(|_| Malformed::Text)?.trim_ascii();
    let (scheme, rest) = ascii::split_once(text, b' ').unwrap_or((text, ""));
    if scheme == ALGORITHM {
        return parse(rest).map(Claim::Signature);
    }
    if scheme.eq_ignore_ascii_case("bearer") {
        return Ok(Claim::Bearer(rest.trim_start()));
    }
    if scheme.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("AWS4")) {
        return Err(Malformed::Algorithm);
    }
    Ok(Claim::Nothing)
}

/// Parses what follows the algorithm's name in an `Authorization` header.
pub(crate) fn parse(parameters: &str) -> Result<Authorization<'_>, Malformed> {
    let (mut credential, mut signed_headers, mut signature) = (None, None, None);
    for parameter in ascii::split(parameters, b',') {
        let (key, value) = ascii::split_once(parameter.trim_ascii(), b'=').ok_or(Malformed::Unknown)?;
        let (name, slot) = match key {
            "Credential" => ("Credential", &mut credential),
            "SignedHeaders" => ("SignedHeaders", &mut signed_headers),
            "Signature" => ("Signature", &mut signature),
            _ => return Err(Malformed::Unknown),
        };
        if slot.replace(Cow::Borrowed(value)).is_some() {
            return Err(Malformed::Twice(name));
        }
    }
    Authorization::new(
        credential.ok_or(Malformed::Missing("Credential"))?,
        signed_headers.ok_or(Malformed::Missing("SignedHeaders"))?,
        signature.ok_or(Malformed::Missing("Signature"))?,
        None,
    )
}

/// Parses the `X-Amz-*` parameters of a raw query; none when it holds no signature.
pub(crate) fn parse_presigned(query: &str) -> Result<Option<Authorization<'_>>, Malformed> {
    const NAMES: [&str; 6] = [
        "X-Amz-Algorithm",
        "X-Amz-Credential",
        "X-Amz-Date",
        "X-Amz-Expires",
        "X-Amz-SignedHeaders",
        "X-Amz-Signature",
    ];
    let mut values: [Option<Cow<'_, str>>; 6] = Default::default();
    for pair in query.split('&') {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let Some(index) = NAMES.iter().position(|name| *name == key) else { continue };
        let value = percent_decode_str(value).decode_utf8().map_err(|_| Malformed::Text)?;
        if values[index].replace(value).is_some() {
            return Err(Malformed::Twice(NAMES[index]));
        }
    }
    let [algorithm, credential, date, expires, signed_headers, signature] = values;
    let Some(signature) = signature else { return Ok(None) };
    if algorithm.as_deref() != Some(ALGORITHM) {
        return Err(Malformed::Algorithm);
    }
    let expires = expires.ok_or(Malformed::Missing("X-Amz-Expires"))?;
    let digits = expires.bytes().all(|b| b.is_ascii_digit());
    let seconds = expires.parse::<u32>().ok().filter(|seconds| digits && (1..=604_800).contains(seconds));
    let presigned =
        Presigned { date: date.ok_or(Malformed::Missing("X-Amz-Date"))?, expires: seconds.ok_or(Malformed::Expires)? };
    let credential = credential.ok_or(Malformed::Missing("X-Amz-Credential"))?;
    let signed_headers = signed_headers.ok_or(Malformed::Missing("X-Amz-SignedHeaders"))?;
    Authorization::new(credential, signed_headers, signature, Some(presigned)).map(Some)
}

impl<'a> Authorization<'a> {
    fn new(
        credential: Cow<'a, str>,
        signed_headers: Cow<'a, str>,
        signature: Cow<'a, str>,
        presigned: Option<Presigned<'a>>,
    ) -> Result<Authorization<'a>, Malformed> {
        let (access_key_id, scope) = match credential {
            Cow::Borrowed(text) => {
                ascii::split_once(text, b'/').map(|(id, scope)| (Cow::Borrowed(id), Cow::Borrowed(scope)))
            }
            Cow::Owned(text) => {
                text.split_once('/').map(|(id, scope)| (Cow::Owned(id.to_owned()), Cow::Owned(scope.to_owned())))
            }
        }
        .ok_or(Malformed::Credential)?;
        if !is_access_key_id(&access_key_id) || !is_scope(&scope) {
            return Err(Malformed::Credential);
        }
        if !are_signed_headers(&signed_headers) {
            return Err(Malformed::SignedHeaders);
        }
        if signature.len() != 64 || !IN_SIGNATURES.makes(signature.as_bytes()) {
            return Err(Malformed::Signature);
        }
        Ok(Authorization { access_key_id, scope, signed_headers, signature, presigned })
    }
}

const DIGITS: &[u8] = b"0123456789";
const LOWERCASE: &[u8] = b"abcdefghijklmnopqrstuvwxyz";
const IN_SIGNATURES: Alphabet = Alphabet::of(DIGITS).and(b"abcdef");
const IN_DATES: Alphabet = Alphabet::of(DIGITS);
/// Of the regions and services in a scope.
const IN_WORDS: Alphabet = Alphabet::of(DIGITS).and(LOWERCASE).and(b"-_");
const IN_SIGNED_HEADERS: Alphabet = Alphabet::of(DIGITS).and(LOWERCASE).and(b"-!#$%&'*+.^_`|~");

fn is_scope(scope: &str) -> bool {
    let is_word = |text: &[u8]| (1..=64).contains(&text.len()) && IN_WORDS.makes(text);
    let mut parts = scope.as_bytes().splitn(5, |byte| *byte == b'/');
    let (Some(date), Some(region), Some(service), Some(terminator), None) =
        (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return false;
    };
    date.len() == 8 && IN_DATES.makes(date) && is_word(region) && is_word(service) && terminator == b"aws4_request"
}

fn are_signed_headers(names: &str) -> bool {
    let mut before: &[u8] = b"";
    for (index, name) in names.as_bytes().split(|b| *b == b';').enumerate() {
        // JavaScript v3 signs HTTP/2's pseudo-header under its own name. No name is empty, as each is greater than the one
        // before.
        let is_name = IN_SIGNED_HEADERS.makes(name) || name == b":authority";
        if index >= MAX_SIGNED_HEADERS || !is_name || name <= before {
            return false;
        }
        before = name;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIGNATURE: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn header(credential: &str, headers: &str, signature: &str) -> String {
        format!("Credential={credential}, SignedHeaders={headers}, Signature={signature}")
    }

    #[test]
    fn what_sdks_send_is_read() {
        let text =
            header("AKIA/20261122/us-gov-west-1/bedrock/aws4_request", "content-type;host;x-amz-date", SIGNATURE);
        let read = parse(&text).unwrap();
        assert_eq!(read.access_key_id, "AKIA");
        assert_eq!(read.scope_parts(), ("20261122", "us-gov-west-1", "bedrock"));
        assert!(read.signs("host") && !read.signs("hos"));
        // No space after the commas, and another order.
        let text = format!("Signature={SIGNATURE},SignedHeaders=host,Credential=a/20261122/r/s/aws4_request");
        assert!(parse(&text).is_ok());
    }

    #[test]
    fn what_is_not_exactly_a_signature_is_refused() {
        const GOOD: &str = "AKIA/20261122/us-gov-west-1/bedrock/aws4_request";
        for (credential, headers, signature, why) in [
            ("AKIA", "host", SIGNATURE, Malformed::Credential),
            ("/20261122/r/s/aws4_request", "host", SIGNATURE, Malformed::Credential),
            ("A/B/20261122/r/s/aws4_request", "host", SIGNATURE, Malformed::Credential),
            ("AKIA/2026112/r/s/aws4_request", "host", SIGNATURE, Malformed::Credential),
            ("AKIA/20261122//s/aws4_request", "host", SIGNATURE, Malformed::Credential),
            ("AKIA/20261122/R/s/aws4_request", "host", SIGNATURE, Malformed::Credential),
            ("AKIA/20261122/r/s/aws4_requests", "host", SIGNATURE, Malformed::Credential),
            ("AKIA/20261122/r/s/aws4_request/x", "host", SIGNATURE, Malformed::Credential),
            (GOOD, "", SIGNATURE, Malformed::SignedHeaders),
            (GOOD, "Host", SIGNATURE, Malformed::SignedHeaders),
            (GOOD, "host;content-type", SIGNATURE, Malformed::SignedHeaders),
            (GOOD, "host;host", SIGNATURE, Malformed::SignedHeaders),
            (GOOD, "host;", SIGNATURE, Malformed::SignedHeaders),
            (GOOD, "host", &SIGNATURE[1..], Malformed::Signature),
            (GOOD, "host", &SIGNATURE.to_uppercase(), Malformed::Signature),
            (GOOD, "host", "", Malformed::Signature),
        ] {
            assert_eq!(parse(&header(credential, headers, signature)), Err(why), "{credential} {headers} {signature}");
        }
        let good = header(GOOD, "host", SIGNATURE);
        assert_eq!(parse(&format!("{good}, Signature={SIGNATURE}")), Err(Malformed::Twice("Signature")));
        assert_eq!(parse(&format!("{good}, Extra=1")), Err(Malformed::Unknown));
        assert_eq!(parse(&format!("{good},")), Err(Malformed::Unknown));
        assert_eq!(parse(""), Err(Malformed::Unknown));
        assert_eq!(parse("Credential=x"), Err(Malformed::Missing("SignedHeaders")));
    }

    #[test]
    fn each_part_has_its_alphabet() {
        const LOWER: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyz";
        for byte in 0..=u8::MAX {
            let text = [b'a', byte];
            let in_words = LOWER.contains(&byte) || b"-_".contains(&byte);
            assert_eq!(IN_WORDS.makes(&text), in_words, "{byte}");
            let in_names = LOWER.contains(&byte) || b"-!#$%&'*+.^_`|~".contains(&byte);
            assert_eq!(IN_SIGNED_HEADERS.makes(&text), in_names, "{byte}");
            assert_eq!(IN_SIGNATURES.makes(&text), LOWER[..16].contains(&byte), "{byte}");
            assert_eq!(IN_DATES.makes(&text[1..]), byte.is_ascii_digit(), "{byte}");
        }
        assert!(are_signed_headers(":authority;host") && !are_signed_headers(":path;host"));
    }

    #[test]
    fn one_request_has_one_credential() {
        let mut headers = HeaderMap::new();
        assert_eq!(claim(&headers, None), Ok(Claim::Nothing));
        headers.insert(AUTHORIZATION, "bearer  abc".parse().unwrap());
        assert_eq!(claim(&headers, None), Ok(Claim::Bearer("abc")));
        headers.append(AUTHORIZATION, "Bearer abc".parse().unwrap());
        assert_eq!(claim(&headers, None), Err(Malformed::Several));
        for unknown in
            ["AWS4-HMAC-SHA1 Credential=A", "aws4-hmac-sha256 Credential=A", "AWS4-HMAC-SHA256\tCredential=A"]
        {
            headers.insert(AUTHORIZATION, unknown.parse().unwrap());
            assert_eq!(claim(&headers, None), Err(Malformed::Algorithm), "{unknown}");
        }
        headers.insert(AUTHORIZATION, "Bearer abc".parse().unwrap());
        let query = format!(
            "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=A%2F20261122%2Fr%2Fs%2Faws4_request&X-Amz-Date=20261122T000000Z&X-Amz-Expires=60&X-Amz-SignedHeaders=host&X-Amz-Signature={SIGNATURE}"
        );
        assert_eq!(claim(&headers, Some(&query)), Err(Malformed::Several));
        headers.clear();
        assert!(matches!(claim(&headers, Some(&query)), Ok(Claim::Signature(read)) if read.presigned.is_some()));
        let twice = format!("{query}&X-Amz-Date=20261122T000000Z");
        assert_eq!(claim(&headers, Some(&twice)), Err(Malformed::Twice("X-Amz-Date")));
        assert_eq!(claim(&headers, Some(&query.replace("=60", "=0"))), Err(Malformed::Expires));
        assert_eq!(claim(&headers, Some(&query.replace("HMAC", "ECDSA"))), Err(Malformed::Algorithm));
    }
}
