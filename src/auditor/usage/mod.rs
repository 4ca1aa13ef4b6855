//! `GET /v1/dashboard/usage`: requests, tokens, cost and latency of a window of time, from the roll-ups of this host's
//! records.

mod add_up;
mod question;
mod report;

use std::time::Duration;

pub(crate) use question::Question;
pub(crate) use report::Report;

use self::add_up::add_up;
use super::query::Scope;
use crate::error::{Refusal, RefusalKind};
use crate::ledger::Ledger;
use crate::ledger::clock::now_ms;
use crate::ledger::rollups::RollupError;
use crate::panics;

/// How long a question counts what is not counted yet. After that it is answered with what is.
const PATIENCE: Duration = Duration::from_millis(300);

/// Answers from what is counted of every record that has ended by now. `held` is dropped when the roll-ups have been read,
/// which may be after whoever asked has left.
///
/// # Errors
/// A refusal (503) when the records or the roll-ups cannot be read now.
pub(crate) async fn answer(
    ledger: &Ledger,
    question: Question,
    scope: Scope,
    held: impl Send + 'static,
) -> Result<Report, Refusal> {
    ledger.flush().await;
    let (rollups, now_ms) = (ledger.rollups().clone(), now_ms());
    let asking = move || {
        let _held = held;
        panics::contain(|| {
            let selection = question.selection(&scope, now_ms);
            let (usage, progress) = rollups.ask(PATIENCE, now_ms, |db| add_up(db, &selection, question.by))?;
            Ok(Report { question, selection, usage, progress, now_ms })
        })
    };
    tokio::task::spawn_blocking(asking)
        .await
        .map_err(|error| unavailable(&error))?
        .map_err(|_panicked| unavailable(&panics::MESSAGE))?
        .map_err(|error: RollupError| {
            let refusal = unavailable(&error);
            if let RollupError::Ledger(error) = error
                && error.is_corrupt()
            {
                ledger.report_damage(error);
            }
            refusal
        })
}

fn unavailable(error: &dyn std::fmt::Display) -> Refusal {
    Refusal::new(RefusalKind::ServiceUnavailable, format!("the figures of the dashboard cannot be read: {error}"))
        .retry_after(Duration::from_secs(5))
}
