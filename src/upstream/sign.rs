//! Authentication of a request towards commercial Bedrock: a bearer token or Signature Version 4, never both.

use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::uri::PathAndQuery;
use http::{HeaderMap, Method};

use crate::config::Endpoint;
use crate::credentials::{Credential, CredentialKind};
use crate::large;
use crate::operation::Plane;
use crate::sigv4::events::Chain;
use crate::sigv4::{self, Service, SigningCredentials, Unsigned};

/// What a signature covers. All else may be changed on the way without breaking it, so nothing else is signed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Signed<'a> {
    pub method: &'a Method,
    /// Encoded once, as it is sent.
    pub path: &'a PathAndQuery,
    /// Each of Bedrock's hosts is signed for by its own service's name, if it has one.
    pub plane: Plane,
    pub endpoint: &'a Endpoint,
    pub region: &'a str,
    /// Of [`BodyHash`].
    pub body_hash: &'a str,
    /// Now, corrected by what is known of the upstream's clock.
    pub now: SystemTime,
}

/// What signatures say of a body. It is computed when the first of them needs it, and all clones know it then.
#[derive(Debug, Clone, Default)]
pub(crate) struct BodyHash(Arc<OnceLock<String>>);

impl BodyHash {
    /// What a signature with this credential says of `body`, which is the same at each call; empty where there is no
    /// signature.
    pub(crate) async fn of(&self, credential: &Credential, body: &[u8]) -> &str {
        if matches!(credential.kind, CredentialKind::Bearer { .. }) {
            return "";
        }
        if let Some(known) = self.0.get() {
            return known;
        }
        let hash = large::work(body.len(), || sigv4::hash(body)).await;
        self.0.get_or_init(|| hash)
    }
}

/// Adds the credential to `headers`.
///
/// # Errors
/// A sentence; it can only come from AWS keys that no header can hold.
pub(crate) fn authenticate(
    headers: &mut HeaderMap,
    credential: &Credential,
    request: Signed<'_>,
) -> Result<(), String> {
    match &credential.kind {
        CredentialKind::Bearer { authorization, .. } => {
            headers.insert(AUTHORIZATION, authorization.clone());
            Ok(())
        }
        CredentialKind::AwsKeys(keys) => {
            let service = if request.plane == Plane::Mantle { Service::BedrockMantle } else { Service::Bedrock };
            signed(headers, keys, service, request).map(drop)
        }
    }
}

/// The same for a request whose body is a stream of events, and the chain that its signature begins; none if the credential
/// does not sign.
///
/// # Errors
/// As those of [`authenticate`].
pub(super) fn authenticate_events(
    headers: &mut HeaderMap,
    credential: &Credential,
    request: Signed<'_>,
) -> Result<Option<Chain>, String> {
    let CredentialKind::AwsKeys(keys) = &credential.kind else { return Ok(None) };
    let seed = signed(headers, keys, Service::BedrockEvents, request)?;
    Ok(Some(Chain::new(request.region, sigv4::BEDROCK, &seed)))
}

fn signed(
    headers: &mut HeaderMap,
    keys: &SigningCredentials,
    service: Service,
    request: Signed<'_>,
) -> Result<String, String> {
    let unsigned = Unsigned {
        service,
        region: request.region,
        method: request.method.as_str(),
        path: request.path.path(),
        query: request.path.query(),
        authority: &request.endpoint.authority(),
        covered: &[CONTENT_TYPE],
        body_hash: request.body_hash,
        now: request.now,
    };
    sigv4::sign(headers, keys, &unsigned)
}
