//! Calls that the daemon makes for itself and that change something in the account. Each is in the ledger as a record of its
//! own, with the daemon as its caller.

use std::sync::Arc;

use bytes::Bytes;
use http::Method;

use crate::error::Refusal;
use crate::exchange::Exchange;
use crate::model::catalogue::{self, Call, CallError};
use crate::model::create::{self, SendRecorded};
use crate::operation::{CREATE_INFERENCE_PROFILE, Plane};
use crate::record::{Outcome, Record};
use crate::road::Road;
use crate::telemetry::Parent;
use crate::upstream::Upstream;

/// The `sourceIP` of such a record, where those of clients have an address.
const SOURCE: &str = "bedrock-sidecar";

/// What all records of the daemon's own have in common.
pub(crate) fn record(road: &Road) -> Record {
    Record {
        user_arn: road.callers.host_arn().to_string(),
        source_ip: SOURCE.to_owned(),
        caller_uid: Some(rustix::process::geteuid().as_raw()),
        destination_region: road.first_region().to_owned(),
        ..Record::default()
    }
}

/// What such a call is recorded with.
#[derive(Debug)]
pub(crate) struct OwnCalls {
    pub road: Arc<Road>,
    /// The span of the request that it is for.
    pub parent: Parent,
}

impl SendRecorded for OwnCalls {
    async fn send(&self, upstream: &Upstream, source: &str, body: Bytes) -> Result<Call, Refusal> {
        let mut exchange = Exchange::begin_own(&self.road, SOURCE, rustix::process::geteuid().as_raw(), self.parent);
        exchange.operation(&CREATE_INFERENCE_PROFILE, None);
        exchange.tries(upstream, Plane::Control);
        let record = &mut exchange.record;
        source.clone_into(&mut record.model_id);
        record.request_size = body.len() as u64;
        if let Err(refusal) = exchange.open_own().await {
            exchange.note_refusal(&refusal, 0);
            return Err(refusal);
        }
        let call = catalogue::send(upstream, Method::POST, create::PATH, body, exchange.effort()).await;
        let (outcome, status) = told(&mut exchange.record, &call);
        exchange.ended(outcome, status);
        Ok(call)
    }
}

/// Takes down how the call ended.
fn told(record: &mut Record, call: &Call) -> (Outcome, u16) {
    record.response_size = call.response_size;
    record.upstream_request_id.clone_from(&call.upstream_request_id);
    match &call.result {
        Ok(_) => (Outcome::Completed, 201),
        Err(CallError::Answered(status, error)) => {
            let code = http::StatusCode::from_u16(*status).unwrap_or(http::StatusCode::BAD_GATEWAY);
            record.error_message = Some(error.for_record(code));
            (Outcome::UpstreamError, *status)
        }
        Err(CallError::NotSent(why)) => {
            record.error_message = Some(why.clone());
            (Outcome::Refused, 503)
        }
        Err(CallError::Transport(why)) => {
            record.error_message = Some(why.clone());
            (Outcome::UpstreamBroke, 503)
        }
    }
}
