//! The way of an exchange upstream: it is admitted by the limits, then opened in the ledger, then sent.

use std::sync::Arc;

use super::Exchange;
use crate::error::Refusal;
use crate::limits::Admission;
use crate::model::Target;
use crate::model::lookup::Asker;
use crate::operation::Plane;
use crate::panics;
use crate::partition::Partition;
use crate::record::{self, Outcome, Record};
use crate::road::Road;
use crate::telemetry::Parent;
use crate::upstream::pool::Pool;
use crate::upstream::{Answer, Failure, Upstream, UpstreamRequest};

/// An exchange that the limits have admitted. It goes upstream by [`AdmittedExchange::open`] only.
pub(crate) struct AdmittedExchange<'a>(&'a mut Exchange);

/// Where a request has gone, as its record tells it.
#[derive(Debug)]
pub(crate) struct Went {
    region: String,
    /// The profile that stood for the model there.
    profile: Option<String>,
    endpoint: Option<String>,
    tried: Tried,
}

/// The upstream that the record tells of, and which of all attempts were made there.
#[derive(Debug, Clone, Default)]
pub(super) struct Tried {
    /// None before the first upstream is tried.
    host: Option<Arc<Pool>>,
    attempts_before: u32,
    /// None while it is being tried.
    attempts_then: Option<u32>,
}

/// An exchange whose opening is in the ledger. Sending demands one, so nothing can go upstream unrecorded.
pub(crate) struct OpenExchange<'a>(&'a mut Exchange);

impl Exchange {
    /// The limits have granted it this.
    pub(crate) fn admitted(&mut self, admission: Admission) -> AdmittedExchange<'_> {
        self.admission.insert(admission).recorded_as(self.id);
        AdmittedExchange(self)
    }

    /// Writes a call of the daemon's own, which no limit admits, into the ledger.
    ///
    /// # Errors
    /// As those of [`AdmittedExchange::open`].
    pub(crate) async fn open_own(&mut self) -> Result<(), Refusal> {
        AdmittedExchange(self).open().await.map(drop)
    }

    /// The upstream that is being tried. Nothing has been sent there yet.
    pub(crate) fn tries(&mut self, upstream: &Upstream, plane: Plane) {
        self.count_attempts();
        self.note_crossing();
        let record = &mut self.record;
        upstream.region.clone_into(&mut record.destination_region);
        record.inference_profile_used = None;
        record.endpoint = (plane == Plane::Mantle).then(|| Record::MANTLE.to_owned());
        let host = Some(Arc::clone(upstream.pool(plane)));
        self.tried = Tried { host, attempts_before: self.effort.attempts, attempts_then: None };
    }

    /// Keeps in mind that the request was sent to the commercial partition, whatever the client is told in the end.
    fn note_crossing(&mut self) {
        let region = &self.record.destination_region;
        if self.sent_to().is_some() && Partition::of_region(region) == Partition::Commercial {
            self.crossed = Some(region.clone());
        }
    }

    /// A record never says that a request stayed in GovCloud if it did not. Attempts are counted where they were made, before.
    pub(super) fn tell_crossing(&mut self) {
        if let Some(region) = &self.crossed
            && Partition::of_region(&self.record.destination_region) == Partition::Govcloud
        {
            self.record.destination_region.clone_from(region);
        }
    }

    /// Counts what has come of the attempts at the upstream that the record tells of.
    pub(super) fn count_attempts(&mut self) {
        let results = self.effort.results.take(self.effort.attempts);
        self.road.metrics.attempted(&self.record.destination_region, &results);
    }

    /// Where the request was sent, as far as the record tells of it; none if nothing was sent there.
    pub(super) fn sent_to(&self) -> Option<&Pool> {
        let Tried { host, attempts_before, attempts_then } = &self.tried;
        host.as_deref().filter(|_| attempts_then.unwrap_or(self.effort.attempts) > *attempts_before)
    }
}

impl AdmittedExchange<'_> {
    /// As [`Exchange::tries`].
    pub(crate) fn tries(&mut self, upstream: &Upstream, plane: Plane) {
        self.0.tries(upstream, plane);
    }

    /// Where it has gone last.
    pub(crate) fn last_went(&self) -> Went {
        let Exchange { record, effort, tried, .. } = &*self.0;
        Went {
            region: record.destination_region.clone(),
            profile: record.inference_profile_used.clone(),
            endpoint: record.endpoint.clone(),
            tried: Tried { attempts_then: Some(effort.attempts), ..tried.clone() },
        }
    }

    /// What the client is told comes from there.
    pub(crate) fn went(&mut self, went: Went) {
        self.0.count_attempts();
        self.0.note_crossing();
        let Exchange { record, tried, .. } = &mut *self.0;
        record.endpoint = went.endpoint;
        (record.destination_region, record.inference_profile_used, *tried) = (went.region, went.profile, went.tried);
    }

    /// What is sent in place of the model that was asked for.
    pub(crate) fn sent_as(&mut self, target: &Target) {
        self.0.record.inference_profile_used = target.is_profile.then(|| target.identifier.clone());
    }

    /// Whose rules hold, and on whose account a name is looked up.
    pub(crate) fn asker(&self) -> Asker {
        Asker { user: self.0.user, entry: self.0.entry.clone(), probes_control: false }
    }

    /// For calls that the daemon has to make itself, so that it can send this request.
    pub(crate) fn road(&self) -> Arc<Road> {
        Arc::clone(&self.0.road)
    }

    /// What such calls are part of.
    pub(crate) fn span(&self) -> Parent {
        Parent::of_request(self.0.id, self.0.parent)
    }

    /// Writes the request into the ledger before its first byte goes upstream: the opening at the first attempt, and what has
    /// changed since at each further one. The attempt that follows is counted in already: if the daemon ends during it,
    /// nobody knows whether it was sent.
    ///
    /// # Errors
    /// The ledger cannot take it, and `audit.on_failure` says that it is then refused.
    pub(crate) async fn open(&mut self) -> Result<OpenExchange<'_>, Refusal> {
        let Exchange { road, record, opened, effort, .. } = &mut *self.0;
        record.attempts = effort.attempts + 1;
        if let Some(opened) = opened {
            road.audit.amend(opened, record);
            return Ok(OpenExchange(self.0));
        }
        let begun = panics::vital(|| {
            panics::inject("ledger", &record.model_id);
            road.audit.begin(record)
        });
        // Held before the wait: whatever happens during it, the exchange ends the record that was begun.
        road.audit.wait_until_durable(opened.insert(begun?)).await?;
        Ok(OpenExchange(self.0))
    }

    /// The upstream broke before an answer. It may have received the request.
    pub(crate) fn upstream_broke(&mut self) {
        self.0.record.outcome = Outcome::UpstreamBroke;
    }

    /// Another upstream is asked. What came of the request at this one may stay unknown.
    pub(crate) fn passes_over(&mut self, answer: Result<&Answer, &Failure>) {
        self.0.may_have_run |= match answer {
            Ok(answer) => !record::is_refusal(answer.status.as_u16()),
            Err(failure) => matches!(failure, Failure::Broke(_)),
        };
    }

    /// No upstream has done anything with the request, so nothing can have been used.
    pub(crate) fn never_sent(&mut self) {
        self.0.never_sent = true;
    }
}

impl OpenExchange<'_> {
    /// Sends the request. Whoever waits for the answer may leave while a model is at work on it: that counts as sent.
    pub(crate) async fn send(self, upstream: &Upstream, request: &UpstreamRequest) -> Result<Answer, Failure> {
        let Exchange { road, record, opened, effort, .. } = self.0;
        let tell = |attempt| {
            // What `open` has written tells of the first one.
            if attempt > record.attempts {
                record.attempts = attempt;
                if let Some(opened) = opened {
                    road.audit.amend(opened, record);
                }
            }
        };
        upstream.exchange_telling(request, effort, tell).await
    }
}
