//! The certificate of this host, those between it and the trust anchor, and its private key, from their files.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::key::PrivateKey;
use crate::credentials::file;
use crate::settings::roles_anywhere::RolesAnywhere;
use crate::settings::secrets::exposed;

/// What a request is signed with.
#[derive(Debug)]
pub(super) struct Identity {
    pub key: PrivateKey,
    /// In base64.
    pub certificate: String,
    /// In base64, comma between two; empty where the trust anchor has signed the certificate itself.
    pub chain: String,
    /// The certificate's serial number, in decimal digits.
    pub serial: String,
    pub ends: SystemTime,
    /// What the log should warn of.
    pub warning: Option<String>,
}

/// More certificates than these are not taken by IAM Roles Anywhere (its user guide, on X-Amz-X509-Chain).
const LONGEST_CHAIN: usize = 5;

impl Identity {
    /// Reads both files, and may wait for them.
    ///
    /// # Errors
    /// A sentence that names the file and says what to do; it quotes nothing of the key.
    pub(super) fn read(settings: &RolesAnywhere) -> Result<Identity, String> {
        let (certificate_file, key_file) = (&settings.certificate_file, &settings.private_key_file);
        let certificates = certificates(certificate_file)?;
        let text = file::read(key_file)
            .map_err(|error| format!("the private key {} cannot be read: {error}", key_file.display()))?;
        let key = PrivateKey::of_pem(&text)
            .map_err(|why| format!("the private key {} cannot be used: {why}", key_file.display()))?;
        drop(text);
        let unusable = |why: &str| format!("the certificate {} cannot be used: {why}", certificate_file.display());
        let (first, rest) = certificates.split_first().ok_or_else(|| unusable("it holds no PEM certificate"))?;
        let parsed = parsed(first).ok_or_else(|| unusable("it is no X.509 certificate"))?;
        if *parsed.public_key().subject_public_key.data != *key.public() {
            return Err(format!(
                "the private key {} is not that of the certificate {}, of which the first has to be this host's own; put both in place together",
                key_file.display(),
                certificate_file.display()
            ));
        }
        // A root that stands at the end of a bundle helps nobody: who trusts it has it.
        let between: Vec<&CertificateDer<'_>> = rest.iter().filter(|der| !is_self_issued(der)).collect();
        if between.len() > LONGEST_CHAIN {
            return Err(unusable("it has more than five certificates between this host's own and the root"));
        }
        Ok(Identity {
            key,
            certificate: STANDARD.encode(first),
            chain: between.iter().map(|der| STANDARD.encode(der)).collect::<Vec<_>>().join(","),
            serial: parsed.serial.to_string(),
            ends: end_of(&parsed),
            warning: exposed(key_file),
        })
    }
}

/// When the first certificate of a file ends.
///
/// # Errors
/// A sentence that names the file.
pub(super) fn certificate_end(path: &Path) -> Result<SystemTime, String> {
    let certificates = certificates(path)?;
    let end = certificates.first().and_then(|first| Some(end_of(&parsed(first)?)));
    end.ok_or_else(|| format!("the certificate {} cannot be used: it is no X.509 certificate", path.display()))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let text =
        file::read(path).map_err(|error| format!("the certificate {} cannot be read: {error}", path.display()))?;
    CertificateDer::pem_slice_iter(text.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .ok()
        .filter(|found| !found.is_empty())
        .ok_or_else(|| format!("the certificate {} cannot be used: it holds no PEM certificate", path.display()))
}

fn parsed<'a>(der: &'a CertificateDer<'_>) -> Option<X509Certificate<'a>> {
    X509Certificate::from_der(der).ok().map(|(_, certificate)| certificate)
}

fn is_self_issued(der: &CertificateDer<'_>) -> bool {
    parsed(der).is_some_and(|certificate| certificate.subject() == certificate.issuer())
}

fn end_of(certificate: &X509Certificate<'_>) -> SystemTime {
    let seconds = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or_default();
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).unwrap_or(UNIX_EPOCH)
}
