//! Requests to `bedrock-mantle`: those of its own paths, and those that it serves in the place of bedrock-runtime, which lacks
//! what they ask for.

mod counting;

use std::sync::Arc;
use std::time::Instant;

use http::HeaderMap;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue};
use http::uri::PathAndQuery;

use super::{Stop, answered, send};
use crate::exchange::{AdmittedExchange, Answered};
use crate::large;
use crate::model::Target;
use crate::model::lookup::Asker;
use crate::operation::{self, Operation, Plane};
use crate::request::{Received, RequestedModel};
use crate::road::{Region, Road};
use crate::upstream::breaker::Turn;
use crate::upstream::sign::BodyHash;
use crate::upstream::{Answer, AnswerBody, UpstreamRequest};

/// Bedrock-runtime takes the version in the body, the mantle host in a header.
const ANTHROPIC_VERSION: HeaderName = HeaderName::from_static("anthropic-version");
const VERSION: HeaderValue = HeaderValue::from_static("2023-06-01");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Where the mantle host counts tokens.
const COUNT_TOKENS: PathAndQuery = PathAndQuery::from_static("/anthropic/v1/messages/count_tokens");

/// A count is a number in braces.
const LONGEST_COUNT: usize = 4096;

/// One of the mantle host's own operations on a model.
pub(super) async fn invoke(
    road: &Road,
    region: &Region,
    exchange: &mut AdmittedExchange<'_>,
    received: &Received,
    requested: &RequestedModel,
    headers: &Arc<HeaderMap>,
    asker: &Asker,
) -> Result<Answered, Stop> {
    let target = target(road, region, exchange, &requested.name, asker).await?;
    let made = || received.to_upstream(headers, Some(&target.identifier));
    let mut request = large::work(received.body.len(), made).await?;
    // Some models are served below /openai/v1 only. Which these are, the host tells when it is asked.
    let is_below_openai = region.models.is_below_openai(&target.identifier);
    if is_below_openai {
        request.path = below_openai(&request.path)?;
    }
    let answer = send(region, exchange, &request).await?;
    let is_elsewhere = answer.error().is_some_and(|error| error.names_another_route(answer.status));
    if is_below_openai || !is_elsewhere {
        return Ok(answered(region, answer, Some(target)));
    }
    request.path = below_openai(&request.path)?;
    let there = send(region, exchange, &request).await?;
    if there.status.is_success() {
        region.models.note_below_openai(&target.identifier);
    }
    // Served on neither path: the client gets what is said of its own.
    let is_nowhere = there.error().is_some_and(|error| error.names_another_route(there.status));
    let answer = if is_nowhere { answer } else { there };
    Ok(answered(region, answer, Some(target)))
}

/// Asks for what the host says of one model.
pub(super) async fn describe(
    road: &Road,
    region: &Region,
    exchange: &mut AdmittedExchange<'_>,
    received: &Received,
    requested: &RequestedModel,
    headers: &Arc<HeaderMap>,
    asker: &Asker,
) -> Result<Answered, Stop> {
    let target = target(road, region, exchange, &requested.name, asker).await?;
    let request = received.to_upstream(headers, Some(&target.identifier))?;
    let answer = send(region, exchange, &request).await?;
    Ok(answered(region, answer, Some(target)))
}

/// Whether bedrock-runtime lacks what was asked for, and the mantle host may have it.
pub(super) fn may_have(region: &Region, operation: &Operation, answer: &Answer) -> bool {
    answer.status.is_client_error()
        && region.upstream.serves(Plane::Mantle)
        && is_of_both(operation)
        && answer.error().is_some_and(|error| error.is_of_what_is_lacking(answer.status))
}

fn is_of_both(operation: &Operation) -> bool {
    [&operation::MESSAGES, &operation::MESSAGES_COUNT_TOKENS, &operation::COUNT_TOKENS].contains(&operation)
}

/// Asks the mantle host for what bedrock-runtime lacks. What bedrock-runtime has said stands if the mantle host does not
/// have it either, or cannot be asked.
pub(super) async fn instead(
    road: &Road,
    region: &Region,
    exchange: &mut AdmittedExchange<'_>,
    received: &Received,
    headers: &Arc<HeaderMap>,
    asker: &Asker,
    lacking: Answered,
) -> Result<Answered, Stop> {
    let Some(requested) = &received.model else { return Ok(lacking) };
    // Held until its answer has come, if this is the call that probes the host.
    let _probe = match region.upstream.breaker(Plane::Mantle).turn(Instant::now()) {
        Turn::Go => None,
        Turn::Probe(probe) => Some(probe),
        Turn::PassOver => return Ok(lacking),
    };
    let Ok(target) = region.models.on_mantle(&requested.name, &region.upstream, asker).await else {
        return Ok(lacking);
    };
    let is_count = *received.operation == operation::COUNT_TOKENS;
    let made = || match is_count {
        true => counting_request(received, headers, &target),
        false => received.to_upstream(headers, Some(&target.identifier)).ok(),
    };
    let Some(mut request) = large::work(received.body.len(), made).await else { return Ok(lacking) };
    request.plane = Plane::Mantle;
    Arc::make_mut(&mut request.headers).entry(ANTHROPIC_VERSION).or_insert(VERSION);
    let before = exchange.last_went();
    exchange.tries(&region.upstream, Plane::Mantle);
    exchange.sent_as(&target);
    road.metrics.resolved(target.how.as_str());
    let answer = match send(region, exchange, &request).await {
        Err(Stop::Failed(crate::upstream::Failure::NotSent { why, .. })) => {
            tracing::warn!(region = %region.upstream.region, %why, "bedrock-mantle cannot be asked for what bedrock-runtime lacks");
            exchange.went(before);
            return Ok(lacking);
        }
        answer => answer?,
    };
    if matches!(answer.status.as_u16(), 401 | 403 | 404) {
        let error = answer.error().unwrap_or_default().error_type;
        tracing::warn!(region = %region.upstream.region, status = answer.status.as_u16(), %error, "bedrock-mantle does not serve what bedrock-runtime lacks");
        exchange.went(before);
        return Ok(lacking);
    }
    let answer = if is_count { as_bedrock_counts(answer).await? } else { answer };
    Ok(answered(region, answer, Some(target)))
}

async fn target(
    road: &Road,
    region: &Region,
    exchange: &mut AdmittedExchange<'_>,
    name: &str,
    asker: &Asker,
) -> Result<Target, Stop> {
    let target = region.models.on_mantle(name, &region.upstream, asker).await.map_err(Stop::of_model)?;
    exchange.sent_as(&target);
    road.metrics.resolved(target.how.as_str());
    Ok(target)
}

/// `/v1/responses` as `/openai/v1/responses`.
fn below_openai(path: &PathAndQuery) -> Result<PathAndQuery, crate::error::Refusal> {
    PathAndQuery::try_from(format!("/openai{path}")).map_err(|_| {
        let sentence = "the request's target cannot be sent on.";
        crate::error::Refusal::new(crate::error::RefusalKind::Validation, sentence)
    })
}

/// The same count, in Anthropic's words; none where these do not fit.
fn counting_request(received: &Received, headers: &Arc<HeaderMap>, target: &Target) -> Option<UpstreamRequest> {
    if !target.identifier.starts_with("anthropic.") {
        return None;
    }
    let body = counting::asked(&received.body, &target.identifier)?;
    let mut headers = HeaderMap::clone(headers);
    headers.insert(CONTENT_TYPE, JSON);
    Some(UpstreamRequest {
        plane: Plane::Mantle,
        method: received.method.clone(),
        path: COUNT_TOKENS,
        headers: Arc::new(headers),
        body,
        body_hash: BodyHash::default(),
        events: None,
    })
}

/// The answer to CountTokens; an error stays as it is.
async fn as_bedrock_counts(answer: Answer) -> Result<Answer, Stop> {
    if !answer.status.is_success() {
        return Ok(answer);
    }
    let (status, mut headers) = (answer.status, answer.headers.clone());
    let body = answer.read(LONGEST_COUNT).await.map_err(|why| Stop::Failed(crate::upstream::Failure::Broke(why)))?;
    let body = counting::counted(&body).unwrap_or(body);
    headers.remove(CONTENT_LENGTH);
    Ok(Answer { status, headers, body: AnswerBody::Read(body), refused_key: None })
}
