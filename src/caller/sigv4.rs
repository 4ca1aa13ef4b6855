//! Verifies a SigV4 signature over a request as it stands on the wire. Pure: it is given the secret and the time.
//!
//! SDKs encode a path once for the wire and once more for the signature, so the canonical path is the wire's path,
//! encoded again: `%3A` becomes `%253A`, a raw `:` becomes `%3A`. Nothing is decoded or normalised, hence nothing can be
//! read in two ways. A query is signed as it is encoded, in sorted order.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;
use http::HeaderMap;
use subtle::ConstantTimeEq;

use super::authorization::{ALGORITHM, Authorization};
use super::signing_key::SigningKeys;
use crate::error::{Refusal, RefusalKind};

/// How far a signature's date may be from ours, either way.
pub(crate) const SKEW: Duration = Duration::from_secs(300);

/// The services that clients sign for: Bedrock's two, and the one that clients of the legacy REST API sign for.
const SERVICES: [&str; 2] = ["bedrock", "bedrock-mantle"];
const SEED_SERVICE: &str = "execute-api";
const SEED_PATHS: &str = "/v1/";

/// A request as it came.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request<'a> {
    pub method: &'a str,
    /// Raw, as on the wire.
    pub path: &'a str,
    /// Raw, without the question mark.
    pub query: Option<&'a str>,
    /// `:authority` in HTTP/2, `Host` in HTTP/1.1.
    pub authority: &'a str,
    /// As received, before anything was stripped.
    pub headers: &'a HeaderMap,
    pub body: &'a [u8],
}

/// Verifies the signature, or says in AWS's words why not. `regions` are accepted beside every `us-gov-…` region.
pub(crate) fn verify(
    authorization: &Authorization<'_>,
    request: &Request<'_>,
    keys: &SigningKeys,
    regions: &[String],
    now: SystemTime,
) -> Result<(), Refusal> {
    let date = check_date(authorization, request.headers, now)?;
    check_scope(authorization, &date, request.path, regions)?;
    check_signed_headers(authorization, request.headers)?;
    let body_hash = hex(digest(&SHA256, request.body).as_ref());
    check_body_hash(request.headers, &body_hash)?;

    let canonical = canonical_request(authorization, request, &body_hash)
        .ok_or_else(|| refuse("A signed header is missing from the request."))?;
    let to_sign =
        format!("{ALGORITHM}\n{date}\n{}\n{}", authorization.scope, hex(digest(&SHA256, &canonical).as_ref()));
    let expected = hmac::sign(&keys.of_scope(&authorization.scope), to_sign.as_bytes());
    if bool::from(hex(expected.as_ref()).as_bytes().ct_eq(authorization.signature.as_bytes())) {
        return Ok(());
    }
    Err(refuse(
        "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key and signing method. Consult the service documentation for details.",
    ))
}

fn refuse(message: impl Into<std::borrow::Cow<'static, str>>) -> Refusal {
    Refusal::new(RefusalKind::SignatureDoesNotMatch, message)
}

/// The date of the signature, `YYYYMMDDTHHMMSSZ`, if it is near enough.
fn check_date(authorization: &Authorization<'_>, headers: &HeaderMap, now: SystemTime) -> Result<String, Refusal> {
    let (text, lifetime) = match &authorization.presigned {
        Some(presigned) => (presigned.date.as_ref(), Duration::from_secs(presigned.expires.into())),
        None => {
            let mut values = headers.get_all("x-amz-date").iter();
            let (Some(value), None) = (values.next(), values.next()) else {
                return Err(refuse("Authorization header requires existence of one 'X-Amz-Date' header."));
            };
            (value.to_str().unwrap_or_default(), SKEW)
        }
    };
    let Some(signed_at) = parse_date(text) else {
        return Err(refuse(
            "Date must be in ISO-8601 'basic format'. See http://en.wikipedia.org/wiki/ISO_8601#Calendar_dates",
        ));
    };
    if signed_at > now + SKEW {
        return Err(refuse(format!(
            "Signature not yet current: {text} is still later than {} ({} + 5 min.)",
            format_date(now + SKEW),
            format_date(now)
        )));
    }
    if signed_at + lifetime < now {
        let earliest = now.checked_sub(lifetime).unwrap_or(UNIX_EPOCH);
        return Err(refuse(match authorization.presigned {
            Some(_) => format!("Signature expired: {text} is now earlier than {}.", format_date(earliest)),
            None => format!(
                "Signature expired: {text} is now earlier than {} ({} - 5 min.)",
                format_date(earliest),
                format_date(now)
            ),
        }));
    }
    Ok(text.to_owned())
}

fn check_scope(authorization: &Authorization<'_>, date: &str, path: &str, regions: &[String]) -> Result<(), Refusal> {
    let (day, region, service) = authorization.scope_parts();
    if !date.starts_with(day) {
        return Err(refuse(format!(
            "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: '{day}' != '{}', from '{date}'.",
            &date[..8]
        )));
    }
    let of_seed = service == SEED_SERVICE && path.starts_with(SEED_PATHS);
    if !SERVICES.contains(&service) && !of_seed {
        return Err(refuse("Credential should be scoped to correct service: 'bedrock'."));
    }
    if !region.starts_with("us-gov-") && !regions.iter().any(|known| known == region) {
        return Err(refuse(
            "Credential should be scoped to a valid region: a GovCloud region such as 'us-gov-west-1', or that of an upstream.",
        ));
    }
    Ok(())
}

/// Headers that carry meaning for AWS must be covered: the host, and every `x-amz-` header.
fn check_signed_headers(authorization: &Authorization<'_>, headers: &HeaderMap) -> Result<(), Refusal> {
    if !authorization.signs("host") && !authorization.signs(":authority") {
        return Err(refuse("'Host' or ':authority' must be a 'SignedHeader' in the AWS Authorization."));
    }
    for name in headers.keys() {
        if name.as_str().starts_with("x-amz-") && !authorization.signs(name.as_str()) {
            return Err(refuse(format!("'{name}' must be a 'SignedHeader' in the AWS Authorization.")));
        }
    }
    Ok(())
}

/// A declared hash must be the body's. `UNSIGNED-PAYLOAD` and chunk signatures are S3's, and Bedrock takes neither here.
fn check_body_hash(headers: &HeaderMap, body_hash: &str) -> Result<(), Refusal> {
    for declared in headers.get_all("x-amz-content-sha256") {
        if declared.as_bytes() != body_hash.as_bytes() {
            return Err(refuse("The provided 'x-amz-content-sha256' header does not match what was computed."));
        }
    }
    Ok(())
}

/// None when a signed header is absent.
fn canonical_request(authorization: &Authorization<'_>, request: &Request<'_>, body_hash: &str) -> Option<Vec<u8>> {
    let mut canonical = Vec::with_capacity(1024);
    canonical.extend_from_slice(request.method.as_bytes());
    canonical.push(b'\n');
    push_path(&mut canonical, request.path);
    canonical.push(b'\n');
    push_query(&mut canonical, request.query.unwrap_or_default(), authorization.presigned.is_some());
    canonical.push(b'\n');
    for name in authorization.signed_headers.split(';') {
        canonical.extend_from_slice(name.as_bytes());
        canonical.push(b':');
        if matches!(name, "host" | ":authority") {
            canonical.extend_from_slice(request.authority.as_bytes());
        } else {
            push_header(&mut canonical, request.headers, name)?;
        }
        canonical.push(b'\n');
    }
    canonical.push(b'\n');
    canonical.extend_from_slice(authorization.signed_headers.as_bytes());
    canonical.push(b'\n');
    canonical.extend_from_slice(body_hash.as_bytes());
    Some(canonical)
}

fn push_path(canonical: &mut Vec<u8>, path: &str) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    for byte in path.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => canonical.push(byte),
            _ => canonical.extend([b'%', DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]),
        }
    }
}

fn push_query(canonical: &mut Vec<u8>, query: &str, presigned: bool) {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let mut pairs: Vec<(&str, &str)> = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).collect();
    pairs.retain(|(key, _)| !(presigned && *key == "X-Amz-Signature"));
    pairs.sort_unstable();
    for (index, (key, value)) in pairs.into_iter().enumerate() {
        if index > 0 {
            canonical.push(b'&');
        }
        canonical.extend_from_slice(key.as_bytes());
        canonical.push(b'=');
        canonical.extend_from_slice(value.as_bytes());
    }
}

/// All values of a header, trimmed, runs of spaces made one, joined by commas.
fn push_header(canonical: &mut Vec<u8>, headers: &HeaderMap, name: &str) -> Option<()> {
    let mut values = headers.get_all(name).iter().peekable();
    values.peek()?;
    for (index, value) in values.enumerate() {
        if index > 0 {
            canonical.push(b',');
        }
        let mut space = false;
        for &byte in value.as_bytes().trim_ascii() {
            if byte != b' ' || !space {
                canonical.push(byte);
            }
            space = byte == b' ';
        }
    }
    Some(())
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|b| [DIGITS[usize::from(b >> 4)] as char, DIGITS[usize::from(b & 15)] as char]).collect()
}

/// `YYYYMMDDTHHMMSSZ`.
fn parse_date(text: &str) -> Option<SystemTime> {
    let bytes = text.as_bytes();
    if bytes.len() != 16 || bytes[8] != b'T' || bytes[15] != b'Z' {
        return None;
    }
    let number = |range: std::ops::Range<usize>| -> Option<i16> {
        bytes[range].iter().try_fold(0, |sum: i16, b| b.is_ascii_digit().then(|| sum * 10 + i16::from(b - b'0')))
    };
    let small = |at: usize| number(at..at + 2).and_then(|number| i8::try_from(number).ok());
    let (year, month, day) = (number(0..4)?, small(4)?, small(6)?);
    let date = jiff::civil::DateTime::new(year, month, day, small(9)?, small(11)?, small(13)?, 0).ok()?;
    let seconds = date.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_second();
    UNIX_EPOCH.checked_add(Duration::from_secs(u64::try_from(seconds).ok()?))
}

fn format_date(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time).map(|time| time.strftime("%Y%m%dT%H%M%SZ").to_string()).unwrap_or_default()
}

#[cfg(test)]
pub(super) fn unhex(text: &str) -> Option<Vec<u8>> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok()).collect()
}

#[cfg(test)]
mod tests;
