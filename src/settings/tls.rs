//! `[listen.tls]`: the one listener that other hosts may be let near.

use std::net::SocketAddr;
use std::path::PathBuf;

use toml::Spanned;

use crate::config::callers as written;
use crate::config::{Address, ConfigError, FilePath, Source};
use crate::listen::tls::{File, server_config};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    pub address: SocketAddr,
    pub certificate_file: PathBuf,
    pub private_key_file: PathBuf,
    pub client_ca_file: Option<PathBuf>,
}

impl Tls {
    /// Whoever comes from another host must show a certificate; on loopback it is welcome and optional.
    pub fn client_certificate_required(&self) -> bool {
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
                File::Certificate => tls.certificate_file.span(),
                File::PrivateKey => tls.private_key_file.span(),
                File::ClientCa => tls.client_ca_file.map_or(span, |file| file.span()),
            };
            Err(source.error(span, error.to_string()))
        }
    }
}
