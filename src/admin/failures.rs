//! The latest requests that failed, for `status`: a few kinds of failure with their counts, so that a flood of one kind
//! hides no other. Nothing that a client has written is kept, only words that the daemon or the catalogue knows.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use crate::ledger::timestamp::timestamp;
use crate::record::{Outcome, Record};

/// Kinds of failure that are remembered.
const MOST: usize = 16;
/// A name of AWS's for an error is shorter.
const LONGEST_TYPE: usize = 64;

/// The latest failures, shared by all requests and kept over reloads.
#[derive(Debug, Default)]
pub(crate) struct Failures(Mutex<VecDeque<Seen>>);

#[derive(Debug)]
struct Seen {
    kind: Kind,
    count: u64,
    at_ms: i64,
    request_id: String,
}

#[derive(Debug, PartialEq, Eq)]
struct Kind {
    operation: Cow<'static, str>,
    model: String,
    region: String,
    status: u16,
    error_type: String,
    outcome: Outcome,
}

/// One kind of failure, as `/status` shows it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Failure {
    /// When the last such request came: RFC 3339, UTC.
    pub time: String,
    pub operation: String,
    /// The catalogue's name, "other" for what it does not know, "" where no model was named.
    pub model: String,
    pub region: String,
    pub status: u16,
    pub error_type: String,
    pub outcome: &'static str,
    /// Such requests in a row or between others, as long as the kind is remembered.
    pub count: u64,
    /// Of the last one: what `audit list` finds it by.
    pub request_id: String,
}

impl Failures {
    /// Remembers a request unless it was answered well. `own` is the error type of a refusal of the daemon's own, or "".
    pub(crate) fn note(&self, record: &Record, label: Option<&str>, own: &str) {
        if record.success {
            return;
        }
        let model = match label {
            Some(label) => label,
            None if record.model_id.is_empty() => "",
            None => "other",
        };
        let kind = Kind {
            operation: record.operation.clone(),
            model: model.to_owned(),
            region: record.destination_region.clone(),
            status: record.status_code,
            error_type: error_type(record, own),
            outcome: record.outcome,
        };
        let mut seen = self.lock();
        let before = seen.iter().position(|one| one.kind == kind).and_then(|at| seen.remove(at));
        let count = before.map_or(0, |one| one.count).saturating_add(1);
        seen.truncate(MOST - 1);
        seen.push_front(Seen { kind, count, at_ms: record.started_ms, request_id: record.request_id.clone() });
    }

    /// The latest first.
    pub(crate) fn latest(&self) -> Vec<Failure> {
        let shown = |one: &Seen| Failure {
            time: timestamp(one.at_ms),
            operation: one.kind.operation.to_string(),
            model: one.kind.model.clone(),
            region: one.kind.region.clone(),
            status: one.kind.status,
            error_type: one.kind.error_type.clone(),
            outcome: one.kind.outcome.as_str(),
            count: one.count,
            request_id: one.request_id.clone(),
        };
        self.lock().iter().map(shown).collect()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Seen>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The class of an error: the daemon's own, or the word before the text that the record keeps of an upstream's. Where there
/// is none, the outcome tells more.
pub(crate) fn error_type(record: &Record, own: &str) -> String {
    if !own.is_empty() {
        return own.to_owned();
    }
    let text = record.error_message.as_deref().unwrap_or_default();
    let word = text.split(':').next().unwrap_or_default();
    let is_word = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    if record.outcome == Outcome::UpstreamError && is_word && word.len() <= LONGEST_TYPE {
        return word.to_owned();
    }
    record.outcome.as_str().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(status: u16, message: &str) -> Record {
        Record {
            operation: "Converse".into(),
            model_id: "m".into(),
            status_code: status,
            outcome: Outcome::UpstreamError,
            error_message: Some(message.to_owned()),
            ..Record::default()
        }
    }

    #[test]
    fn one_kind_in_a_flood_hides_no_other_and_the_whole_is_bounded() {
        let failures = Failures::default();
        failures.note(&failed(500, "InternalServerException: x"), Some("m"), "");
        for at in 0..1_000 {
            let record = Record { started_ms: at, ..failed(429, "ThrottlingException: Too many tokens") };
            failures.note(&record, Some("m"), "");
        }
        let latest = failures.latest();
        let told: Vec<_> = latest.iter().map(|one| (one.status, one.error_type.as_str(), one.count)).collect();
        assert_eq!(told, [(429, "ThrottlingException", 1_000), (500, "InternalServerException", 1)]);
        assert_eq!(latest[0].time, "1970-01-01T00:00:00.999Z");
        for status in 0..1_000 {
            failures.note(&failed(status, ""), None, "");
        }
        let latest = failures.latest();
        assert_eq!((latest.len(), latest[0].status, latest[0].model.as_str()), (MOST, 999, "other"));
    }

    #[test]
    fn success_is_no_failure_and_texts_stay_out() {
        let failures = Failures::default();
        failures.note(&Record { success: true, ..Record::default() }, None, "");
        assert!(failures.latest().is_empty());
        let type_of = |record: &Record, own| error_type(record, own);
        assert_eq!(type_of(&failed(500, "a prompt: CANARY"), ""), "upstream_error");
        assert_eq!(type_of(&failed(400, "ValidationException"), ""), "ValidationException");
        assert_eq!(type_of(&failed(403, "bedrock-sidecar: no"), "AccessDeniedException"), "AccessDeniedException");
        let left = Record { outcome: Outcome::ClientDisconnected, ..failed(499, "throttled") };
        assert_eq!(type_of(&left, ""), "client_disconnected");
    }
}
