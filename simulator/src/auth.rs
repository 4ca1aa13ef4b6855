//! Who is calling: a bearer key or a SigV4 signature, and exactly AWS's words when it is neither.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::keys::{AwsKey, Known};
use crate::reply::AwsError;
use crate::route::Host;
use crate::sigv4::{Parts, Scope, encode, sha256_hex, signature};

/// How a request proved itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Bearer,
    SigV4,
    /// The signature of a certificate's key, for IAM Roles Anywhere.
    X509,
    None,
}

impl Kind {
    pub(crate) fn of(headers: &[(String, String)]) -> Kind {
        match header(headers, "authorization") {
            Some(value) if is_bearer(value) => Kind::Bearer,
            Some(value) if value.starts_with("AWS4-HMAC-SHA256") => Kind::SigV4,
            Some(value) if value.starts_with("AWS4-X509-") => Kind::X509,
            _ => Kind::None,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Bearer => "bearer",
            Kind::SigV4 => "sigv4",
            Kind::X509 => "x509",
            Kind::None => "none",
        }
    }
}

/// What a request is judged against.
#[derive(Debug)]
pub(crate) struct Judge<'a> {
    pub(crate) known: &'a Known,
    pub(crate) region: &'a str,
    /// Each host has a service's name of its own.
    pub(crate) host: Host,
    /// The simulator's own idea of the time, seconds since the epoch.
    pub(crate) now: i64,
}

/// A request, as far as authentication looks at it.
#[derive(Debug)]
pub(crate) struct Presented<'a> {
    pub(crate) method: &'a str,
    pub(crate) raw_path: &'a str,
    pub(crate) raw_query: &'a str,
    pub(crate) headers: &'a [(String, String)],
    pub(crate) body: &'a [u8],
}

/// What the signatures of a stream's events begin with: that of its request, and whose it is.
#[derive(Debug, Clone)]
pub(crate) struct Seed {
    pub(crate) signature: String,
    pub(crate) scope: Scope,
    pub(crate) secret: String,
}

const SKEW: i64 = 5 * 60;
/// What a request with signed events says in place of its body's hash.
const EVENTS: &str = "STREAMING-AWS4-HMAC-SHA256-EVENTS";

impl Judge<'_> {
    pub(crate) fn judge(&self, request: &Presented<'_>) -> Result<(), AwsError> {
        match Kind::of(request.headers) {
            Kind::Bearer => {
                let value = header(request.headers, "authorization").unwrap_or_default();
                self.bearer(value["Bearer ".len()..].trim())
            }
            Kind::SigV4 => {
                let body_hash = sha256_hex(request.body);
                if let Some(claimed) = header(request.headers, "x-amz-content-sha256")
                    && claimed != body_hash
                {
                    return Err(invalid_signature(
                        "The provided 'x-amz-content-sha256' header does not match what was computed.",
                    ));
                }
                self.sigv4(request, &body_hash).map(drop)
            }
            Kind::X509 | Kind::None => match header(request.headers, "authorization") {
                Some(_) => Err(AwsError::new(
                    403,
                    "IncompleteSignatureException",
                    "Authorization header requires 'Credential' parameter. Authorization header requires 'Signature' parameter.",
                )),
                None => Err(AwsError::new(403, "MissingAuthenticationTokenException", "Missing Authentication Token")),
            },
        }
    }

    /// The same for a request whose body is a stream of signed events: what their signatures begin with. Keys that do not
    /// sign are not for it.
    pub(crate) fn judge_events(&self, request: &Presented<'_>) -> Result<Seed, AwsError> {
        match Kind::of(request.headers) {
            Kind::SigV4 => {}
            Kind::Bearer => {
                return Err(AwsError::new(
                    403,
                    "AccessDeniedException",
                    "API keys are not supported for InvokeModelWithBidirectionalStream.",
                ));
            }
            _ => return Err(self.judge(request).err().unwrap_or_else(invalid_key)),
        }
        let empty = sha256_hex(b"");
        let body_hash = match header(request.headers, "x-amz-content-sha256") {
            Some(EVENTS) => EVENTS,
            // AWS's SDK for Rust declares nothing and signs the hash of no body; the daemon declares what it does.
            None if !crate::leaks::is_daemon(request.headers) => &empty,
            _ => return Err(invalid_signature("'x-amz-content-sha256' must say that the events are signed.")),
        };
        self.sigv4(request, body_hash)
    }

    fn bearer(&self, token: &str) -> Result<(), AwsError> {
        let short_term = token.strip_prefix("bedrock-api-key-");
        if short_term.is_none() && !token.starts_with("ABSK") {
            return Err(invalid_key_format());
        }
        if self.known.is_expired(token) {
            return Err(expired_bearer());
        }
        let listed = self.known.bearer_tokens.iter().any(|known| known == token);
        match short_term {
            Some(encoded) => self.short_term(encoded, listed),
            None if listed => Ok(()),
            None => Err(invalid_key()),
        }
    }

    /// A short-term key is a presigned URL: good only where and while it says, and only if its signature fits.
    fn short_term(&self, encoded: &str, listed: bool) -> Result<(), AwsError> {
        let url =
            STANDARD.decode(encoded).ok().and_then(|bytes| String::from_utf8(bytes).ok()).ok_or_else(invalid_key)?;
        let query = url.strip_prefix("bedrock.amazonaws.com/?").ok_or_else(invalid_key)?;
        let pairs = crate::route::query_pairs(query);
        let value = |name: &str| pairs.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
        let (id, scope) = value("X-Amz-Credential").and_then(Scope::parse).ok_or_else(invalid_key)?;
        let time = value("X-Amz-Date").unwrap_or_default();
        let made = parse_time(time).ok_or_else(invalid_key)?;
        let lifetime: i64 = value("X-Amz-Expires").and_then(|text| text.parse().ok()).ok_or_else(invalid_key)?;
        if value("Action") != Some("CallWithBearerToken")
            || scope.region != self.region
            || scope.service != "bedrock"
            || !(1..=43_200).contains(&lifetime)
        {
            return Err(invalid_key());
        }
        if self.now >= made + lifetime || self.known.is_expired(&id) {
            return Err(expired_bearer());
        }
        if listed {
            return Ok(());
        }
        let key = self.known.key(&id).ok_or_else(invalid_key)?;
        if key.session_token.as_deref() != value("X-Amz-Security-Token") {
            return Err(invalid_key());
        }
        // `Version=1` is appended after signing by AWS's own token generators.
        let signed: Vec<&str> = query
            .split('&')
            .filter(|pair| !pair.starts_with("X-Amz-Signature=") && !pair.starts_with("Version="))
            .collect();
        let expected = presigned_signature(&signed.join("&"), time, &scope, &key.secret_access_key);
        if value("X-Amz-Signature") == Some(&expected) { Ok(()) } else { Err(invalid_key()) }
    }

    fn sigv4(&self, request: &Presented<'_>, body_hash: &str) -> Result<Seed, AwsError> {
        let authorization = header(request.headers, "authorization").unwrap_or_default();
        let fields: Vec<(&str, &str)> = authorization["AWS4-HMAC-SHA256".len()..]
            .split(',')
            .filter_map(|field| field.trim().split_once('='))
            .collect();
        let field = |name: &str| fields.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
        let (Some(credential), Some(signed), Some(presented)) =
            (field("Credential"), field("SignedHeaders"), field("Signature"))
        else {
            return Err(AwsError::new(
                403,
                "IncompleteSignatureException",
                format!(
                    "Authorization header requires 'Credential', 'SignedHeaders' and 'Signature'. Authorization={authorization}"
                ),
            ));
        };
        let (id, scope) = Scope::parse(credential).ok_or_else(|| {
            invalid_signature(format!("Credential must have exactly 5 slash-delimited elements, got '{credential}'"))
        })?;
        let time = header(request.headers, "x-amz-date").unwrap_or_default();
        let signed: Vec<&str> = signed.split(';').collect();
        self.check_scope(&scope, time)?;
        check_signed_headers(&signed, request.headers)?;
        let key = self.check_key(&id, request.headers)?;
        check_time(self.now, time)?;

        let parts = Parts {
            method: request.method,
            raw_path: request.raw_path,
            raw_query: request.raw_query,
            headers: request.headers,
            payload_hash: body_hash,
        };
        if signature(&parts, &signed, time, &scope, &key.secret_access_key) == presented {
            return Ok(Seed { signature: presented.to_owned(), scope, secret: key.secret_access_key.clone() });
        }
        Err(invalid_signature(
            "The request signature we calculated does not match the signature you provided. Check your AWS Secret \
             Access Key and signing method. Consult the service documentation for details.",
        ))
    }

    fn check_scope(&self, scope: &Scope, time: &str) -> Result<(), AwsError> {
        let service = match self.host {
            Host::Bedrock | Host::AgentRuntime => "bedrock",
            Host::Mantle => "bedrock-mantle",
        };
        if scope.service != service {
            return Err(invalid_signature(format!("Credential should be scoped to correct service: '{service}'. ")));
        }
        if scope.region != self.region {
            return Err(invalid_signature(format!(
                "Credential should be scoped to a valid region, not '{}'. ",
                scope.region
            )));
        }
        check_date(scope, time)
    }

    fn check_key(&self, id: &str, headers: &[(String, String)]) -> Result<&AwsKey, AwsError> {
        let unrecognized = || {
            AwsError::new(403, "UnrecognizedClientException", "The security token included in the request is invalid.")
        };
        let key = self.known.key(id).ok_or_else(unrecognized)?;
        if self.known.is_expired(id) || self.known.has_ended(id, self.now) {
            return Err(expired_token());
        }
        if key.session_token.as_deref() != header(headers, "x-amz-security-token") {
            return Err(unrecognized());
        }
        Ok(key)
    }
}

/// The date of a scope is that of the request.
pub(crate) fn check_date(scope: &Scope, time: &str) -> Result<(), AwsError> {
    if time.starts_with(&scope.date) && scope.date.len() == 8 {
        return Ok(());
    }
    Err(invalid_signature(format!(
        "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: '{}' != '{}', from '{time}'.",
        scope.date,
        time.get(..8).unwrap_or_default()
    )))
}

/// A request is signed with about the time that it is.
pub(crate) fn check_time(now: i64, time: &str) -> Result<(), AwsError> {
    let signed = parse_time(time)
        .ok_or_else(|| invalid_signature(format!("Date must be in ISO-8601 'basic format'. Got '{time}'.")))?;
    let text = format_time(now);
    if signed < now - SKEW {
        let edge = format_time(now - SKEW);
        return Err(invalid_signature(format!(
            "Signature expired: {time} is now earlier than {edge} ({text} - 5 min.)"
        )));
    }
    if signed > now + SKEW {
        let edge = format_time(now + SKEW);
        return Err(invalid_signature(format!(
            "Signature not yet current: {time} is still later than {edge} ({text} + 5 min.)"
        )));
    }
    Ok(())
}

pub(crate) fn check_signed_headers(signed: &[&str], headers: &[(String, String)]) -> Result<(), AwsError> {
    if !signed.contains(&"host") && !signed.contains(&":authority") {
        return Err(invalid_signature("'Host' or ':authority' must be a 'SignedHeader' in the AWS Authorization."));
    }
    let sorted = signed.is_sorted() && signed.iter().all(|name| **name == name.to_ascii_lowercase());
    if !sorted {
        return Err(invalid_signature("'SignedHeaders' must be lower case and in alphabetical order."));
    }
    for name in signed {
        if !headers.iter().any(|(known, _)| known == name) {
            return Err(invalid_signature(format!("'SignedHeaders' names '{name}', which did not arrive.")));
        }
    }
    for (name, _) in headers {
        if name.starts_with("x-amz-") && !signed.contains(&name.as_str()) {
            return Err(invalid_signature(format!(
                "There were headers present in the request which were not signed: {name}"
            )));
        }
    }
    Ok(())
}

/// Makes a short-term API key of `key`, good in `region` for `lifetime` seconds from `made` (seconds since the epoch).
pub fn short_term_key(key: &AwsKey, region: &str, made: i64, lifetime: u32) -> String {
    let time = format_time(made);
    let scope = Scope {
        date: time.get(..8).unwrap_or_default().to_owned(),
        region: region.to_owned(),
        service: "bedrock".to_owned(),
    };
    let credential = encode(format!("{}/{}", key.access_key_id, scope.text()).as_bytes(), false);
    let mut query = format!(
        "Action=CallWithBearerToken&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={credential}&X-Amz-Date={time}\
         &X-Amz-Expires={lifetime}&X-Amz-SignedHeaders=host"
    );
    if let Some(token) = &key.session_token {
        query.push_str(&format!("&X-Amz-Security-Token={}", encode(token.as_bytes(), false)));
    }
    let signature = presigned_signature(&query, &time, &scope, &key.secret_access_key);
    let url = format!("bedrock.amazonaws.com/?{query}&X-Amz-Signature={signature}&Version=1");
    format!("bedrock-api-key-{}", STANDARD.encode(url))
}

fn presigned_signature(query: &str, time: &str, scope: &Scope, secret: &str) -> String {
    let headers = [("host".to_owned(), "bedrock.amazonaws.com".to_owned())];
    let payload_hash = sha256_hex(b"");
    let parts =
        Parts { method: "POST", raw_path: "/", raw_query: query, headers: &headers, payload_hash: &payload_hash };
    signature(&parts, &["host"], time, scope, secret)
}

pub(crate) fn invalid_key_format() -> AwsError {
    AwsError::new(403, "AccessDeniedException", "Invalid API Key format: Must start with pre-defined prefix").capital()
}

pub(crate) fn invalid_key() -> AwsError {
    AwsError::new(403, "AccessDeniedException", "Authentication failed: Please make sure your API Key is valid.")
        .capital()
}

pub(crate) fn expired_bearer() -> AwsError {
    AwsError::new(403, "AccessDeniedException", "Bearer Token has expired").capital()
}

pub(crate) fn expired_token() -> AwsError {
    AwsError::new(403, "ExpiredTokenException", "The security token included in the request is expired")
}

pub(crate) fn invalid_signature(message: impl Into<String>) -> AwsError {
    AwsError::new(403, "InvalidSignatureException", message)
}

/// The first value of a header, by its lower-case name.
pub(crate) fn header<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
}

fn is_bearer(value: &str) -> bool {
    value.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case("bearer "))
}

/// `20250101T000000Z` → seconds since the epoch.
fn parse_time(text: &str) -> Option<i64> {
    let moment = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%SZ", text).ok()?;
    Some(moment.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_second())
}

/// Seconds since the epoch → `20250101T000000Z`.
pub(crate) fn format_time(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).map(|time| time.strftime("%Y%m%dT%H%M%SZ").to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_750_000_000;

    fn judge(region: &str, now: i64, token: &str) -> Result<(), String> {
        let judge = Judge { known: &Known::default(), region, host: Host::Bedrock, now };
        judge.bearer(token).map_err(|error| error.message)
    }

    #[test]
    fn long_term_keys_are_known_or_refused_in_awss_words() {
        assert_eq!(judge("us-east-1", NOW, crate::DEFAULT_BEARER_TOKEN), Ok(()));
        assert_eq!(judge("us-east-1", NOW, "sk-123"), Err(invalid_key_format().message));
        assert_eq!(judge("us-east-1", NOW, "ABSKxyz"), Err(invalid_key().message));
    }

    #[test]
    fn each_host_wants_its_own_service() {
        let scope = |service: &str| Scope {
            date: "20250615".to_owned(),
            region: "us-east-1".to_owned(),
            service: service.to_owned(),
        };
        for (host, own, other) in
            [(Host::Bedrock, "bedrock", "bedrock-mantle"), (Host::Mantle, "bedrock-mantle", "bedrock")]
        {
            let judge = Judge { known: &Known::default(), region: "us-east-1", host, now: NOW };
            assert!(judge.check_scope(&scope(own), "20250615T120000Z").is_ok(), "{own}");
            let refused = judge.check_scope(&scope(other), "20250615T120000Z").map_err(|error| error.message);
            assert_eq!(refused, Err(format!("Credential should be scoped to correct service: '{own}'. ")));
        }
    }

    #[test]
    fn short_term_keys_hold_only_in_their_region_and_time() {
        for key in [AwsKey::default_long_lived(), AwsKey::default_temporary()] {
            let token = short_term_key(&key, "us-east-1", NOW, 3600);
            assert_eq!(judge("us-east-1", NOW + 3599, &token), Ok(()));
            assert_eq!(judge("us-east-1", NOW + 3600, &token), Err(expired_bearer().message));
            assert_eq!(judge("us-west-2", NOW, &token), Err(invalid_key().message));
        }
        let stranger = AwsKey { secret_access_key: "other".into(), ..AwsKey::default_long_lived() };
        let forged = short_term_key(&stranger, "us-east-1", NOW, 3600);
        assert_eq!(judge("us-east-1", NOW, &forged), Err(invalid_key().message));
    }
}
