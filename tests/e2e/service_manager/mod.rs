//! What passes between the daemon and systemd, or what acts as it: readiness, status, watchdog, sockets, the stop.
//! `tests/booted/` has the same under a real one.

mod drain;
mod notify;
mod sockets;
