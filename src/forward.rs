//! Sending an admitted request on: failover over the upstreams in their order, the model each of them needs, and the one
//! retry through an inference profile.

use http::HeaderMap;

use crate::error::{Refusal, RefusalKind};
use crate::exchange::{AdmittedExchange, Answered};
use crate::large;
use crate::model::{self, How, Target};
use crate::operation::{self, ModelPlace};
use crate::own_call::OwnCalls;
use crate::request::{Received, RequestedModel};
use crate::road::{Region, Road, arn_region};
use crate::upstream::answer::{Remedy, leads_to_failover};
use crate::upstream::{Answer, Failure, UpstreamRequest, strip};

/// Sends a request to the first upstream that answers for it. Each is tried once at most, and none after an answer has
/// begun to reach the client.
///
/// # Errors
/// A refusal of our own when no upstream answers, or the model cannot be resolved.
pub(crate) async fn forward(
    road: &Road,
    mut exchange: AdmittedExchange<'_>,
    received: &Received,
) -> Result<Answered, Refusal> {
    let headers = strip::request_headers(&received.headers, &road.settings.headers.forward);
    let last = road.regions.len() - 1;
    // What an earlier upstream gave, if it was nothing to be content with.
    let mut missed: Option<Result<Answered, Refusal>> = None;
    for (at, region) in road.regions.iter().enumerate() {
        if at < last && region.upstream.is_paused() {
            missed = missed.or_else(|| Some(Err(unreachable())));
            continue;
        }
        match try_region(road, region, &mut exchange, received, &headers).await {
            Ok(answered) if at < last && leads_to_failover(answered.answer.status) => {
                tracing::warn!(region = %region.upstream.region, status = answered.answer.status.as_u16(), "failing over to the next upstream");
                missed = Some(Ok(answered));
            }
            Ok(answered) if tells_less(road, &answered, received, missed.as_ref()) => {
                tracing::warn!(region = %region.upstream.region, status = answered.answer.status.as_u16(), "this upstream does not have what was asked for; keeping the answer of an earlier one");
            }
            Ok(answered) => return Ok(answered),
            Err(Stop::Failed(failure)) if at < last && failure.leads_to_failover() => {
                tracing::warn!(region = %region.upstream.region, reason = %failure.refusal(), "failing over to the next upstream");
                // An answer that an earlier upstream gave is better than none.
                missed = missed.filter(Result::is_ok).or_else(|| Some(Err(failure.refusal())));
            }
            Err(Stop::Failed(failure)) => return last_failure(&mut exchange, &failure, missed),
            // The upstream that comes after a failover may not know what only the first one has.
            Err(Stop::Refused(refusal)) => return missed.filter(Result::is_ok).unwrap_or(Err(refusal)),
        }
    }
    if let Some(Ok(answered)) = missed {
        return Ok(answered);
    }
    // The upstream that has the model could not be reached, and the others have done nothing with the request.
    exchange.upstream_broke();
    exchange.never_sent();
    missed.unwrap_or_else(|| Err(unreachable()))
}

fn unreachable() -> Refusal {
    Refusal::new(RefusalKind::ServiceUnavailable, "no upstream can be reached at the moment.")
}

/// After a failover, an upstream may refuse what only an earlier one has: profiles and models differ between regions. The
/// earlier answer then says what the client can do, which is to try again.
fn tells_less(
    road: &Road,
    answered: &Answered,
    received: &Received,
    missed: Option<&Result<Answered, Refusal>>,
) -> bool {
    if !matches!(answered.answer.status.as_u16(), 400 | 403 | 404) {
        return false;
    }
    match missed {
        None => false,
        Some(Ok(_)) => true,
        // Nobody has seen the request before; only an ARN says that this was the wrong upstream to ask.
        Some(Err(_)) => received.model.as_ref().is_some_and(|model| {
            let name = model::resolve::unalias(&model.name, &road.settings.models);
            arn_region(name).is_some_and(|region| region != answered.region)
        }),
    }
}

/// No upstream is left; what an earlier one answered is given, if one did.
fn last_failure(
    exchange: &mut AdmittedExchange<'_>,
    failure: &Failure,
    missed: Option<Result<Answered, Refusal>>,
) -> Result<Answered, Refusal> {
    let missed = missed.filter(Result::is_ok);
    match failure {
        // It may have been received, and paid for.
        Failure::Broke(_) => {
            exchange.upstream_broke();
            Err(failure.refusal())
        }
        Failure::NoCredential(_) => missed.unwrap_or_else(|| Err(failure.refusal())),
        Failure::NotSent(_) => missed.unwrap_or_else(|| {
            exchange.upstream_broke();
            exchange.never_sent();
            Err(failure.refusal())
        }),
    }
}

/// Why an upstream gave no answer.
#[derive(Debug)]
enum Stop {
    Failed(Failure),
    Refused(Refusal),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Stop {
        Stop::Failed(failure)
    }
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Stop {
        Stop::Refused(refusal)
    }
}

/// One upstream: resolves the model and sends, and once more through a profile if the upstream demands one.
async fn try_region(
    road: &Road,
    region: &Region,
    exchange: &mut AdmittedExchange<'_>,
    received: &Received,
    headers: &HeaderMap,
) -> Result<Answered, Stop> {
    exchange.region(&region.upstream.region);
    let Some(requested) = &received.model else {
        let request = received.to_upstream(headers.clone(), None)?;
        let answer = send(road, region, exchange, &request).await?;
        return Ok(answered(region, answer, None));
    };
    match received.operation.model {
        ModelPlace::CopyFrom => {
            region.models.check_copy_from(&requested.name, &region.upstream, &exchange.asker()).await?;
            describe(road, region, exchange, received, requested, headers).await
        }
        ModelPlace::Described => describe(road, region, exchange, received, requested, headers).await,
        _ => invoke(road, region, exchange, received, requested, headers).await,
    }
}

/// What is described, deleted or copied is named as it is, but for GovCloud's names.
async fn describe(
    road: &Road,
    region: &Region,
    exchange: &mut AdmittedExchange<'_>,
    received: &Received,
    requested: &RequestedModel,
    headers: &HeaderMap,
) -> Result<Answered, Stop> {
    let target = if *received.operation == operation::GET_INFERENCE_PROFILE {
        region.models.described_profile(&requested.name, &region.upstream).await?
    } else {
        model::resolve::described(&requested.name)?
    };
    exchange.sent_as(&target);
    road.metrics.resolved(target.how.as_str());
    let request = received.to_upstream(headers.clone(), Some(&target.identifier))?;
    let answer = send(road, region, exchange, &request).await?;
    Ok(answered(region, answer, Some(target)))
}

async fn invoke(
    road: &Road,
    region: &Region,
    exchange: &mut AdmittedExchange<'_>,
    received: &Received,
    requested: &RequestedModel,
    headers: &HeaderMap,
) -> Result<Answered, Stop> {
    let Region { upstream, models, .. } = region;
    let own = OwnCalls(exchange.road());
    let asker = exchange.asker();
    let mut target = models.target(&requested.name, upstream, &asker, &own).await?;
    let mut may_retry = true;
    loop {
        exchange.sent_as(&target);
        road.metrics.resolved(target.how.as_str());
        let made = || received.to_upstream(headers.clone(), Some(&target.identifier));
        let request = large::work(received.body.len(), made).await?;
        let answer = send(road, region, exchange, &request).await?;
        if answer.remedy() == Remedy::Profile && may_retry {
            may_retry = false;
            if let Some(profile) =
                models.after_on_demand_refusal(&requested.name, &target, upstream, &asker, &own).await
            {
                target = profile?;
                continue;
            }
        }
        let is_found = matches!(target.how, How::Learned | How::Created | How::Discovered);
        if is_found && answer.error().is_some_and(|error| error.blames_model(answer.status)) {
            models.forget(&requested.name, &target, upstream);
        }
        return Ok(answered(region, answer, Some(target)));
    }
}

fn answered(region: &Region, answer: Answer, target: Option<Target>) -> Answered {
    Answered { answer, region: region.upstream.region.clone(), target }
}

async fn send(
    road: &Road,
    region: &Region,
    exchange: &mut AdmittedExchange<'_>,
    request: &UpstreamRequest,
) -> Result<Answer, Stop> {
    let answer = exchange.open().await?.send(&region.upstream, request).await?;
    road.metrics.attempt(&region.upstream.region, answer.status.as_u16());
    Ok(answer)
}
