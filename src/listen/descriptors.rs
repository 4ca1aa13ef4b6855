//! File descriptors: as many as the connections need, asked for at start.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Files, pipes, and connections to AWS.
const RESERVE: u64 = 256;

/// Raises this process's limit to what so many connections need: each may have one upstream.
///
/// # Errors
/// A sentence, if the limit cannot be raised so far. What is possible has been done.
pub(crate) fn provide(connections: usize) -> Result<(), String> {
    let wanted = (connections as u64).saturating_mul(2).saturating_add(RESERVE);
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_none_or(|current| current >= wanted) {
        return Ok(());
    }
    let raised = Rlimit { current: Some(wanted), maximum: maximum.map(|maximum| maximum.max(wanted)) };
    if setrlimit(Resource::Nofile, raised).is_ok() {
        return Ok(());
    }
    // Beyond the hard limit only root gets.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let most = getrlimit(Resource::Nofile).current.unwrap_or(wanted);
    Err(format!(
        "this process may open {most} files, and listen.max_connections needs {wanted}: raise LimitNOFILE= of the unit, or lower max_connections"
    ))
}
