//! The request pipeline: guard, operation, body, caller, policy, limits, ledger, upstream, answer. This file is the only
//! one that knows the order.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::Response;
use http::header::{HOST, HeaderMap};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery};
use hyper::body::Incoming;

use crate::caller::Caller;
use crate::error::Refusal;
use crate::exchange::{Answered, Body, Exchange};
use crate::limits::{Admission, Behind, LimitRequest};
use crate::listen::{Client, guard};
use crate::model::lookup::Asker;
use crate::operation::{self, Matched, ModelPlace, Operation};
use crate::policy::{self, Permit};
use crate::request::Received;
use crate::road::Road;
use crate::{forward, model, receive};

/// Answers a request that was sent to one of Bedrock's own paths.
pub(crate) async fn serve(
    road: &Arc<Road>,
    client: &Client,
    mut exchange: Exchange,
    head: Parts,
    body: Incoming,
) -> Response<Body> {
    match bedrock(road, client, &mut exchange, head, body).await {
        Ok(answered) => exchange.relay(answered),
        Err(refusal) => exchange.refuse(&refusal),
    }
}

async fn bedrock(
    road: &Road,
    client: &Client,
    exchange: &mut Exchange,
    head: Parts,
    body: Incoming,
) -> Result<Answered, Refusal> {
    guard::check(client, &head)?;
    let Matched { operation, identifier } = operation::find(&head.method, head.uri.path())?;
    exchange.operation(operation, identifier.as_deref());
    let (caller, body) = identified(road, client, exchange, &head, body).await?;
    let received = Received::new(operation, identifier, head, body)?;
    process(road, exchange, &caller, &received).await
}

/// The body, and the caller whose signature covers it.
pub(crate) async fn identified(
    road: &Road,
    client: &Client,
    exchange: &mut Exchange,
    head: &Parts,
    body: Incoming,
) -> Result<(Caller, Bytes), Refusal> {
    let body = receive::body(&head.headers, body, road.settings.max_body_bytes).await?;
    exchange.record.request_size = body.len() as u64;
    let caller = identify(road, client, exchange, head, &body).await?;
    Ok((caller, body))
}

/// What every request to a model goes through, whichever front it came by.
pub(crate) async fn process(
    road: &Road,
    exchange: &mut Exchange,
    caller: &Caller,
    received: &Received,
) -> Result<Answered, Refusal> {
    if let Some(model) = &received.model {
        exchange.record.model_id.clone_from(&model.name);
    }
    let permit = permit(road, exchange, caller, received.operation, received.invoked_model(), &received.headers)?;
    let behind = models_behind(road, caller, received).await;
    let (estimate, tier) = received.estimate_and_tier();
    exchange.record.service_tier = tier.name().map(str::to_owned);
    let model = received.model.as_ref().map(|model| model::resolve::unalias(&model.name, &road.settings.models));
    let caller_limits = caller.entry.as_ref().map(|entry| &entry.limits);
    let asked = LimitRequest { caller: caller.name(), caller_limits, model, behind: &behind, estimate, tier };
    let admission = admit(road, permit, asked).await?;
    forward::forward(road, exchange.admitted(admission), received).await
}

/// Who has sent the request. A signature under a key that we know must verify.
async fn identify(
    road: &Road,
    client: &Client,
    exchange: &mut Exchange,
    head: &Parts,
    body: &[u8],
) -> Result<Caller, Refusal> {
    let now = SystemTime::now();
    road.callers.await_new_key(&head.headers, head.uri.query(), now).await;
    let target = head.uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let host = head.headers.get(HOST).and_then(|value| value.to_str().ok());
    let authority = head.uri.authority().map(Authority::as_str).or(host).unwrap_or_default();
    let caller = road
        .callers
        .identify(&client.peer, &head.method, target, authority, &head.headers, body, now)
        .inspect_err(|_| exchange.caller(&road.callers.unproven(&client.peer, &head.headers, head.uri.query(), now)))?;
    exchange.caller(&caller);
    Ok(caller)
}

/// Whether the caller may do this. `model` is the identifier as asked for.
pub(crate) fn permit(
    road: &Road,
    exchange: &mut Exchange,
    caller: &Caller,
    operation: &Operation,
    model: Option<&str>,
    headers: &HeaderMap,
) -> Result<Permit, Refusal> {
    let level = headers.get(policy::CLASSIFICATION_HEADER).and_then(|value| value.to_str().ok());
    let permit = policy::permit(caller, operation.name, model, level, &road.settings).inspect_err(|refusal| {
        road.callers.denied(caller.uid, caller.name(), refusal, SystemTime::now());
    })?;
    exchange.record.data_classification = permit.data_classification().map(str::to_owned);
    Ok(permit)
}

/// The models behind what is invoked, where a limit or price may go by them; else nobody has to know.
async fn models_behind(road: &Road, caller: &Caller, received: &Received) -> Behind {
    let invokes =
        matches!(received.operation.model, ModelPlace::Path | ModelPlace::Body(_) | ModelPlace::OptionalBody(_));
    let Some(model) = received.model.as_ref().filter(|_| invokes && road.limits.go_by_model()) else {
        return Behind::Itself;
    };
    let name = model::resolve::unalias(&model.name, &road.settings.models);
    match road.region_of(name) {
        Some(region) => {
            let asker = Asker { uid: caller.uid, caller: caller.name().map(str::to_owned) };
            region.models.behind(name, &region.upstream, &asker).await
        }
        None => Behind::Unknown,
    }
}

/// Whether the limits have room; only what is permitted is counted.
async fn admit(road: &Road, _permit: Permit, asked: LimitRequest<'_>) -> Result<Admission, Refusal> {
    road.limits.admit(asked).await
}
