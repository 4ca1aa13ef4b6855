//! Every model of an upstream with what would be sent for it, as `bedrock-sidecar models` and `check --online` show it.

use std::sync::Arc;

use super::resolve::{self, Known, Resolution};
use super::{Listed, Models, catalogue};

/// One line of `bedrock-sidecar models`.
#[derive(Debug)]
pub(crate) struct Overview {
    pub model: catalogue::FoundationModel,
    pub sent: Sent,
}

/// What would be sent for a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Sent {
    /// This identifier.
    As(String),
    /// The ARN of a profile that the daemon creates at the first request.
    AsNewProfile,
    /// Nothing: why the model cannot be invoked.
    Never(String),
}

impl Sent {
    pub(crate) fn is_invokable(&self) -> bool {
        !matches!(self, Sent::Never(_))
    }

    pub(crate) fn identifier(&self) -> Option<&str> {
        match self {
            Sent::As(identifier) => Some(identifier),
            Sent::AsNewProfile | Sent::Never(_) => None,
        }
    }

    pub(crate) fn reason(&self) -> Option<&str> {
        match self {
            Sent::Never(reason) => Some(reason),
            Sent::As(_) | Sent::AsNewProfile => None,
        }
    }
}

impl Models {
    /// Every model of the catalogue with what would be sent for it, or why it cannot be invoked.
    pub(crate) fn overview(&self, account: &str) -> Vec<Overview> {
        let listed = self.catalogue.load();
        let Some(current) = listed.as_ref() else { return Vec::new() };
        current.catalogue.models().into_iter().map(|model| self.overview_of(current, model, account)).collect()
    }

    fn overview_of(&self, listed: &Arc<Listed>, model: &catalogue::FoundationModel, account: &str) -> Overview {
        let learned = self.learned(|| account.to_owned(), || &model.model_id);
        let known = Known { learned: learned.as_deref(), ..self.known(Some(listed), None) };
        let sent = match resolve::resolve(&model.model_id, known) {
            Ok(Resolution::Send(target)) if target.is_profile || model.on_demand() => Sent::As(target.identifier),
            Ok(Resolution::Send(_)) => {
                Sent::Never(format!("it offers {} only", model.inference_types_supported.join(", ")))
            }
            Ok(Resolution::Create { .. } | Resolution::LookUp { .. }) => Sent::AsNewProfile,
            Err(refusal) => Sent::Never(refusal.message.into_owned()),
        };
        Overview { model: model.clone(), sent }
    }
}
