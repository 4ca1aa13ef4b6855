//! The unix socket, bound so that it never stands open to others than those it is meant for.

use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt, chown};
use std::path::Path;

use tokio::net::UnixListener;

use crate::settings::listen::UnixSocket;

/// Binds the socket; what is left of a former life is replaced.
///
/// It is bound in a directory that only this process may enter, given its group and mode there, and then moved to its
/// place. So it is right from the first moment, and nothing that others put in its place can be given a mode instead.
pub(super) fn bind(socket: &UnixSocket) -> io::Result<UnixListener> {
    let path = &socket.path;
    if let Ok(metadata) = std::fs::symlink_metadata(path) {
        let is_socket = metadata.file_type().is_socket();
        if !is_socket || std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(io::Error::from(io::ErrorKind::AddrInUse));
        }
        std::fs::remove_file(path)?;
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    };
    // Short, because the path of a socket may have 107 bytes.
    let directory = parent.join(format!(".b{:04x}", std::process::id() & 0xffff));
    // Of a start that was killed between the two steps.
    let _ = std::fs::remove_file(directory.join(name));
    let _ = std::fs::remove_dir(&directory);
    std::fs::DirBuilder::new().mode(0o700).create(&directory)?;
    let bound = bind_within(&directory.join(name), socket);
    let _ = std::fs::remove_file(directory.join(name));
    let _ = std::fs::remove_dir(&directory);
    bound
}

/// Takes over a socket that is bound already.
pub(super) fn adopt(socket: socket2::Socket) -> io::Result<UnixListener> {
    socket.set_nonblocking(true)?;
    UnixListener::from_std(socket.into())
}

fn bind_within(here: &Path, socket: &UnixSocket) -> io::Result<UnixListener> {
    let listener = UnixListener::bind(here)?;
    // A sandbox may forbid it altogether.
    if socket.group.is_some() {
        chown(here, None, socket.group)?;
    }
    std::fs::set_permissions(here, std::fs::Permissions::from_mode(socket.mode))?;
    std::fs::rename(here, &socket.path)?;
    Ok(listener)
}
