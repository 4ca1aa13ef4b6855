//! File descriptors: as many as the connections and the requests in progress need, asked for at start.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::places::Kind;
use super::requests::Bounds;

/// Files, pipes, and the daemon's own connections to AWS; a quarter where there are few.
const RESERVE: usize = 256;
/// What the runtime of a thread that serves connections takes.
const OF_A_THREAD: usize = 4;
/// Fewer would serve nobody.
const LEAST_REQUESTS: usize = 16;

/// What this process's limit allows.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Provided {
    pub connections: usize,
    pub requests: Bounds,
    /// What to say if that is less than was wanted.
    pub too_few: Option<String>,
}

/// Raises this process's limit to what so many connections and requests need: each request may have a connection to AWS,
/// and as many again may be idle. If it cannot be raised so far, there may be fewer of both, so that some descriptors stay
/// free for files and the `admin` connections: as many connections as can have a request each. The sentence says so.
pub(crate) fn provide(connections: usize, requests: Bounds, admin: usize, threads: usize) -> Provided {
    let fixed = Kind::Main.all(connections).saturating_add(Kind::Admin.all(admin) + RESERVE + threads * OF_A_THREAD);
    let wanted = requests.all().saturating_mul(2).saturating_add(fixed);
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let enough = |limit: Option<u64>| limit.is_none_or(|limit| limit >= wanted as u64);
    if enough(current) {
        return Provided { connections, requests, too_few: None };
    }
    let raised = Rlimit { current: Some(wanted as u64), maximum: maximum.map(|maximum| maximum.max(wanted as u64)) };
    // Beyond the hard limit only root gets.
    if setrlimit(Resource::Nofile, raised).is_err() {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    }
    match getrlimit(Resource::Nofile).current {
        Some(most) if most < wanted as u64 => {
            within(usize::try_from(most).unwrap_or(usize::MAX), wanted, connections, requests, admin, threads)
        }
        _ => Provided { connections, requests, too_few: None },
    }
}

fn within(limit: usize, wanted: usize, connections: usize, requests: Bounds, admin: usize, threads: usize) -> Provided {
    let usable = limit.saturating_sub(RESERVE.min(limit / 4) + Kind::Admin.all(admin) + threads * OF_A_THREAD);
    let all = |connections| Kind::Main.all(connections);
    let fits = |connections: &usize| all(*connections) + (*connections).clamp(LEAST_REQUESTS, requests.all()) <= usable;
    let connections = (1..=connections).rev().find(fits).unwrap_or(1);
    let requests = requests.within(usable.saturating_sub(all(connections)).max(LEAST_REQUESTS));
    let too_few = format!(
        "this process may open {limit} files, and listen.max_connections needs {wanted}, so there are at most {connections} connections and {} requests at once: raise LimitNOFILE= of the unit, or lower max_connections",
        requests.all()
    );
    Provided { connections, requests, too_few: Some(too_few) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_the_limit_some_descriptors_stay_free() {
        let wanted = Bounds::of(1024, 512);
        for (limit, threads) in [256, 300, 512, 1024, 2048, 4096].into_iter().flat_map(|limit| [(limit, 1), (limit, 8)])
        {
            let Provided { connections, requests, too_few } = within(limit, 10_000, 1024, wanted, 64, threads);
            let used = Kind::Main.all(connections) + requests.all() + Kind::Admin.all(64) + threads * OF_A_THREAD;
            assert!(used + limit / 16 <= limit, "{limit}: {connections} and {requests:?}");
            assert!(connections >= limit / 16 || threads * OF_A_THREAD > limit / 16, "{limit}: {connections}");
            let each = connections.max(LEAST_REQUESTS);
            assert!(requests.all() >= each, "{limit}: {connections} connections have {requests:?}");
            assert!(too_few.is_some_and(|sentence| sentence.contains(&format!("at most {connections} connections"))));
        }
        let few = within(1024, 10_000, 1024, wanted, 64, 4);
        assert_eq!((few.connections, few.requests.all()), (256, 256), "a request for each connection");
        assert_eq!(within(8192, 10_000, 1024, wanted, 64, 512).connections, 1024);
        assert_eq!(within(10, 10_000, 1024, wanted, 64, 1).connections, 1, "fewer would serve nobody");
    }
}
