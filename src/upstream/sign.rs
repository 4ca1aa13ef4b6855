//! Authentication of a request towards commercial Bedrock: a bearer token or Signature Version 4, never both.

use std::time::SystemTime;

use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use http::HeaderMap;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderName, HeaderValue};

use crate::credentials::{Credential, CredentialKind};

/// What a signature covers. All else may be changed on the way without breaking it, so nothing else is signed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Signed<'a> {
    pub method: &'a str,
    /// `https://host/path?query`, encoded once; the signer encodes the path a second time.
    pub uri: &'a str,
    pub authority: &'a str,
    pub region: &'a str,
    pub body: &'a [u8],
    /// Now, corrected by what is known of the upstream's clock.
    pub now: SystemTime,
}

/// Adds the credential to `headers`.
///
/// # Errors
/// A sentence; it can only come from a request that `operation` should have refused.
pub(crate) fn authenticate(
    headers: &mut HeaderMap,
    credential: &Credential,
    request: Signed<'_>,
) -> Result<(), String> {
    let keys = match &credential.kind {
        CredentialKind::Bearer { authorization, .. } => {
            headers.insert(AUTHORIZATION, authorization.clone());
            return Ok(());
        }
        CredentialKind::AwsKeys(keys) => keys,
    };
    let identity = keys.clone().into();
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region(request.region)
        .name("bedrock")
        .time(request.now)
        .settings(SigningSettings::default())
        .build()
        .map_err(|error| error.to_string())?;
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let covered =
        [(HOST.as_str(), request.authority)].into_iter().chain(content_type.map(|t| (CONTENT_TYPE.as_str(), t)));
    let signable = SignableRequest::new(request.method, request.uri, covered, SignableBody::Bytes(request.body))
        .map_err(|error| error.to_string())?;
    let (instructions, _) = sign(signable, &params.into()).map_err(|error| error.to_string())?.into_parts();
    for (name, value) in instructions.headers() {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|error| error.to_string())?;
        let mut value = HeaderValue::from_str(value).map_err(|error| error.to_string())?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    Ok(())
}
