//! `bedrock-sidecar models`: each model of the upstream, whether it can be invoked, and as what it is sent.

use std::io::{self, Write};
use std::process::ExitCode;

use super::failed;
use crate::app;
use crate::model::{Overview, Sent};
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
            let width = lines.iter().map(|line| line.model.model_id.len()).max().unwrap_or(0).max(5);
            writeln!(out, "{:width$}  INVOKED AS", "MODEL")?;
            for line in &lines {
                let sent = match &line.sent {
                    Sent::As(identifier) => identifier.clone(),
                    Sent::AsNewProfile => "(a profile is created at the first request)".to_owned(),
                    Sent::Never(reason) => format!("- {reason}"),
                };
                writeln!(out, "{:width$}  {sent}", line.model.model_id)?;
            }
            Ok(ExitCode::SUCCESS)
        }
        Err(reason) => Ok(failed(&reason)),
    }
}

async fn list(settings: &Settings) -> Result<Vec<Overview>, String> {
    let (_, regions) = app::upstreams(settings, None).await.map_err(|error| error.to_string())?;
    let Some(region) = regions.first() else { return Ok(Vec::new()) };
    let credentials = region.upstream.credentials();
    credentials.load().await;
    credentials.current(std::time::SystemTime::now()).map_err(|refusal| refusal.message.into_owned())?;
    region.models.refresh(&region.upstream).await.map_err(|error| error.to_string())?;
    Ok(region.models.overview(&credentials.account_key()))
}

fn as_json(line: &Overview) -> serde_json::Value {
    serde_json::json!({
        "modelId": line.model.model_id,
        "modelName": line.model.model_name,
        "providerName": line.model.provider_name,
        "invokable": line.sent.is_invokable(),
        "invokedAs": line.sent.identifier(),
        "createsProfile": line.sent == Sent::AsNewProfile,
        "reason": line.sent.reason(),
    })
}
