//! ApplyGuardrail and InvokeGuardrailChecks: the word `forbidden` is what every guardrail here objects to.

use serde_json::{Value, json};

use super::Input;
use crate::partition;
use crate::profiles::MADE_AT;
use crate::prompt::all_text;
use crate::reply::{AwsError, Reply};
use crate::state::State;

const OBJECTIONABLE: &str = "forbidden";

/// ListGuardrails: the account has one, or the versions of the one that is named.
pub(crate) fn list(state: &State, input: &Input<'_>) -> Reply {
    let id = input.parameter("guardrailIdentifier").unwrap_or_else(|| "abc123".to_owned());
    let arn = format!("{}:bedrock:{}:{}:guardrail/{id}", partition::arn(&state.region), state.region, state.account);
    let guardrail = json!({
        "id": id, "arn": arn, "status": "READY", "name": "words", "version": "DRAFT",
        "createdAt": MADE_AT, "updatedAt": MADE_AT,
    });
    Reply::json(200, &json!({ "guardrails": [guardrail] }))
}

pub(crate) fn apply(id: &str, version: &str, input: &Input<'_>) -> Result<Reply, AwsError> {
    if version != "DRAFT" && version.parse::<u32>().is_err() {
        return Err(AwsError::validation("The guardrail version must be DRAFT or a number."));
    }
    if id.contains("missing") {
        return Err(AwsError::not_found("The guardrail identifier or version provided in the request does not exist."));
    }
    let body = input.json()?;
    if !matches!(body["source"].as_str(), Some("INPUT" | "OUTPUT")) {
        return Err(AwsError::validation("The source must be INPUT or OUTPUT."));
    }
    let intervened = all_text(&body["content"]).contains(OBJECTIONABLE);
    let words = json!([{"match": OBJECTIONABLE, "action": "BLOCKED"}]);
    Ok(Reply::json(
        200,
        &json!({
            "usage": {"topicPolicyUnits": 1, "contentPolicyUnits": 1, "wordPolicyUnits": 1,
                      "sensitiveInformationPolicyUnits": 1, "sensitiveInformationPolicyFreeUnits": 0,
                      "contextualGroundingPolicyUnits": 0},
            "action": if intervened { "GUARDRAIL_INTERVENED" } else { "NONE" },
            "outputs": if intervened { json!([{"text": "The guardrail blocked this."}]) } else { json!([]) },
            "assessments": if intervened { json!([{"wordPolicy": {"customWords": words, "managedWordLists": []}}]) } else { json!([]) },
        }),
    ))
}

pub(crate) fn checks(input: &Input<'_>) -> Result<Reply, AwsError> {
    let body = input.json()?;
    if !body["messages"].is_array() || !body["checks"].is_object() {
        return Err(AwsError::validation("messages and checks are required."));
    }
    let severity = if all_text(&body["messages"]).contains(OBJECTIONABLE) { 0.9 } else { 0.0 };
    let (mut results, mut usage) = (json!({}), json!({}));
    for name in ["contentFilter", "promptAttack"] {
        let Some(categories) = body["checks"][name]["categories"].as_array() else { continue };
        let scored: Vec<Value> = categories
            .iter()
            .map(|category| json!({"category": category["category"], "severityScore": severity}))
            .collect();
        results[name] = json!({ "results": scored });
        usage[name] = json!({"textUnits": 1});
    }
    if !body["checks"]["sensitiveInformation"].is_null() {
        results["sensitiveInformation"] = json!({"results": [], "truncated": false});
        usage["sensitiveInformation"] = json!({"textUnits": 1});
    }
    Ok(Reply::json(200, &json!({"results": results, "usage": usage})))
}
