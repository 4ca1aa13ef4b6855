//! Callers: the peer of a socket, the role of this host, and what stands in an Authorization header.

mod host_role;
mod peers;
