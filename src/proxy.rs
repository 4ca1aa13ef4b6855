//! The request pipeline: guard, operation, body, caller, policy, route, limits, ledger, upstream, answer. This file is the only
//! one that knows the order. What connection, path and headers tell is decided before the body is read. A bidirectional stream
//! goes the same way with its head alone: what its client says then passes beside the answer.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::Response;
use http::header::{HOST, HeaderMap};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery};
use hyper::body::Incoming;

use crate::bidirectional::{self, End, Speech};
use crate::caller::events::SignedEvents;
use crate::caller::{self, Caller, User};
use crate::config::DataRetention;
use crate::error::{Refusal, RefusalKind};
use crate::exchange::{Answered, Body, Exchange};
use crate::forward::{self, Forms};
use crate::limits::{self, Admission, Behind, LimitRequest};
use crate::listen::activity::Arrival;
use crate::listen::{Client, guard};
use crate::model::lookup::Asker;
use crate::operation::{self, Matched, ModelPlace, Operation, Plane, Stores, TokenEstimate};
use crate::partition::Partitions;
use crate::policy::{self, Permit};
use crate::record::Outcome;
use crate::request::Received;
use crate::road::Road;
use crate::routing::{self, Route};
use crate::service_tier::AskedTier;
use crate::stored::Storing;
use crate::{large, model, panics, previous, receive, request, server_tools, stored};

/// Answers a request that was sent to one of Bedrock's own paths.
pub(crate) async fn serve(
    road: &Arc<Road>,
    client: &Client,
    mut exchange: Box<Exchange>,
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
    if operation.bidirectional {
        // In a box: few requests are.
        return Box::pin(both_ways(road, client, exchange, operation, identifier, head, body)).await;
    }
    let model = identifier.as_deref().filter(|_| operation.model == ModelPlace::Path);
    let asked = Asked { operation, model, named_in: request::named_in };
    let Arrived { caller, body } = identified(road, client, exchange, &head, body, Some(&asked)).await?;
    let received = large::work(body.len(), || Received::new(operation, identifier, head, body)).await?;
    process(road, exchange, &caller, &received).await
}

/// A bidirectional stream. Its head decides everything; what the client says is then taken as fast as the upstream takes it,
/// and ends the exchange if it cannot be relayed.
async fn both_ways(
    road: &Road,
    client: &Client,
    exchange: &mut Exchange,
    operation: &'static Operation,
    identifier: Option<String>,
    head: Parts,
    body: Incoming,
) -> Result<Answered, Refusal> {
    if let Err(refusal) = bidirectional::check(&head) {
        let left = receive::leave_small(&head.headers, body).await;
        exchange.record.request_size = left.size;
        return Err(if left.ended { refusal } else { refusal.closing() });
    }
    let (caller, signed) = speaker(road, client, exchange, &head).await?;
    let progress = bidirectional::Progress::default();
    exchange.follows(progress.clone());
    let speech = Speech { body, signed, progress };
    let (events, mut listening) = bidirectional::listen(speech, exchange.memory(), road.settings.max_buffered_bytes);
    let received = Received::streaming(operation, identifier, head, events)?;
    let broken = tokio::select! {
        biased;
        broken = listening.broken() => broken,
        answered = process(road, exchange, &caller, &received) => {
            exchange.listens(listening);
            return answered;
        }
    };
    Err(match broken {
        End::Broken(refusal) => refusal,
        End::Panicked => {
            exchange.client_panicked();
            Refusal::new(
                RefusalKind::Internal,
                "an error in the daemon's own code ended this stream; its log says where.",
            )
        }
        End::Left | End::Said => {
            exchange.client_left();
            Refusal::new(RefusalKind::Validation, "the client has left.")
        }
    })
}

/// Who sends a bidirectional stream, by its head, and how each of its frames is verified.
async fn speaker(
    road: &Road,
    client: &Client,
    exchange: &mut Exchange,
    head: &Parts,
) -> Result<(Caller, Option<SignedEvents>), Refusal> {
    let (callers, peer, headers, query) = (&road.callers, &client.peer, &head.headers, head.uri.query());
    if let Some(arrival) = head.extensions.get::<Arc<Arrival>>() {
        // Its body never comes to an end as others do, and is not slow for that.
        arrival.ended();
    }
    let now = SystemTime::now();
    callers.await_new_key(headers, query, now).await;
    let (target, authority) = (target(head), authority(head));
    let (caller, signed) = callers
        .identify_streaming(peer, &head.method, target, authority, headers, now)
        .inspect_err(|_| exchange.caller(&callers.unproven(peer, headers, query, now)))?;
    exchange.caller(&caller);
    Ok((caller, signed))
}

/// What is known of a request before its body.
pub(crate) struct Asked<'a> {
    pub operation: &'static Operation,
    /// The model, if the path names it.
    pub model: Option<&'a str>,
    /// The model that a body names, for the record of a request that is refused without it.
    pub named_in: fn(&'static Operation, &HeaderMap, &Bytes) -> Option<String>,
}

/// A request whose body has come, and whose caller is known.
pub(crate) struct Arrived {
    pub caller: Caller,
    /// Its part of the memory for bodies goes with it.
    pub body: Bytes,
}

/// The body, and the caller whose signature covers it. Who may not do what is asked is refused before the body is read.
pub(crate) async fn identified(
    road: &Road,
    client: &Client,
    exchange: &mut Exchange,
    head: &Parts,
    body: Incoming,
    asked: Option<&Asked<'_>>,
) -> Result<Arrived, Refusal> {
    let bounds = receive::Bounds { body: road.settings.max_body_bytes, all: road.settings.max_buffered_bytes };
    receive::check(&head.headers, &body, bounds.body)?;
    let known = match before_body(road, client, exchange, head, asked).await {
        Ok(known) => known,
        Err(refusal) => {
            let left = Box::pin(receive::leave(&head.headers, body, bounds.body)).await;
            exchange.record.request_size = left.size;
            if let (Some(asked), Some(body)) = (asked, &left.small)
                && let Some(model) = (asked.named_in)(asked.operation, &head.headers, body)
            {
                exchange.record.model_id = model;
            }
            return Err(if left.ended { refusal } else { refusal.closing() });
        }
    };
    let body = receive::body(body, bounds, exchange.hold(), head.extensions.get().cloned()).await?;
    exchange.record.request_size = body.len() as u64;
    let caller = match known {
        Some(caller) => caller,
        None => large::work(body.len(), || identify(road, client, exchange, head, &body)).await?,
    };
    Ok(Arrived { caller, body })
}

/// Who has sent the request, where that does not depend on the body: only a signature covers it. What the caller may not
/// do, or has no limit left for, is refused.
async fn before_body(
    road: &Road,
    client: &Client,
    exchange: &mut Exchange,
    head: &Parts,
    asked: Option<&Asked<'_>>,
) -> Result<Option<Caller>, Refusal> {
    let now = SystemTime::now();
    road.callers.await_new_key(&head.headers, head.uri.query(), now).await;
    let (headers, query) = (&head.headers, head.uri.query());
    let claim = caller::claim(headers, query);
    if road.callers.is_signed_for_us(&claim, now) {
        exchange.caller(&road.callers.unproven(&client.peer, &head.headers, head.uri.query(), now));
        return Ok(None);
    }
    let caller = road
        .callers
        .identify_by_head(&client.peer, headers, query, claim, now)
        .inspect_err(|_| exchange.caller(&road.callers.unproven(&client.peer, headers, query, now)))?;
    exchange.caller(&caller);
    if let Some(Asked { operation, model, .. }) = asked {
        let permit = permit(road, exchange, &caller, operation, *model, &head.headers)?;
        if operation.plane != Plane::Control {
            routing::check_reach(road, &caller, &permit, operation)
                .inspect_err(|refusal| denied(road, &caller, refusal))?;
        }
        road.limits.check_early(caller.name(), operation.tokens != TokenEstimate::NoTokens)?;
    }
    Ok(Some(caller))
}

/// What every request to a model goes through, whichever front it came by.
pub(crate) async fn process(
    road: &Road,
    exchange: &mut Exchange,
    caller: &Caller,
    received: &Received,
) -> Result<Answered, Refusal> {
    let named = received.model.as_ref().map_or("", |model| &model.name);
    panics::inject("proxy", named);
    panics::block(named);
    if let Some(model) = &received.model {
        exchange.record.model_id.clone_from(&model.name);
    }
    let permit = permit(road, exchange, caller, received.operation, received.invoked_model(), &received.headers)?;
    let size = received.body.len();
    if let Some(reading) = received.operation.read_by() {
        Box::pin(permit_building_on(road, caller, reading, &received.body)).await?;
    }
    let route = routing::decide(road, caller, &permit, received, exchange.user).await;
    let route = route.inspect_err(|refusal| denied(road, caller, refusal))?;
    exchange.routed(&route);
    let forms = Forms::new(received, route.partition(), &road.settings).await?;
    let received = forms.first();
    let contents = permit_contents(road, exchange, caller, received, &route).await;
    contents.inspect_err(|refusal| denied(road, caller, refusal))?;
    let behind = models_behind(road, exchange.user, caller, received, &route).await;
    let (estimate, tier) = large::work(size, || received.estimate_and_tier()).await;
    exchange.record.service_tier = tier.name().map(str::to_owned);
    let model = received.model.as_ref().map(|model| model::resolve::unalias(&model.name, &road.settings.models));
    let asked = LimitRequest { caller: caller.name(), user: exchange.user, model, behind: &behind, estimate, tier };
    let queued = exchange.queued.measure();
    let reach = permit.reach();
    let admission = admit(road, permit, asked).await?;
    drop(queued);
    let answered = forward::forward(road, exchange.admitted(admission), &forms, &route).await?;
    let shown = shown(road, caller, reach, received.operation, answered).await;
    // Nothing else fails there than reading what the upstream has begun to send.
    shown.inspect_err(|_| exchange.record.outcome = Outcome::UpstreamBroke)
}

/// Refuses a request that builds on what the caller may not read. The body is looked through only where there is such a rule.
async fn permit_building_on(road: &Road, caller: &Caller, reading: &Operation, body: &Bytes) -> Result<(), Refusal> {
    let Err(rule) = policy::permit_operation(caller, reading) else { return Ok(()) };
    if !large::work(body.len(), || previous::is_named_in(body)).await {
        return Ok(());
    }
    let sentence = format!("the request builds on a stored response, and {}", rule.message);
    let refusal = Refusal::new(RefusalKind::AccessDenied, sentence);
    denied(road, caller, &refusal);
    Err(refusal)
}

/// Judges what a request asks for beside a model's answer: a project's data, an answer that is kept, tools that the server runs.
async fn permit_contents(
    road: &Road,
    exchange: &mut Exchange,
    caller: &Caller,
    received: &Received,
    route: &Route,
) -> Result<(), Refusal> {
    let (policy, size) = (&road.settings.policy, received.body.len());
    policy::permit_project(received.operation, &received.headers, policy)?;
    if received.operation.stores != Stores::Never {
        let is_kept = match large::work(size, || stored::asks(received)).await {
            Storing::No => false,
            Storing::Unsaid => !keeps_nothing_unasked(road, route),
            Storing::Asked => true,
        };
        if is_kept {
            policy::permit_storing(policy)?;
            exchange.record.stored = true;
        }
    }
    if server_tools::may_be_asked_for(received.operation)
        && large::work(size, || server_tools::are_asked_for(received)).await
    {
        policy::permit_server_tools(caller)?;
    }
    Ok(())
}

/// Whether all regions that a request may be sent to are known to keep only what a request asks them to keep.
fn keeps_nothing_unasked(road: &Road, route: &Route) -> bool {
    let places = route.first(road).chain(route.then());
    let regions = places.filter_map(|at| road.regions.get(at));
    let mut used = regions.filter(|region| region.keeps_little(&road.settings.policy)).peekable();
    used.peek().is_some() && used.all(|region| region.retention.mode().as_deref() == Some(DataRetention::None.as_str()))
}

/// Of a listing, what the caller may use; everything else as it is.
async fn shown(
    road: &Road,
    caller: &Caller,
    reach: Partitions,
    operation: &Operation,
    mut answered: Answered,
) -> Result<Answered, Refusal> {
    if let Some(models) = answered.listed_by.take() {
        let reach = reach.and(routing::with_plane(road, operation.plane));
        // In a box: few requests list anything.
        answered.answer = Box::pin(models.shown(operation, caller.entry.as_deref(), reach, answered.answer)).await?;
    }
    Ok(answered)
}

/// Who has sent a request that is signed for us, with its body.
fn identify(
    road: &Road,
    client: &Client,
    exchange: &mut Exchange,
    head: &Parts,
    body: &[u8],
) -> Result<Caller, Refusal> {
    let now = SystemTime::now();
    let caller = road
        .callers
        .identify(&client.peer, &head.method, target(head), authority(head), &head.headers, body, now)
        .inspect_err(|_| exchange.caller(&road.callers.unproven(&client.peer, &head.headers, head.uri.query(), now)))?;
    exchange.caller(&caller);
    Ok(caller)
}

/// Path and query, as on the wire.
fn target(head: &Parts) -> &str {
    head.uri.path_and_query().map_or("/", PathAndQuery::as_str)
}

/// HTTP/2's `:authority`, or `Host`.
fn authority(head: &Parts) -> &str {
    let host = head.headers.get(HOST).and_then(|value| value.to_str().ok());
    head.uri.authority().map(Authority::as_str).or(host).unwrap_or_default()
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
    let level = policy::stated_level(headers)?;
    let permit = policy::permit(caller, operation, model, level, &road.settings)
        .inspect_err(|refusal| denied(road, caller, refusal))?;
    exchange.record.data_classification = permit.data_classification().map(str::to_owned);
    Ok(permit)
}

/// Whether the caller may ask anything at all. For what the daemon tells of itself and no rule on operations names.
pub(crate) fn permit_caller(road: &Road, caller: &Caller) -> Result<(), Refusal> {
    policy::permit_caller(caller, &road.settings).inspect_err(|refusal| denied(road, caller, refusal))
}

/// Tells the log, within bounds.
fn denied(road: &Road, caller: &Caller, refusal: &Refusal) {
    road.callers.denied(caller.uid, caller.name(), refusal, SystemTime::now());
}

/// The models behind what is invoked, where a limit or price may go by them; else nobody has to know.
async fn models_behind(road: &Road, user: User, caller: &Caller, received: &Received, route: &Route) -> Behind {
    let invokes = matches!(received.operation.model, ModelPlace::Path | ModelPlace::Body(_) | ModelPlace::Within(_));
    let Some(model) = received.model.as_ref().filter(|_| invokes && road.limits.go_by_model()) else {
        return Behind::Itself;
    };
    let name = model::resolve::unalias(&model.name, &road.settings.models);
    match route.region_of(road, name) {
        Some(region) => {
            let asker = Asker { user, entry: caller.entry.clone(), probes_control: false };
            match Box::pin(region.models.behind(name, &region.upstream, &asker)).await {
                Behind::Itself if received.operation.plane == Plane::Mantle => {
                    Box::pin(region.models.behind_on_mantle(name, &region.upstream, &asker)).await
                }
                behind => behind,
            }
        }
        None => Behind::Unknown,
    }
}

/// Whether the limits have room for a question about the records, which policy has permitted.
pub(crate) async fn admit_question(road: &Road, user: User, caller: &Caller) -> Result<Admission, Refusal> {
    let request = LimitRequest {
        caller: caller.name(),
        user,
        model: None,
        behind: &Behind::Itself,
        estimate: limits::Estimate::NONE,
        tier: AskedTier::Unsaid,
    };
    road.limits.admit(request).await
}

/// Whether the limits have room; only what is permitted is counted.
async fn admit(road: &Road, _permit: Permit, asked: LimitRequest<'_>) -> Result<Admission, Refusal> {
    road.limits.admit(asked).await
}
