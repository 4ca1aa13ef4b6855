//! File descriptors: as many as the connections and the requests in progress need, asked for at start.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::requests::Bounds;

/// Files, pipes, and the daemon's own connections to AWS.
const RESERVE: usize = 256;
/// Fewer would serve nobody.
const LEAST_REQUESTS: usize = 16;

/// Raises this process's limit to what so many connections and requests need: each request may have a connection to AWS,
/// and as many again may be idle. If it cannot be raised so far, there may be fewer requests, so that some descriptors
/// stay free for files and the admin address. The sentence says so.
pub(crate) fn provide(connections: usize, requests: Bounds) -> (Bounds, Option<String>) {
    let fixed = connections.saturating_add(RESERVE);
    let wanted = requests.all().saturating_mul(2).saturating_add(fixed) as u64;
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_none_or(|current| current >= wanted) {
        return (requests, None);
    }
    let raised = Rlimit { current: Some(wanted), maximum: maximum.map(|maximum| maximum.max(wanted)) };
    if setrlimit(Resource::Nofile, raised).is_ok() {
        return (requests, None);
    }
    // Beyond the hard limit only root gets.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let most = getrlimit(Resource::Nofile).current.unwrap_or(wanted);
    let left = usize::try_from(most).unwrap_or(usize::MAX).saturating_sub(fixed);
    let sentence = format!(
        "this process may open {most} files, and listen.max_connections needs {wanted}: raise LimitNOFILE= of the unit, or lower max_connections"
    );
    (requests.within(left.max(LEAST_REQUESTS)), Some(sentence))
}
