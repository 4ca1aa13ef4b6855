//! Every model with what is sent for it and where, or why it cannot be invoked, as the legacy REST API and the dashboard list
//! them.

use serde_json::{Value, json};

use super::overview::{Served, overview};
use crate::error::{Refusal, RefusalKind};
use crate::model::Sent;
use crate::partition::{Partition, Partitions};
use crate::road::Road;

/// The models that requests may be sent to that go where `reach` says.
///
/// # Errors
/// 503 if no upstream has listed its models yet.
pub(crate) fn listing(road: &Road, reach: Partitions) -> Result<Value, Refusal> {
    // Where one partition has all upstreams, the first of them speaks for it.
    let mut listed = road.regions.iter().filter(|region| region.models.is_listed());
    let is_known = match road.partitions.single() {
        Some(_) => road.regions.first().is_some_and(|region| region.models.is_listed()),
        None => listed.next().is_some(),
    };
    let region = road.regions.first().filter(|_| is_known).ok_or_else(|| {
        let first = road.regions.first();
        let now = std::time::SystemTime::now();
        let why = first.and_then(|region| region.upstream.credentials().current(now).err());
        let why = why.map(|refusal| refusal.message);
        let why =
            why.unwrap_or_else(|| "the upstream's models have not been listed yet; try again in a moment.".into());
        Refusal::new(RefusalKind::ServiceUnavailable, why)
    })?;
    let name = &region.upstream.region;
    let partition = region.partition();
    let kind = match partition {
        Partition::Commercial => "commercial",
        Partition::Govcloud => "GovCloud",
    };
    let models: Vec<Value> = overview(&road.regions, reach, road.settings.policy.cross_partition_failover)
        .into_iter()
        .map(|Served { line, region, partition }| {
            let model = line.model;
            json!({
                "modelId": model.model_id,
                "modelName": model.model_name,
                "providerName": model.provider_name,
                "inputModalities": model.input_modalities,
                "outputModalities": model.output_modalities,
                "responseStreamingSupported": model.response_streaming_supported.unwrap_or(false),
                "customizationsSupported": model.customizations_supported,
                "inferenceTypesSupported": model.inference_types_supported,
                "invokable": line.sent.is_invokable(),
                "invokedAs": line.sent.identifier(),
                "createsProfile": line.sent == Sent::AsNewProfile,
                "reason": line.sent.reason(),
                "servedBy": region,
                "partition": partition.map(Partition::as_str),
            })
        })
        .collect();
    Ok(json!({
        "region": {
            "region": name,
            "partition": partition.as_str(),
            "description": format!("AWS {kind} region {name}"),
        },
        "totalModels": models.len(),
        "models": models,
    }))
}
