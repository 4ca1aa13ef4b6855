//! A pool for each worker, so that a request and the connection that it goes upstream on share a thread. What runs
//! elsewhere has one more.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustls::ClientConfig;

use super::{Pool, PoolStatus};
use crate::config::Endpoint;
use crate::workers;

/// All connections to one endpoint.
#[derive(Debug)]
pub(crate) struct Pools {
    elsewhere: Arc<Pool>,
    /// Made when the first worker asks.
    of_workers: OnceLock<Box<[Arc<Pool>]>>,
}

impl Pools {
    /// # Errors
    /// As those of [`Pool::new`].
    pub(crate) fn new(
        endpoint: Endpoint,
        tls: Option<Arc<ClientConfig>>,
        connect_timeout: Duration,
    ) -> Result<Pools, String> {
        Ok(Pools { elsewhere: Pool::new(endpoint, tls, connect_timeout)?, of_workers: OnceLock::new() })
    }

    /// The one for what runs on this thread.
    pub(crate) fn here(&self) -> &Arc<Pool> {
        let Some(number) = workers::here() else { return &self.elsewhere };
        let of_workers =
            self.of_workers.get_or_init(|| (0..number.of.get()).map(|_| self.elsewhere.sibling()).collect());
        of_workers.get(number.own).unwrap_or(&self.elsewhere)
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        self.elsewhere.endpoint()
    }

    /// Of all together, as [`Pool::take_status`].
    pub(crate) fn take_status(&self) -> PoolStatus {
        // They count in one place.
        self.elsewhere.take_status()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::num::NonZeroUsize;

    use tokio::sync::oneshot;

    use super::*;
    use crate::lifecycle::roll_call::RollCall;
    use crate::workers::Workers;

    #[tokio::test]
    async fn each_worker_has_its_own_pool_and_keeps_it() {
        let endpoint = Endpoint { tls: false, host: "127.0.0.1".to_owned(), port: 1 };
        let pools = Arc::new(Pools::new(endpoint, None, Duration::from_secs(1)).unwrap());
        let workers = Workers::start(NonZeroUsize::new(2).unwrap(), &RollCall::default()).unwrap();
        let mut open = Vec::new();
        let mut seen = BTreeSet::from([Arc::as_ptr(pools.here()).addr()]);
        for number in [0, 1, 0, 1] {
            let (pools, (end, ended), (tell, told)) =
                (Arc::clone(&pools), oneshot::channel::<()>(), oneshot::channel());
            workers.serve(async move {
                let _ = tell.send((workers::here().map(|here| here.own), Arc::as_ptr(pools.here()).addr()));
                let _ = ended.await;
            });
            let (own, pool) = told.await.unwrap();
            assert_eq!(own, Some(number));
            seen.insert(pool);
            open.push(end);
        }
        assert_eq!(seen.len(), 3, "two, and the one of this thread");
    }
}
