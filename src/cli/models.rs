//! `bedrock-sidecar models`: each model, where it is served, whether it can be invoked, and as what it is sent.

use std::io::{self, Write};
use std::process::ExitCode;

use super::failed;
use crate::app;
use crate::model::Sent;
use crate::partition::Partitions;
use crate::routing::overview::{Served, overview};
use crate::settings::Settings;

pub(super) fn models(settings: Settings, json: bool, out: &mut dyn Write) -> io::Result<ExitCode> {
    let runtime = match super::runtime() {
        Ok(runtime) => runtime,
        Err(error) => return Ok(failed(&format!("the runtime cannot start: {error}"))),
    };
    match runtime.block_on(list(&settings)) {
        Ok(lines) if json => {
            let lines: Vec<_> = lines.iter().map(as_json).collect();
            writeln!(out, "{}", serde_json::json!({ "models": lines }))?;
            Ok(ExitCode::SUCCESS)
        }
        Ok(lines) => {
            let width = lines.iter().map(|one| one.line.model.model_id.len()).max().unwrap_or(0).max(5);
            let region = |one: &Served| one.region.clone().unwrap_or_else(|| "-".to_owned());
            // Where all are served by one upstream, nobody has to be told.
            let place = match settings.partitions() == Partitions::ALL {
                true => lines.iter().map(|one| region(one).len()).max().unwrap_or(0).max(9) + 2,
                false => 0,
            };
            let served_by = if place > 0 { "SERVED BY" } else { "" };
            writeln!(out, "{:width$}  {served_by:place$}INVOKED AS", "MODEL")?;
            for one in &lines {
                let region = if place > 0 { region(one) } else { String::new() };
                let sent = match &one.line.sent {
                    Sent::As(identifier) => identifier.clone(),
                    Sent::AsNewProfile => "(a profile is created at the first request)".to_owned(),
                    Sent::Never(reason) => format!("- {reason}"),
                };
                writeln!(out, "{:width$}  {region:place$}{sent}", one.line.model.model_id)?;
            }
            Ok(ExitCode::SUCCESS)
        }
        Err(reason) => Ok(failed(&reason)),
    }
}

async fn list(settings: &Settings) -> Result<Vec<Served>, String> {
    let (_, regions) = app::upstreams(settings, None).await.map_err(|error| error.to_string())?;
    // The first one alone, unless the others are in another partition.
    let asked = if settings.partitions() == Partitions::ALL { regions.len() } else { 1 };
    for region in regions.iter().take(asked) {
        let credentials = region.upstream.credentials();
        credentials.load().await;
        credentials.current(std::time::SystemTime::now()).map_err(|refusal| refusal.message.into_owned())?;
        let refreshed = region.models.refresh(&region.upstream).await;
        refreshed.map_err(|error| {
            if asked > 1 { format!("{}: {error}", region.upstream.region) } else { error.to_string() }
        })?;
    }
    Ok(overview(&regions, Partitions::ALL, settings.policy.cross_partition_failover))
}

fn as_json(one: &Served) -> serde_json::Value {
    let line = &one.line;
    serde_json::json!({
        "modelId": line.model.model_id,
        "modelName": line.model.model_name,
        "providerName": line.model.provider_name,
        "invokable": line.sent.is_invokable(),
        "invokedAs": line.sent.identifier(),
        "createsProfile": line.sent == Sent::AsNewProfile,
        "reason": line.sent.reason(),
        "servedBy": one.region,
        "partition": one.partition.map(|partition| partition.as_str()),
    })
}
