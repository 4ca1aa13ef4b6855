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
