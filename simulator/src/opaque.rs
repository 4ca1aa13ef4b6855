//! ARNs that do not tell their model: prompt routers and provisioned throughput. Each account has the same few, so that
//! tests can name them.

use serde_json::{Value, json};

use crate::catalogue::{self, Model};
use crate::partition;
use crate::profiles::MADE_AT;

const HAIKU: &str = "anthropic.claude-3-haiku-20240307-v1:0";
const SONNET: &str = "anthropic.claude-3-5-sonnet-20241022-v2:0";
const NOVA: &str = "amazon.nova-lite-v1:0";

/// A router's resource, the models that it may choose, and the one that it falls back to, which is the one that answers.
const ROUTERS: [(&str, &[&str], &str); 2] = [
    ("default-prompt-router/anthropic.claude:1", &[HAIKU, SONNET], HAIKU),
    ("prompt-router/nova00000001", &[NOVA, "amazon.nova-micro-v1:0"], NOVA),
];

/// Provisioned throughput: its resource and its model.
const PROVISIONED: [(&str, &str); 2] =
    [("provisioned-model/claude000001", HAIKU), ("provisioned-model/nova00000001", NOVA)];

/// The model that an invocation of this resource reaches.
pub(crate) fn model(resource: &str, region: &str) -> Option<&'static Model> {
    let router = ROUTERS.iter().find(|(name, ..)| *name == resource).map(|(.., fallback)| *fallback);
    let provisioned = || PROVISIONED.iter().find(|(name, _)| *name == resource).map(|(_, model)| *model);
    catalogue::find(router.or_else(provisioned)?, region)
}

/// ListPromptRouters.
pub(crate) fn routers(region: &str, account: &str) -> Vec<Value> {
    let partition = partition::arn(region);
    let arns = ROUTERS.iter().map(|(name, ..)| format!("{partition}:bedrock:{region}:{account}:{name}"));
    arns.filter_map(|arn| router(&arn, region, account)).collect()
}

/// GetPromptRouter.
pub(crate) fn router(arn: &str, region: &str, account: &str) -> Option<Value> {
    let partition = partition::arn(region);
    let resource = arn.strip_prefix(&format!("{partition}:bedrock:{region}:{account}:"))?;
    let (name, models, fallback) = ROUTERS.iter().find(|(name, ..)| *name == resource)?;
    let model_arn = |id: &str| match id {
        SONNET => {
            let geography = if partition::is_govcloud(region) { "us-gov" } else { "us" };
            format!("{partition}:bedrock:{region}:{account}:inference-profile/{geography}.{id}")
        }
        id => format!("{partition}:bedrock:{region}::foundation-model/{id}"),
    };
    let models: Vec<Value> = models.iter().map(|id| json!({ "modelArn": model_arn(id) })).collect();
    Some(json!({
        "promptRouterName": name.rsplit('/').next(),
        "promptRouterArn": arn,
        "createdAt": MADE_AT,
        "updatedAt": MADE_AT,
        "routingCriteria": { "responseQualityDifference": 25.0 },
        "models": models,
        "fallbackModel": { "modelArn": model_arn(fallback) },
        "status": "AVAILABLE",
        "type": if name.starts_with("default-") { "default" } else { "custom" },
    }))
}

/// GetProvisionedModelThroughput.
pub(crate) fn provisioned(reference: &str, region: &str, account: &str) -> Option<Value> {
    let partition = partition::arn(region);
    let resource = reference.strip_prefix(&format!("{partition}:bedrock:{region}:{account}:"))?;
    let (name, model) = PROVISIONED.iter().find(|(name, _)| *name == resource)?;
    let model_arn = format!("{partition}:bedrock:{region}::foundation-model/{model}");
    Some(json!({
        "provisionedModelName": name.rsplit('/').next(),
        "provisionedModelArn": reference,
        "creationTime": MADE_AT,
        "lastModifiedTime": MADE_AT,
        "modelArn": model_arn,
        "desiredModelArn": model_arn,
        "foundationModelArn": model_arn,
        "modelUnits": 1,
        "desiredModelUnits": 1,
        "status": "InService",
    }))
}
