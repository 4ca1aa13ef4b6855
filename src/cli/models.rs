//! `bedrock-sidecar models`: each model of the upstream, whether it can be invoked, and as what it is sent.

use std::process::ExitCode;

use super::{complain, say};
use crate::app;
use crate::model::Overview;
use crate::settings::Settings;

pub(super) fn models(settings: Settings, json: bool) -> ExitCode {
    let runtime = match super::runtime() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&format!("the runtime cannot start: {error}")),
    };
    match runtime.block_on(list(&settings)) {
        Ok(lines) if json => {
            let lines: Vec<_> = lines.iter().map(as_json).collect();
            say(&serde_json::json!({ "models": lines }).to_string());
            ExitCode::SUCCESS
        }
        Ok(lines) => {
            let width = lines.iter().map(|line| line.model.model_id.len()).max().unwrap_or(0).max(5);
            say(&format!("{:width$}  INVOKED AS", "MODEL"));
            for line in &lines {
                let sent = match &line.sent {
                    Ok(identifier) => identifier.clone(),
                    Err(reason) => format!("- {reason}"),
                };
                say(&format!("{:width$}  {sent}", line.model.model_id));
            }
            ExitCode::SUCCESS
        }
        Err(reason) => failed(&reason),
    }
}

async fn list(settings: &Settings) -> Result<Vec<Overview>, String> {
    let (regions, credentials) = app::commercial(settings).await.map_err(|error| error.to_string())?;
    credentials.load().await;
    credentials.current(std::time::SystemTime::now()).map_err(|refusal| refusal.message.into_owned())?;
    let Some(region) = regions.first() else { return Ok(Vec::new()) };
    region.models.refresh(&region.upstream).await.map_err(|error| error.to_string())?;
    Ok(region.models.overview(&credentials.account_key()))
}

fn as_json(line: &Overview) -> serde_json::Value {
    serde_json::json!({
        "modelId": line.model.model_id,
        "modelName": line.model.model_name,
        "providerName": line.model.provider_name,
        "invokable": line.sent.is_ok(),
        "invokedAs": line.sent.as_ref().ok(),
        "reason": line.sent.as_ref().err(),
    })
}

fn failed(reason: &str) -> ExitCode {
    complain(&format!("bedrock-sidecar: {reason}"));
    ExitCode::FAILURE
}
