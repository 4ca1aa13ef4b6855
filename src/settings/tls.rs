//! `[listen.tls]`: the one listener that other hosts may be let near.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use toml::Spanned;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::config::callers as written;
use crate::config::{Address, ConfigError, FilePath, Source};
use crate::crypto;

/// What `[listen.tls]` means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tls {
    pub address: SocketAddr,
    pub certificate_file: PathBuf,
    pub private_key_file: PathBuf,
    pub client_ca_file: Option<PathBuf>,
}

/// Which file is to blame, and a sentence's worth of why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} cannot be used: {why}.", path.display())]
pub struct TlsError {
    pub(crate) file: TlsFile,
    pub(crate) path: PathBuf,
    pub(crate) why: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TlsFile {
    Certificate,
    PrivateKey,
    ClientCa,
}

impl Tls {
    /// Whoever comes from another host must show a certificate; on loopback it is welcome and optional.
    pub(crate) fn client_certificate_required(&self) -> bool {
        !self.address.ip().is_loopback()
    }
}

pub(super) fn tls(tls: written::Tls, taken: &[SocketAddr], source: &Source) -> Result<Tls, ConfigError> {
    let span = tls.address.span();
    let Address(address) = tls.address.into_inner();
    if address.port() != 0 && taken.contains(&address) {
        let sentence = format!("{address} is named twice; give the TLS listener a port of its own.");
        return Err(source.error(span, sentence));
    }
    // The unspecified address takes the port on every other one.
    let overlaps = |other: &&SocketAddr| address.ip().is_unspecified() && other.port() == address.port();
    if let Some(other) = taken.iter().find(overlaps).filter(|_| address.port() != 0) {
        let sentence = format!("{address} takes the port of {other} too; give the TLS listener a port of its own.");
        return Err(source.error(span, sentence));
    }
    if !address.ip().is_loopback() && tls.client_ca_file.is_none() {
        let sentence = format!(
            "{address} can be reached from other hosts, so clients must show a certificate; name the CA that issues them in client_ca_file, or listen on a loopback address."
        );
        return Err(source.error(span, sentence));
    }
    let path = |file: &Spanned<FilePath>| file.get_ref().0.clone();
    let settings = Tls {
        address,
        certificate_file: path(&tls.certificate_file),
        private_key_file: path(&tls.private_key_file),
        client_ca_file: tls.client_ca_file.as_ref().map(path),
    };
    // Read once for the sake of the error's line; the listener reads the files for itself.
    match server_config(&settings) {
        Ok(_) => Ok(settings),
        Err(error) => {
            let span = match error.file {
                TlsFile::Certificate => tls.certificate_file.span(),
                TlsFile::PrivateKey => tls.private_key_file.span(),
                TlsFile::ClientCa => tls.client_ca_file.map_or(span, |file| file.span()),
            };
            Err(source.error(span, error.to_string()))
        }
    }
}

/// Reads the files: TLS 1.3 and 1.2, HTTP/2 and HTTP/1.1.
///
/// # Errors
/// Names the file that cannot be used.
pub(crate) fn server_config(tls: &Tls) -> Result<ServerConfig, TlsError> {
    let fail = |file, path: &Path, why: String| TlsError { file, path: path.to_owned(), why };
    let chain =
        certificates(&tls.certificate_file).map_err(|why| fail(TlsFile::Certificate, &tls.certificate_file, why))?;
    let key = PrivateKeyDer::from_pem_file(&tls.private_key_file).map_err(|error| {
        let why = if is_encrypted(&tls.private_key_file) {
            "it is encrypted, and the daemon has no passphrase; store it decrypted, readable for the daemon's user only (openssl pkey -in OLD -out NEW)".to_owned()
        } else {
            error.to_string()
        };
        fail(TlsFile::PrivateKey, &tls.private_key_file, why)
    })?;
    let provider = crypto::provider();
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|error| fail(TlsFile::Certificate, &tls.certificate_file, error.to_string()))?;
    let builder = match &tls.client_ca_file {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let fail = |why| fail(TlsFile::ClientCa, path, why);
            let mut roots = RootCertStore::empty();
            for certificate in certificates(path).map_err(fail)? {
                roots.add(certificate).map_err(|error| fail(error.to_string()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier = if tls.client_certificate_required() { verifier } else { verifier.allow_unauthenticated() };
            builder.with_client_cert_verifier(verifier.build().map_err(|error| fail(error.to_string()))?)
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => fail(
            TlsFile::PrivateKey,
            &tls.private_key_file,
            format!("it is not the key of the certificate {}", tls.certificate_file.display()),
        ),
        error => fail(TlsFile::Certificate, &tls.certificate_file, error.to_string()),
    })?;
    crypto::require(config.fips(), "the TLS listener")
        .map_err(|why| fail(TlsFile::Certificate, &tls.certificate_file, why))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// A PEM key under a passphrase, in either of its forms.
fn is_encrypted(path: &Path) -> bool {
    let text = std::fs::read(path).map(zeroize::Zeroizing::new).unwrap_or_default();
    [&b"BEGIN ENCRYPTED PRIVATE KEY"[..], b"Proc-Type: 4,ENCRYPTED"]
        .iter()
        .any(|mark| memchr::memmem::find(&text, mark).is_some())
}

impl Tls {
    /// What the files say that an admin should know, in sentences: an expired certificate, a key that everybody can read.
    pub(crate) fn warnings(&self, now: SystemTime) -> Vec<String> {
        let mut warnings: Vec<String> = super::secrets::exposed(&self.private_key_file).into_iter().collect();
        for path in [Some(&self.certificate_file), self.client_ca_file.as_ref()].into_iter().flatten() {
            warnings.extend(out_of_date(path, &certificates(path).unwrap_or_default(), now));
        }
        warnings
    }
}

/// A sentence for each certificate that is not valid at `now`.
pub(crate) fn out_of_date(path: &Path, certificates: &[CertificateDer<'_>], now: SystemTime) -> Vec<String> {
    let now = now.duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX));
    let sentence = |der: &CertificateDer<'_>| {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let validity = certificate.validity();
        let (path, subject) = (path.display(), certificate.subject());
        if validity.not_after.timestamp() < now {
            return Some(format!("a certificate in {path} ({subject}) expired at {}; renew it.", validity.not_after));
        }
        (validity.not_before.timestamp() > now).then(|| {
            format!(
                "a certificate in {path} ({subject}) is not valid before {}; check this host's clock.",
                validity.not_before
            )
        })
    };
    certificates.iter().filter_map(sentence).collect()
}

/// Reads the certificates of a PEM file.
///
/// # Errors
/// Half a sentence that says why the file cannot be used.
pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match certificates {
        Ok(certificates) if certificates.is_empty() => Err("it holds no PEM certificate".to_owned()),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(error.to_string()),
    }
}
