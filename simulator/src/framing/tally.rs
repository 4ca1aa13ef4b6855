//! What happened on each connection that was framed by hand, so that tests can see how a client treats its streams.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;

/// One connection that was framed by hand.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ConnectionTally {
    /// The same as in [`crate::Received::connection`].
    pub number: u64,
    /// Whether it speaks HTTP/2.
    pub http2: bool,
    /// Whether it is over TLS.
    pub tls: bool,
    /// Whether it is still open.
    pub open: bool,
    /// Requests that began to arrive.
    pub requests: u64,
    /// RST_STREAM from the client, by code.
    pub client_resets: BTreeMap<u32, u64>,
    /// Those that came when all bytes of the answer's body had been sent.
    pub cancelled_whole: u64,
    /// Streams refused because the client opened more than it may.
    pub over_limit: u64,
    /// GOAWAY frames sent.
    pub goaways: u64,
    /// GOAWAY from the client, by code.
    pub client_goaways: BTreeMap<u32, u64>,
    /// Acknowledgements of SETTINGS.
    pub settings_acknowledged: u64,
    /// Acknowledgements of PING.
    pub pings_acknowledged: u64,
    /// Why the connection was given up, when the client broke the protocol.
    pub violation: Option<String>,
}

impl ConnectionTally {
    /// All RST_STREAM from the client.
    pub fn resets(&self) -> u64 {
        self.client_resets.values().sum()
    }
}

/// The tallies, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Tally(Mutex<BTreeMap<u64, ConnectionTally>>);

const MOST: usize = 10_000;

impl Tally {
    pub(crate) fn open(&self, number: u64, http2: bool, tls: bool) {
        let mut tallies = self.lock();
        tallies.insert(number, ConnectionTally { number, http2, tls, open: true, ..ConnectionTally::default() });
        while tallies.len() > MOST {
            tallies.pop_first();
        }
    }

    pub(crate) fn update(&self, number: u64, change: impl FnOnce(&mut ConnectionTally)) {
        if let Some(tally) = self.lock().get_mut(&number) {
            change(tally);
        }
    }

    pub(crate) fn all(&self) -> Vec<ConnectionTally> {
        self.lock().values().cloned().collect()
    }

    /// Forgets connections that are closed, and what has been counted of the others.
    pub(crate) fn clear(&self) {
        let mut tallies = self.lock();
        tallies.retain(|_, tally| tally.open);
        for tally in tallies.values_mut() {
            let ConnectionTally { number, http2, tls, open, .. } = *tally;
            *tally = ConnectionTally { number, http2, tls, open, ..ConnectionTally::default() };
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, ConnectionTally>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Marks a connection as closed, however its task ends.
pub(crate) struct OpenMark<'a> {
    pub(crate) tally: &'a Tally,
    pub(crate) number: u64,
}

impl Drop for OpenMark<'_> {
    fn drop(&mut self) {
        self.tally.update(self.number, |tally| tally.open = false);
    }
}
