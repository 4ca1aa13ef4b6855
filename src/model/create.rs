//! Making an application inference profile for a model that no usable profile reaches.

use bytes::Bytes;
use http::Method;

use super::catalogue::{self, Call, CallError, Profile};
use super::lookup::Asker;
use crate::error::{Refusal, RefusalKind};
use crate::partition::Partition;
use crate::upstream::Upstream;

/// AWS's limits for `inferenceProfileName`: 64 characters of `([0-9a-zA-Z][ _-]?)+`.
const MAX_NAME: usize = 64;

/// The name under which this program creates, and finds again, its profile of a model.
pub(crate) fn name_for(model: &str) -> String {
    let mut name = String::from("bedrock-sidecar");
    let mut separate = true;
    for c in model.chars() {
        if c.is_ascii_alphanumeric() {
            if separate {
                name.push('-');
            }
            separate = false;
            name.push(c);
        } else {
            separate = true;
        }
    }
    if name.len() > MAX_NAME {
        // What is cut off would tell two models apart, so a checksum of the whole stands in for it.
        let checksum = format!("{:08x}", crc32fast::hash(model.as_bytes()));
        name.truncate(MAX_NAME - checksum.len() - 1);
        let trimmed = name.trim_end_matches('-').len();
        name.truncate(trimmed);
        name.push('-');
        name.push_str(&checksum);
    }
    name
}

/// Sends the request that creates a profile, and leaves a record of it: nothing goes upstream unrecorded.
pub(crate) trait SendRecorded: Sync {
    /// `source` is what the profile is made from, `body` the request.
    ///
    /// # Errors
    /// It could not be recorded and was not sent.
    fn send(
        &self,
        upstream: &Upstream,
        source: &str,
        body: Bytes,
    ) -> impl Future<Output = Result<Call, Refusal>> + Send;
}

/// The path of CreateInferenceProfile.
pub(crate) const PATH: &str = "/inference-profiles";

/// A profile with the daemon's name for a model.
#[derive(Debug)]
pub(crate) enum Made {
    /// By its ARN.
    New(String),
    /// It was there before. Who made it, and of what, is for the caller to look at.
    Found(Profile),
}

/// Creates a profile from the model's ARN. A profile that has the name already is found by listing.
///
/// # Errors
/// A sentence that says why there is none, and what an admin can do.
pub(crate) async fn create(
    upstream: &Upstream,
    model: &str,
    source_arn: &str,
    asker: &Asker,
    own: &impl SendRecorded,
) -> Result<Made, Refusal> {
    let name = name_for(model);
    let body = request(&name, source_arn);
    let _turn = catalogue::turn(upstream, asker).map_err(|why| failed(model, &why.to_string()))?;
    match own.send(upstream, source_arn, body).await?.result {
        Ok(created) => {
            let created: serde_json::Value = serde_json::from_slice(&created).unwrap_or_default();
            let arn = created["inferenceProfileArn"].as_str().map(str::to_owned);
            let arn = arn.ok_or_else(|| failed(model, "the answer to CreateInferenceProfile names no ARN"))?;
            tracing::info!(model, profile = %arn, "inference profile created");
            Ok(Made::New(arn))
        }
        Err(CallError::Answered(_, error)) if error.error_type == "ConflictException" => {
            let profiles = catalogue::list_profiles(upstream, "APPLICATION")
                .await
                .map_err(|why| failed(model, &why.to_string()))?;
            let found = profiles.into_iter().find(|profile| profile.inference_profile_name == name);
            found.map(Made::Found).ok_or_else(|| failed(model, "its name is taken by a profile that cannot be listed"))
        }
        Err(error) if error.refuses_credential() => Err(failed(model, &error.to_string())),
        Err(CallError::Answered(status, error)) if status < 500 && status != 429 => {
            let kind = if status == 403 { RefusalKind::AccessDenied } else { RefusalKind::Validation };
            let hint = if status == 403 {
                "; allow bedrock:CreateInferenceProfile or create the profile yourself"
            } else {
                ""
            };
            Err(Refusal::new(
                kind,
                format!(
                    "{model} needs an inference profile and none could be created: {}{hint}.",
                    CallError::Answered(status, error)
                ),
            ))
        }
        Err(error) => Err(failed(model, &error.to_string())),
    }
}

/// Whether the key may create profiles. It is asked for a profile of a model that does not exist: AWS judges the right
/// first, and then finds no model, so nothing is created.
///
/// # Errors
/// The key may not (403), or it cannot be found out.
pub(crate) async fn is_permitted(upstream: &Upstream) -> Result<(), CallError> {
    let no_model = "bedrock-sidecar.no-such-model-v1:0";
    let partition = Partition::of_region(&upstream.region);
    let arn = format!("arn:{partition}:bedrock:{}::foundation-model/{no_model}", upstream.region);
    match catalogue::call(upstream, Method::POST, PATH, request(&name_for(no_model), &arn)).await {
        Err(CallError::Answered(400 | 404 | 409, _)) | Ok(_) => Ok(()),
        Err(error) => Err(error),
    }
}

fn request(name: &str, source_arn: &str) -> Bytes {
    let request = serde_json::json!({
        "inferenceProfileName": name,
        "description": "Made by bedrock-sidecar for a model without an inference profile",
        "clientRequestToken": uuid::Uuid::now_v7().to_string(),
        "modelSource": { "copyFrom": source_arn },
    });
    Bytes::from(request.to_string())
}

fn failed(model: &str, why: &str) -> Refusal {
    Refusal::new(
        RefusalKind::ServiceUnavailable,
        format!("{model} needs an inference profile and none could be created: {why}."),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_legal_and_tell_models_apart() {
        assert_eq!(name_for("a.b-v1:0"), "bedrock-sidecar-a-b-v1-0");
        let long = format!("vendor.{}-v1:0", "model-with-a-long-name".repeat(4));
        let other = format!("{long}x");
        for model in ["a..b", ".a.", "anthropic.claude-opus-4-1-20250805-v1:0", &long, &other] {
            let name = name_for(model);
            assert!(name.len() <= MAX_NAME && !name.contains("--") && name.starts_with('b'), "{name}");
            assert!(name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-'), "{name}");
        }
        assert_ne!(name_for(&long), name_for(&other));
    }
}
