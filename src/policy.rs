//! What a caller may do. Pure: a caller, an operation and the settings in; a permit or a refusal that names its rule out.
//! A deny rule beats an allow rule.

use std::sync::Arc;

use crate::caller::{Caller, unknown_caller, unknown_user};
use crate::error::{Refusal, RefusalKind};
use crate::model::identifier::{self, Identifier};
use crate::settings::Settings;
use crate::settings::callers::{CallerEntry, Policy, Rule, is_classification};

/// The header in which an app says how sensitive a request is.
pub(crate) const CLASSIFICATION_HEADER: &str = "x-data-classification";

/// The proof that policy has allowed a request; only `permit` makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Permit {
    data_classification: Option<Arc<str>>,
}

impl Permit {
    /// The level that the request's record bears.
    pub(crate) fn data_classification(&self) -> Option<&str> {
        self.data_classification.as_deref()
    }
}

/// Decides over a request. `model` is the identifier as asked for, decoded; aliases are applied here.
pub(crate) fn permit(
    caller: &Caller,
    operation: &str,
    model: Option<&str>,
    classification_header: Option<&str>,
    settings: &Settings,
) -> Result<Permit, Refusal> {
    if let (Some(rule), None) = (&settings.policy.require_known_caller, &caller.entry) {
        return Err(unknown_caller(rule));
    }
    // Whoever hides from the kernel must not escape the rules that are meant for him.
    if caller.entry.is_none() && caller.uid.is_none() && !settings.callers.entries.is_empty() {
        return Err(unknown_user());
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

/// Decides over a model or profile identifier alone, by the caller's own rules. What all callers may use (`[models]`) is
/// decided where the identifier is resolved.
///
/// An ARN that does not say its model (an application profile, a custom model) fits only a pattern that is about ARNs: a
/// deny rule could otherwise be walked around with a profile of the denied model.
pub(crate) fn permit_model(caller: &Caller, model: &str, settings: &Settings) -> Result<(), Refusal> {
    let Some(entry) = &caller.entry else { return Ok(()) };
    let model = settings.models.aliases.get(model).map_or(model, String::as_str);
    let (id, base) = match identifier::read(model, |_| false)? {
        Identifier::Model { id, .. } | Identifier::ModelArn { id } => (id, id),
        Identifier::Profile { model: base, .. } => (model, base),
        Identifier::ProfileArn { id, model: base, .. } => (id, base),
        Identifier::ApplicationProfileArn | Identifier::OtherArn => return permit_opaque(entry, model),
    };
    let any = |rule: &Rule, name: &str| rule.patterns.iter().any(|pattern| pattern.matches(name));
    if let Some(rule) = &entry.deny_models {
        let lower = base.to_ascii_lowercase();
        let unprefixed = lower.split_once('.').map_or("", |(_, rest)| rest);
        // Behind a geography that is newer than this program, and in any case of letters, a denied model stays denied.
        if [model, id, base, &lower, unprefixed].into_iter().any(|name| any(rule, name)) {
            return Err(denied(entry, model, rule));
        }
    }
    match &entry.models {
        Some(rule) if ![model, id, base].into_iter().any(|name| any(rule, name)) => Err(not_listed(entry, model, rule)),
        _ => Ok(()),
    }
}

fn permit_opaque(entry: &CallerEntry, arn: &str) -> Result<(), Refusal> {
    let any = |rule: &Rule| rule.patterns.iter().any(|pattern| pattern.matches(arn));
    if let Some(rule) = entry.deny_models.as_ref().filter(|rule| any(rule)) {
        return Err(denied(entry, arn, rule));
    }
    let explicit = |rule: &Rule| rule.patterns.iter().any(|pattern| pattern.to_string() != "*" && pattern.matches(arn));
    match (&entry.models, &entry.deny_models) {
        (Some(rule), None) if any(rule) => Ok(()),
        (Some(rule), _) if explicit(rule) => Ok(()),
        (Some(rule), _) => Err(not_listed(entry, arn, rule)),
        (None, Some(rule)) => Err(deny(format!(
            "\"{arn:.200}\" does not say which model it stands for, and deny_models of caller \"{}\" at {} may deny that; list the ARN in the caller's models.",
            entry.name, rule.place
        ))),
        (None, None) => Ok(()),
    }
}

fn denied(entry: &CallerEntry, model: &str, rule: &Rule) -> Refusal {
    deny(format!("caller \"{}\" may not use \"{model:.200}\" (deny_models at {}).", entry.name, rule.place))
}

fn not_listed(entry: &CallerEntry, model: &str, rule: &Rule) -> Refusal {
    deny(format!("caller \"{}\" may not use \"{model:.200}\"; models at {} does not list it.", entry.name, rule.place))
}

/// The level of a request: the entry's, raised by the header if it is allowed to.
fn classification(caller: &Caller, header: Option<&str>, policy: &Policy) -> Result<Option<Arc<str>>, Refusal> {
    let own = caller.data_classification();
    if let Some(header) = header.filter(|header| !is_classification(header)) {
        let length = header.len();
        return Err(Refusal::new(
            RefusalKind::Validation,
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
    Refusal::new(RefusalKind::AccessDenied, message)
}

#[cfg(test)]
mod tests;
