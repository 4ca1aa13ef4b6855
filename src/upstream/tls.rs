//! TLS towards commercial AWS: one client configuration for each set of trusted roots.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};

use crate::crypto;

/// A configuration that offers HTTP/2 and HTTP/1.1 and trusts `ca`, or the system's roots.
///
/// # Errors
/// A sentence for the admin: no usable root certificate was found, or a FIPS build is not in FIPS mode.
pub(crate) fn config(ca: Option<&[CertificateDer<'static>]>) -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(certificates) => {
            let (_, unusable) = roots.add_parsable_certificates(certificates.iter().cloned());
            if roots.is_empty() {
                return Err(format!(
                    "the CA file of the upstream holds no usable certificate ({unusable} cannot be used)"
                ));
            }
        }
        None => {
            let found = rustls_native_certs::load_native_certs();
            let errors = found.errors.len();
            roots.add_parsable_certificates(found.certs);
            if roots.is_empty() {
                return Err(format!(
                    "the system has no trusted root certificates ({errors} errors); install the package ca-certificates or name a ca_file"
                ));
            }
        }
    }
    let mut config = ClientConfig::builder_with_provider(crypto::provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    crypto::require(config.fips(), "TLS towards the upstream")?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
