//! `[listen]`: where requests come in, how many at once, and how long a connection may keep its place.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use toml::Spanned;

use super::accounts::Accounts;
use super::{DAY, at_most, tls};
use crate::config::{self, ConfigError, LoopbackAddress, Source};

/// Unix socket addresses hold this many bytes beside the NUL at their end (unix(7)).
const LONGEST_SOCKET_PATH: usize = 107;

/// More descriptors than a process can have on Linux by default (fs.nr_open).
const MOST_CONNECTIONS: usize = 1_000_000;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listen {
    pub addresses: Vec<SocketAddr>,
    pub unix_socket: Option<UnixSocket>,
    pub admin_address: SocketAddr,
    pub max_connections: usize,
    pub max_connections_per_user: usize,
    pub timeouts: Timeouts,
    pub tls: Option<tls::Tls>,
}

/// A socket file, and who may connect to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UnixSocket {
    pub path: PathBuf,
    pub mode: u32,
    /// None: the daemon's own.
    pub group: Option<u32>,
}

/// How long a client may keep others waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Timeouts {
    /// Without a request in progress.
    pub idle: Duration,
    /// From a head's first byte to its last.
    pub header: Duration,
    /// Without a byte of its answer taken, while there is something to send.
    pub write: Duration,
}

impl Listen {
    pub(super) fn new(listen: config::Listen, source: &Source) -> Result<Listen, ConfigError> {
        let span = listen.addresses.span();
        let addresses: Vec<SocketAddr> =
            listen.addresses.into_inner().into_iter().map(|LoopbackAddress(address)| address).collect();
        if addresses.is_empty() && listen.unix_socket.is_none() {
            return Err(source.error(span, "nothing would listen; name at least one address or a unix_socket."));
        }
        let LoopbackAddress(admin_address) = listen.admin_address;
        let mut seen = vec![admin_address];
        for address in &addresses {
            if address.port() != 0 && seen.contains(address) {
                return Err(source.error(
                    span,
                    format!(
                        "{address} is named twice; give every listener, the admin address included, a port of its own."
                    ),
                ));
            }
            seen.push(*address);
        }
        let tls = listen.tls.map(|tls| tls::tls(tls, &seen, source)).transpose()?;
        let max_connections = listen.max_connections.get_ref().get();
        if max_connections > MOST_CONNECTIONS {
            let sentence = format!("max_connections is at most {MOST_CONNECTIONS}; no process has more descriptors.");
            return Err(source.error(listen.max_connections.span(), sentence));
        }
        Ok(Listen {
            addresses,
            unix_socket: unix_socket(
                listen.unix_socket,
                listen.unix_socket_mode.as_ref(),
                listen.unix_socket_group.as_ref(),
                source,
            )?,
            admin_address,
            max_connections,
            max_connections_per_user: per_user(listen.max_connections_per_user, max_connections, source)?,
            timeouts: Timeouts {
                idle: at_most("idle_timeout", &listen.idle_timeout, DAY, source)?,
                header: at_most("header_timeout", &listen.header_timeout, DAY, source)?,
                write: at_most("write_timeout", &listen.write_timeout, DAY, source)?,
            },
            tls,
        })
    }
}

fn per_user(
    written: Option<Spanned<std::num::NonZeroUsize>>,
    max_connections: usize,
    source: &Source,
) -> Result<usize, ConfigError> {
    let Some(written) = written else { return Ok((max_connections / 2).max(1)) };
    let most = written.get_ref().get();
    if most > max_connections {
        return Err(source.error(
            written.span(),
            format!("max_connections_per_user = {most} is more than max_connections = {max_connections}."),
        ));
    }
    Ok(most)
}

fn unix_socket(
    path: Option<Spanned<config::FilePath>>,
    mode: Option<&Spanned<String>>,
    group: Option<&Spanned<String>>,
    source: &Source,
) -> Result<Option<UnixSocket>, ConfigError> {
    let Some(path) = path else {
        return match mode.or(group) {
            Some(stray) => {
                Err(source.error(stray.span(), "mode and group of a unix socket need unix_socket beside them."))
            }
            None => Ok(None),
        };
    };
    let length = path.get_ref().0.as_os_str().len();
    if length > LONGEST_SOCKET_PATH {
        let sentence =
            format!("the path of a unix socket has at most {LONGEST_SOCKET_PATH} bytes, and this one has {length}.");
        return Err(source.error(path.span(), sentence));
    }
    let mode = match mode {
        None => 0o666,
        Some(written) => octal(written.get_ref()).ok_or_else(|| {
            let text = written.get_ref();
            source.error(written.span(), format!("\"{text}\" is not a file mode; write for example \"0660\"."))
        })?,
    };
    let group = match group {
        None => None,
        Some(written) => Some(Accounts::read().gid(written.get_ref()).ok_or_else(|| {
            let text = written.get_ref();
            source.error(
                written.span(),
                format!("there is no group \"{text}\" on this host; name another or give its number."),
            )
        })?),
    };
    Ok(Some(UnixSocket { path: path.into_inner().0, mode, group }))
}

/// Three digits, or four of which the first is 0: a socket has no set-user-id.
fn octal(text: &str) -> Option<u32> {
    let digits = text.strip_prefix('0').filter(|rest| rest.len() == 3).unwrap_or(text);
    let is_octal = digits.len() == 3 && digits.bytes().all(|byte| (b'0'..b'8').contains(&byte));
    is_octal.then(|| u32::from_str_radix(digits, 8).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::octal;

    #[test]
    fn modes_are_octal() {
        assert_eq!((octal("0666"), octal("660"), octal("0000")), (Some(0o666), Some(0o660), Some(0)));
        for bad in ["", "66", "1666", "0888", "06666", "+66", "rw-"] {
            assert_eq!(octal(bad), None, "{bad}");
        }
    }
}
