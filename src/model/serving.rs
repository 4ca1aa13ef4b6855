//! Whether an upstream serves a model, by its catalogue: what decides where a request goes that may go to more than one
//! partition.

use super::catalogue::Catalogue;
use super::identifier::{self, Identifier};
use super::lookup::Asker;
use super::{Models, resolve};
use crate::limits::model_pattern;
use crate::partition::Partition;
use crate::settings::Pin;
use crate::upstream::Upstream;

/// Whether an upstream serves what is asked for, as it is asked for or under its counterpart there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Serves {
    Yes,
    No,
    /// Its models are not listed yet.
    Unknown,
}

impl Models {
    /// Whether this upstream serves a model, profile or ARN of this name. Two look-ups in what was listed.
    pub(crate) fn serves(&self, asked: &str) -> Serves {
        let name = resolve::unalias(asked, &self.settings);
        let listed = self.catalogue.load();
        let catalogue = listed.as_ref().map(|listed| &listed.catalogue);
        self.serves_in(name, catalogue)
    }

    fn serves_in(&self, name: &str, catalogue: Option<&Catalogue>) -> Serves {
        let partition = self.settings.partition;
        let is_profile = |id: &str| catalogue.is_some_and(|catalogue| catalogue.profile(id).is_some());
        let identifier = match identifier::read(name, partition, is_profile) {
            Err(_) => return Serves::No,
            // They are of an account, and only a partition's own upstreams can know what they are.
            Ok(Identifier::ApplicationProfileArn | Identifier::OtherArn) => return Serves::Yes,
            Ok(identifier) => identifier,
        };
        let Some(catalogue) = catalogue else {
            let is_native = Partition::of_name(name) == Some(partition);
            return if is_native { Serves::Yes } else { Serves::Unknown };
        };
        let serves = match identifier {
            Identifier::Model { id, .. } => catalogue.reaches(id) || catalogue.profile(name).is_some(),
            Identifier::ModelArn { id } => catalogue.reaches(id),
            Identifier::ProfileArn { id, .. } => catalogue.profile(id).is_some(),
            _ => catalogue.profile(name).is_some(),
        };
        if serves { Serves::Yes } else { Serves::No }
    }

    /// The line of `[models.partition]` that a name is under.
    pub(crate) fn pin(&self, asked: &str) -> Option<&Pin> {
        let name = resolve::unalias(asked, &self.settings);
        self.settings.pins.iter().find(|pin| model_pattern::fits_in_any_case(&pin.pattern, name))
    }

    /// Lists the models if they never were, unless that was tried a moment ago.
    pub(crate) async fn come_to_know(&self, upstream: &Upstream, asker: &Asker) {
        if !self.is_listed() {
            // Who asks sees what is known then.
            let _ = self.refresh_unless_fresh(upstream, asker).await;
        }
    }
}
