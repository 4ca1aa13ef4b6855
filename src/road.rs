//! What a request meets on its way: the upstreams, the callers, the limits, the ledger and the settings that belong together.
//!
//! A reload builds a second `Road` beside the first. Requests that are under way keep the one they began with.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use arc_swap::ArcSwapOption;

use crate::admin::desk::Desk;
use crate::admin::failures::Failures;
use crate::caller::Callers;
use crate::config::Endpoint;
use crate::credentials::Credentials;
use crate::ledger::Ledger;
use crate::limits::Limits;
use crate::listen::requests::Requests;
use crate::log;
use crate::metrics::Metrics;
use crate::model::Models;
use crate::model::retention::Retention;
use crate::partition::{Partition, Partitions};
use crate::receive::budget::Budget;
use crate::record::Record;
use crate::settings::{self, Settings};
use crate::telemetry::{Ended, Parent, Telemetry};
use crate::timings::Timings;
use crate::upstream::Upstream;

/// Everything that the request pipeline (`proxy.rs`) works with, built from one reading of the configuration.
#[derive(Debug)]
pub(crate) struct Road {
    /// In the order in which they are tried; never empty.
    pub regions: Vec<Region>,
    /// Those that have an upstream.
    pub partitions: Partitions,
    /// Every source of credentials that a region uses.
    pub accounts: Vec<Account>,
    /// The top-level source of credentials; the first region's, if none uses that.
    pub credentials: Arc<Credentials>,
    pub callers: Callers,
    pub limits: Arc<Limits>,
    pub audit: Arc<Ledger>,
    pub settings: Settings,
    pub metrics: Arc<Metrics>,
    /// The latest requests that failed.
    pub failures: Arc<Failures>,
    pub telemetry: Arc<Telemetry>,
    /// When the daemon began to serve.
    pub begun: Instant,
    /// Questions about records that are being answered.
    pub desk: Arc<Desk>,
    /// Views of the dashboard that follow what happens.
    pub followers: Arc<Desk>,
    /// The bodies that are in memory.
    pub buffered: Arc<Budget>,
    /// The requests in progress.
    pub requests: Arc<Requests>,
    /// The daemon is about to drop the requests that are still under way: they end by its own doing.
    pub cut_off: Arc<AtomicBool>,
    /// The daemon has been told to stop.
    pub stopping: Arc<AtomicBool>,
    /// Why the last reload was refused; none if it was not.
    pub reload_refused: Arc<ArcSwapOption<String>>,
}

/// One upstream, and what is known of its models and of what it keeps. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Region {
    /// What it was built from.
    pub settings: settings::Upstream,
    pub upstream: Arc<Upstream>,
    pub models: Arc<Models>,
    pub retention: Arc<Retention>,
}

/// A source of credentials, for all upstreams that name the same. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Account {
    pub settings: settings::Credentials,
    pub credentials: Arc<Credentials>,
}

impl Region {
    pub(crate) fn partition(&self) -> Partition {
        self.settings.partition()
    }

    /// Whether its data retention is known, and such as the policy allows.
    pub(crate) fn keeps_little(&self, policy: &settings::callers::Policy) -> bool {
        self.retention.objection(&policy.require_data_retention, &self.upstream.region).is_none()
    }

    /// Why requests cannot be sent there at present.
    pub(crate) fn objection(&self, policy: &settings::callers::Policy) -> Option<String> {
        let kept = || self.retention.objection(&policy.require_data_retention, &self.upstream.region);
        self.upstream.objection().or_else(kept)
    }
}

impl Road {
    /// The region that is tried first.
    pub(crate) fn first_region(&self) -> &str {
        self.regions.first().map_or("", |region| &region.upstream.region)
    }

    /// Counts a request that has ended, and tells the log and the collector of it unless it is one of a flood that the
    /// ledger tells of. `error_type` is that of a refusal of the daemon's own, or ""; `parent` the caller's own span;
    /// `server` the host that it was sent to.
    pub(crate) fn ended(
        &self,
        record: &Record,
        timings: &Timings,
        error_type: &'static str,
        parent: Option<Parent>,
        server: Option<&Endpoint>,
        is_told: bool,
    ) {
        let label = self.regions.iter().find_map(|region| region.models.label(&record.model_id));
        self.metrics.ended(record, label.as_deref(), timings);
        self.failures.note(record, label.as_deref(), error_type);
        if is_told {
            log::request(record, timings, self.audit.host_id());
            if !record.is_own() {
                self.telemetry.tell(|| Ended::of(record, timings, error_type, label, parent, server));
            }
        }
    }
}

/// The region that an ARN names; none where the name is no ARN.
pub(crate) fn arn_region(name: &str) -> Option<&str> {
    name.strip_prefix("arn:")?.split(':').nth(2)
}
