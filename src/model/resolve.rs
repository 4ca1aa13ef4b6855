//! The decision what to send for what was asked, and whether both are allowed. Pure: no I/O, no clock.

use super::catalogue::{Catalogue, Profile};
use super::identifier::{Identifier, geography_holds, read};
use super::lookup::Looked;
use crate::error::{Refusal, RefusalKind};
use crate::settings::Models;

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
    pub catalogue: Option<&'a Catalogue>,
    /// What earlier requests have found out for this model in this account and region.
    pub learned: Option<&'a str>,
    /// What was looked up after `LookUp`.
    pub looked_up: Option<&'a Looked>,
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
    match understand(name, known.catalogue)? {
        Identifier::Model { id, wants_profile } => {
            check_names(known.settings, name, &[name, id])?;
            let resolution = model(id, wants_profile, as_is, known)?;
            if let Resolution::Send(target) = &resolution {
                check(&target.identifier, known)?;
            }
            Ok(resolution)
        }
        Identifier::Profile { .. } | Identifier::ProfileArn { .. } => {
            check(name, known)?;
            send(name, true, as_is)
        }
        Identifier::ApplicationProfileArn => {
            if !is_allowed_by_name(name, known.settings) && application_profile(name, known).is_none() {
                return Ok(Resolution::LookUp { arn: name.to_owned() });
            }
            check(name, known)?;
            send(name, true, as_is)
        }
        Identifier::OtherArn
            if has_rules(known.settings) && known.looked_up.is_none() && !is_allowed_by_name(name, known.settings) =>
        {
            // Refused by its own name, nothing has to be asked.
            check_denied(known.settings, name, &[name])?;
            Ok(Resolution::LookUp { arn: name.to_owned() })
        }
        Identifier::ModelArn { .. } | Identifier::OtherArn => {
            check(name, known)?;
            send(name, false, as_is)
        }
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
    check(identifier, known)?;
    Ok(Resolution::Send(Target { identifier: identifier.to_owned(), is_profile: true, how }))
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

/// What to send for a model or profile that is described, deleted or copied and not invoked: its name as it is. Only
/// GovCloud's own names are translated or refused.
pub(crate) fn described(name: &str) -> Result<Target, Refusal> {
    let identifier = match read(name, |_| false)? {
        Identifier::Model { id, .. } if name.starts_with("arn:aws-us-gov:") => id,
        _ if name.starts_with("us-gov.") => {
            return Err(Refusal::new(
                RefusalKind::ResourceNotFound,
                format!("{name} is a GovCloud profile; list the commercial ones with ListInferenceProfiles."),
            ));
        }
        _ => name,
    };
    Ok(Target { identifier: identifier.to_owned(), is_profile: false, how: How::AsIs })
}

/// Whether an identifier may be sent: allow and deny lists on it and on the models behind it, and its geography.
pub(crate) fn check(identifier: &str, known: Known<'_>) -> Result<(), Refusal> {
    let settings = known.settings;
    match understand(identifier, known.catalogue)? {
        Identifier::Model { id, .. } | Identifier::ModelArn { id } => {
            check_names(settings, identifier, &[identifier, id])
        }
        Identifier::Profile { geography, model } => {
            check_names(settings, identifier, &[identifier, model])?;
            check_geography(settings, identifier, geography)
        }
        Identifier::ProfileArn { id, geography, model } => {
            check_names(settings, identifier, &[identifier, id, model])?;
            check_geography(settings, identifier, geography)
        }
        Identifier::ApplicationProfileArn => match application_profile(identifier, known) {
            Some(profile) => check_application_profile(settings, profile),
            None => check_names(settings, identifier, &[identifier]),
        },
        Identifier::OtherArn => match known.looked_up {
            // A router may send to any of its models.
            Some(looked) => {
                looked.models.iter().try_for_each(|model| check_names(settings, identifier, &[identifier, model]))
            }
            None => check_names(settings, identifier, &[identifier]),
        },
    }
}

/// An ARN that the admin has named, or some pattern for more than everything, needs no other reason.
fn is_allowed_by_name(name: &str, settings: &Models) -> bool {
    settings.allow.patterns.iter().any(|glob| glob.to_string() != "*" && glob.matches(name))
}

/// Some model is treated unlike others.
fn has_rules(settings: &Models) -> bool {
    !settings.deny.patterns.is_empty() || !settings.allow.patterns.iter().any(|glob| glob.to_string() == "*")
}

fn application_profile<'a>(name: &str, known: Known<'a>) -> Option<&'a Profile> {
    known
        .looked_up
        .and_then(|looked| looked.profile.as_ref())
        .or_else(|| known.catalogue.and_then(|catalogue| catalogue.profile(name)))
}

/// An application profile is as free as the models and regions behind it.
fn check_application_profile(settings: &Models, profile: &Profile) -> Result<(), Refusal> {
    let name = &profile.inference_profile_arn;
    let mut names: Vec<&str> = vec![name, &profile.inference_profile_id, &profile.inference_profile_name];
    names.extend(profile.model_ids());
    check_names(settings, name, &names)?;
    let outside = profile
        .regions()
        .into_iter()
        .find(|region| !settings.geographies.iter().any(|geography| geography_holds(geography, region)));
    match outside {
        Some(region) => Err(Refusal::new(
            RefusalKind::AccessDenied,
            format!(
                "{name} may send to {}, which is outside models.geographies.",
                if region.is_empty() { "any region" } else { region }
            ),
        )),
        None => Ok(()),
    }
}

fn check_names(settings: &Models, shown: &str, names: &[&str]) -> Result<(), Refusal> {
    check_denied(settings, shown, names)?;
    match settings.allow.matched(names) {
        Some(_) => Ok(()),
        None => Err(denied(shown, &format!("is not in models.allow at {}", settings.allow.place))),
    }
}

fn check_denied(settings: &Models, shown: &str, names: &[&str]) -> Result<(), Refusal> {
    match settings.deny.matched(names) {
        Some(glob) => {
            Err(denied(shown, &format!("is refused by \"{glob}\" in models.deny at {}", settings.deny.place)))
        }
        None => Ok(()),
    }
}

fn denied(shown: &str, why: &str) -> Refusal {
    Refusal::new(RefusalKind::AccessDenied, format!("{shown} {why}."))
}

fn check_geography(settings: &Models, shown: &str, geography: &str) -> Result<(), Refusal> {
    if settings.geographies.iter().any(|allowed| allowed == geography) {
        return Ok(());
    }
    Err(Refusal::new(
        RefusalKind::AccessDenied,
        format!("{shown} is a profile of the geography \"{geography}\", which is not in models.geographies."),
    ))
}

fn understand<'a>(identifier: &'a str, catalogue: Option<&Catalogue>) -> Result<Identifier<'a>, Refusal> {
    read(identifier, |name| {
        catalogue.is_some_and(|catalogue| catalogue.profile(name).is_some_and(|p| !p.is_application()))
    })
}

#[cfg(test)]
mod tests;
