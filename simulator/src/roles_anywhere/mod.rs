//! IAM Roles Anywhere: temporary keys of a role for the signature of a certificate's key. Bedrock takes these keys then, by
//! SigV4 with their session token, until the session ends.

mod signature;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::auth::{Presented, header};
use crate::keys::{AwsKey, Session};
use crate::reply::{AwsError, Reply};
use crate::route::query_pairs;
use crate::state::State;

/// The one trust anchor, with the one profile and its role, that the account has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RolesAnywhere {
    /// The trust anchor's ARN.
    pub trust_anchor_arn: String,
    /// Its certificate authority, as PEM.
    pub ca_pem: String,
    /// The profile's ARN.
    pub profile_arn: String,
    /// The role that the profile names.
    pub role_arn: String,
    /// How long a session lasts. A real profile says 900 or more; tests do not wait so long.
    pub session_seconds: u32,
}

/// The headers that CreateSession has beside those of SigV4.
pub(crate) const HEADERS: [&str; 2] = ["x-amz-x509", "x-amz-x509-chain"];

/// Certificates between that of the host and the trust anchor.
const LONGEST_CHAIN: usize = 5;

/// Judges a CreateSession.
pub(crate) fn judge(state: &State, request: &Presented<'_>, now: i64) -> Result<String, AwsError> {
    let certificate = certificate(header(request.headers, "x-amz-x509"))?;
    let serial = signature::verify(request, &certificate, &state.region, now)?;
    let known = state.roles_anywhere();
    let asked = Asked::of(request)?;
    let not_found = |what: &str| {
        AwsError::new(404, "ResourceNotFoundException", format!("simulator: the account has no {what} with this ARN"))
    };
    let known = known.ok_or_else(|| not_found("trust anchor"))?;
    if asked.trust_anchor != known.trust_anchor_arn {
        return Err(not_found("trust anchor"));
    }
    if asked.profile != known.profile_arn {
        return Err(not_found("profile"));
    }
    if asked.role != known.role_arn {
        return Err(denied(format!("Unable to assume role for {}", asked.role)));
    }
    let chain = match header(request.headers, "x-amz-x509-chain") {
        Some(text) => text.split(',').map(|one| decoded(one.trim())).collect::<Result<Vec<_>, _>>()?,
        None => Vec::new(),
    };
    if chain.len() > LONGEST_CHAIN {
        return Err(AwsError::validation("simulator: the chain has more than 5 certificates"));
    }
    check_trust(&certificate, &chain, &known.ca_pem, now)?;
    Ok(serial)
}

/// Keys for who has been judged; `serial` is the certificate's.
pub(crate) fn answer(state: &State, serial: &str, now: i64) -> Result<Reply, AwsError> {
    let known = state.roles_anywhere().ok_or_else(|| denied("simulator: it has just been taken away"))?;
    let random = || uuid::Uuid::new_v4().simple().to_string();
    let key = AwsKey {
        access_key_id: format!("ASIA{}", &random().to_uppercase()[..16]),
        secret_access_key: format!("{}{}", random(), &random()[..8]),
        session_token: Some(format!("IQoJ{}//simulator+roles/anywhere==", random())),
    };
    let until = now + i64::from(known.session_seconds);
    let expiration = jiff::Timestamp::from_second(until).map(|time| time.to_string()).unwrap_or_default();
    let role = known.role_arn.rsplit('/').next().unwrap_or_default();
    let reply = json!({
        "credentialSet": [{
            "assumedRoleUser": {
                "arn": format!("arn:aws:sts::{}:assumed-role/{role}/{serial}", state.account),
                "assumedRoleId": format!("AROASIMULATOREXAMPLE:{serial}"),
            },
            "credentials": {
                "accessKeyId": key.access_key_id,
                "expiration": expiration,
                "secretAccessKey": key.secret_access_key,
                "sessionToken": key.session_token,
            },
            "packedPolicySize": 0,
            "roleArn": known.role_arn,
            "sourceIdentity": format!("CN={serial}"),
        }],
        "subjectArn": format!("arn:aws:rolesanywhere:{}:{}:subject/{}", state.region, state.account, uuid::Uuid::new_v4()),
    });
    state.add_session(Session { key, until });
    Ok(Reply::json(201, &reply))
}

/// What is asked for: in the body or, as the SDKs of AWS write it, in the query.
struct Asked {
    trust_anchor: String,
    profile: String,
    role: String,
}

impl Asked {
    fn of(request: &Presented<'_>) -> Result<Asked, AwsError> {
        const KNOWN: [&str; 6] =
            ["durationSeconds", "profileArn", "roleArn", "trustAnchorArn", "roleSessionName", "instanceProperties"];
        let body: Value = match request.body {
            [] => json!({}),
            body => {
                serde_json::from_slice(body).map_err(|_| AwsError::validation("simulator: the body is not JSON"))?
            }
        };
        let members = body.as_object().ok_or_else(|| AwsError::validation("simulator: the body is no object"))?;
        if let Some(other) = members.keys().find(|name| !KNOWN.contains(&name.as_str())) {
            return Err(AwsError::validation(format!("simulator: CreateSession has no member {other}")));
        }
        if let Some(duration) = members.get("durationSeconds")
            && !duration.as_u64().is_some_and(|seconds| (900..=43_200).contains(&seconds))
        {
            return Err(AwsError::validation("simulator: durationSeconds is a number from 900 to 43200"));
        }
        let query = query_pairs(request.raw_query);
        let text = |name: &str| {
            let of_query = query.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
            let of_body = members.get(name).and_then(Value::as_str).map(str::to_owned);
            of_query.or(of_body).ok_or_else(|| AwsError::validation(format!("simulator: {name} is missing")))
        };
        Ok(Asked { trust_anchor: text("trustAnchorArn")?, profile: text("profileArn")?, role: text("roleArn")? })
    }
}

fn certificate(text: Option<&str>) -> Result<CertificateDer<'static>, AwsError> {
    let text = text.ok_or_else(|| {
        AwsError::new(403, "MissingAuthenticationTokenException", "Missing Authentication Token: X-Amz-X509")
    })?;
    decoded(text)
}

fn decoded(text: &str) -> Result<CertificateDer<'static>, AwsError> {
    let der = STANDARD.decode(text).map_err(|_| AwsError::validation("simulator: a certificate is not base64"))?;
    Ok(CertificateDer::from(der))
}

/// A path from the certificate to the trust anchor that holds now, and a certificate that is for signatures.
fn check_trust(
    certificate: &CertificateDer<'_>,
    chain: &[CertificateDer<'_>],
    ca_pem: &str,
    now: i64,
) -> Result<(), AwsError> {
    let untrusted = |_| denied("Untrusted signing certificate");
    let end_entity = EndEntityCert::try_from(certificate).map_err(untrusted)?;
    let roots: Vec<CertificateDer<'_>> = CertificateDer::pem_slice_iter(ca_pem.as_bytes()).flatten().collect();
    let anchors: Vec<_> = roots.iter().flat_map(webpki::anchor_from_trusted_cert).collect();
    let time = UnixTime::since_unix_epoch(std::time::Duration::from_secs(u64::try_from(now).unwrap_or_default()));
    let algorithms = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.all;
    let path = end_entity.verify_for_usage(algorithms, &anchors, chain, time, KeyUsage::client_auth(), None, None);
    match path {
        Ok(_) => {}
        Err(webpki::Error::CertExpired { .. }) => return Err(denied("Certificate is expired")),
        Err(webpki::Error::CertNotValidYet { .. }) => return Err(denied("Certificate is not yet valid")),
        Err(error) => return Err(untrusted(error)),
    }
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| denied("Untrusted signing certificate"))?;
    let usage = parsed.key_usage().ok().flatten();
    if usage.is_some_and(|usage| usage.value.digital_signature()) {
        return Ok(());
    }
    Err(denied("Untrusted signing certificate: its key usage has no Digital Signature"))
}

fn denied(message: impl Into<String>) -> AwsError {
    AwsError::new(403, "AccessDeniedException", message)
}
