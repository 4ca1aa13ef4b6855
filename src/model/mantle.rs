//! The names by which `bedrock-mantle` knows models: no geography, no profile, no ARN.

use std::collections::HashSet;
use std::sync::Mutex;

use super::identifier::{self, Identifier};
use super::lookup::Asker;
use super::resolve::{How, Target};
use super::rules::Rules;
use super::{Models, Upstream, lock};
use crate::error::{Refusal, RefusalKind};
use crate::limits::Behind;

/// More models than the host has.
const MOST: usize = 1024;

/// What the host has shown of its models.
#[derive(Debug, Default)]
pub(super) struct Routes {
    /// Those that it serves below `/openai/v1` and not below `/v1`.
    below_openai: Mutex<HashSet<String>>,
    /// Those that it has served in the place of bedrock-runtime.
    instead: Mutex<HashSet<String>>,
}

impl Models {
    /// What the mantle host calls the model that is asked for. The rules judge it as where it is invoked.
    ///
    /// # Errors
    /// The rules refuse it, or it names no single model.
    pub(crate) async fn on_mantle(&self, asked: &str, upstream: &Upstream, asker: &Asker) -> Result<Target, Refusal> {
        let target = self.counted(asked, upstream, asker).await?;
        let id = match identifier::read(&target.identifier, self.settings.partition, |_| false)? {
            Identifier::Model { id, .. } | Identifier::ModelArn { id } => id.to_owned(),
            _ => {
                return Err(Refusal::new(
                    RefusalKind::Validation,
                    format!(
                        "bedrock-mantle knows models by their own names alone, such as \"openai.gpt-oss-120b\", and \"{asked:.200}\" is not the name of one; GET /v1/models lists them."
                    ),
                ));
            }
        };
        let rules = Rules::new(&self.settings, asker.entry.as_deref());
        if rules.tell_models_apart() {
            self.come_to_know(upstream, asker).await;
            if rules.deny_some() && !self.is_listed() {
                let sentence = format!(
                    "models are denied by names that only the list of {}'s models tells, and that could not be read; see the log, and try again.",
                    upstream.region
                );
                return Err(Refusal::new(RefusalKind::ServiceUnavailable, sentence));
            }
            rules.judge_counterparts(asked, &self.counterparts(&id))?;
        }
        let how = if id == asked { How::AsIs } else { target.how };
        Ok(Target { identifier: id, is_profile: false, how })
    }

    /// What bedrock-runtime calls the model: by the same name, with a date or a version behind it.
    pub(crate) fn counterparts(&self, id: &str) -> Vec<String> {
        let listed = self.catalogue.load();
        let Some(listed) = listed.as_ref() else { return Vec::new() };
        let is_same = |model: &&str| model.strip_prefix(id).is_some_and(is_date_or_version);
        let models = listed.catalogue.models();
        models.into_iter().map(|model| model.model_id.as_str()).filter(is_same).map(str::to_owned).collect()
    }

    /// The same for limits and prices, which may be written for these names.
    pub(crate) async fn behind_on_mantle(&self, name: &str, upstream: &Upstream, asker: &Asker) -> Behind {
        let id = match identifier::read(name, self.settings.partition, |_| false) {
            Ok(Identifier::Model { id, .. } | Identifier::ModelArn { id }) => id,
            Ok(Identifier::Profile { model, .. } | Identifier::ProfileArn { model, .. }) => model,
            _ => return Behind::Itself,
        };
        self.come_to_know(upstream, asker).await;
        match self.counterparts(id) {
            none if none.is_empty() => Behind::Itself,
            counterparts => Behind::Models(counterparts),
        }
    }

    /// Whether the mantle host has served this model below `/openai/v1` only.
    pub(crate) fn is_below_openai(&self, model: &str) -> bool {
        lock(&self.routes.below_openai).contains(model)
    }

    pub(crate) fn note_below_openai(&self, model: &str, is_below: bool) {
        if is_below {
            note(&self.routes.below_openai, model);
        } else {
            lock(&self.routes.below_openai).remove(model);
        }
    }

    /// Whether the mantle host has served this model where bedrock-runtime lacked it.
    pub(crate) fn has_been_served_instead(&self, model: &str) -> bool {
        lock(&self.routes.instead).contains(model)
    }

    pub(crate) fn note_served_instead(&self, model: &str) {
        note(&self.routes.instead, model);
    }
}

/// `-20251001-v1:0`, `-1:0`, `-v1`: what is between a name of the mantle host and one of bedrock-runtime. A number alone may be
/// that of another model.
fn is_date_or_version(rest: &str) -> bool {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let date = rest.strip_prefix('-').and_then(|rest| rest.get(..8)).filter(|date| is_number(date));
    let version = date.map_or(rest, |date| &rest[1 + date.len()..]);
    if version.is_empty() {
        return date.is_some();
    }
    let Some(version) = version.strip_prefix('-') else { return false };
    let (number, revision) = version.split_once(':').map_or((version, None), |(number, rest)| (number, Some(rest)));
    match number.strip_prefix('v') {
        Some(number) => is_number(number),
        None => is_number(number) && revision.is_some(),
    }
}

fn note(models: &Mutex<HashSet<String>>, model: &str) {
    let mut models = lock(models);
    if models.len() < MOST {
        models.insert(model.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_and_a_version_make_no_other_model() {
        for rest in ["-20251001-v1:0", "-20251001", "-v1", "-v1:0", "-1:0", "-v2:0:48k"] {
            assert!(is_date_or_version(rest), "{rest}");
        }
        for rest in ["", "-1", "-1-20250805-v1:0", "-mini", "-mini-v1:0", "b-v1:0", "-v", "-:0", ".1", "-2025100"] {
            assert!(!is_date_or_version(rest), "{rest}");
        }
    }
}
