//! CreateSession: the request, and its signature by the key of a certificate in place of a secret. Pure: it is given the time.
//! As IAM Roles Anywhere documents it (user guide, "The IAM Roles Anywhere authentication signing process").

use std::time::SystemTime;

use http::HeaderMap;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};

use super::identity::Identity;
use crate::hexadecimal::hexadecimal;
use crate::settings::roles_anywhere::RolesAnywhere;
use crate::sigv4::{self, Canonical, format_date};

pub(super) const PATH: &str = "/sessions";

/// The role whose keys are asked for. How long they hold is the profile's to say.
pub(super) fn body(settings: &RolesAnywhere) -> String {
    serde_json::json!({
        "profileArn": settings.profile_arn,
        "roleArn": settings.role_arn,
        "trustAnchorArn": settings.trust_anchor_arn,
    })
    .to_string()
}

/// All headers but the host.
///
/// # Errors
/// A sentence: the signature could not be made.
pub(super) fn signed_headers(
    settings: &RolesAnywhere,
    identity: &Identity,
    body: &str,
    now: SystemTime,
) -> Result<HeaderMap, String> {
    let value = |text: &str| HeaderValue::from_str(text).map_err(|error| error.to_string());
    let date = format_date(now);
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert("x-amz-date", value(&date)?);
    headers.insert("x-amz-x509", value(&identity.certificate)?);
    let mut names = "content-type;host;x-amz-date;x-amz-x509".to_owned();
    if !identity.chain.is_empty() {
        headers.insert("x-amz-x509-chain", value(&identity.chain)?);
        names.push_str(";x-amz-x509-chain");
    }
    let canonical = Canonical {
        method: "POST",
        path: PATH,
        query: "",
        authority: &settings.endpoint.authority(),
        headers: &headers,
        signed_headers: &names,
        body_hash: &sigv4::hash(body.as_bytes()),
    };
    let canonical = canonical.text().ok_or("a header that the signature covers is missing")?;
    let algorithm = identity.key.algorithm();
    let day = date.get(..8).unwrap_or_default();
    let scope = format!("{day}/{}/rolesanywhere/aws4_request", settings.region);
    let to_sign = format!("{algorithm}\n{date}\n{scope}\n{}", sigv4::hash(&canonical));
    let signature = hexadecimal(&identity.key.sign(to_sign.as_bytes())?);
    let serial = &identity.serial;
    let authorization =
        format!("{algorithm} Credential={serial}/{scope}, SignedHeaders={names}, Signature={signature}");
    headers.insert(AUTHORIZATION, value(&authorization)?);
    Ok(headers)
}
