//! The way of an exchange upstream: it is admitted by the limits, then opened in the ledger, then sent.

use std::sync::Arc;

use super::Exchange;
use crate::error::Refusal;
use crate::limits::Admission;
use crate::model::Target;
use crate::model::lookup::Asker;
use crate::panics;
use crate::record::Outcome;
use crate::road::Road;
use crate::upstream::{Answer, Failure, Upstream, UpstreamRequest};

/// An exchange that the limits have admitted. It goes upstream by [`AdmittedExchange::open`] only.
pub(crate) struct AdmittedExchange<'a>(&'a mut Exchange);

/// An exchange whose opening is in the ledger. Sending demands one, so nothing can go upstream unrecorded.
pub(crate) struct OpenExchange<'a>(&'a mut Exchange);
impl Exchange {
    /// The limits have granted it this.
    pub(crate) fn admitted(&mut self, admission: Admission) -> AdmittedExchange<'_> {
        let admission = self.admission.insert(admission);
        if let Ok(id) = self.record.request_id.parse() {
            admission.recorded_as(id);
        }
        AdmittedExchange(self)
    }

    /// Writes a call of the daemon's own, which no limit admits, into the ledger.
    ///
    /// # Errors
    /// As those of [`AdmittedExchange::open`].
    pub(crate) async fn open_own(&mut self) -> Result<(), Refusal> {
        AdmittedExchange(self).open().await.map(drop)
    }
}

impl AdmittedExchange<'_> {
    /// The region that is being tried.
    pub(crate) fn region(&mut self, region: &str) {
        region.clone_into(&mut self.0.record.destination_region);
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

    /// Counts an attempt, and writes the request with it into the ledger, before its first byte goes upstream: the opening
    /// at the first attempt, and what has changed since at each further one.
    ///
    /// # Errors
    /// The ledger cannot take it, and `audit.on_failure` says that it is then refused.
    pub(crate) async fn open(&mut self) -> Result<OpenExchange<'_>, Refusal> {
        let Exchange { road, record, opened, .. } = &mut *self.0;
        record.attempts += 1;
        if let Some(opened) = opened {
            road.audit.amend(opened, record);
            return Ok(OpenExchange(self.0));
        }
        let begun = panics::vital(|| {
            panics::inject("ledger", &record.model_id);
            road.audit.begin(record)
        });
        // Until it is certain that the opening stays, nothing is sent.
        record.attempts -= 1;
        // Held before the wait: whatever happens during it, the exchange ends the record that was begun.
        road.audit.wait_until_durable(opened.insert(begun?)).await?;
        record.attempts += 1;
        Ok(OpenExchange(self.0))
    }

    /// The upstream gave no answer, or broke before one.
    pub(crate) fn upstream_broke(&mut self) {
        self.0.record.outcome = Outcome::UpstreamBroke;
    }

    /// No upstream took the request, so nothing can have been used.
    pub(crate) fn never_sent(&mut self) {
        self.0.never_sent = true;
    }
}

impl OpenExchange<'_> {
    /// Sends the request. Whoever waits for the answer may leave while a model is at work on it: that counts as sent.
    pub(crate) async fn send(self, upstream: &Upstream, request: &UpstreamRequest) -> Result<Answer, Failure> {
        let Exchange { road, record, opened, connecting, .. } = self.0;
        let before = record.attempts.saturating_sub(1);
        let sent = upstream
            .exchange_telling(request, |attempts| {
                record.attempts = before + attempts;
                if let Some(opened) = opened {
                    road.audit.amend(opened, record);
                }
            })
            .await;
        record.attempts = before + sent.attempts;
        *connecting += sent.connecting;
        sent.result
    }
}
