//! The names by which `bedrock-mantle` knows models: no geography, no profile, no ARN.

use std::collections::HashSet;
use std::sync::Mutex;

use super::identifier::{self, Identifier};
use super::lookup::Asker;
use super::resolve::{How, Target};
use super::{Models, Upstream, lock};
use crate::error::{Refusal, RefusalKind};

/// More models than the host has.
const MOST: usize = 1024;

/// The models that it serves below `/openai/v1` and not below `/v1`, as far as it has said so.
#[derive(Debug, Default)]
pub(super) struct Routes(Mutex<HashSet<String>>);

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
        let how = if id == asked { How::AsIs } else { target.how };
        Ok(Target { identifier: id, is_profile: false, how })
    }

    /// Whether the mantle host has served this model below `/openai/v1` only.
    pub(crate) fn is_below_openai(&self, model: &str) -> bool {
        lock(&self.routes.0).contains(model)
    }

    pub(crate) fn note_below_openai(&self, model: &str) {
        let mut routes = lock(&self.routes.0);
        if routes.len() < MOST {
            routes.insert(model.to_owned());
        }
    }
}
