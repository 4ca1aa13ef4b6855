//! What a commercial credential looks like in the wild, and what it becomes: one API key or one AWS key pair, never both.

use std::fmt;
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials as AwsKeys;
use base64::Engine;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use http::HeaderValue;
use serde_json::Value;
use zeroize::Zeroizing;

/// Base64 as people paste it: with or without padding.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

const FORMS: &str = "a Bedrock API key (ABSK… or bedrock-api-key-…), an AWS key pair, or either of them base64-encoded";

/// A credential of the commercial account, ready to be injected.
pub(crate) struct Credential {
    pub kind: CredentialKind,
    /// The region that the secret names beside the key.
    pub region: Option<String>,
    /// The commercial account, where the key tells it.
    pub account: Option<String>,
    /// After this moment the key is worthless; known for short-term keys and session credentials of a profile.
    pub expiry: Option<SystemTime>,
    /// SHA-256 of the whole credential: what caches and comparisons go by.
    pub fingerprint: [u8; 32],
}

/// How a request is authenticated with it.
#[derive(Debug)]
pub(crate) enum CredentialKind {
    /// `Authorization: Bearer …`, complete. `only_region` is the region that a short-term key was made for.
    Bearer { authorization: HeaderValue, only_region: Option<String> },
    /// Signature Version 4.
    AwsKeys(AwsKeys),
}

impl Credential {
    /// From the access keys of an SDK provider.
    pub(crate) fn from_keys(keys: AwsKeys) -> Credential {
        let mut digest = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
        for part in [keys.access_key_id(), keys.secret_access_key(), keys.session_token().unwrap_or_default()] {
            digest.update(part.as_bytes());
            digest.update(&[0]);
        }
        Credential {
            region: None,
            account: keys.account_id().map(|id| id.as_str().to_owned()),
            expiry: keys.expiry(),
            fingerprint: finish(digest),
            kind: CredentialKind::AwsKeys(keys),
        }
    }

    /// A name for the account in cache keys: the account number, or the fingerprint where it is not known.
    pub(crate) fn account_key(&self) -> String {
        match &self.account {
            Some(account) => account.clone(),
            None => self.fingerprint.iter().take(8).map(|b| format!("{b:02x}")).collect(),
        }
    }

    /// "API key" or "AWS keys", for people.
    pub(crate) fn description(&self) -> &'static str {
        match &self.kind {
            CredentialKind::Bearer { only_region: Some(_), .. } => "short-term Bedrock API key",
            CredentialKind::Bearer { .. } => "Bedrock API key",
            CredentialKind::AwsKeys(keys) if keys.session_token().is_some() => "AWS keys with a session token",
            CredentialKind::AwsKeys(_) => "AWS keys",
        }
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential")
            .field("kind", &self.description())
            .field("region", &self.region)
            .field("account", &self.account)
            .field("expiry", &self.expiry)
            .finish_non_exhaustive()
    }
}

fn finish(digest: aws_lc_rs::digest::Context) -> [u8; 32] {
    let mut fingerprint = [0; 32];
    fingerprint.copy_from_slice(digest.finish().as_ref());
    fingerprint
}

/// Reads the text of a secret in any of the forms that are in use.
///
/// # Errors
/// A sentence for the admin that names the accepted forms and never quotes the secret.
pub(crate) fn parse(text: &str) -> Result<Credential, String> {
    let text = text.trim().trim_start_matches('\u{feff}');
    if text.is_empty() {
        return Err(format!("the secret is empty; it must hold {FORMS}"));
    }
    match serde_json::from_str::<Value>(text) {
        Ok(Value::Object(fields)) => from_object(&fields),
        Ok(Value::String(bare)) => classify(&bare),
        _ if text.starts_with('{') => Err("the secret starts like a JSON object but is not valid JSON".to_owned()),
        _ => classify(text),
    }
}

fn from_object(fields: &serde_json::Map<String, Value>) -> Result<Credential, String> {
    let field = |names: &[&str]| {
        names.iter().find_map(|name| fields.get(*name)).and_then(Value::as_str).map(str::trim).filter(|v| !v.is_empty())
    };
    let api_key = field(&["bedrock_api_key", "bedrock_bearer_token", "bearer_token", "AWS_BEARER_TOKEN_BEDROCK"]);
    let access_key = field(&["aws_access_key_id", "access_key", "AWS_ACCESS_KEY_ID", "AccessKeyId", "access_key_id"]);
    let secret_key = field(&[
        "aws_secret_access_key",
        "secret_key",
        "AWS_SECRET_ACCESS_KEY",
        "SecretAccessKey",
        "secret_access_key",
    ]);
    let token = field(&["aws_session_token", "session_token", "AWS_SESSION_TOKEN", "SessionToken"]);
    let region = field(&["region", "aws_region", "AWS_REGION"]);
    let mut credential = match (api_key, access_key, secret_key) {
        (Some(key), _, _) => classify(key)?,
        (None, Some(id), Some(secret)) => pair(id, secret, token)?,
        (None, Some(_), None) => return Err("the secret has an access key but no aws_secret_access_key".to_owned()),
        (None, None, Some(_)) => return Err("the secret has a secret key but no aws_access_key_id".to_owned()),
        (None, None, None) => {
            return Err("the secret has none of the keys bedrock_api_key, bedrock_bearer_token, bearer_token, \
                 aws_access_key_id with aws_secret_access_key, or access_key with secret_key"
                .to_owned());
        }
    };
    if let Some(region) = region {
        if !crate::settings::is_region(region) {
            return Err("the secret's \"region\" is not the name of an AWS region".to_owned());
        }
        if region.starts_with("us-gov-") || region.starts_with("cn-") {
            return Err(format!(
                "the secret's \"region\" is {region}, which is not in the commercial partition, and the commercial key must not be sent there; name the commercial region, such as \"us-east-1\", or leave it out"
            ));
        }
        credential.region = Some(region.to_owned());
    }
    Ok(credential)
}

/// By its prefix; if none fits, once more after decoding base64.
fn classify(value: &str) -> Result<Credential, String> {
    let value = value.trim();
    if let Some(known) = by_prefix(value) {
        return known;
    }
    let decoded = LENIENT.decode(value).ok().map(Zeroizing::new);
    let decoded = decoded.as_ref().and_then(|bytes| std::str::from_utf8(bytes).ok());
    decoded.and_then(|text| by_prefix(text.trim())).unwrap_or_else(|| {
        Err(format!("the key is in no form that Bedrock knows, plain or base64-decoded; it must be {FORMS}"))
    })
}

fn by_prefix(value: &str) -> Option<Result<Credential, String>> {
    if let Some(encoded) = value.strip_prefix("ABSK") {
        return Some(bearer(value, None, None, account_of(encoded)));
    }
    if let Some(encoded) = value.strip_prefix("bedrock-api-key-") {
        return Some(short_term(value, encoded));
    }
    if value.starts_with("AKIA") || value.starts_with("ASIA") {
        let mut parts = value.splitn(3, ':');
        return match (parts.next(), parts.next(), parts.next()) {
            (Some(id), Some(secret), token) => Some(pair(id, secret, token)),
            _ => None,
        };
    }
    None
}

/// The account number in a long-term key: base64 of `BedrockAPIKey-…-at-<account>:<secret>`.
fn account_of(encoded: &str) -> Option<String> {
    let decoded = Zeroizing::new(LENIENT.decode(encoded).ok()?);
    let text = std::str::from_utf8(&decoded).ok()?;
    let (user, _) = text.split_once(':')?;
    let (_, account) = user.rsplit_once("-at-")?;
    (account.len() == 12 && account.bytes().all(|b| b.is_ascii_digit())).then(|| account.to_owned())
}

fn bearer(
    token: &str,
    only_region: Option<String>,
    expiry: Option<SystemTime>,
    account: Option<String>,
) -> Result<Credential, String> {
    if !token.bytes().all(|b| b.is_ascii_graphic()) {
        return Err("the API key holds characters that no API key has; check how it was stored".to_owned());
    }
    let mut digest = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    digest.update(token.as_bytes());
    // Bytes with an owner are wiped when the last header that shares them is gone.
    let line = Bytes::from_owner(Zeroizing::new(format!("Bearer {token}").into_bytes()));
    let mut authorization =
        HeaderValue::from_maybe_shared(line).map_err(|_| "the API key cannot be sent in a header")?;
    authorization.set_sensitive(true);
    Ok(Credential {
        kind: CredentialKind::Bearer { authorization, only_region },
        region: None,
        account,
        expiry,
        fingerprint: finish(digest),
    })
}

/// A presigned URL in base64, from which region and expiry can be read.
fn short_term(token: &str, encoded: &str) -> Result<Credential, String> {
    let unreadable =
        || "the short-term API key cannot be decoded; it was probably cut or changed when it was stored".to_owned();
    let url = Zeroizing::new(LENIENT.decode(encoded).map_err(|_| unreadable())?);
    let url = std::str::from_utf8(&url).map_err(|_| unreadable())?;
    let parameter = |name: &str| {
        url.split(['?', '&'])
            .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
            .map(|value| percent_encoding::percent_decode_str(value).decode_utf8_lossy().into_owned())
    };
    let scope = parameter("X-Amz-Credential").ok_or_else(unreadable)?;
    let region = scope.split('/').nth(2).filter(|r| crate::settings::is_region(r)).ok_or_else(unreadable)?;
    if region.starts_with("us-gov-") || region.starts_with("cn-") {
        return Err(format!(
            "the short-term API key was made for {region}, which is not in the commercial partition; make one in the commercial account"
        ));
    }
    let date = parameter("X-Amz-Date").as_deref().and_then(parse_amz_date).ok_or_else(unreadable)?;
    let seconds: u64 = parameter("X-Amz-Expires").and_then(|s| s.parse().ok()).ok_or_else(unreadable)?;
    // At most 12 hours, whatever the parameter claims (AWS's documentation of short-term keys).
    let expiry = date.checked_add(Duration::from_secs(seconds.min(12 * 3600))).ok_or_else(unreadable)?;
    bearer(token, Some(region.to_owned()), Some(expiry), None)
}

/// `20260131T235959Z`, the format of X-Amz-Date.
pub(crate) fn parse_amz_date(text: &str) -> Option<SystemTime> {
    let moment = jiff::fmt::strtime::parse("%Y%m%dT%H%M%SZ", text).ok()?.to_datetime().ok()?;
    let timestamp = moment.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp();
    Some(timestamp.into())
}

fn pair(id: &str, secret: &str, token: Option<&str>) -> Result<Credential, String> {
    let plausible = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
    if !plausible(id) || !plausible(secret) || !token.is_none_or(plausible) {
        return Err("the AWS keys hold characters that no AWS key has; check how they were stored".to_owned());
    }
    if id.starts_with("ASIA") && token.is_none() {
        return Err(
            "the access key starts with ASIA, so it is temporary and needs its aws_session_token beside it".to_owned()
        );
    }
    Ok(Credential::from_keys(AwsKeys::new(id, secret, token.map(str::to_owned), None, "secret")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: &str = "BedrockAPIKey-abcd-at-123456789012:c2VjcmV0";

    fn base64(text: &str) -> String {
        base64::engine::general_purpose::STANDARD.encode(text)
    }

    fn long_term() -> String {
        format!("ABSK{}", base64(LONG))
    }

    fn token(credential: &Credential) -> String {
        match &credential.kind {
            CredentialKind::Bearer { authorization, .. } => {
                authorization.to_str().unwrap().strip_prefix("Bearer ").unwrap().to_owned()
            }
            CredentialKind::AwsKeys(keys) => {
                format!("{}/{}/{:?}", keys.access_key_id(), keys.secret_access_key(), keys.session_token())
            }
        }
    }

    #[test]
    fn every_form_in_the_wild_is_read() {
        let key = long_term();
        for text in [
            format!(r#"{{"bedrock_api_key":"{key}","region":"us-east-1"}}"#),
            format!(r#"{{"bedrock_bearer_token":"{key}"}}"#),
            format!(r#"{{"bearer_token":" {key}\n"}}"#),
            format!(r#"{{"bedrock_api_key":"{}"}}"#, base64(&key)),
            key.clone(),
            format!("{key}\n"),
            format!("\"{key}\""),
            base64(&key),
            base64(&key).trim_end_matches('=').to_owned(),
        ] {
            let credential = parse(&text).unwrap();
            assert_eq!(token(&credential), key, "{text}");
            assert_eq!(credential.account.as_deref(), Some("123456789012"));
        }
        for text in [
            r#"{"aws_access_key_id":"AKIAX","aws_secret_access_key":"s/+="}"#.to_owned(),
            r#"{"access_key":"AKIAX","secret_key":"s/+="}"#.to_owned(),
            "AKIAX:s/+=".to_owned(),
            base64("AKIAX:s/+="),
            format!(r#"{{"bedrock_api_key":"{}"}}"#, base64("AKIAX:s/+=")),
        ] {
            assert_eq!(token(&parse(&text).unwrap()), "AKIAX/s/+=/None", "{text}");
        }
        assert_eq!(token(&parse(&base64("ASIAX:s:t:u")).unwrap()), "ASIAX/s/Some(\"t:u\")");
        let with_region = parse(r#"{"access_key":"AKIAX","secret_key":"s","region":"us-west-2"}"#).unwrap();
        assert_eq!(with_region.region.as_deref(), Some("us-west-2"));
    }

    #[test]
    fn a_short_term_key_tells_region_and_expiry() {
        let url = "bedrock.amazonaws.com/?Action=CallWithBearerToken&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIA%2F20260131%2Fus-west-2%2Fbedrock%2Faws4_request&X-Amz-Date=20260131T235959Z&X-Amz-Expires=43200&X-Amz-Signature=00&Version=1";
        let credential = parse(&format!("bedrock-api-key-{}", base64(url))).unwrap();
        let CredentialKind::Bearer { only_region, .. } = &credential.kind else { panic!() };
        assert_eq!(only_region.as_deref(), Some("us-west-2"));
        let expected = parse_amz_date("20260201T115959Z").unwrap();
        assert_eq!(credential.expiry, Some(expected));
        assert!(parse("bedrock-api-key-####").is_err());
    }

    #[test]
    fn what_is_no_key_is_refused_without_being_quoted() {
        let canary = "bedrock-api-user+1-at-123456789012:CANARY";
        for text in [
            canary.to_owned(),
            base64(canary),
            format!(r#"{{"bedrock_api_key":"{canary}"}}"#),
            r#"{"aws_access_key_id":"AKIACANARY"}"#.to_owned(),
            r#"{"aws_access_key_id":"ASIACANARY","aws_secret_access_key":"CANARY"}"#.to_owned(),
            r#"{"password":"CANARY"}"#.to_owned(),
            "{CANARY".to_owned(),
            "ABSKCANARY\u{7f}x".to_owned(),
            String::new(),
        ] {
            let why = parse(&text).unwrap_err();
            assert!(!why.contains("CANARY"), "{why}");
        }
        assert!(parse(canary).unwrap_err().contains("ABSK"));
    }

    #[test]
    fn a_short_term_key_of_another_partition_is_refused() {
        for region in ["us-gov-west-1", "cn-north-1"] {
            let url = format!(
                "bedrock.amazonaws.com/?X-Amz-Credential=AKIA%2F20260131%2F{region}%2Fbedrock%2Faws4_request&X-Amz-Date=20260131T235959Z&X-Amz-Expires=43200"
            );
            let sentence = parse(&format!("bedrock-api-key-{}", base64(&url))).unwrap_err();
            assert!(sentence.contains(region) && sentence.contains("not in the commercial partition"), "{sentence}");
        }
    }

    #[test]
    fn debug_shows_no_key() {
        let shown = format!("{:?} {:?}", parse(&long_term()).unwrap(), parse("AKIACANARY:CANARY").unwrap());
        assert!(!shown.contains("CANARY") && !shown.contains("ABSK"), "{shown}");
    }

    #[test]
    fn fingerprints_cover_the_whole_credential() {
        let one = parse("AKIAX:s").unwrap().fingerprint;
        assert_ne!(one, parse("AKIAX:t").unwrap().fingerprint);
        assert_eq!(one, parse(&base64("AKIAX:s")).unwrap().fingerprint);
    }

    #[test]
    fn a_region_outside_the_commercial_partition_is_refused() {
        for region in ["us-gov-west-1", "us-gov-east-1", "cn-north-1"] {
            let secret = serde_json::json!({ "bedrock_api_key": "ABSKx", "region": region }).to_string();
            let sentence = parse(&secret).unwrap_err();
            assert!(sentence.contains(region) && sentence.contains("not in the commercial partition"), "{sentence}");
        }
    }
}
