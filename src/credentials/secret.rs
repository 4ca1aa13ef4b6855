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

use crate::partition::Partition;
use crate::sigv4::SigningCredentials;

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
    AwsKeys(SigningCredentials),
}

impl Credential {
    /// From the access keys of an SDK provider.
    ///
    /// # Errors
    /// A sentence for the admin if they cannot work; it quotes nothing of them.
    pub(crate) fn from_keys(keys: AwsKeys) -> Result<Credential, String> {
        check(&keys)?;
        let mut digest = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
        for part in [keys.access_key_id(), keys.secret_access_key(), keys.session_token().unwrap_or_default()] {
            digest.update(part.as_bytes());
            digest.update(&[0]);
        }
        Ok(Credential {
            region: None,
            account: keys.account_id().map(|id| id.as_str().to_owned()),
            expiry: keys.expiry(),
            fingerprint: finish(digest),
            kind: CredentialKind::AwsKeys(SigningCredentials::new(keys)),
        })
    }

    /// Refuses a key that names a region outside the partition whose upstreams it is for: its host must not see it.
    ///
    /// # Errors
    /// A sentence for the admin.
    pub(crate) fn check_partition(&self, partition: Partition) -> Result<(), String> {
        let (place, account) = match partition {
            Partition::Commercial => ("the commercial partition", "commercial"),
            Partition::Govcloud => ("GovCloud", "GovCloud"),
        };
        let is_outside = |region: &&String| region.starts_with("cn-") || Partition::of_region(region) != partition;
        let only_region = match &self.kind {
            CredentialKind::Bearer { only_region, .. } => only_region.as_ref(),
            CredentialKind::AwsKeys(_) => None,
        };
        if let Some(region) = only_region.filter(is_outside) {
            return Err(format!(
                "the short-term API key was made for {region}, which is not in {place}; make one in the {account} account"
            ));
        }
        match self.region.as_ref().filter(is_outside) {
            Some(region) => Err(format!(
                "the secret's \"region\" is {region}, which is not in {place}, and the {account} key must not be sent there; name the region of the upstream, or leave it out"
            )),
            None => Ok(()),
        }
    }

    pub(crate) fn is_expired(&self, now: SystemTime) -> bool {
        self.expiry.is_some_and(|expiry| expiry <= now)
    }

    /// The verb behind its description: the key has, the keys have.
    pub(crate) fn has(&self) -> &'static str {
        if matches!(self.kind, CredentialKind::AwsKeys(_)) { "have" } else { "has" }
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
            CredentialKind::AwsKeys(held) if held.keys().session_token().is_some() => "AWS keys with a session token",
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
    // A name that is there and empty does not hide another one that holds a value.
    let field = |names: &[&str]| {
        names.iter().find_map(|name| fields.get(*name)?.as_str().map(str::trim).filter(|value| !value.is_empty()))
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
        (None, Some(id), Some(secret)) => encoded_pair(id, secret, token)?,
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
    decoded(value).and_then(|text| by_prefix(text.trim())).unwrap_or_else(|| {
        Err(format!("the key is in no form that Bedrock knows, plain or base64-decoded; it must be {FORMS}"))
    })
}

/// What a value of base64 holds, also one that a tool has wrapped into lines; none where it is no base64 of a text.
fn decoded(value: &str) -> Option<Zeroizing<String>> {
    let one_line: Zeroizing<String> = Zeroizing::new(value.split_ascii_whitespace().collect());
    match String::from_utf8(LENIENT.decode(one_line.as_bytes()).ok()?) {
        Ok(text) => Some(Zeroizing::new(text)),
        Err(error) => {
            drop(Zeroizing::new(error.into_bytes()));
            None
        }
    }
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

/// A pair whose fields may be base64-encoded, each for itself. Secrets and tokens look like base64 anyway: a secret is taken
/// for encoded if its access key is, or if that gives it the length that secrets have.
fn encoded_pair(id: &str, secret: &str, token: Option<&str>) -> Result<Credential, String> {
    let is_id = |text: &str| text.starts_with("AKIA") || text.starts_with("ASIA");
    let text_in = |value: &str| decoded(value).filter(|text| is_plausible(text.trim()));
    let decoded_id = if is_id(id) { None } else { text_in(id).filter(|text| is_id(text.trim())) };
    let decoded_secret = match decoded_id {
        Some(_) => text_in(secret),
        None if secret.len() == SECRET_LENGTH => None,
        None => text_in(secret).filter(|text| text.trim().len() == SECRET_LENGTH),
    };
    let decoded_token = token.and_then(text_in);
    let or = |decoded: &Option<Zeroizing<String>>, plain: &str| -> Zeroizing<String> {
        Zeroizing::new(decoded.as_ref().map_or(plain, |text| text.trim()).to_owned())
    };
    let token = token.map(|token| or(&decoded_token, token));
    pair(&or(&decoded_id, id), &or(&decoded_secret, secret), token.as_ref().map(|token| token.as_str()))
}

/// A secret access key has so many characters (AWS's documentation of access keys).
const SECRET_LENGTH: usize = 40;

fn is_plausible(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic())
}

/// An access key with its secret, and its session token if it is temporary.
///
/// # Errors
/// A sentence for the admin; it quotes nothing of them.
pub(super) fn pair(id: &str, secret: &str, token: Option<&str>) -> Result<Credential, String> {
    Credential::from_keys(AwsKeys::new(id, secret, token.map(str::to_owned), None, "secret"))
}

fn check(keys: &AwsKeys) -> Result<(), String> {
    let (id, token) = (keys.access_key_id(), keys.session_token());
    if !is_plausible(id) || !is_plausible(keys.secret_access_key()) || !token.is_none_or(is_plausible) {
        return Err("the AWS keys hold characters that no AWS key has; check how they were stored".to_owned());
    }
    if id.starts_with("ASIA") && token.is_none() {
        return Err(
            "the access key starts with ASIA, so it is temporary and needs its aws_session_token beside it".to_owned()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: &str = "BedrockAPIKey-abcd-at-123456789012:c2VjcmV0";

    fn base64(text: &str) -> String {
        base64::engine::general_purpose::STANDARD.encode(text)
    }

    /// As `base64` and openssl write it.
    fn wrapped(encoded: &str) -> String {
        let lines: Vec<&str> = encoded.as_bytes().chunks(76).map(|line| std::str::from_utf8(line).unwrap()).collect();
        assert!(lines.len() > 1, "too short to be wrapped");
        lines.join("\n") + "\n"
    }

    fn long_term() -> String {
        format!("ABSK{}", base64(LONG))
    }

    fn token(credential: &Credential) -> String {
        match &credential.kind {
            CredentialKind::Bearer { authorization, .. } => {
                authorization.to_str().unwrap().strip_prefix("Bearer ").unwrap().to_owned()
            }
            CredentialKind::AwsKeys(held) => {
                let keys = held.keys();
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
            wrapped(&base64(&key)),
            serde_json::json!({ "bedrock_api_key": wrapped(&base64(&key)) }).to_string(),
            format!(r#"{{"bedrock_api_key":"","bearer_token":"{key}"}}"#),
            format!(r#"{{"bedrock_api_key":null,"bedrock_bearer_token":" ","bearer_token":"{key}"}}"#),
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
    fn each_field_of_a_pair_may_be_encoded() {
        let secret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
        let token = "FwoGZXIvYXdzEXAMPLE//session/token==";
        let encoded = |text: &str, is_encoded: bool| if is_encoded { base64(text) } else { text.to_owned() };
        for bits in 0..8 {
            let is = |bit: u8| bits & (1 << bit) != 0;
            let text = serde_json::json!({
                "aws_access_key_id": encoded("ASIAX", is(0)),
                "aws_secret_access_key": encoded(secret, is(1)),
                "aws_session_token": encoded(token, is(2)),
            });
            assert_eq!(token_of(&text), format!("ASIAX/{secret}/Some({token:?})"), "{bits:03b}");
        }
        // A secret that is base64 of something readable is still a secret.
        let readable = base64("thirty readable characters now");
        assert_eq!(readable.len(), SECRET_LENGTH);
        let text = serde_json::json!({ "access_key": "AKIAX", "secret_key": readable });
        assert_eq!(token_of(&text), format!("AKIAX/{readable}/None"));
        let short = serde_json::json!({ "access_key": base64("AKIAX"), "secret_key": base64("s/+=") });
        assert_eq!(token_of(&short), "AKIAX/s/+=/None");
    }

    fn token_of(secret: &Value) -> String {
        token(&parse(&secret.to_string()).unwrap())
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
}
