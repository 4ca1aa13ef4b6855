//! Verifies a SigV4 signature over a request as it stands on the wire. Pure: it is given the secret and the time.
//!
//! SDKs encode a path once for the wire and once more for the signature, so the canonical path is the wire's path,
//! encoded again: `%3A` becomes `%253A`, a raw `:` becomes `%3A`. Nothing is decoded or normalised, hence nothing can be
//! read in two ways. A query is signed as it is encoded, in sorted order.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderMap, Method};
use subtle::ConstantTimeEq;

use super::authorization::Authorization;
use super::signing_key::SigningKeys;
use crate::error::{Refusal, RefusalKind};
use crate::legacy_rest;
use crate::sigv4::{Canonical, encoded_again, events, format_date, hash, signature, sorted};

/// How far a signature's date may be from ours, either way.
pub(crate) const SKEW: Duration = Duration::from_secs(300);

/// The services that clients sign for: Bedrock's two, and the one that clients of the legacy REST API sign for.
const SERVICES: [&str; 2] = ["bedrock", "bedrock-mantle"];
const SEED_SERVICE: &str = "execute-api";

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
    pub payload: Payload<'a>,
}

impl<'a> Request<'a> {
    /// `path_and_query` is raw, as on the wire.
    pub(crate) fn new(
        method: &'a Method,
        path_and_query: &'a str,
        authority: &'a str,
        headers: &'a HeaderMap,
        payload: Payload<'a>,
    ) -> Request<'a> {
        let (path, query) = match path_and_query.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (path_and_query, None),
        };
        Request { method: method.as_str(), path, query, authority, headers, payload }
    }
}

/// What a signature says of the body.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Payload<'a> {
    /// Its hash.
    Whole(&'a [u8]),
    /// That it is a stream of events, each signed for itself.
    Events,
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
    let body_hash = match request.payload {
        Payload::Whole(body) => hash(body),
        Payload::Events => events_hash(request.headers),
    };
    check_body_hash(request.headers, &body_hash)?;

    let canonical = canonical_request(authorization, request, &body_hash)
        .ok_or_else(|| refuse("A signed header is missing from the request."))?;
    let key = keys.of_scope(&authorization.scope);
    let expected = signature(&key, &date, &authorization.scope, canonical);
    if bool::from(expected.as_bytes().ct_eq(authorization.signature.as_bytes())) {
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
    let of_seed = service == SEED_SERVICE && legacy_rest::is_below(path);
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

/// What stands for the hash of a body of events. SDKs that do not declare it, such as Rust's, sign the hash of no body.
fn events_hash(headers: &HeaderMap) -> String {
    let empty = hash(b"");
    match headers.get("x-amz-content-sha256") {
        Some(declared) if declared.as_bytes() != empty.as_bytes() => events::PAYLOAD.to_owned(),
        _ => empty,
    }
}

/// None when a signed header is absent.
fn canonical_request(authorization: &Authorization<'_>, request: &Request<'_>, body_hash: &str) -> Option<Vec<u8>> {
    let query = request.query.unwrap_or_default();
    let is_signed = |pair: &&str| pair.split('=').next() != Some("X-Amz-Signature");
    let query = match authorization.presigned {
        Some(_) => sorted(&query.split('&').filter(is_signed).collect::<Vec<_>>().join("&")),
        None => sorted(query),
    };
    let canonical = Canonical {
        method: request.method,
        path: &encoded_again(request.path),
        query: &query,
        authority: request.authority,
        headers: request.headers,
        signed_headers: &authorization.signed_headers,
        body_hash,
    };
    canonical.text()
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

#[cfg(test)]
mod tests;
