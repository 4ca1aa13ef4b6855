//! Service tiers: an answer reports one if the request asks for one. The prompt `tier NAME` chooses which it is.

use serde_json::Value;

use super::Input;
use crate::reply::AwsError;

/// Of InvokeModel, on the request and on its answer.
pub(crate) const HEADER: &str = "X-Amzn-Bedrock-Service-Tier";

const TIERS: [&str; 4] = ["priority", "default", "flex", "reserved"];

/// The tier that Converse's body asks for.
pub(crate) fn of_converse(body: &Value) -> Result<Option<&str>, AwsError> {
    let Some(tier) = body.get("serviceTier").filter(|tier| !tier.is_null()) else { return Ok(None) };
    known(tier["type"].as_str().unwrap_or_default()).map(Some)
}

/// The tier that InvokeModel's header asks for.
pub(crate) fn of_header<'a>(input: &'a Input<'_>) -> Result<Option<&'a str>, AwsError> {
    crate::auth::header(input.headers, &HEADER.to_ascii_lowercase()).map(known).transpose()
}

fn known(tier: &str) -> Result<&str, AwsError> {
    if TIERS.contains(&tier) {
        return Ok(tier);
    }
    Err(AwsError::validation(format!("The service tier '{tier}' is not one of {}.", TIERS.join(", "))))
}

/// The tier that serves a request; none if it asked for none. `otherwise` stands for a wish that names no tier.
pub(crate) fn serving(asked: Option<&str>, prompt: &str, otherwise: &str) -> Option<String> {
    let asked = asked?;
    let mut words = prompt.split_whitespace().skip_while(|word| *word != "tier").skip(1);
    let named = if ["auto", "standard_only"].contains(&asked) { otherwise } else { asked };
    Some(words.next().unwrap_or(named).to_owned())
}

/// An answer of OpenAI's shape, with its tier.
pub(crate) fn noted(mut answer: Value, tier: Option<&str>) -> Value {
    if let Some(tier) = tier {
        answer["service_tier"] = tier.into();
    }
    answer
}
