//! What a caller may do. Pure: a caller, an operation and the settings in; a permit or a refusal that names its rule out.
//! A deny rule beats an allow rule, and the daemon's `[models]` holds for every caller.

use std::sync::Arc;

use crate::caller::{Caller, unknown_caller};
use crate::config::Glob;
use crate::error::{Kind, Refusal};
use crate::settings::Settings;
use crate::settings::callers::{Policy, Rule, is_classification};

/// The header in which an app says how sensitive a request is.
pub const CLASSIFICATION_HEADER: &str = "x-data-classification";

/// Geographies of inference profiles, which precede a model's own name: `us.anthropic.claude…`.
const GEOGRAPHIES: [&str; 9] = ["us", "us-gov", "eu", "apac", "jp", "au", "ca", "in", "global"];

/// The proof that policy has allowed a request; only `permit` makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permit {
    data_classification: Option<Arc<str>>,
}

impl Permit {
    /// The level that the request's record bears.
    pub fn data_classification(&self) -> Option<&str> {
        self.data_classification.as_deref()
    }
}

/// Decides over a request. `model` is the identifier as asked for, decoded; aliases are applied here.
pub fn permit(
    caller: &Caller,
    operation: &str,
    model: Option<&str>,
    classification_header: Option<&str>,
    settings: &Settings,
) -> Result<Permit, Refusal> {
    if let (Some(rule), None) = (&settings.policy.require_known_caller, &caller.entry) {
        return Err(unknown_caller(rule));
    }
    permit_operation(caller, operation)?;
    if let Some(model) = model {
        permit_model(caller, model, settings)?;
    }
    let data_classification = classification(caller, classification_header, &settings.policy)?;
    tracing::debug!(caller = caller.name(), uid = caller.uid, operation, model, "request allowed");
    Ok(Permit { data_classification })
}

fn permit_operation(caller: &Caller, operation: &str) -> Result<(), Refusal> {
    let Some(entry) = &caller.entry else { return Ok(()) };
    let matches = |rule: &Rule| rule.patterns.iter().any(|pattern| pattern.matches(operation));
    if let Some(rule) = entry.deny_operations.as_ref().filter(|rule| matches(rule)) {
        return Err(deny(format!(
            "caller \"{}\" may not call {operation} (deny_operations at {}).",
            entry.name, rule.place
        )));
    }
    match &entry.operations {
        Some(rule) if !matches(rule) => Err(deny(format!(
            "caller \"{}\" may not call {operation}; operations at {} does not list it.",
            entry.name, rule.place
        ))),
        _ => Ok(()),
    }
}

/// Decides over a model or profile identifier alone. The road asks it again for what an identifier has turned out to
/// stand for, such as the model behind an application inference profile.
pub fn permit_model(caller: &Caller, model: &str, settings: &Settings) -> Result<(), Refusal> {
    let model = settings.models.aliases.get(model).map_or(model, String::as_str);
    let policy = &settings.policy;
    let entry = caller.entry.as_deref();
    let who = || entry.map_or_else(String::new, |entry| format!(" to caller \"{}\"", entry.name));
    let denied = entry.and_then(|entry| entry.deny_models.as_ref()).map(|rule| ("deny_models", rule));
    for (key, rule) in [Some(("[models] deny", &policy.deny_models)), denied].into_iter().flatten() {
        if denies(&rule.patterns, model) {
            return Err(deny(format!("model \"{model:.200}\" is denied{} ({key} at {}).", who(), rule.place)));
        }
    }
    let allowed = entry.and_then(|entry| entry.models.as_ref()).map(|rule| ("models", rule));
    for (key, rule) in [Some(("[models] allow", &policy.allow_models)), allowed].into_iter().flatten() {
        if !allows(&rule.patterns, model, &settings.models.geographies) {
            return Err(deny(format!(
                "model \"{model:.200}\" is not allowed{}; {key} at {} does not list it.",
                who(),
                rule.place
            )));
        }
    }
    Ok(())
}

/// The level of a request: the entry's, raised by the header if it is allowed to.
fn classification(caller: &Caller, header: Option<&str>, policy: &Policy) -> Result<Option<Arc<str>>, Refusal> {
    let own = caller.data_classification();
    if let Some(header) = header.filter(|header| !is_classification(header)) {
        let length = header.len();
        return Err(Refusal::new(
            Kind::Validation,
            format!("the {CLASSIFICATION_HEADER} header of {length} bytes is not the name of a level."),
        ));
    }
    let levels = &policy.data_classifications;
    let place = &policy.data_classifications_place;
    if levels.is_empty() {
        // Without an order nothing is above the entry's level.
        return match (own, header) {
            (Some(own), Some(header)) if own != header => Err(deny(format!(
                "data classification \"{header}\" is not the caller's \"{own}\", and [policy] data_classifications gives no order of levels by which it could be higher.",
            ))),
            _ => Ok(own.or(header).map(Arc::from)),
        };
    }
    let rank = |level: &str| levels.iter().position(|known| known == level);
    let Some(asked) = header.or(own) else {
        return Err(deny(format!(
            "the request has no data classification, and data_classifications at {place} asks for one; set data_classification in the caller's [[callers]] entry or send the {CLASSIFICATION_HEADER} header.",
        )));
    };
    let Some(asked_rank) = rank(asked) else {
        return Err(deny(format!("data classification \"{asked}\" is not in data_classifications at {place}.")));
    };
    match own {
        Some(own) if rank(own).is_none_or(|own_rank| asked_rank < own_rank) => Err(deny(format!(
            "data classification \"{asked}\" is below the caller's \"{own}\" (data_classifications at {place}).",
        ))),
        _ => Ok(Some(Arc::from(asked))),
    }
}

fn deny(message: String) -> Refusal {
    Refusal::new(Kind::AccessDenied, message)
}

/// An allow pattern fits the identifier as it stands, the last part of an ARN, or either without a geography.
fn allows(patterns: &[Glob], model: &str, geographies: &[String]) -> bool {
    let resource = resource(model);
    let geographic = |prefix: &str| GEOGRAPHIES.contains(&prefix) || geographies.iter().any(|known| known == prefix);
    let base = resource.split_once('.').filter(|(prefix, _)| geographic(prefix)).map(|(_, base)| base);
    let any = |name: &str| patterns.iter().any(|pattern| pattern.matches(name));
    any(model) || (resource != model && any(resource)) || base.is_some_and(any)
}

/// A deny pattern fits wherever an allow pattern would, behind any prefix, and in any case of letters.
fn denies(patterns: &[Glob], model: &str) -> bool {
    let any = |name: &str| patterns.iter().any(|pattern| pattern.matches(name));
    let fits = |model: &str| {
        let resource = resource(model);
        any(model) || any(resource) || resource.split_once('.').is_some_and(|(_, base)| any(base))
    };
    fits(model) || (model.bytes().any(|b| b.is_ascii_uppercase()) && fits(&model.to_ascii_lowercase()))
}

fn resource(model: &str) -> &str {
    if !model.starts_with("arn:") {
        return model;
    }
    model.rsplit_once('/').map_or(model, |(_, resource)| resource)
}

#[cfg(test)]
mod tests;
