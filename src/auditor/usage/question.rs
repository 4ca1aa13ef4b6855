//! A question about a window of time: how long, of which requests, and by what they are told apart.

use crate::auditor::query::{Scope, invalid, parameters};
use crate::error::Refusal;
use crate::ledger::rollups::read::{Selection, Who};
use crate::ledger::rollups::{Resolution, bounded};

/// The name of requests whose record has none.
pub(super) const NONE: &str = "(none)";
/// The name of a caller of whom neither name nor uid is known.
pub(super) const UNKNOWN: &str = "unknown";
/// What stands before the uid of a caller without a name.
pub(super) const UID: &str = "uid:";

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Question {
    pub(super) window: Window,
    pub(super) by: By,
    pub(super) model_id: Option<String>,
    pub(super) caller: Option<String>,
    pub(super) operation: Option<String>,
    pub(super) region: Option<String>,
}

/// A window of time that ends now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Window {
    QuarterHour,
    Hour,
    Day,
    Week,
}

/// What requests are told apart by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    Model,
    Caller,
    Operation,
    Upstream,
}

impl Window {
    const NAMES: [(&'static str, Window); 4] =
        [("15m", Window::QuarterHour), ("1h", Window::Hour), ("24h", Window::Day), ("7d", Window::Week)];

    /// Its length in seconds, and the intervals that it consists of.
    pub(super) fn length(self) -> (i64, Resolution) {
        match self {
            Window::QuarterHour => (900, Resolution::MINUTE),
            Window::Hour => (3_600, Resolution::MINUTE),
            Window::Day => (86_400, Resolution::QUARTER),
            Window::Week => (7 * 86_400, Resolution::HOUR),
        }
    }
}

impl By {
    const NAMES: [(&'static str, By); 4] =
        [("model", By::Model), ("caller", By::Caller), ("operation", By::Operation), ("upstream", By::Upstream)];
}

impl Question {
    /// Reads the query of a URL, such as `window=24h&by=caller`.
    ///
    /// # Errors
    /// A refusal (400) that names the first parameter that is unknown or has an invalid value.
    pub(crate) fn parse(raw_query: &str) -> Result<Question, Refusal> {
        let mut question = Question {
            window: Window::Hour,
            by: By::Model,
            model_id: None,
            caller: None,
            operation: None,
            region: None,
        };
        for parameter in parameters(raw_query) {
            let (key, value) = parameter?;
            match key {
                "window" => {
                    question.window =
                        named(&Window::NAMES, &value).ok_or_else(|| invalid(key, "be 15m, 1h, 24h or 7d"))?;
                }
                "by" => {
                    question.by = named(&By::NAMES, &value)
                        .ok_or_else(|| invalid(key, "be model, caller, operation or upstream"))?;
                }
                "modelId" => question.model_id = Some(value),
                "caller" => question.caller = Some(value),
                "operation" => question.operation = Some(value),
                "region" => question.region = Some(value),
                _ => {
                    return Err(invalid(
                        key,
                        "not be there: it is no filter; known are window, by, modelId, caller, operation, region and format",
                    ));
                }
            }
        }
        Ok(question)
    }

    /// The roll-ups that it is about, at this moment.
    pub(super) fn selection(&self, scope: &Scope, now_ms: i64) -> Selection {
        let now = now_ms.div_euclid(1000);
        let (length, resolution) = self.window.length();
        let stored = |name: &Option<String>| {
            name.as_deref().map(|name| if name == NONE { String::new() } else { bounded(name) })
        };
        Selection {
            resolution,
            from: resolution.start(now.saturating_sub(length)),
            to: now,
            model: stored(&self.model_id),
            operation: stored(&self.operation),
            region: stored(&self.region),
            caller: self.caller.as_deref().map(who),
            own: match scope {
                Scope::All => None,
                Scope::Own { caller, uid } => Some((caller.clone(), *uid)),
            },
        }
    }

    /// The window's name.
    pub(super) fn window_name(&self) -> &'static str {
        name_of(&Window::NAMES, self.window)
    }

    /// The name of what requests are told apart by.
    pub(super) fn by_name(&self) -> &'static str {
        name_of(&By::NAMES, self.by)
    }
}

/// Whom the name of a group means.
fn who(name: &str) -> Who {
    let uid = name.strip_prefix(UID).and_then(|uid| uid.parse().ok());
    match uid {
        Some(uid) => Who::Uid(uid),
        None if name == UNKNOWN => Who::Unknown,
        None => Who::Named(bounded(name)),
    }
}

fn named<T: Copy>(names: &[(&str, T)], name: &str) -> Option<T> {
    names.iter().find(|(one, _)| *one == name).map(|(_, value)| *value)
}

fn name_of<T: PartialEq>(names: &[(&'static str, T)], value: T) -> &'static str {
    names.iter().find(|(_, one)| *one == value).map_or("", |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::RefusalKind;

    #[test]
    fn questions_are_read_and_nonsense_is_refused_by_name() {
        let asked = "window=7d&by=caller&modelId=a%3A1&caller=b+c&operation=Converse&region=us-east-1";
        let question = Question::parse(asked).unwrap();
        assert_eq!((question.window, question.by), (Window::Week, By::Caller));
        assert_eq!(question.model_id.as_deref(), Some("a:1"));
        assert_eq!(question.caller.as_deref(), Some("b c"));
        assert_eq!((question.window_name(), question.by_name()), ("7d", "caller"));
        let usual = Question::parse("").unwrap();
        assert_eq!((usual.window, usual.by), (Window::Hour, By::Model));
        assert_eq!(Question::parse("&by=&modelId=").unwrap(), usual, "what is empty says nothing");
        for (raw, name) in
            [("window=2h", "window"), ("by=user", "by"), ("color=red", "color"), ("modelId=%FF", "modelId")]
        {
            let refusal = Question::parse(raw).unwrap_err();
            assert_eq!(refusal.kind, RefusalKind::Validation);
            assert!(refusal.message.contains(name), "{}", refusal.message);
        }
    }

    #[test]
    fn a_window_begins_with_an_interval() {
        let at = |window| {
            let asked = Question::parse(&format!("window={window}")).unwrap();
            let found = asked.selection(&Scope::All, 1_800_000_041_123);
            assert_eq!((found.from % found.resolution.step, found.to), (0, 1_800_000_041));
            (1_800_000_000 - found.from, found.resolution.step)
        };
        assert_eq!((at("15m"), at("1h")), ((900, 60), (3_600, 60)));
        assert_eq!((at("24h"), at("7d")), ((86_400, 900), (604_800, 3_600)));
    }

    #[test]
    fn a_callers_name_is_that_of_its_group() {
        assert_eq!(who("uid:1000"), Who::Uid(1000));
        assert_eq!(who("unknown"), Who::Unknown);
        for name in ["billing", "uid:", "uid:-1", "uid:4294967296", "UNKNOWN"] {
            assert_eq!(who(name), Who::Named(name.to_owned()));
        }
    }
}
