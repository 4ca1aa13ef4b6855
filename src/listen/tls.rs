//! Certificates and keys of the TLS listener, reloaded when they change, and the names of client certificates.
//!
//! A whole `ServerConfig` is exchanged on reload, not only the certificate: clients' CAs change too, and sessions that an
//! old CA vouched for must not be resumed. Connections that are open keep what they were made with.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use tokio::task::spawn_blocking;
use tokio_rustls::TlsAcceptor;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::file_stamp::FileStamp;
use crate::settings::tls::{Tls, TlsError, server_config};

/// How often the files are looked at. Agents that renew certificates replace them well before they expire.
pub(crate) const POLL_INTERVAL: Duration = Duration::from_secs(30);

/// The listener's material, exchangeable while it serves.
#[derive(Debug)]
pub(crate) struct Material {
    tls: ArcSwap<Tls>,
    current: ArcSwap<ServerConfig>,
    /// What the files looked like when they were last read.
    seen: Mutex<Vec<Option<FileStamp>>>,
}

/// What the files hold, as they were read once.
#[derive(Debug)]
pub(crate) struct Loaded {
    tls: Tls,
    config: ServerConfig,
    seen: Vec<Option<FileStamp>>,
}

impl Loaded {
    /// Reads the files.
    ///
    /// # Errors
    /// Names the file that cannot be used.
    pub(crate) fn read(tls: Tls) -> Result<Loaded, TlsError> {
        let seen = stamps(&tls);
        let config = server_config(&tls)?;
        say(&tls);
        Ok(Loaded { tls, config, seen })
    }
}

impl Material {
    pub(crate) fn new(loaded: Loaded) -> Material {
        let Loaded { tls, config, seen } = loaded;
        Material { tls: ArcSwap::from_pointee(tls), current: ArcSwap::from_pointee(config), seen: Mutex::new(seen) }
    }

    /// Uses what was read, perhaps from other files, from the next connection on.
    pub(crate) fn exchange(&self, loaded: Loaded) {
        let Loaded { tls, config, seen } = loaded;
        let mut last_seen = self.last_seen();
        self.tls.store(Arc::new(tls));
        self.current.store(Arc::new(config));
        *last_seen = seen;
    }

    /// For the next connection.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.current.load_full())
    }

    /// Reads the files again. On an error the old material stays in use.
    pub(crate) fn reload(&self) -> Result<(), TlsError> {
        let tls = self.tls.load_full();
        let stamps = stamps(&tls);
        let result = server_config(&tls);
        say(&tls);
        // Files that took long may have been exchanged for others meanwhile.
        let mut last_seen = self.last_seen();
        if !Arc::ptr_eq(&tls, &self.tls.load()) {
            return Ok(());
        }
        *last_seen = stamps;
        result.map(|config| self.current.store(Arc::new(config)))
    }

    /// Reads the files again if they have changed; true if they had.
    pub(crate) fn reload_if_changed(&self) -> Result<bool, TlsError> {
        let now = stamps(&self.tls.load_full());
        if *self.last_seen() == now {
            return Ok(false);
        }
        self.reload().map(|()| true)
    }

    /// Follows the files for ever. A certificate and a key that do not (yet) fit together are an event in the log, and
    /// are looked at again once either changes.
    pub(crate) async fn follow(self: Arc<Material>) {
        loop {
            tokio::time::sleep(POLL_INTERVAL).await;
            let own = Arc::clone(&self);
            // Files may not answer.
            match spawn_blocking(move || own.reload_if_changed()).await {
                Ok(Ok(true)) => tracing::info!("the TLS certificate was reloaded"),
                Ok(Ok(false)) | Err(_) => {}
                Ok(Err(error)) => {
                    tracing::warn!(%error, "the TLS certificate was not reloaded; the old one stays in use")
                }
            }
        }
    }

    /// Held for a moment only, never while a file is read.
    fn last_seen(&self) -> MutexGuard<'_, Vec<Option<FileStamp>>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn say(tls: &Tls) {
    for warning in tls.warnings(SystemTime::now()) {
        tracing::warn!("{warning}");
    }
}

fn stamps(tls: &Tls) -> Vec<Option<FileStamp>> {
    let paths = [Some(&tls.certificate_file), Some(&tls.private_key_file), tls.client_ca_file.as_ref()];
    paths.into_iter().flatten().map(|path| FileStamp::of(path)).collect()
}

/// What the verified client certificate of a connection is called; empty without one.
pub(crate) fn peer_names(connection: &rustls::ServerConnection) -> Vec<String> {
    let certificate = connection.peer_certificates().and_then(|chain| chain.first());
    certificate.map(|certificate| certificate_names(certificate)).unwrap_or_default()
}

/// The names of a certificate, each with its kind, so that a common name cannot pass for a DNS name: `CN=`, `O=`, `OU=`
/// of the subject; `DNS:`, `URI:`, `email:`, `IP:` of the alternative names.
pub(crate) fn certificate_names(der: &[u8]) -> Vec<String> {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else { return Vec::new() };
    let subject = certificate.subject();
    let mut names = Vec::new();
    let mut add = |kind: &str, value: &str| names.push(format!("{kind}{value}"));
    subject.iter_common_name().filter_map(|name| name.as_str().ok()).for_each(|name| add("CN=", name));
    subject.iter_organization().filter_map(|name| name.as_str().ok()).for_each(|name| add("O=", name));
    subject.iter_organizational_unit().filter_map(|name| name.as_str().ok()).for_each(|name| add("OU=", name));
    let alternative = certificate.subject_alternative_name().ok().flatten();
    for name in alternative.iter().flat_map(|extension| &extension.value.general_names) {
        match name {
            GeneralName::DNSName(name) => add("DNS:", &name.to_ascii_lowercase()),
            GeneralName::URI(uri) => add("URI:", uri),
            GeneralName::RFC822Name(address) => add("email:", address),
            GeneralName::IPAddress(octets) => {
                if let Some(ip) = ip(octets) {
                    add("IP:", &ip.to_string());
                }
            }
            _ => {}
        }
    }
    names
}

fn ip(octets: &[u8]) -> Option<std::net::IpAddr> {
    match octets.len() {
        4 => <[u8; 4]>::try_from(octets).ok().map(Into::into),
        16 => <[u8; 16]>::try_from(octets).ok().map(Into::into),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
