//! `[models]`: which models may be used, under which names.

use std::collections::BTreeMap;
use std::time::Duration;

use toml::Spanned;

use super::callers::Rule;
use super::{DAY, at_most, patterns};
use crate::config::{self, ConfigError, Listings, Source, nearest};
use crate::model::identifier::{self, Identifier};
use crate::operation::check_identifier;

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Models {
    pub allow: Rule,
    pub deny: Rule,
    pub geographies: Vec<String>,
    pub create_profiles: bool,
    /// Callers whose entry names these operations may create and delete inference profiles.
    pub allow_profile_management: bool,
    pub list: Listings,
    pub refresh_interval: Duration,
    pub aliases: BTreeMap<String, String>,
}

pub(super) fn models(
    models: config::Models,
    warnings: &mut Vec<String>,
    source: &Source,
) -> Result<Models, ConfigError> {
    let geographies =
        models.geographies.iter().map(|name| geography(name, source)).collect::<Result<Vec<_>, ConfigError>>()?;
    let aliases = aliases(models.aliases, &geographies, warnings, source)?;
    if let Some(pattern) = models.deny.get_ref().iter().find(|pattern| pattern.get_ref().to_string() == "*") {
        warnings.push(source.error(pattern.span(), "\"*\" denies every model, to everybody.").to_string());
    }
    Ok(Models {
        allow: patterns::permitted_models("allow", &models.allow, source)?,
        deny: patterns::models(&models.deny, source)?,
        geographies,
        create_profiles: models.create_profiles,
        allow_profile_management: models.allow_profile_management,
        list: models.list,
        refresh_interval: at_most("refresh_interval", &models.refresh_interval, DAY * 30, source)?,
        aliases,
    })
}

fn geography(geography: &Spanned<String>, source: &Source) -> Result<String, ConfigError> {
    let name = geography.get_ref();
    let fail = |sentence: String| Err(source.error(geography.span(), sentence));
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-') {
        return fail(format!(
            "\"{name}\" is not the prefix of inference profiles; write for example \"us\", \"eu\" or \"global\", without a dot."
        ));
    }
    if name.starts_with("us-gov") {
        return fail("us-gov profiles belong to GovCloud; commercial Bedrock has none of them.".to_owned());
    }
    let known: Vec<&str> = identifier::commercial_geographies().collect();
    if known.contains(&name.as_str()) {
        return Ok(name.clone());
    }
    let hint =
        nearest(name, known.iter().copied()).map(|name| format!("Did you mean \"{name}\"? ")).unwrap_or_default();
    fail(format!("\"{name}\" is no geography of inference profiles. {hint}Known are {}.", known.join(", ")))
}

fn aliases(
    written: BTreeMap<Spanned<String>, Spanned<String>>,
    geographies: &[String],
    warnings: &mut Vec<String>,
    source: &Source,
) -> Result<BTreeMap<String, String>, ConfigError> {
    for (alias, target) in &written {
        check_alias(alias, target, source)?;
        let (alias, name) = (alias.get_ref(), target.get_ref());
        let mut next = name;
        for _ in &written {
            if next == alias {
                let sentence = format!("the alias \"{alias}\" leads back to itself; name a model or a profile.");
                return Err(source.error(target.span(), sentence));
            }
            match written.get(next.as_str()) {
                Some(further) => next = further.get_ref(),
                None => break,
            }
        }
        let mut warn = |sentence: String| warnings.push(source.error(target.span(), sentence).to_string());
        if written.contains_key(name.as_str()) {
            warn(format!("\"{name}\" is an alias too; aliases are applied once, so \"{name}\" itself is asked for."));
        }
        if let Ok(Identifier::Profile { geography, .. } | Identifier::ProfileArn { geography, .. }) =
            identifier::read(name, |_| false)
            && !geographies.iter().any(|allowed| allowed == geography)
        {
            warn(format!("\"{alias}\" will be refused: \"{geography}\" is not in models.geographies."));
        }
    }
    Ok(written.into_iter().map(|(alias, target)| (alias.into_inner(), target.into_inner())).collect())
}

fn check_alias(alias: &Spanned<String>, target: &Spanned<String>, source: &Source) -> Result<(), ConfigError> {
    let name = target.get_ref();
    let fail = |sentence: String| Err(source.error(target.span(), sentence));
    if alias.get_ref().trim().is_empty() || name.trim().is_empty() {
        return fail("an alias and what it stands for cannot be empty.".to_owned());
    }
    if name.contains(['*', '?']) {
        return fail(format!("\"{name}\" is a pattern, and an alias stands for one model; name one model or profile."));
    }
    if check_identifier(name).is_err() {
        return fail(format!("\"{name}\" is not a model or profile identifier."));
    }
    if check_identifier(alias.get_ref()).is_err() {
        let sentence = format!(
            "no request can ask for the alias \"{}\"; it has letters, digits and any of \"._:/-\", as identifiers have.",
            alias.get_ref()
        );
        return Err(source.error(alias.span(), sentence));
    }
    identifier::read(name, |_| false)
        .map(|_| ())
        .map_err(|refusal| source.error(target.span(), refusal.message.into_owned()))
}
