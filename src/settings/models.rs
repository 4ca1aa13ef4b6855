//! `[models]`: which models may be used, under which names.

use std::collections::BTreeMap;
use std::time::Duration;

use toml::Spanned;

use super::callers::{Place, Rule, place};
use super::{DAY, at_most, patterns};
use crate::config::{self, ConfigError, Glob, Listings, Source, nearest};
use crate::model::identifier::{self, Identifier};
use crate::operation::check_identifier;
use crate::partition::{Partition, Partitions};

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
    /// Where models must be served, the first of the file first.
    pub pins: Vec<Pin>,
    /// Where the upstream is that these rules are for.
    pub partition: Partition,
}

/// A line of `[models.partition]`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Pin {
    pub pattern: Glob,
    pub partition: Partition,
    pub place: Place,
}

impl Models {
    /// What holds for an upstream of a partition. GovCloud's profiles are all of one geography, and stay in it.
    pub(crate) fn in_partition(&self, partition: Partition) -> Models {
        let geographies = match partition {
            Partition::Commercial => self.geographies.clone(),
            Partition::Govcloud => vec![identifier::GOVCLOUD_GEOGRAPHY.to_owned()],
        };
        Models { geographies, partition, ..self.clone() }
    }
}

pub(super) fn models(
    models: config::Models,
    partitions: Partitions,
    warnings: &mut Vec<String>,
    source: &Source,
) -> Result<Models, ConfigError> {
    let geographies =
        models.geographies.iter().map(|name| geography(name, source)).collect::<Result<Vec<_>, ConfigError>>()?;
    let aliases = aliases(models.aliases, &geographies, partitions, warnings, source)?;
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
        pins: pins(models.partition, partitions, source)?,
        partition: Partition::Commercial,
    })
}

fn pins(
    written: BTreeMap<Spanned<String>, Spanned<Partition>>,
    partitions: Partitions,
    source: &Source,
) -> Result<Vec<Pin>, ConfigError> {
    let mut pins: Vec<_> = written.into_iter().collect();
    pins.sort_by_key(|(pattern, _)| pattern.span().start);
    let pin = |(pattern, partition): (Spanned<String>, Spanned<Partition>)| {
        patterns::check_model(pattern.get_ref()).map_err(|why| source.error(pattern.span(), why))?;
        let (span, partition) = (partition.span(), partition.into_inner());
        if !partitions.has(partition) {
            let sentence = format!(
                "no upstream is in the partition {partition}; add one under [[upstreams]], or remove the line."
            );
            return Err(source.error(span, sentence));
        }
        Ok(Pin { pattern: Glob::new(pattern.get_ref()), partition, place: place(&pattern.span(), source) })
    };
    pins.into_iter().map(pin).collect()
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
    partitions: Partitions,
    warnings: &mut Vec<String>,
    source: &Source,
) -> Result<BTreeMap<String, String>, ConfigError> {
    for (alias, target) in &written {
        check_alias(alias, target, partitions, source)?;
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
            identifier::read(name, Partition::Commercial, |_| false)
            && partitions.has(Partition::Commercial)
            && !geographies.iter().any(|allowed| allowed == geography)
        {
            warn(format!("\"{alias}\" will be refused: \"{geography}\" is not in models.geographies."));
        }
    }
    Ok(written.into_iter().map(|(alias, target)| (alias.into_inner(), target.into_inner())).collect())
}

fn check_alias(
    alias: &Spanned<String>,
    target: &Spanned<String>,
    partitions: Partitions,
    source: &Source,
) -> Result<(), ConfigError> {
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
    // One that no upstream's partition has is refused, in the words of the last of them.
    let read = |partition| identifier::read(name, partition, |_| false).map(|_| ());
    let configured = Partition::ALL.into_iter().filter(|partition| partitions.has(*partition));
    let known = configured.map(read).reduce(|one, other| one.or(other)).unwrap_or(Ok(()));
    known.map_err(|refusal| source.error(target.span(), refusal.message.into_owned()))
}
