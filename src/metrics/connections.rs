//! What the listeners count: connections of clients, and requests that found no place.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::labels::{ListenerLabel, ReasonLabel};
use super::{Metrics, add};

#[derive(Debug)]
pub(super) struct Connections {
    open: Family<ListenerLabel, Gauge>,
    full: Family<ListenerLabel, Counter>,
    refused: Family<ReasonLabel, Counter>,
    cut: Family<ReasonLabel, Counter>,
    requests_full: Counter,
}

impl Connections {
    pub(super) fn new(registry: &mut Registry) -> Connections {
        Connections {
            open: add(registry, "connections", "Connections of clients"),
            full: add(
                registry,
                "connections_full",
                "How often a new connection had to wait because listen.max_connections were taken",
            ),
            refused: add(registry, "connections_refused", "Connections that were closed when they were accepted"),
            cut: add(registry, "connections_cut", "Connections and streams that the daemon ended"),
            requests_full: add(
                registry,
                "requests_full",
                "Requests that were refused because as many were in progress as there may be",
            ),
        }
    }
}

impl Metrics {
    /// `listener` is "main" or "admin".
    pub(crate) fn connection_opened(&self, listener: &'static str) {
        self.connections.open.get_or_create(&ListenerLabel { listener }).inc();
    }

    pub(crate) fn connection_ended(&self, listener: &'static str) {
        self.connections.open.get_or_create(&ListenerLabel { listener }).dec();
    }

    /// How many connections there are, the admin's included.
    pub(crate) fn connections(&self) -> i64 {
        let open = &self.connections.open;
        ["main", "admin"].map(|listener| open.get_or_create(&ListenerLabel { listener }).get()).iter().sum()
    }

    /// Of clients: on the main listeners.
    pub(crate) fn clients(&self) -> i64 {
        self.connections.open.get_or_create(&ListenerLabel { listener: "main" }).get()
    }

    pub(crate) fn connections_full(&self, listener: &'static str) {
        self.connections.full.get_or_create(&ListenerLabel { listener }).inc();
    }

    /// "user": its user has too many; "line": too many wait already; "gone": nobody is there any more; "unidentified": the
    /// kernel could not be asked.
    pub(crate) fn connection_refused(&self, reason: &'static str) {
        self.connections.refused.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// "idle", "write_timeout", or "room": its place was needed.
    pub(crate) fn connection_cut(&self, reason: &'static str) {
        self.connections.cut.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// A request came when all places for requests were taken, or all of its user's.
    pub(crate) fn requests_full(&self) {
        self.connections.requests_full.inc();
    }
}
