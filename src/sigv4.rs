//! Signature Version 4: the canonical form and the keys, which signing and verifying share, and signing itself. What is
//! hashed here is hashed by AWS-LC, so that a build with the FIPS module signs and verifies within it.

pub(crate) mod events;
mod keys;

use std::borrow::Cow;
use std::time::SystemTime;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;
use http::HeaderMap;
use http::header::{AUTHORIZATION, HOST, HeaderName, HeaderValue};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::hexadecimal::{hexadecimal, push_hexadecimal};

pub(crate) use keys::{DerivedKeys, SigningCredentials};

pub(crate) const ALGORITHM: &str = "AWS4-HMAC-SHA256";

static DATE: HeaderName = HeaderName::from_static("x-amz-date");
static SECURITY_TOKEN: HeaderName = HeaderName::from_static("x-amz-security-token");
static CONTENT_SHA256: HeaderName = HeaderName::from_static("x-amz-content-sha256");

/// What stays as it is in a query before it is signed.
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Where a request goes. Services differ in the path that they want signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Service {
    /// The path of the wire, encoded once more.
    Bedrock,
    /// The same for a stream of events: a header says that each of them is signed.
    BedrockEvents,
    /// The same way.
    BedrockMantle,
    /// The path of the wire as it is, and the body's hash in a header of its own.
    S3,
}

/// A request that is about to be sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Unsigned<'a> {
    pub service: Service,
    pub region: &'a str,
    pub method: &'a str,
    /// As on the wire, encoded once. It has no dot segments and no empty ones.
    pub path: &'a str,
    /// As on the wire, without the question mark.
    pub query: Option<&'a str>,
    /// The host, and its port unless that is the scheme's own.
    pub authority: &'a str,
    /// The headers that the signature covers beside the host and its own, where they are there and plain text.
    pub covered: &'a [HeaderName],
    /// [`hash`] of it.
    pub body_hash: &'a str,
    pub now: SystemTime,
}

/// The service that signatures for Bedrock name.
pub(crate) const BEDROCK: &str = "bedrock";

/// Adds the date, the session token and the signature to `headers`, and the hash of the body where the service wants it.
/// Returns the signature, in hexadecimal digits.
///
/// # Errors
/// A sentence: a session token or key id that no header can hold.
pub(crate) fn sign(
    headers: &mut HeaderMap,
    credentials: &SigningCredentials,
    request: &Unsigned<'_>,
) -> Result<String, String> {
    let keys = credentials.keys();
    let date = format_date(request.now);
    headers.insert(&DATE, sensitive(HeaderValue::from_str(&date))?);
    // The names of headers that are there, each once.
    let mut signed = vec![HOST.as_str(), DATE.as_str()];
    if let Some(token) = keys.session_token() {
        headers.insert(&SECURITY_TOKEN, sensitive(HeaderValue::from_str(token))?);
        signed.push(SECURITY_TOKEN.as_str());
    }
    if matches!(request.service, Service::S3 | Service::BedrockEvents) {
        headers.insert(&CONTENT_SHA256, sensitive(HeaderValue::from_str(request.body_hash))?);
        signed.push(CONTENT_SHA256.as_str());
    }
    signed.extend(request.covered.iter().filter(|name| is_plain(headers, name)).map(HeaderName::as_str));
    signed.sort_unstable();
    let signed_headers = signed.join(";");

    let (service, path) = match request.service {
        Service::Bedrock | Service::BedrockEvents => (BEDROCK, encoded_again(request.path)),
        Service::BedrockMantle => ("bedrock-mantle", encoded_again(request.path)),
        Service::S3 => ("s3", Cow::Borrowed(request.path)),
    };
    let query = request.query.map(|query| sorted(&normalised(query))).unwrap_or_default();
    let canonical = Canonical {
        method: request.method,
        path: &path,
        query: &query,
        authority: request.authority,
        headers,
        signed_headers: &signed_headers,
        body_hash: request.body_hash,
    };
    let canonical = canonical.text().ok_or("a header that the signature covers is missing")?;
    let day = date.get(..8).unwrap_or_default();
    let scope = [day, "/", request.region, "/", service, "/aws4_request"].concat();
    let signature = signature(&credentials.signing_key(&scope), &date, &scope, canonical);
    let id = keys.access_key_id();
    let text =
        [ALGORITHM, " Credential=", id, "/", &scope, ", SignedHeaders=", &signed_headers, ", Signature=", &signature];
    headers.insert(AUTHORIZATION, sensitive(HeaderValue::try_from(text.concat()))?);
    Ok(signature)
}

fn sensitive<E>(value: Result<HeaderValue, E>) -> Result<HeaderValue, String> {
    let mut value = value.map_err(|_| "the AWS keys hold control characters".to_owned())?;
    value.set_sensitive(true);
    Ok(value)
}

/// The parts of a canonical request, each in its canonical form but for the headers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Canonical<'a> {
    pub method: &'a str,
    pub path: &'a str,
    pub query: &'a str,
    pub authority: &'a str,
    pub headers: &'a HeaderMap,
    /// Lowercase names in ascending order, joined by semicolons.
    pub signed_headers: &'a str,
    pub body_hash: &'a str,
}

impl Canonical<'_> {
    /// None when a signed header is absent.
    pub(crate) fn text(&self) -> Option<Vec<u8>> {
        let mut text = Vec::with_capacity(1024);
        for part in [self.method, self.path, self.query] {
            text.extend_from_slice(part.as_bytes());
            text.push(b'\n');
        }
        for name in self.signed_headers.split(';') {
            text.extend_from_slice(name.as_bytes());
            text.push(b':');
            if matches!(name, "host" | ":authority") {
                text.extend_from_slice(self.authority.as_bytes());
            } else {
                push_header(&mut text, self.headers, name)?;
            }
            text.push(b'\n');
        }
        text.push(b'\n');
        text.extend_from_slice(self.signed_headers.as_bytes());
        text.push(b'\n');
        text.extend_from_slice(self.body_hash.as_bytes());
        Some(text)
    }
}

/// The signature over a canonical request, in hexadecimal digits. What is signed is written where that request stood.
pub(crate) fn signature(key: &hmac::Key, date: &str, scope: &str, canonical: Vec<u8>) -> String {
    let hashed = digest(&SHA256, &canonical);
    let mut to_sign = canonical;
    to_sign.clear();
    for line in [ALGORITHM, date, scope] {
        to_sign.extend_from_slice(line.as_bytes());
        to_sign.push(b'\n');
    }
    push_hexadecimal(&mut to_sign, hashed.as_ref());
    hexadecimal(hmac::sign(key, &to_sign).as_ref())
}

/// SHA-256 in hexadecimal digits.
pub(crate) fn hash(bytes: &[u8]) -> String {
    hexadecimal(digest(&SHA256, bytes).as_ref())
}

/// A path of the wire, encoded once more: `%3A` becomes `%253A`, a raw `:` becomes `%3A`.
pub(crate) fn encoded_again(path: &str) -> Cow<'_, str> {
    const ENCODED: &AsciiSet = &UNRESERVED.remove(b'/');
    utf8_percent_encode(path, ENCODED).into()
}

/// A query's parameters in order. Nothing is decoded, so nothing can be read in two ways.
pub(crate) fn sorted(query: &str) -> String {
    if query.is_empty() {
        return String::new();
    }
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let mut pairs: Vec<(&str, &str)> = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).collect();
    pairs.sort_unstable();
    let mut sorted = String::with_capacity(query.len() + 1);
    for (key, value) in pairs {
        if !sorted.is_empty() {
            sorted.push('&');
        }
        sorted.push_str(key);
        sorted.push('=');
        sorted.push_str(value);
    }
    sorted
}

/// A query in the one encoding that AWS computes its signature over, however a client has written it.
fn normalised(query: &str) -> String {
    let part = |part: &str| {
        let spaced = part.replace('+', " ");
        utf8_percent_encode(&percent_decode_str(&spaced).decode_utf8_lossy(), UNRESERVED).to_string()
    };
    let pairs = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        format!("{}={}", part(key), part(value))
    });
    pairs.collect::<Vec<_>>().join("&")
}

/// Whether a header is there and visible ASCII. Servers differ in what text they take other bytes for.
fn is_plain(headers: &HeaderMap, name: &HeaderName) -> bool {
    headers.contains_key(name) && headers.get_all(name).iter().all(|value| value.to_str().is_ok())
}

/// All values of a header, trimmed, runs of spaces made one, joined by commas.
fn push_header(text: &mut Vec<u8>, headers: &HeaderMap, name: &str) -> Option<()> {
    let mut values = headers.get_all(name).iter().peekable();
    values.peek()?;
    for (index, value) in values.enumerate() {
        if index > 0 {
            text.push(b',');
        }
        let mut space = false;
        for &byte in value.as_bytes().trim_ascii() {
            if byte != b' ' || !space {
                text.push(byte);
            }
            space = byte == b' ';
        }
    }
    Some(())
}

/// `YYYYMMDDTHHMMSSZ`.
pub(crate) fn format_date(time: SystemTime) -> String {
    let Ok(time) = jiff::Timestamp::try_from(time) else { return String::new() };
    let time = jiff::tz::Offset::UTC.to_datetime(time);
    let (year, small) = (time.year().unsigned_abs(), |number: i8| u16::from(number.unsigned_abs()));
    let day = [(year / 100, ""), (year % 100, ""), (small(time.month()), ""), (small(time.day()), "T")];
    let clock = [(small(time.hour()), ""), (small(time.minute()), ""), (small(time.second()), "Z")];
    let mut text = String::with_capacity(16);
    for (number, after) in day.into_iter().chain(clock) {
        text.extend([number / 10 % 10, number % 10].map(|digit| char::from_digit(digit.into(), 10).unwrap_or('0')));
        text.push_str(after);
    }
    text
}

#[cfg(test)]
mod tests;
