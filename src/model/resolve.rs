//! The decision what to send for what was asked, and whether both are allowed. Pure: no I/O, no clock.

use super::catalogue::Catalogue;
use super::identifier::{Identifier, read};
use super::lookup::Looked;
use super::rules::{Facts, Rules, Verdict};
use crate::error::{Refusal, RefusalKind};
use crate::partition::Partition;
use crate::settings::Models;
use crate::settings::callers::CallerEntry;

/// What is to be sent, and how that was found: a label of `profile_resolutions_total`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub identifier: String,
    /// It is an inference profile, by identifier or ARN.
    pub is_profile: bool,
    pub how: How,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum How {
    /// As it was asked for.
    AsIs,
    Alias,
    Discovered,
    Learned,
    Created,
}

impl How {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            How::AsIs => "as_is",
            How::Alias => "alias",
            How::Discovered => "discovered",
            How::Learned => "learned",
            How::Created => "created",
        }
    }
}

/// The decision.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Resolution {
    Send(Target),
    /// The model is reached through profiles only, and none exists that may be used: one has to be made from this model.
    Create {
        model: String,
        source_arn: String,
    },
    /// What stands behind the ARN has to be looked up before it can be judged.
    LookUp {
        arn: String,
    },
}

/// What the decision rests on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Known<'a> {
    pub settings: &'a Models,
    /// Whose own rules hold beside those of `[models]`.
    pub caller: Option<&'a CallerEntry>,
    pub catalogue: Option<&'a Catalogue>,
    /// What earlier requests have found out for this model in this account and region.
    pub learned: Option<&'a str>,
    /// What the look-up after `LookUp` has found.
    pub looked_up: Option<Result<&'a Looked, &'a Refusal>>,
}

impl<'a> Known<'a> {
    fn rules(&self) -> Rules<'a> {
        Rules::new(self.settings, self.caller)
    }

    fn facts(&self) -> Facts<'a> {
        Facts { catalogue: self.catalogue, looked_up: self.looked_up }
    }
}

/// Replaces an alias by what it stands for.
pub(crate) fn unalias<'a>(asked: &'a str, settings: &'a Models) -> &'a str {
    settings.aliases.get(asked).map_or(asked, String::as_str)
}

/// Decides what to send for `asked`.
pub(crate) fn resolve(asked: &str, known: Known<'_>) -> Result<Resolution, Refusal> {
    let name = unalias(asked, known.settings);
    let as_is = if name == asked { How::AsIs } else { How::Alias };
    let send = |identifier: &str, is_profile, how| {
        Ok(Resolution::Send(Target { identifier: identifier.to_owned(), is_profile, how }))
    };
    if check(name, known)? == Verdict::LookUp {
        return Ok(Resolution::LookUp { arn: name.to_owned() });
    }
    match understand(name, known)? {
        Identifier::Model { id, wants_profile } => {
            let resolution = model(id, wants_profile, as_is, known)?;
            // What is sent as it is called was judged above.
            if let Resolution::Send(target) = &resolution
                && target.identifier != name
            {
                check_target(target, known)?;
            }
            Ok(resolution)
        }
        Identifier::Profile { .. } | Identifier::ProfileArn { .. } | Identifier::ApplicationProfileArn => {
            send(name, true, as_is)
        }
        // The upstream has said before that this model is invoked through a profile.
        Identifier::ModelArn { .. } if known.learned.is_some() => {
            let identifier = known.learned.unwrap_or_default().to_owned();
            let target = Target { identifier, is_profile: true, how: How::Learned };
            check_target(&target, known)?;
            Ok(Resolution::Send(target))
        }
        Identifier::ModelArn { .. } | Identifier::OtherArn => send(name, false, as_is),
    }
}

/// Which profile to use after the upstream has said that `model` cannot be invoked by its identifier.
pub(crate) fn profile_for(model: &str, known: Known<'_>) -> Result<Resolution, Refusal> {
    let found = known.catalogue.and_then(|catalogue| catalogue.system_profile(model, &known.settings.geographies));
    let (identifier, how) = match (known.learned, found) {
        (Some(learned), _) => (learned, How::Learned),
        (None, Some(profile)) => (profile.inference_profile_id.as_str(), How::Discovered),
        (None, None) => return create(model, known),
    };
    let target = Target { identifier: identifier.to_owned(), is_profile: true, how };
    check_target(&target, known)?;
    Ok(Resolution::Send(target))
}

fn model(id: &str, wants_profile: bool, as_is: How, known: Known<'_>) -> Result<Resolution, Refusal> {
    let bare = |how| Resolution::Send(Target { identifier: id.to_owned(), is_profile: false, how });
    let entry = known.catalogue.and_then(|catalogue| catalogue.model(id));
    if let Some(learned) = known.learned {
        return Ok(Resolution::Send(Target { identifier: learned.to_owned(), is_profile: true, how: How::Learned }));
    }
    let found = known.catalogue.and_then(|catalogue| catalogue.system_profile(id, &known.settings.geographies));
    match (entry, found) {
        (Some(entry), Some(profile)) if wants_profile || !entry.on_demand() => Ok(Resolution::Send(Target {
            identifier: profile.inference_profile_id.clone(),
            is_profile: true,
            how: How::Discovered,
        })),
        (None, Some(profile)) if wants_profile => Ok(Resolution::Send(Target {
            identifier: profile.inference_profile_id.clone(),
            is_profile: true,
            how: How::Discovered,
        })),
        (Some(entry), None) if !entry.on_demand() && entry.by_profile() => create(id, known),
        _ => Ok(bare(as_is)),
    }
}

fn create(model: &str, known: Known<'_>) -> Result<Resolution, Refusal> {
    let elsewhere = known.catalogue.and_then(|catalogue| catalogue.any_system_profile(model));
    if let Some(profile) = elsewhere {
        return Err(Refusal::new(
            RefusalKind::AccessDenied,
            format!(
                "{model} can only be invoked through {}, whose geography is not in models.geographies; add it there if requests may leave the allowed geographies.",
                profile.inference_profile_id
            ),
        ));
    }
    // A model that is offered as provisioned throughput alone is reached through no profile either.
    let entry =
        known.catalogue.and_then(|catalogue| catalogue.model(model)).filter(|e| e.on_demand() || e.by_profile());
    match entry.map(|entry| entry.model_arn.clone()) {
        Some(source_arn) if known.settings.create_profiles => {
            Ok(Resolution::Create { model: model.to_owned(), source_arn })
        }
        Some(_) => Err(Refusal::new(
            RefusalKind::Validation,
            format!(
                "{model} needs an inference profile, none exists in the allowed geographies, and models.create_profiles is false."
            ),
        )),
        None => Ok(Resolution::Send(Target { identifier: model.to_owned(), is_profile: false, how: How::AsIs })),
    }
}

/// What to send for a model or profile that is described, deleted or copied and not invoked: its name as it is. Only names of
/// the other partition are translated or refused.
pub(crate) fn described(name: &str, partition: Partition) -> Result<Target, Refusal> {
    let identifier = match read(name, partition, |_| false)? {
        Identifier::Model { wants_profile: true, .. } => {
            let (theirs, ours) = match partition {
                Partition::Commercial => ("a GovCloud", "commercial"),
                Partition::Govcloud => ("a commercial", "GovCloud"),
            };
            return Err(Refusal::new(
                RefusalKind::ResourceNotFound,
                format!("{name} is {theirs} profile; list the {ours} ones with ListInferenceProfiles."),
            ));
        }
        Identifier::Model { id, .. } => id,
        _ => name,
    };
    Ok(Target { identifier: identifier.to_owned(), is_profile: false, how: How::AsIs })
}

/// The same for a profile that is read: in the place of one of the other partition stands the profile that invokes the same model.
pub(crate) fn described_profile(name: &str, known: Known<'_>) -> Result<Target, Refusal> {
    let partition = known.settings.partition;
    let found = match (read(name, partition, |_| false)?, known.catalogue) {
        (Identifier::Model { id, wants_profile: true }, Some(catalogue)) => {
            catalogue.system_profile(id, &known.settings.geographies)
        }
        (Identifier::Model { wants_profile: true, .. }, None) => {
            return Err(Refusal::new(
                RefusalKind::ServiceUnavailable,
                format!(
                    "the {} profile in the place of {name} is not known: profiles could not be listed; try again.",
                    partition.in_records()
                ),
            ));
        }
        _ => None,
    };
    match found {
        Some(profile) => {
            Ok(Target { identifier: profile.inference_profile_id.clone(), is_profile: true, how: How::Discovered })
        }
        None => described(name, partition),
    }
}

/// Whether an identifier may be used, by all rules that hold.
pub(crate) fn check(identifier: &str, known: Known<'_>) -> Result<Verdict, Refusal> {
    known.rules().judge(identifier, known.facts())
}

/// Whether what was found for a model may be sent.
fn check_target(target: &Target, known: Known<'_>) -> Result<(), Refusal> {
    match target.how {
        // What was learned is a system profile, or one of the daemon's own of exactly this model.
        How::Learned if target.identifier.starts_with("arn:") => {
            known.rules().judge_own(&target.identifier, known.facts())
        }
        _ => check(&target.identifier, known).map(|_| ()),
    }
}

pub(super) fn understand<'a>(identifier: &'a str, known: Known<'_>) -> Result<Identifier<'a>, Refusal> {
    read(identifier, known.settings.partition, |id| known.rules().knows_profile(id, known.catalogue))
}

#[cfg(test)]
mod tests;
