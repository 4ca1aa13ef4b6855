//! Whether a model may be used: the one decision, over what `[models]` says to everybody and over what a caller's own entry
//! says. Pure: what has to be looked up first is asked for.
//!
//! Deny beats allow, and looks at every spelling. What does not tell its model is judged by the models behind it; if these
//! cannot be known, it is refused, unless the admin has named the ARN itself.

use super::behind::Kind;
use super::catalogue::{Catalogue, Profile};
use super::identifier::{self, Identifier, geography_holds};
use super::lookup::Looked;
use crate::config::Glob;
use crate::error::{Refusal, RefusalKind};
use crate::partition::Partition;
use crate::settings::Models;
use crate::settings::callers::{CallerEntry, Rule};

/// The rules that hold for a request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules<'a> {
    sets: [RuleSet<'a>; 2],
    /// None: no geography is judged.
    geographies: Option<&'a [String]>,
    /// Whose names are native.
    partition: Partition,
}

/// Lists of one place in the configuration.
#[derive(Debug, Clone, Copy, Default)]
struct RuleSet<'a> {
    /// The caller whose lists these are; none for `[models]`.
    caller: Option<&'a str>,
    allow: Option<&'a Rule>,
    deny: Option<&'a Rule>,
}

/// What is known about the world.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Facts<'a> {
    pub catalogue: Option<&'a Catalogue>,
    /// What stands behind an ARN that does not tell, once somebody has asked.
    pub looked_up: Option<Result<&'a Looked, &'a Refusal>>,
}

/// What holds, where nothing is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Allowed,
    /// What stands behind the ARN has to be looked up first.
    LookUp,
}

impl<'a> Rules<'a> {
    /// Of everybody, and of the caller if it has an entry.
    pub(crate) fn new(models: &'a Models, caller: Option<&'a CallerEntry>) -> Rules<'a> {
        let everybody = RuleSet { caller: None, allow: Some(&models.allow), deny: Some(&models.deny) };
        let sets = [everybody, RuleSet::of(caller)];
        Rules { sets, geographies: Some(&models.geographies), partition: models.partition }
    }

    /// The caller's own alone, for a name that is to be understood as that partition does.
    pub(crate) fn of_caller(caller: &'a CallerEntry, partition: Partition) -> Rules<'a> {
        Rules { sets: [RuleSet::default(), RuleSet::of(Some(caller))], geographies: None, partition }
    }

    /// Some model is treated unlike others.
    pub(crate) fn tell_models_apart(&self) -> bool {
        self.sets.iter().any(RuleSet::tells_models_apart)
    }

    /// Some model is denied.
    pub(crate) fn deny_some(&self) -> bool {
        self.sets.iter().any(|set| set.deny.is_some_and(|rule| !rule.patterns.is_empty()))
    }

    /// Decides over an identifier, after aliases.
    ///
    /// # Errors
    /// 403 with the rule that refuses it, 400 for what is no identifier.
    pub(crate) fn judge(&self, name: &str, facts: Facts<'_>) -> Result<Verdict, Refusal> {
        self.check_denied(name, &[name])?;
        let knows = |id: &str| self.knows_profile(id, facts.catalogue);
        match identifier::read(name, self.partition, knows)? {
            Identifier::Model { id, .. } | Identifier::ModelArn { id } => {
                self.check_denied(name, &[id])?;
                self.check_plain(name, id, facts.catalogue)?;
                self.check_names(name, &[name, id])?;
            }
            Identifier::Profile { geography, model } => self.profile(name, name, geography, model, facts)?,
            Identifier::ProfileArn { id, geography, model } => self.profile(name, id, geography, model, facts)?,
            Identifier::ApplicationProfileArn | Identifier::OtherArn => return self.opaque(name, facts),
        }
        Ok(Verdict::Allowed)
    }

    /// Decides over a profile of the daemon's own that stands for a model which was judged before.
    pub(crate) fn judge_own(&self, name: &str, facts: Facts<'_>) -> Result<(), Refusal> {
        match facts.catalogue.and_then(|catalogue| catalogue.profile(name)) {
            Some(profile) => self.application(name, profile),
            None => self.check_denied(name, &[name]),
        }
    }

    /// Decides over an application profile by the models and regions behind it.
    pub(crate) fn application(&self, name: &str, profile: &Profile) -> Result<(), Refusal> {
        // Whoever makes a profile chooses its name, so that can only speak against it.
        self.check_denied(name, &[name, &profile.inference_profile_id, &profile.inference_profile_name])?;
        let models = profile.model_ids();
        if models.is_empty() {
            return Err(identifier::untold(name));
        }
        self.check_behind(name, models.into_iter())?;
        let Some(geographies) = self.geographies else { return Ok(()) };
        let outside = profile
            .regions()
            .into_iter()
            .find(|region| !geographies.iter().any(|geography| geography_holds(geography, region)));
        match outside {
            Some(region) => Err(denied(format!(
                "{name} may send to {}, which is outside models.geographies.",
                if region.is_empty() { "any region" } else { region }
            ))),
            None => Ok(()),
        }
    }

    /// Refuses a name whose model is denied under others.
    pub(crate) fn judge_counterparts(&self, name: &str, counterparts: &[String]) -> Result<(), Refusal> {
        let counterparts: Vec<&str> = counterparts.iter().map(String::as_str).collect();
        self.check_denied(name, &counterparts)
    }

    fn profile(&self, name: &str, id: &str, geography: &str, model: &str, facts: Facts<'_>) -> Result<(), Refusal> {
        self.check_denied(name, &[id, model])?;
        self.check_plain(name, model, facts.catalogue)?;
        self.check_names(name, &[name, id, model])?;
        match self.geographies {
            Some(geographies) if !geographies.iter().any(|allowed| allowed == geography) => Err(denied(format!(
                "{name} is a profile of the geography \"{geography}\", which is not in models.geographies."
            ))),
            _ => Ok(()),
        }
    }

    /// An ARN that does not tell its model.
    fn opaque(&self, name: &str, facts: Facts<'_>) -> Result<Verdict, Refusal> {
        let kind = Kind::of(name);
        let may_leave = self.geographies.is_some() && kind.may_leave_its_region();
        if !self.tell_models_apart() && !may_leave {
            return Ok(Verdict::Allowed);
        }
        if !kind.can_be_described() {
            return self.unless_named(name, may_leave, None).map(|()| Verdict::Allowed);
        }
        let listed = facts.catalogue.and_then(|catalogue| catalogue.profile(name));
        match (facts.looked_up, listed) {
            (None, None) => return Ok(Verdict::LookUp),
            (Some(Err(refusal)), _) if refusal.kind == RefusalKind::AccessDenied => {
                self.unless_named(name, may_leave, Some(refusal))?;
            }
            (Some(Err(refusal)), _) => return Err(refusal.clone()),
            (Some(Ok(Looked { profile: Some(profile), .. })), _) | (None, Some(profile)) => {
                self.application(name, profile)?;
            }
            (Some(Ok(looked)), _) => {
                self.check_behind(name, looked.models.iter().map(String::as_str))?;
                self.check_geographies_behind(name, looked)?;
            }
        }
        Ok(Verdict::Allowed)
    }

    /// Every model behind an ARN must be allowed: a router may send to any of its models.
    fn check_behind<'n>(&self, name: &str, models: impl Iterator<Item = &'n str>) -> Result<(), Refusal> {
        for model in models {
            let base = match identifier::read(model, self.partition, |_| false)? {
                Identifier::Profile { model, .. } => model,
                _ => model,
            };
            self.check_denied(name, &[model, base])?;
            let allows = |set: &&RuleSet<'_>| !set.names_arn(name) && !set.allows(&[model, base]);
            if let Some(set) = self.sets.iter().find(allows) {
                return Err(set.not_listed(name));
            }
        }
        Ok(())
    }

    fn check_geographies_behind(&self, name: &str, looked: &Looked) -> Result<(), Refusal> {
        let Some(geographies) = self.geographies else { return Ok(()) };
        for model in &looked.models {
            if let Identifier::Profile { geography, .. } = identifier::read(model, self.partition, |_| false)?
                && !geographies.iter().any(|allowed| allowed == geography)
            {
                return Err(denied(format!(
                    "{name} may send to {model}, a profile of the geography \"{geography}\", which is not in models.geographies."
                )));
            }
        }
        Ok(())
    }

    /// What cannot be judged by its models is refused wherever rules would have to, unless these name the ARN.
    fn unless_named(&self, name: &str, may_leave: bool, why: Option<&Refusal>) -> Result<(), Refusal> {
        let must_name =
            |set: &&RuleSet<'_>| set.tells_models_apart() || (may_leave && set.caller.is_none() && set.allow.is_some());
        match self.sets.iter().filter(must_name).find(|set| !set.names_arn(name)) {
            None => Ok(()),
            Some(set) => Err(why.cloned().unwrap_or_else(|| set.untold(name))),
        }
    }

    fn check_denied(&self, shown: &str, names: &[&str]) -> Result<(), Refusal> {
        self.sets.iter().try_for_each(|set| set.check_denied(shown, names))
    }

    fn check_names(&self, shown: &str, names: &[&str]) -> Result<(), Refusal> {
        match self.sets.iter().find(|set| !set.allows(names)) {
            Some(set) => Err(set.not_listed(shown)),
            None => Ok(()),
        }
    }

    /// Whether a name is a profile's: the admin may name a geography that is newer than this program, and so may the
    /// catalogue.
    pub(super) fn knows_profile(&self, id: &str, catalogue: Option<&Catalogue>) -> bool {
        let first = id.split_once('.').map_or("", |(first, _)| first);
        self.geographies.is_some_and(|geographies| geographies.iter().any(|geography| geography == first))
            || catalogue.is_some_and(|catalogue| catalogue.profile(id).is_some_and(|p| !p.is_application()))
    }

    /// Refuses a model's name that begins with something which may be a geography. Without geographies to judge by, the
    /// name is judged elsewhere.
    fn check_plain(&self, shown: &str, id: &str, catalogue: Option<&Catalogue>) -> Result<(), Refusal> {
        if self.geographies.is_none() || catalogue.is_some_and(|catalogue| catalogue.model(id).is_some()) {
            return Ok(());
        }
        identifier::check_plain(shown, id, |provider| {
            catalogue.is_some_and(|catalogue| catalogue.has_provider(provider))
        })
    }
}

impl<'a> RuleSet<'a> {
    fn of(caller: Option<&'a CallerEntry>) -> RuleSet<'a> {
        match caller {
            Some(entry) => {
                RuleSet { caller: Some(&entry.name), allow: entry.models.as_ref(), deny: entry.deny_models.as_ref() }
            }
            None => RuleSet::default(),
        }
    }

    fn tells_models_apart(&self) -> bool {
        self.deny.is_some_and(|rule| !rule.patterns.is_empty())
            || self.allow.is_some_and(|rule| !rule.patterns.iter().any(Glob::is_everything))
    }

    fn allows(&self, names: &[&str]) -> bool {
        self.allow.is_none_or(|rule| rule.matched(names).is_some())
    }

    /// The admin has written a pattern for ARNs that this one fits. No model's name holds a slash.
    fn names_arn(&self, arn: &str) -> bool {
        let is_about_arns = |glob: &Glob| {
            let text = glob.to_string();
            text.contains('/') || text.starts_with("arn:")
        };
        self.allow.is_some_and(|rule| rule.patterns.iter().any(|glob| is_about_arns(glob) && glob.matches(arn)))
    }

    fn check_denied(&self, shown: &str, names: &[&str]) -> Result<(), Refusal> {
        let Some(rule) = self.deny else { return Ok(()) };
        let fits = |glob: &&Glob| {
            // Behind a prefix that is newer than this program, a denied model stays denied.
            let behind_prefix =
                |name: &str| name.match_indices('.').any(|(dot, _)| glob.matches_any_case(&name[dot + 1..]));
            names.iter().any(|name| glob.matches_any_case(name) || behind_prefix(name))
        };
        match (rule.patterns.iter().find(fits), self.caller) {
            (None, _) => Ok(()),
            (Some(_), Some(caller)) => Err(denied(format!(
                "caller \"{caller}\" may not use \"{shown:.200}\" (deny_models at {}).",
                rule.place
            ))),
            (Some(glob), None) => {
                Err(denied(format!("{shown:.200} is refused by \"{glob}\" in models.deny at {}.", rule.place)))
            }
        }
    }

    fn not_listed(&self, shown: &str) -> Refusal {
        match (self.allow, self.caller) {
            (Some(rule), Some(caller)) => denied(format!(
                "caller \"{caller}\" may not use \"{shown:.200}\"; models at {} does not list it.",
                rule.place
            )),
            (Some(rule), None) => denied(format!("{shown:.200} is not in models.allow at {}.", rule.place)),
            (None, _) => denied(format!("{shown:.200} is not allowed.")),
        }
    }

    fn untold(&self, arn: &str) -> Refusal {
        match (self.caller, self.allow, self.deny) {
            (None, ..) => identifier::untold(arn),
            (Some(_), Some(_), _) => self.not_listed(arn),
            (Some(caller), None, deny) => denied(format!(
                "\"{arn:.200}\" does not say which model it stands for, and deny_models of caller \"{caller}\"{} may deny that; list the ARN in the caller's models.",
                deny.map(|rule| format!(" at {}", rule.place)).unwrap_or_default()
            )),
        }
    }
}

fn denied(message: String) -> Refusal {
    Refusal::new(RefusalKind::AccessDenied, message)
}

#[cfg(test)]
mod tests;
