//! The TLS listener's certificate, from a certification authority of its own, sound or deliberately bad.

use std::io;
use std::sync::{Arc, PoisonError, RwLock};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};
use tokio_rustls::TlsAcceptor;

/// What is wrong with the certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Certificate {
    /// Nothing: for localhost and 127.0.0.1, signed by the CA that is published.
    #[default]
    Good,
    /// Signed by another CA than the published one.
    OtherCa,
    /// Expired in 2021.
    Expired,
    /// For another host name.
    WrongName,
}

/// What a server shows to TLS clients, and the CA by which they are to verify it.
#[derive(Debug)]
pub(crate) struct Identity {
    ca_pem: String,
    published: Issuer<'static, KeyPair>,
    /// Of a CA that nobody trusts.
    other: Issuer<'static, KeyPair>,
    http2: bool,
    /// What a good certificate is for.
    names: Vec<String>,
    shown: RwLock<Arc<ServerConfig>>,
}

impl Identity {
    /// `names` are those beside localhost.
    pub(crate) fn new(certificate: Certificate, http2: bool, names: Vec<String>) -> io::Result<Identity> {
        let (ca_pem, published) = authority("bedrock simulator CA").map_err(cannot)?;
        let (_, other) = authority("bedrock simulator CA that nobody trusts").map_err(cannot)?;
        let local = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
        let names: Vec<String> = local.into_iter().chain(names).collect();
        let shown = RwLock::new(config(certificate, http2, &names, &published, &other).map_err(cannot)?);
        Ok(Identity { ca_pem, published, other, http2, names, shown })
    }

    /// The CA that is published, as PEM.
    pub(crate) fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// Shows another certificate from now on. Sessions that clients remember are not resumed.
    pub(crate) fn show(&self, certificate: Certificate) -> io::Result<()> {
        let config = config(certificate, self.http2, &self.names, &self.published, &self.other).map_err(cannot)?;
        *self.shown.write().unwrap_or_else(PoisonError::into_inner) = config;
        Ok(())
    }

    /// For one connection.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.shown.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn cannot(error: impl Into<Failure>) -> io::Error {
    io::Error::other(format!("cannot make a certificate: {}", error.into()))
}

fn config(
    certificate: Certificate,
    http2: bool,
    names: &[String],
    published: &Issuer<'static, KeyPair>,
    other: &Issuer<'static, KeyPair>,
) -> Result<Arc<ServerConfig>, Failure> {
    let issuer = if certificate == Certificate::OtherCa { other } else { published };
    let names = match certificate {
        Certificate::WrongName => vec!["elsewhere.example".to_owned()],
        _ => names.to_vec(),
    };
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name.push(DnType::CommonName, "bedrock simulator");
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(if certificate == Certificate::Expired { 2021 } else { 2049 }, 1, 1);
    let key = KeyPair::generate()?;
    let leaf = params.signed_by(&key, issuer)?;

    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(
            vec![leaf.der().clone()],
            PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der())),
        )?;
    config.alpn_protocols = if http2 { vec![b"h2".to_vec(), b"http/1.1".to_vec()] } else { vec![b"http/1.1".to_vec()] };
    Ok(Arc::new(config))
}

fn authority(name: &str) -> Result<(String, Issuer<'static, KeyPair>), rcgen::Error> {
    let mut params = CertificateParams::new(Vec::<String>::new())?;
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2049, 1, 1);
    let key = KeyPair::generate()?;
    let pem = params.self_signed(&key)?.pem();
    Ok((pem, Issuer::new(params, key)))
}
