//! What is asked of the daemon, and what it answers.

use clap::ValueEnum;
use http::StatusCode;
use jiff::Timestamp;
use serde_json::Value;

use crate::cli::admin::{self, Admin};
use crate::settings::Settings;

/// Of the newest requests.
const MOST: usize = 50;

/// How far back figures and requests go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Window {
    #[value(name = "15m")]
    Quarter,
    #[value(name = "1h")]
    Hour,
    #[value(name = "24h")]
    Day,
    #[value(name = "7d")]
    Week,
}

/// What the figures are told apart by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum By {
    Model,
    Caller,
    Operation,
    Upstream,
}

/// What is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Question {
    pub window: Window,
    pub by: By,
    /// Of the newest requests, those that failed.
    pub only_errors: bool,
}

/// All that the daemon said at one time.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub question: Question,
    pub at: Timestamp,
    pub status: Value,
    /// Who may see what; null from a daemon that does not tell.
    pub access: Value,
    /// Or why it is not shown, in a sentence, as with the requests.
    pub usage: Result<Value, String>,
    pub requests: Result<Value, String>,
}

impl Window {
    /// As URLs name it.
    fn parameter(self) -> &'static str {
        match self {
            Window::Quarter => "15m",
            Window::Hour => "1h",
            Window::Day => "24h",
            Window::Week => "7d",
        }
    }

    pub(super) fn words(self) -> &'static str {
        match self {
            Window::Quarter => "15 min",
            Window::Hour => "1 h",
            Window::Day => "24 h",
            Window::Week => "7 d",
        }
    }
}

impl By {
    /// As URLs name it.
    pub(super) fn parameter(self) -> &'static str {
        match self {
            By::Model => "model",
            By::Caller => "caller",
            By::Operation => "operation",
            By::Upstream => "upstream",
        }
    }
}

/// Asks the daemon everything.
///
/// # Errors
/// A sentence that says why there is no answer at all, and what to do.
pub(super) async fn ask(settings: &Settings, question: Question) -> Result<Answer, String> {
    admin::asked(settings, async |daemon: &mut Admin| {
        let status = daemon.status().await?;
        let access = daemon.get("/v1/dashboard/access").await?;
        let usage = daemon.get(&usage_path(question)).await?;
        let requests = daemon.get(&requests_path(question)).await?;
        Ok(Answer {
            question,
            at: Timestamp::now(),
            status,
            access: told(access).unwrap_or_default(),
            usage: told(usage),
            requests: told(requests),
        })
    })
    .await
}

fn usage_path(question: Question) -> String {
    format!("/v1/dashboard/usage?window={}&by={}", question.window.parameter(), question.by.parameter())
}

fn requests_path(question: Question) -> String {
    let errors = if question.only_errors { "&success=false" } else { "" };
    format!("/v1/dashboard/requests?limit={MOST}&timeRange={}{errors}", question.window.parameter())
}

fn told((status, answer): (StatusCode, Option<Value>)) -> Result<Value, String> {
    match answer {
        Some(answer) if status.is_success() => Ok(answer),
        _ if status == StatusCode::NOT_FOUND => {
            Err("this daemon does not tell: its version is older than that of this command.".to_owned())
        }
        Some(answer) if answer["message"].is_string() => {
            let message = answer["message"].as_str().unwrap_or_default();
            Err(message.trim_start_matches("bedrock-sidecar: ").to_owned())
        }
        _ => Err(format!("the daemon does not tell: its answer is {status}.")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_question_goes_to_the_paths_of_the_dashboard() {
        let mut question = Question { window: Window::Quarter, by: By::Caller, only_errors: false };
        assert_eq!(usage_path(question), "/v1/dashboard/usage?window=15m&by=caller");
        assert_eq!(requests_path(question), "/v1/dashboard/requests?limit=50&timeRange=15m");
        question = Question { window: Window::Week, by: By::Upstream, only_errors: true };
        assert_eq!(usage_path(question), "/v1/dashboard/usage?window=7d&by=upstream");
        assert_eq!(requests_path(question), "/v1/dashboard/requests?limit=50&timeRange=7d&success=false");
    }

    #[test]
    fn a_refusal_is_its_sentence() {
        let refused = json!({ "message": "bedrock-sidecar: not for you." });
        assert_eq!(told((StatusCode::FORBIDDEN, Some(refused.clone()))), Err("not for you.".to_owned()));
        assert!(told((StatusCode::NOT_FOUND, Some(refused))).unwrap_err().contains("older"));
        assert!(told((StatusCode::OK, None)).unwrap_err().contains("200 OK"));
        assert_eq!(told((StatusCode::OK, Some(json!({})))), Ok(json!({})));
    }
}
