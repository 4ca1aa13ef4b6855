//! Requests to `bedrock-mantle`: those of its own paths, and those that it serves in the place of bedrock-runtime, which lacks
//! what they ask for.

mod counting;

use std::sync::Arc;
use std::time::Instant;

use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use http::{HeaderMap, StatusCode};

use super::{Stop, answered, remember, send};
use crate::exchange::{AdmittedExchange, Answered};
use crate::large;
use crate::model::Target;
use crate::model::lookup::Asker;
use crate::model::resolve::unalias;
use crate::operation::{self, MANTLE_GROUP, Operation, Plane};
use crate::policy;
use crate::request::{Received, RequestedModel};
use crate::road::{Region, Road};
use crate::upstream::breaker::Turn;
use crate::upstream::sign::BodyHash;
use crate::upstream::{Answer, AnswerBody, Failure, UpstreamRequest};

/// Bedrock-runtime takes the version in the body, the mantle host in a header.
const ANTHROPIC_VERSION: HeaderName = HeaderName::from_static("anthropic-version");
const VERSION: HeaderValue = HeaderValue::from_static("2023-06-01");
/// What bedrock-runtime takes in the body too.
const ANTHROPIC_BETA: HeaderName = HeaderName::from_static("anthropic-beta");
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
    let (mut path, mut other) = (request.path.clone(), below_openai(&request.path)?);
    if is_below_openai {
        std::mem::swap(&mut path, &mut other);
    }
    request.path = path;
    let answer = send(region, exchange, &request).await?;
    let is_elsewhere = answer.error().is_some_and(|error| error.names_another_route(answer.status));
    if !is_elsewhere {
        return Ok(answered(region, request.plane, answer, Some(target)));
    }
    request.path = other;
    let there = send(region, exchange, &request).await?;
    if there.status.is_success() {
        region.models.note_below_openai(&target.identifier, !is_below_openai);
    }
    // Served on neither path: the client gets what is said of its own.
    let is_nowhere = there.error().is_some_and(|error| error.names_another_route(there.status));
    let answer = if is_nowhere { answer } else { there };
    Ok(answered(region, request.plane, answer, Some(target)))
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
    Ok(answered(region, request.plane, answer, Some(target)))
}

/// Whether bedrock-runtime lacks what was asked for, and the mantle host may have it and may be used by this caller.
pub(super) fn may_have(region: &Region, operation: &Operation, asker: &Asker, answer: &Answer) -> bool {
    answer.status.is_client_error()
        && region.upstream.serves(Plane::Mantle)
        && operation.is_of_both()
        && policy::permits(asker.entry.as_deref(), MANTLE_GROUP)
        && answer.error().is_some_and(|error| error.is_of_what_is_lacking(answer.status))
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
    let now = Instant::now();
    if region.upstream.refuses_key(Plane::Mantle, now) {
        return Ok(lacking);
    }
    // Held until its answer has come, if this is the call that probes the host.
    let _probe = match region.upstream.breaker(Plane::Mantle).turn(now) {
        Turn::Go => None,
        Turn::Probe(probe) => Some(probe),
        Turn::PassOver => return Ok(lacking),
    };
    let Ok(target) = region.models.on_mantle(&requested.name, &region.upstream, asker).await else {
        return Ok(lacking);
    };
    let is_bedrocks_count = *received.operation == operation::COUNT_TOKENS;
    let made = || match is_bedrocks_count {
        true => counting_request(received, headers, &target),
        false => received.to_upstream(headers, Some(&target.identifier)).ok(),
    };
    let Some(mut request) = large::work(received.body.len(), made).await else { return Ok(lacking) };
    request.plane = Plane::Mantle;
    Arc::make_mut(&mut request.headers).entry(ANTHROPIC_VERSION).or_insert(VERSION);
    let before = exchange.last_went();
    exchange.tries(&region.upstream, Plane::Mantle);
    exchange.sent_as(&target);
    road.metrics.resolved(target.how);
    let answer = match send(region, exchange, &request).await {
        Err(Stop::Failed(failure @ (Failure::NotSent { .. } | Failure::NoCredential(_)))) => {
            let why = failure.refusal().message;
            tracing::warn!(region = %region.upstream.region, %why, "bedrock-mantle cannot be asked for what bedrock-runtime lacks");
            exchange.went(before);
            return Ok(lacking);
        }
        answer => answer?,
    };
    if !stands(region, received.operation, &target, answer.status) {
        // What is handed on is remembered with it.
        remember(region, Plane::Mantle, unalias(&requested.name, &road.settings.models), &answer);
        let error = answer.error().unwrap_or_default().error_type;
        tracing::warn!(region = %region.upstream.region, status = answer.status.as_u16(), %error, "bedrock-mantle does not serve what bedrock-runtime lacks");
        exchange.passes_over(Ok(&answer));
        exchange.went(before);
        return Ok(lacking);
    }
    if answer.status.is_success() {
        region.models.note_served_instead(&target.identifier);
    }
    let answer = if is_bedrocks_count { as_bedrock_counts(answer).await? } else { Some(answer) };
    match answer {
        Some(answer) => Ok(answered(region, Plane::Mantle, answer, Some(target))),
        None => {
            tracing::warn!(region = %region.upstream.region, "bedrock-mantle has answered a count with something else");
            exchange.went(before);
            Ok(lacking)
        }
    }
}

/// Whether the client gets what the mantle host has said. Of an error, it gets bedrock-runtime's: that of the host which its
/// API names, in words that its SDK reads. A model that the mantle host has served is there, though, and its error tells more
/// than that bedrock-runtime lacks it.
fn stands(region: &Region, operation: &Operation, target: &Target, status: StatusCode) -> bool {
    let counts = [&operation::COUNT_TOKENS, &operation::MESSAGES_COUNT_TOKENS].contains(&operation);
    match status.as_u16() {
        401 | 403 | 404 => false,
        _ => status.is_success() || (!counts && region.models.has_been_served_instead(&target.identifier)),
    }
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
    road.metrics.resolved(target.how);
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
    let counting::Asked { body, betas } = counting::asked(&received.body, &target.identifier)?;
    let mut headers = HeaderMap::clone(headers);
    headers.insert(CONTENT_TYPE, JSON);
    if let Some(betas) = betas {
        headers.append(ANTHROPIC_BETA, HeaderValue::from_str(&betas).ok()?);
    }
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

/// The count in the words of CountTokens; none if the answer is no count.
async fn as_bedrock_counts(answer: Answer) -> Result<Option<Answer>, Stop> {
    let (status, mut headers) = (answer.status, answer.headers.clone());
    let body = answer.read(LONGEST_COUNT).await.map_err(|why| Stop::Failed(Failure::Broke(why)))?;
    headers.remove(CONTENT_LENGTH);
    let read = |body| Answer { status, headers, body: AnswerBody::Read(body), refused_key: None };
    Ok(counting::counted(&body).map(read))
}
