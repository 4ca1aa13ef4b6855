//! What to send where tokens are counted and no model runs. Bedrock counts for a model by its own name, and answers 400 for
//! a profile ("The provided model doesn't support counting tokens."), though the model may be invoked through profiles only.

use super::catalogue::Catalogue;
use super::identifier::Identifier;
use super::lookup::{Asker, Looked};
use super::resolve::{self, How, Known, Target};
use super::rules::Verdict;
use super::{Models, Upstream};
use crate::error::Refusal;

impl Models {
    /// The model behind `asked`, by its own name. What may not be invoked may not be counted for either.
    ///
    /// # Errors
    /// The rules refuse it, or it is no identifier.
    pub(crate) async fn counted(&self, asked: &str, upstream: &Upstream, asker: &Asker) -> Result<Target, Refusal> {
        crate::operation::check_identifier(asked)?;
        let name = resolve::unalias(asked, &self.settings);
        let caller = asker.entry.as_deref();
        let is_untold = {
            let listed = self.catalogue.load();
            let known = self.known(listed.as_ref(), caller);
            let verdict = resolve::check(name, known)?;
            let is_listed = known.catalogue.is_some_and(|catalogue| catalogue.profile(name).is_some());
            let is_application = resolve::understand(name, known)? == Identifier::ApplicationProfileArn;
            verdict == Verdict::LookUp || (is_application && !is_listed)
        };
        let looked = if is_untold { Some(self.look_up(name, upstream, asker).await) } else { None };
        let listed = self.catalogue.load();
        let looked_up = looked.as_ref().map(|looked| looked.as_deref());
        let known = Known { looked_up, ..self.known(listed.as_ref(), caller) };
        resolve::check(name, known)?;
        let found = looked_up.and_then(Result::ok);
        let identifier = bare(resolve::understand(name, known)?, name, known.catalogue, found).to_owned();
        let how = match identifier == asked {
            true => How::AsIs,
            false if identifier == name => How::Alias,
            false => How::Discovered,
        };
        Ok(Target { identifier, is_profile: false, how })
    }
}

/// A profile's one model; what is no profile, or reaches several models, is sent as it is.
fn bare<'a>(
    identifier: Identifier<'a>,
    name: &'a str,
    catalogue: Option<&'a Catalogue>,
    found: Option<&'a Looked>,
) -> &'a str {
    let listed = |profile: &str| catalogue.and_then(|catalogue| catalogue.profile(profile)?.only_model());
    match identifier {
        Identifier::Model { id, .. } => id,
        Identifier::Profile { model, .. } => listed(name).unwrap_or(model),
        Identifier::ProfileArn { id, model, .. } => listed(id).unwrap_or(model),
        Identifier::ApplicationProfileArn => {
            let looked = || found.and_then(|looked| looked.profile.as_ref()?.only_model());
            listed(name).or_else(looked).unwrap_or(name)
        }
        Identifier::ModelArn { .. } | Identifier::OtherArn => name,
    }
}
