//! Models and profiles in any number, as an upstream lists them.

use serde_json::json;

/// How the models of a listing are invoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Reached {
    /// Through their profiles, as the listing says.
    ByProfile,
    /// As well, but the listing says that they are invoked on demand: their profiles have to be learned.
    ByProfileUnsaid,
}

/// The identifier of the model with this number.
pub(crate) fn model(number: usize) -> String {
    format!("bench.model-{number:05}")
}

/// What an upstream refuses a model with that is not reached by its own identifier.
pub(crate) fn refusal(model: &str) -> String {
    let message = format!(
        "Invocation of model ID {model} with on-demand throughput isn’t supported. Retry your request with the ID or ARN of an inference profile that contains this model."
    );
    json!({ "message": message }).to_string()
}

/// The `modelSummaries` of so many models.
pub(crate) fn models(count: usize, reached: Reached) -> Vec<serde_json::Value> {
    let kind = match reached {
        Reached::ByProfile => "INFERENCE_PROFILE",
        Reached::ByProfileUnsaid => "ON_DEMAND",
    };
    (0..count)
        .map(|number| {
            json!({
                "modelId": model(number), "modelArn": arn(number), "modelName": "Bench", "providerName": "Bench",
                "inputModalities": ["TEXT"], "outputModalities": ["TEXT"], "responseStreamingSupported": true,
                "customizationsSupported": [], "inferenceTypesSupported": [kind],
                "modelLifecycle": { "status": "ACTIVE" },
            })
        })
        .collect()
}

/// The listing of their system profiles, on one page.
pub(crate) fn profiles(count: usize) -> String {
    let profiles: Vec<_> = (0..count)
        .map(|number| {
            let id = format!("us.{}", model(number));
            json!({
                "inferenceProfileId": id, "inferenceProfileName": "Bench", "status": "ACTIVE", "type": "SYSTEM_DEFINED",
                "inferenceProfileArn": format!("arn:aws:bedrock:us-east-1:111122223333:inference-profile/{id}"),
                "models": [{ "modelArn": arn(number) }],
            })
        })
        .collect();
    json!({ "inferenceProfileSummaries": profiles }).to_string()
}

fn arn(number: usize) -> String {
    format!("arn:aws:bedrock:us-east-1::foundation-model/{}", model(number))
}
