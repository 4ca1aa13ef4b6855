//! What one region of the commercial account keeps of prompts and answers: its data retention mode, as Bedrock tells it.
//! It is asked for where the admin demands a mode.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::Method;
use serde::Deserialize;

use super::catalogue::{self, CallError};
use crate::config::DataRetention;
use crate::upstream::Upstream;

/// How soon a change of the account is noticed.
const EVERY: Duration = Duration::from_secs(300);
const FIRST_RETRY: Duration = Duration::from_secs(2);

/// The mode, as far as it is known.
#[derive(Debug, Default)]
pub(crate) struct Retention {
    known: ArcSwapOption<Result<String, String>>,
}

impl Retention {
    /// The mode in Bedrock's words; none before Bedrock has told it.
    pub(crate) fn mode(&self) -> Option<String> {
        self.known.load().as_ref().and_then(|known| known.as_ref().as_ref().ok().cloned())
    }

    /// Asks once. True if the mode is known after that.
    pub(crate) async fn refresh(&self, upstream: &Upstream) -> bool {
        match mode(upstream).await {
            Ok(mode) => {
                let known = Ok(mode);
                let is_news = self.known.load().as_deref() != Some(&known);
                if let (true, Ok(mode)) = (is_news, &known) {
                    tracing::info!(region = %upstream.region, mode, "the account's data retention is known");
                }
                self.known.store(Some(Arc::new(known)));
                true
            }
            Err(error) => {
                let remedy = match error {
                    CallError::Answered(403, _) => "; allow bedrock:GetAccountDataRetention",
                    _ => "",
                };
                let why = format!("{error}{remedy}");
                // What Bedrock has said holds until it says otherwise, or may not be asked any more.
                let is_passing = !matches!(error, CallError::Answered(400..=428, _));
                if !(is_passing && self.mode().is_some()) {
                    self.known.store(Some(Arc::new(Err(why))));
                }
                false
            }
        }
    }

    /// Keeps the mode up to date until dropped, and asks again when the credential changes.
    pub(crate) async fn keep_fresh(&self, upstream: &Upstream) {
        let mut changed = upstream.credentials().subscribe();
        changed.mark_unchanged();
        let mut is_fresh = self.mode().is_some();
        let mut retry = FIRST_RETRY;
        loop {
            tokio::select! {
                () = tokio::time::sleep(if is_fresh { EVERY } else { retry }) => {}
                _ = changed.changed() => {}
            }
            is_fresh = self.refresh(upstream).await;
            retry = if is_fresh { FIRST_RETRY } else { (retry * 2).min(EVERY) };
        }
    }

    /// A sentence if the mode is not one of those that are required.
    pub(crate) fn objection(&self, required: &[DataRetention], region: &str) -> Option<String> {
        if required.is_empty() {
            return None;
        }
        let known = self.known.load();
        match known.as_deref() {
            Some(Ok(mode)) if is_one_of(mode, required) => None,
            Some(Ok(mode)) => Some(format!(
                "the account's data retention in {region} is \"{mode}\", and policy.require_data_retention allows {} only.",
                listed(required)
            )),
            Some(Err(why)) => Some(format!("the account's data retention in {region} cannot be read: {why}.")),
            None => Some(format!("the account's data retention in {region} is not known yet.")),
        }
    }
}

/// Asks Bedrock for the mode: GetAccountDataRetention. Modes that are newer than this program come as they are.
pub(crate) async fn mode(upstream: &Upstream) -> Result<String, CallError> {
    #[derive(Deserialize)]
    struct Answer {
        mode: String,
    }
    let body = catalogue::call(upstream, Method::GET, "/data-retention", Bytes::new()).await?;
    let answer: Answer = serde_json::from_slice(&body)
        .map_err(|error| CallError::Transport(format!("GetAccountDataRetention: {error}")))?;
    Ok(answer.mode.chars().filter(|c| !c.is_control()).take(64).collect())
}

pub(crate) fn is_one_of(mode: &str, required: &[DataRetention]) -> bool {
    required.iter().any(|one| one.as_str() == mode)
}

/// For sentences: `"none" or "default"`.
pub(crate) fn listed(required: &[DataRetention]) -> String {
    required.iter().map(|one| format!("\"{}\"", one.as_str())).collect::<Vec<_>>().join(" or ")
}

/// What a mode means (the Bedrock user guide on data retention).
pub(crate) fn meaning(mode: &str) -> &'static str {
    match mode {
        "none" => "prompts and answers are not kept; models that have to keep them cannot be used",
        "default" => {
            "each model's own terms hold; AWS may keep prompts and answers to find abuse, their provider gets nothing"
        }
        "aws_review" => {
            "models whose provider demands it may be used: AWS keeps their prompts and answers for up to 30 days, and people at AWS may read them"
        }
        "provider_data_share" => {
            "an older mode that allows sharing with the models' providers; today it works as aws_review, and prompts and answers stay at AWS"
        }
        "inherit" => "nothing is set in this region, so each model's own terms hold",
        _ => "this version does not know that mode; see the Bedrock user guide on data retention",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_required_mode_that_is_known_raises_no_objection() {
        use DataRetention::{Default, None as Nothing};
        let of = |known: Option<Result<&str, &str>>| Retention {
            known: ArcSwapOption::from(known.map(|known| Arc::new(known.map(str::to_owned).map_err(str::to_owned)))),
        };
        for (known, required, expected) in [
            (None, &[][..], None),
            (Some(Ok("provider_data_share")), &[], None),
            (Some(Ok("none")), &[Nothing], None),
            (Some(Ok("default")), &[Nothing, Default], None),
            (None, &[Nothing], Some("the account's data retention in r is not known yet.")),
            (
                Some(Err("AccessDeniedException")),
                &[Nothing],
                Some("the account's data retention in r cannot be read: AccessDeniedException."),
            ),
            (
                Some(Ok("inherit")),
                &[Nothing, Default],
                Some(
                    "the account's data retention in r is \"inherit\", and policy.require_data_retention allows \"none\" or \"default\" only.",
                ),
            ),
            (
                Some(Ok("newer_mode")),
                &[Nothing],
                Some(
                    "the account's data retention in r is \"newer_mode\", and policy.require_data_retention allows \"none\" only.",
                ),
            ),
        ] {
            assert_eq!(of(known).objection(required, "r").as_deref(), expected, "{known:?}");
        }
    }

    #[test]
    fn every_mode_has_a_meaning() {
        for mode in DataRetention::ALL {
            assert!(!meaning(mode.as_str()).contains("does not know"), "{mode:?}");
        }
        assert!(meaning("newer").contains("does not know"));
    }
}
