//! Sockets that the service manager has bound and handed over (sd_listen_fds(3)). It keeps them while the daemon restarts,
//! so that no connection is refused meanwhile.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use socket2::{Socket, Type};

/// Sockets that came with the process and have not been taken yet.
#[derive(Debug, Default)]
pub struct Inherited(Vec<Passed>);

#[derive(Debug)]
struct Passed {
    /// FileDescriptorName= of the socket unit.
    name: String,
    place: Place,
    socket: Socket,
}

/// Where a socket listens.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// Sockets of the service manager that cannot be used, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum InheritError {
    /// The variables do not fit the descriptors.
    #[error(
        "the sockets that the service manager passes cannot be taken ({0}): check FileDescriptorName= of the socket unit."
    )]
    Variables(io::Error),
    /// Something else than a listening stream socket.
    #[error(
        "descriptor {descriptor} (\"{name}\") that the service manager passes is no listening TCP or unix socket: use ListenStream= and Accept=no in the socket unit."
    )]
    Kind {
        /// Its number.
        descriptor: i32,
        /// FileDescriptorName= of the socket unit.
        name: String,
    },
    /// Its clients would wait for ever.
    #[error(
        "the service manager passes a socket for {0}, which [listen] does not name: make ListenStream= of bedrock-sidecar-listen.socket (systemctl edit) and [listen] the same, or stop and mask that unit."
    )]
    Unnamed(String),
}

impl Inherited {
    /// Takes what was passed to this process, and removes the variables that say so: no child is to believe that they are
    /// meant for it. To be called before there are other threads.
    ///
    /// # Errors
    /// What was passed is not what a socket unit passes.
    pub fn take() -> Result<Inherited, InheritError> {
        // SAFETY: no other thread is there yet that could read the environment.
        #[expect(unsafe_code, reason = "the environment of the process changes")]
        let passed = unsafe { sd_notify::listen_fds_with_names_and_unset_env() };
        let mut sockets = Vec::new();
        for (descriptor, name) in passed.map_err(InheritError::Variables)? {
            // SAFETY: it was open when this process began, as has just been tried, and nobody else here knows of it.
            #[expect(unsafe_code, reason = "descriptors are passed by their numbers")]
            let socket = Socket::from(unsafe { OwnedFd::from_raw_fd(descriptor) });
            let place = place(&socket).ok_or_else(|| InheritError::Kind { descriptor, name: name.clone() })?;
            sockets.push(Passed { name, place, socket });
        }
        Ok(Inherited(sockets))
    }

    /// The socket that listens on this address.
    pub(crate) fn tcp(&mut self, address: SocketAddr) -> Option<Socket> {
        self.find(&Place::Tcp(address))
    }

    /// The socket that listens at this path.
    pub(crate) fn unix(&mut self, path: &Path) -> Option<Socket> {
        self.find(&Place::Unix(path.to_owned()))
    }

    /// How many have not been taken.
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// Nothing may be left when every configured address has found its socket.
    pub(crate) fn finish(self) -> Result<(), InheritError> {
        match self.0.first() {
            Some(left) => Err(InheritError::Unnamed(left.place.to_string())),
            None => Ok(()),
        }
    }

    fn find(&mut self, place: &Place) -> Option<Socket> {
        let at = self.0.iter().position(|passed| passed.place == *place)?;
        let Passed { name, socket, .. } = self.0.remove(at);
        tracing::info!(address = %place, %name, "listening on a socket of the service manager");
        Some(socket)
    }
}

fn place(socket: &Socket) -> Option<Place> {
    let is_listening = socket.is_listener().ok()? && socket.r#type().ok()? == Type::STREAM;
    let address = socket.local_addr().ok().filter(|_| is_listening)?;
    address.as_socket().map(Place::Tcp).or_else(|| Some(Place::Unix(address.as_pathname()?.to_owned())))
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Tcp(address) => address.fmt(f),
            Place::Unix(path) => path.display().fmt(f),
        }
    }
}
