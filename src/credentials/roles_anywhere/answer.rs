//! What an answer to CreateSession means.

use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials as AwsKeys;
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::sdk_failure::bounded;
use crate::settings::roles_anywhere::RolesAnywhere;

/// A clock that is off by less is not what a request was refused for, and one that is off by more is not believed.
const NOTABLE_SKEW: Duration = Duration::from_secs(30);
const MOST_SKEW: Duration = Duration::from_secs(86_400);

/// An answer, whole.
pub(super) struct Answer {
    pub status: u16,
    pub error_type: Option<String>,
    pub date: Option<String>,
    pub body: Zeroizing<Vec<u8>>,
}

/// What follows from it; the sentences are for the admin.
#[derive(Debug)]
pub(super) enum Verdict {
    Keys(AwsKeys),
    /// The service has this time. The sentence holds if that does not help.
    Clock(SystemTime, String),
    /// It may work at once.
    Passing(String),
    Refused(String),
}

/// Of the body of an answer, as far as it is of use.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sessions {
    credential_set: Vec<Session>,
}

#[derive(Deserialize)]
struct Session {
    credentials: Keys,
}

/// The texts are moved on, and wiped where they end.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Keys {
    access_key_id: String,
    secret_access_key: String,
    session_token: String,
    /// RFC 3339.
    expiration: String,
}

impl Answer {
    /// `ends` is the end of the certificate, `now` the time that the request was signed with, and `local` this host's then.
    pub(super) fn verdict(
        &self,
        settings: &RolesAnywhere,
        ends: SystemTime,
        now: SystemTime,
        local: SystemTime,
    ) -> Verdict {
        match self.status {
            200 | 201 => match self.keys(settings, now, local) {
                Some(keys) => Verdict::Keys(keys),
                None => Verdict::Refused("the answer of IAM Roles Anywhere holds no keys".to_owned()),
            },
            408 | 500.. => Verdict::Passing(self.not_now()),
            // Asked again at once, a service that all hosts of an account share would have still more to refuse.
            429 => Verdict::Refused(self.not_now()),
            status => {
                let sentence = self.refusal(settings, ends, now);
                match self.other_time(now).filter(|_| matches!(status, 400 | 401 | 403)) {
                    Some(theirs) => Verdict::Clock(theirs, sentence),
                    None => Verdict::Refused(sentence),
                }
            }
        }
    }

    fn not_now(&self) -> String {
        format!("IAM Roles Anywhere cannot give keys now: {}", self.error())
    }

    /// Their end is told by this host's clock.
    fn keys(&self, settings: &RolesAnywhere, now: SystemTime, local: SystemTime) -> Option<AwsKeys> {
        let sessions: Sessions = serde_json::from_slice(&self.body).ok()?;
        let keys = sessions.credential_set.into_iter().next()?.credentials;
        let expiry: jiff::Timestamp = keys.expiration.parse().ok()?;
        let expiry = match SystemTime::from(expiry).duration_since(now) {
            Ok(left) => local + left,
            Err(_) => SystemTime::from(expiry),
        };
        let made = AwsKeys::builder()
            .access_key_id(keys.access_key_id)
            .secret_access_key(keys.secret_access_key)
            .session_token(keys.session_token)
            .expiry(expiry)
            .account_id(settings.account())
            .provider_name("roles_anywhere");
        Some(made.build())
    }

    fn refusal(&self, settings: &RolesAnywhere, ends: SystemTime, now: SystemTime) -> String {
        let file = settings.certificate_file.display();
        let remedy = match self.status {
            _ if ends <= now => {
                let end = jiff::Timestamp::try_from(ends).map(|end| end.to_string()).unwrap_or_default();
                format!("it expired at {end}, so renew it")
            }
            404 => "correct trust_anchor_arn, profile_arn and role_arn".to_owned(),
            _ => "check that the trust anchor has the certificate's CA and is enabled, and that profile and role let it in".to_owned(),
        };
        format!("IAM Roles Anywhere gives no keys for the certificate {file}: {}; {remedy}", self.error())
    }

    /// `AccessDeniedException (403): text`, which quotes nothing that is secret.
    fn error(&self) -> String {
        let json: serde_json::Value = serde_json::from_slice(&self.body).unwrap_or_default();
        let text = |key: &str| json.get(key).and_then(serde_json::Value::as_str);
        let kind = self.error_type.as_deref().or_else(|| text("__type")).unwrap_or("an error without a name");
        let kind = kind.split(':').next().unwrap_or_default();
        let message = text("message").or_else(|| text("Message")).unwrap_or("no message");
        bounded(&format!("{kind} ({}): {}", self.status, message.trim_end_matches('.')))
    }

    /// The service's time, where a signature may have been refused because of it.
    fn other_time(&self, now: SystemTime) -> Option<SystemTime> {
        let theirs = httpdate::parse_http_date(self.date.as_deref()?).ok()?;
        let gap = theirs.duration_since(now).or_else(|_| now.duration_since(theirs)).ok()?;
        (gap > NOTABLE_SKEW && gap < MOST_SKEW).then_some(theirs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Endpoint;

    fn verdict(status: u16, body: &str, now: SystemTime, local: SystemTime) -> Verdict {
        let settings = RolesAnywhere {
            trust_anchor_arn: String::new(),
            profile_arn: String::new(),
            role_arn: "arn:aws:iam::123456789012:role/r".to_owned(),
            certificate_file: "/c".into(),
            private_key_file: "/k".into(),
            region: "us-east-1".to_owned(),
            endpoint: Endpoint::parse("https://rolesanywhere.us-east-1.amazonaws.com").unwrap(),
        };
        let body = Zeroizing::new(body.as_bytes().to_vec());
        let answer = Answer { status, error_type: None, date: None, body };
        answer.verdict(&settings, now + Duration::from_secs(86_400), now, local)
    }

    #[test]
    fn keys_end_by_the_clock_of_this_host() {
        let body = r#"{"credentialSet":[{"credentials":{"accessKeyId":"AKIA","secretAccessKey":"s","sessionToken":"t","expiration":"2026-11-29T13:00:00Z"}}]}"#;
        let theirs: jiff::Timestamp = "2026-11-29T12:00:00Z".parse().unwrap();
        let hour = Duration::from_secs(3600);
        for ours in [SystemTime::from(theirs), SystemTime::from(theirs) + 5 * hour, SystemTime::from(theirs) - 5 * hour]
        {
            match verdict(201, body, theirs.into(), ours) {
                Verdict::Keys(keys) => assert_eq!(keys.expiry(), Some(ours + hour)),
                other => panic!("{other:?}"),
            }
        }
    }

    /// All hosts of an account share the quota.
    #[test]
    fn a_spent_quota_is_not_asked_again_at_once() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        assert!(matches!(verdict(429, "{}", now, now), Verdict::Refused(_)));
        for status in [408, 500, 503] {
            assert!(matches!(verdict(status, "{}", now, now), Verdict::Passing(_)), "{status}");
        }
    }
}
