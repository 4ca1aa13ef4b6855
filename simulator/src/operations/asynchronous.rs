//! StartAsyncInvoke, GetAsyncInvoke, ListAsyncInvokes: every invocation is completed at once.

use serde_json::{Value, json};

use super::Input;
use crate::catalogue::Model;
use crate::partition;
use crate::profiles::MADE_AT;
use crate::reply::{AwsError, Reply};
use crate::state::State;

/// One invocation, as GetAsyncInvoke shows it.
#[derive(Debug, Clone)]
pub(crate) struct AsyncInvoke {
    arn: String,
    shown: Value,
}

pub(crate) fn start(state: &State, model: &Model, input: &Input<'_>) -> Result<Reply, AwsError> {
    let body = input.json()?;
    if !body.pointer("/outputDataConfig/s3OutputDataConfig/s3Uri").is_some_and(Value::is_string) {
        return Err(AwsError::validation("outputDataConfig.s3OutputDataConfig.s3Uri is required."));
    }
    if body["modelInput"].is_null() {
        return Err(AwsError::validation("modelInput is required."));
    }
    let (partition, id) = (partition::arn(&state.region), input.derived_id());
    let arn = format!("{partition}:bedrock:{}:{}:async-invoke/{}", state.region, state.account, &id[..12]);
    let mut shown = json!({
        "invocationArn": arn, "modelArn": model.arn(&state.region), "status": "Completed",
        "submitTime": MADE_AT, "lastModifiedTime": MADE_AT, "endTime": MADE_AT,
        "outputDataConfig": body["outputDataConfig"],
    });
    if let Some(token) = body["clientRequestToken"].as_str() {
        shown["clientRequestToken"] = token.into();
    }
    state.with_async_invokes(|invokes| {
        if !invokes.iter().any(|known| known.arn == arn) {
            invokes.push(AsyncInvoke { arn: arn.clone(), shown });
        }
    });
    Ok(Reply::json(200, &json!({ "invocationArn": arn })).by(model.id))
}

pub(crate) fn describe(state: &State, arn: &str) -> Result<Reply, AwsError> {
    state
        .with_async_invokes(|invokes| invokes.iter().find(|known| known.arn == arn).cloned())
        .map(|found| Reply::json(200, &found.shown))
        .ok_or_else(|| AwsError::not_found("The async invocation could not be found."))
}

pub(crate) fn list(state: &State, input: &Input<'_>) -> Result<Reply, AwsError> {
    let status = input.parameter("statusEquals");
    let shown: Vec<Value> =
        state.with_async_invokes(|invokes| invokes.iter().map(|known| known.shown.clone()).collect());
    let shown: Vec<Value> =
        shown.into_iter().filter(|one| status.as_deref().is_none_or(|status| one["status"] == status)).collect();
    Ok(Reply::json(200, &json!({ "asyncInvokeSummaries": shown })))
}
