//! Bedrock's control plane, as far as a client needs it to find out what it may invoke.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::Input;
use crate::catalogue::{self, Model};
use crate::partition;
use crate::reply::{AwsError, Reply};
use crate::state::State;

pub(crate) fn list_models(state: &State, input: &Input<'_>) -> Result<Reply, AwsError> {
    let provider = input.parameter("byProvider");
    let output = input.parameter("byOutputModality");
    let inference = input.parameter("byInferenceType");
    let customization = input.parameter("byCustomizationType");
    if let Some(wrong) = output.iter().find(|kind| !["TEXT", "IMAGE", "EMBEDDING"].contains(&kind.as_str())) {
        return Err(not_in_enum(wrong, "byOutputModality", "[TEXT, IMAGE, EMBEDDING]"));
    }
    if let Some(wrong) =
        inference.iter().find(|kind| !["ON_DEMAND", "PROVISIONED", "INFERENCE_PROFILE"].contains(&kind.as_str()))
    {
        return Err(not_in_enum(wrong, "byInferenceType", "[ON_DEMAND, PROVISIONED]"));
    }
    let wanted = |model: &&Model| {
        provider.as_ref().is_none_or(|provider| provider.eq_ignore_ascii_case(model.provider()))
            && output.as_ref().is_none_or(|output| model.modalities().1.contains(&output.as_str()))
            && inference.as_ref().is_none_or(|inference| model.lists(inference))
            // No model here can be customized.
            && customization.is_none()
    };
    let models: Vec<Value> =
        catalogue::models(&state.region).iter().filter(wanted).map(|model| model.summary(&state.region)).collect();
    Ok(Reply::json(200, &json!({ "modelSummaries": models })))
}

fn not_in_enum(value: &str, member: &str, set: &str) -> AwsError {
    AwsError::validation(format!(
        "1 validation error detected: Value '{value}' at '{member}' failed to satisfy constraint: Member must satisfy enum value set: {set}"
    ))
}

pub(crate) fn describe_model(state: &State, id: &str) -> Result<Reply, AwsError> {
    let models = format!("{}:bedrock:{}::foundation-model/", partition::arn(&state.region), state.region);
    let bare = id.strip_prefix(&models).unwrap_or(id);
    match catalogue::find(bare, &state.region) {
        Some(model) => Ok(Reply::json(200, &json!({"modelDetails": model.summary(&state.region)}))),
        None if bare.contains('.') => {
            Err(AwsError::not_found("Could not resolve the foundation model from the provided model identifier."))
        }
        None => Err(AwsError::validation("The provided model identifier is invalid.")),
    }
}

/// GetFoundationModelAvailability: every model of the catalogue is the account's.
pub(crate) fn availability(state: &State, id: &str) -> Result<Reply, AwsError> {
    describe_model(state, id)?;
    Ok(Reply::json(
        200,
        &json!({
            "modelId": id,
            "agreementAvailability": {"status": "AVAILABLE"},
            "authorizationStatus": "AUTHORIZED",
            "entitlementAvailability": "AVAILABLE",
            "regionAvailability": "AVAILABLE",
        }),
    ))
}

pub(crate) fn list_profiles(state: &State, input: &Input<'_>) -> Result<Reply, AwsError> {
    let kind = input.parameter("type");
    if let Some(wrong) = kind.iter().find(|kind| !["SYSTEM_DEFINED", "APPLICATION"].contains(&kind.as_str())) {
        return Err(not_in_enum(wrong, "type", "[SYSTEM_DEFINED, APPLICATION]"));
    }
    let size = match input.parameter("maxResults") {
        None => state.page_size,
        Some(text) => match text.parse::<usize>() {
            Ok(size @ 1..=1000) => size.min(state.page_size),
            _ => return Err(AwsError::validation("maxResults must be between 1 and 1000.")),
        },
    };
    let start = match input.parameter("nextToken") {
        None => 0,
        Some(token) => read_token(&token).ok_or_else(|| AwsError::validation("The provided nextToken is invalid."))?,
    };
    let all = state.with_profiles(|profiles| profiles.list(kind.as_deref()));
    let page: Vec<&Value> = all.iter().skip(start).take(size).collect();
    let mut body = json!({ "inferenceProfileSummaries": page });
    if start + size < all.len() {
        // Characters that need encoding in a query, so that a daemon that does not encode them is found out.
        body["nextToken"] = format!("{}+/=", URL_SAFE_NO_PAD.encode(format!("page:{}", start + size))).into();
    }
    Ok(Reply::json(200, &body))
}

fn read_token(token: &str) -> Option<usize> {
    let decoded = URL_SAFE_NO_PAD.decode(token.strip_suffix("+/=")?).ok()?;
    String::from_utf8(decoded).ok()?.strip_prefix("page:")?.parse().ok()
}

pub(crate) fn create_profile(state: &State, input: &Input<'_>) -> Result<Reply, AwsError> {
    let body = input.json()?;
    let name = body["inferenceProfileName"].as_str().unwrap_or_default();
    check_pattern("inferenceProfileName", name, 64, "", "([0-9a-zA-Z][ _-]?)+")?;
    let description = body["description"].as_str();
    if let Some(description) = description {
        check_pattern("description", description, 200, ":.", "([0-9a-zA-Z:.][ _-]?)+")?;
    }
    let token = body["clientRequestToken"].as_str();
    if token.is_some_and(|token| {
        let ends = token.starts_with('-') || token.ends_with('-');
        token.is_empty()
            || token.len() > 256
            || ends
            || !token.chars().all(|one| one.is_ascii_alphanumeric() || one == '-')
    }) {
        return Err(AwsError::validation(
            "Value at 'clientRequestToken' failed to satisfy constraint: Member must satisfy regular expression pattern: [a-zA-Z0-9]([-a-zA-Z0-9]{0,254}[a-zA-Z0-9])?",
        ));
    }
    check_tags(&body["tags"])?;
    let copy_from = body
        .pointer("/modelSource/copyFrom")
        .and_then(Value::as_str)
        .ok_or_else(|| AwsError::validation("modelSource.copyFrom is required."))?;
    let arn = state.with_profiles(|profiles| profiles.create(name, description, copy_from, token))?;
    Ok(Reply::json(201, &json!({"inferenceProfileArn": arn, "status": "ACTIVE"})))
}

pub(crate) fn data_retention(state: &State) -> Reply {
    let mode = state.data_retention();
    // An account that has never set a mode has no time at which it did.
    Reply::json(
        200,
        &match mode.as_str() {
            "inherit" => json!({ "mode": mode }),
            _ => json!({ "mode": mode, "updatedAt": "2026-06-07T20:19:44.723Z" }),
        },
    )
}

fn check_tags(tags: &Value) -> Result<(), AwsError> {
    let Some(tags) = tags.as_array() else { return Ok(()) };
    if tags.len() > 50 {
        return Err(AwsError::new(
            400,
            "TooManyTagsException",
            "The number of tags exceeds the limit of 50 per resource.",
        ));
    }
    let length = |tag: &Value, member: &str| tag[member].as_str().map(str::len);
    if tags
        .iter()
        .all(|tag| matches!(length(tag, "key"), Some(1..=128)) && matches!(length(tag, "value"), Some(0..=256)))
    {
        return Ok(());
    }
    Err(AwsError::validation("A tag must have a key of 1 to 128 and a value of up to 256 characters."))
}

/// AWS's pattern by hand: letters, digits and `more`, each with at most one space, `_` or `-` behind it.
fn check_pattern(member: &str, value: &str, max: usize, more: &str, pattern: &str) -> Result<(), AwsError> {
    let mut separator_allowed = false;
    let fits = !value.is_empty()
        && value.len() <= max
        && value.chars().all(|one| {
            let separator = " _-".contains(one);
            let fits = if separator { separator_allowed } else { one.is_ascii_alphanumeric() || more.contains(one) };
            separator_allowed = !separator;
            fits
        });
    if fits {
        return Ok(());
    }
    Err(AwsError::validation(format!(
        "1 validation error detected: Value '{value}' at '{member}' failed to satisfy constraint: Member must satisfy \
         regular expression pattern: {pattern} and have length less than or equal to {max}"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_awss_pattern() {
        let fits = |name: &str| check_pattern("name", name, 64, "", "").is_ok();
        assert!(fits("sidecar-nova_premier v1") && fits("a-") && fits("A"));
        assert!(!fits("-a") && !fits("a--b") && !fits("a.b") && !fits("") && !fits(&"a".repeat(65)) && !fits("naïve"));
    }
}
