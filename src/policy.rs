//! What a caller may do. Pure: a caller, an operation and the settings in; a permit or a refusal that names its rule out.
//! A deny rule beats an allow rule.

use std::sync::Arc;

use http::header::{HeaderMap, HeaderName};

use crate::caller::{Caller, unknown_caller, unknown_user};
use crate::config::callers::Commercial;
use crate::config::{DataRetention, Glob};
use crate::error::{Refusal, RefusalKind};
use crate::model::resolve;
use crate::model::rules::{Facts, Rules};
use crate::operation::{Api, ModelPlace, Operation, SERVER_TOOLS};
use crate::partition::{Partition, Partitions};
use crate::settings::Settings;
use crate::settings::callers::{CallerEntry, Policy, Rule, is_classification};

/// The header in which an app says how sensitive a request is.
pub(crate) const CLASSIFICATION_HEADER: HeaderName = HeaderName::from_static("x-data-classification");

/// What the header says.
///
/// # Errors
/// It stands more than once, so that two readers could read it differently, or is no text.
pub(crate) fn stated_level(headers: &HeaderMap) -> Result<Option<&str>, Refusal> {
    let mut all = headers.get_all(CLASSIFICATION_HEADER).iter();
    let Some(first) = all.next() else { return Ok(None) };
    if all.next().is_some() {
        let sentence = format!("the header {CLASSIFICATION_HEADER} stands twice; send it once.");
        return Err(Refusal::new(RefusalKind::Validation, sentence));
    }
    first.to_str().map(Some).map_err(|_| not_a_level(first.len()))
}

/// The proof that policy has allowed a request; only `permit` makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Permit {
    data_classification: Option<Arc<str>>,
    /// Where the request may go.
    reach: Partitions,
}

impl Permit {
    /// The level that the request's record bears.
    pub(crate) fn data_classification(&self) -> Option<&str> {
        self.data_classification.as_deref()
    }

    /// The partitions that the request may go to.
    pub(crate) fn reach(&self) -> Partitions {
        self.reach
    }
}

/// Decides over a request. `model` is the identifier as asked for, decoded; aliases are applied here.
pub(crate) fn permit(
    caller: &Caller,
    operation: &Operation,
    model: Option<&str>,
    classification_header: Option<&str>,
    settings: &Settings,
) -> Result<Permit, Refusal> {
    permit_caller(caller, settings)?;
    permit_operation(caller, operation)?;
    permit_special(caller, operation, settings)?;
    if operation.model == ModelPlace::Unseen {
        permit_unseen(caller, operation, settings)?;
    }
    if let Some(model) = model {
        permit_model(caller, model, settings)?;
    }
    let data_classification = classification(caller, classification_header, &settings.policy)?;
    let reach = reach(caller, data_classification.as_deref(), settings);
    tracing::debug!(caller = caller.name(), uid = caller.uid, operation = operation.name, model, "request allowed");
    Ok(Permit { data_classification, reach })
}

/// Decides over a caller, whatever is asked.
pub(crate) fn permit_caller(caller: &Caller, settings: &Settings) -> Result<(), Refusal> {
    if let (Some(rule), None) = (&settings.policy.require_known_caller, &caller.entry) {
        return Err(unknown_caller(rule));
    }
    // Whoever hides from the kernel must not escape the rules that are meant for him.
    if caller.entry.is_none() && caller.uid.is_none() && !settings.callers.entries.is_empty() {
        return Err(unknown_user());
    }
    Ok(())
}

/// Decides over an operation, whatever it is about.
pub(crate) fn permit_operation(caller: &Caller, operation: &Operation) -> Result<(), Refusal> {
    let Some(entry) = &caller.entry else { return Ok(()) };
    let name = operation.name;
    if let Some(rule) = entry.deny_operations.as_ref().filter(|rule| lists(rule, operation)) {
        return Err(deny(format!(
            "caller \"{}\" may not call {name} (deny_operations at {}).",
            entry.name, rule.place
        )));
    }
    match &entry.operations {
        Some(rule) if !lists(rule, operation) => Err(deny(format!(
            "caller \"{}\" may not call {name}; operations at {} does not list it.",
            entry.name, rule.place
        ))),
        _ => Ok(()),
    }
}

/// Whether a caller's rules on operations permit what goes by this name: an operation, or a group of them.
pub(crate) fn permits(entry: Option<&CallerEntry>, name: &str) -> bool {
    let lists = |rule: &Rule| rule.patterns.iter().any(|pattern| pattern.matches(name));
    entry.is_none_or(|entry| {
        !entry.deny_operations.as_ref().is_some_and(lists) && entry.operations.as_ref().is_none_or(lists)
    })
}

/// What is off until somebody says otherwise: an entry has to name it, and `"*"` is no name.
fn permit_special(caller: &Caller, operation: &Operation, settings: &Settings) -> Result<(), Refusal> {
    let name = operation.name;
    let rule = caller.entry.as_ref().and_then(|entry| entry.operations.as_ref());
    let is_named = rule
        .is_some_and(|rule| rule.patterns.iter().any(|pattern| !pattern.is_everything() && fits(pattern, operation)));
    match name {
        "CreateInferenceProfile" | "DeleteInferenceProfile" if !settings.models.allow_profile_management => {
            Err(deny(format!(
                "callers may not call {name}; set allow_profile_management = true in [models] and name it in the operations of the caller's [[callers]] entry."
            )))
        }
        "CreateInferenceProfile" | "DeleteInferenceProfile" if !is_named => Err(deny(format!(
            "{name} is only for callers whose [[callers]] entry names it in operations (\"*\" is no name)."
        ))),
        // The output of these two goes to a bucket of the commercial account, where no level of this host holds.
        "StartAsyncInvoke" if !settings.policy.data_classifications.is_empty() && !is_named => Err(deny(format!(
            "{name} writes its output to commercial S3, so while data_classifications at {} are set it is only for callers whose [[callers]] entry names it in operations.",
            settings.policy.data_classifications_place
        ))),
        "OpenAICreateBatch" if !settings.policy.data_classifications.is_empty() && !is_named => Err(deny(format!(
            "{name} reads its requests from commercial S3 and writes its output there, so while data_classifications at {} are set it is only for callers whose [[callers]] entry names it in operations.",
            settings.policy.data_classifications_place
        ))),
        _ => Ok(()),
    }
}

/// Refuses to have an answer stored where nothing may be kept of it.
///
/// # Errors
/// 403 with the rule.
pub(crate) fn permit_storing(policy: &Policy) -> Result<(), Refusal> {
    let required = &policy.require_data_retention;
    if required.is_empty() || required.iter().any(|mode| *mode != DataRetention::None) {
        return Ok(());
    }
    Err(deny(
        "the request has Bedrock store its answer, and policy.require_data_retention allows \"none\" only; send \"store\": false, because a response is stored unless its request says that.".to_owned(),
    ))
}

/// Refuses to have Bedrock call servers by itself, unless the caller's entry names that: no rule here reaches these.
///
/// # Errors
/// 403 with the rule.
pub(crate) fn permit_server_tools(caller: &Caller) -> Result<(), Refusal> {
    let entry = caller.entry.as_deref();
    let names =
        |rule: &Rule| rule.patterns.iter().any(|pattern| !pattern.is_everything() && pattern.matches(SERVER_TOOLS));
    let is_named = entry.and_then(|entry| entry.operations.as_ref()).is_some_and(names);
    if is_named && permits(entry, SERVER_TOOLS) {
        return Ok(());
    }
    Err(deny(format!(
        "the request has Bedrock call a server by itself (a tool of the type \"mcp\"), with the rights of the commercial account; that is only for callers whose [[callers]] entry names {SERVER_TOOLS} in operations (\"*\" is no name)."
    )))
}

/// Headers in which OpenAI's and Anthropic's clients name a project.
const PROJECTS: [&str; 3] = ["openai-project", "anthropic-workspace", "anthropic-workspace-id"];

/// Refuses to name a project where what may be kept depends on the account's mode: a project may have another one, which
/// nobody here sees.
///
/// # Errors
/// 403 with the rule.
pub(crate) fn permit_project(operation: &Operation, headers: &HeaderMap, policy: &Policy) -> Result<(), Refusal> {
    if policy.require_data_retention.is_empty() || (operation.api() == Api::Aws && !operation.is_of_both()) {
        return Ok(());
    }
    match PROJECTS.into_iter().find(|name| headers.contains_key(*name)) {
        Some(name) => Err(deny(format!(
            "the header {name} names a project, which may have another data retention than the account, and policy.require_data_retention holds the account to one; send no such header."
        ))),
        None => Ok(()),
    }
}

/// Models that nobody here can see are refused wherever one may be unlike another.
fn permit_unseen(caller: &Caller, operation: &Operation, settings: &Settings) -> Result<(), Refusal> {
    let are_alike = !Rules::new(&settings.models, caller.entry.as_deref()).tell_models_apart();
    if are_alike && settings.models.pins.is_empty() {
        return Ok(());
    }
    Err(deny(format!(
        "{} names its models where bedrock-sidecar does not see them, and there are rules about models; call the models one by one.",
        operation.name
    )))
}

fn lists(rule: &Rule, operation: &Operation) -> bool {
    rule.patterns.iter().any(|pattern| fits(pattern, operation))
}

fn fits(pattern: &Glob, operation: &Operation) -> bool {
    pattern.matches(operation.name) || operation.group.is_some_and(|group| pattern.matches(group))
}

/// Decides over an identifier by the caller's own rules, as far as it tells by itself. It is judged once more, with what stands
/// behind it and together with the rules of `[models]`, where it is resolved: `model/rules.rs` is the one judge.
pub(crate) fn permit_model(caller: &Caller, model: &str, settings: &Settings) -> Result<(), Refusal> {
    let Some(entry) = &caller.entry else { return Ok(()) };
    let name = resolve::unalias(model, &settings.models);
    // Where there is no upstream in GovCloud, its names are those of what is asked for elsewhere.
    let home = Partition::of_name(name).filter(|home| settings.partitions().has(*home)).unwrap_or_default();
    Rules::of_caller(entry, home).judge(name, Facts::default()).map(|_| ())
}

/// Where a request may go, by its level and its caller's entry. What denies beats what allows.
fn reach(caller: &Caller, level: Option<&str>, settings: &Settings) -> Partitions {
    let commercial = caller.entry.as_ref().and_then(|entry| entry.commercial);
    let by_level = settings.policy.partitions.as_ref().map_or(Partitions::ALL, |reach| reach.of(level, commercial));
    match commercial {
        Some(Commercial::Deny) => by_level.and(Partitions::only(Partition::Govcloud)),
        _ => by_level,
    }
}

/// Why a request may not go to a partition, as far as that is a rule's doing. `what` is served there.
pub(crate) fn stays(
    caller: &Caller,
    permit: &Permit,
    partition: Partition,
    what: &str,
    settings: &Settings,
) -> Refusal {
    let entry = caller.entry.as_ref().filter(|entry| entry.commercial == Some(Commercial::Deny));
    let why = match (entry, permit.data_classification(), &settings.policy.partitions) {
        (Some(entry), ..) if partition == Partition::Commercial => {
            format!("the caller \"{}\" has commercial = \"deny\"", entry.name)
        }
        (_, Some(level), Some(reach)) => {
            format!("data classification \"{level}\" may not go there ([policy.partitions] at {})", reach.place())
        }
        (_, None, Some(reach)) => format!(
            "a request without data classification may not go there ([policy.partitions] at {}); set data_classification in the caller's [[callers]] entry or send the {CLASSIFICATION_HEADER} header",
            reach.place()
        ),
        _ => "no rule lets it go there".to_owned(),
    };
    deny(format!("{what} the partition {partition}, and {why}."))
}

/// The level of a request: the entry's, raised by the header if it is allowed to.
fn classification(caller: &Caller, header: Option<&str>, policy: &Policy) -> Result<Option<Arc<str>>, Refusal> {
    let own = caller.data_classification();
    if let Some(header) = header.filter(|header| !is_classification(header)) {
        return Err(not_a_level(header.len()));
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

fn not_a_level(length: usize) -> Refusal {
    let sentence = format!("the {CLASSIFICATION_HEADER} header of {length} bytes is not the name of a level.");
    Refusal::new(RefusalKind::Validation, sentence)
}

fn deny(message: String) -> Refusal {
    Refusal::new(RefusalKind::AccessDenied, message)
}

#[cfg(test)]
mod tests;
