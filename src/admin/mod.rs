//! What admins and monitors ask: whether the daemon lives, whether it can serve, and its counters.

mod access;
pub(crate) mod dashboard;
pub(crate) mod desk;
mod events;
pub(crate) mod failures;
mod page;
mod status;
pub(crate) mod thread;
mod usage;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::json;

use crate::auditor::Scope;
use crate::credentials;
use crate::error::{Refusal, RefusalKind};
use crate::exchange::Body;
use crate::listen::{self, Client};
use crate::log;
use crate::metrics;
use crate::operation::Plane;
use crate::panics::{self, Panicked};
use crate::road::Road;
use crate::upstream::Upstream;
use crate::upstream::breaker::Position;
use crate::workers::Workers;

/// Answers on the admin address. What may take long runs on the main runtime.
async fn serve(
    workers: Arc<Workers>,
    road: Arc<ArcSwap<Road>>,
    client: Arc<Client>,
    request: Request<Incoming>,
) -> Response<Body> {
    panics::contained(answer(workers, road, client, request)).await.and_then(|answer| answer).unwrap_or_else(
        |_panicked| {
            let sentence = "an error in the daemon's own code ended this request; its log says where.";
            Refusal::new(RefusalKind::Internal, sentence).response().map(Body::whole)
        },
    )
}

async fn answer(
    workers: Arc<Workers>,
    roads: Arc<ArcSwap<Road>>,
    client: Arc<Client>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Panicked> {
    let (head, _) = request.into_parts();
    let is_file = head.method == Method::GET && head.uri.path().starts_with(page::ASSETS);
    let checked =
        if is_file { listen::guard::check_page_file(&client, &head) } else { listen::guard::check(&client, &head) };
    if let Err(refusal) = checked {
        return Ok(refusal.response().map(Body::whole));
    }
    let road = roads.load_full();
    Ok(match (&head.method, head.uri.path()) {
        (&Method::GET, "/health") => health(),
        (&Method::GET, "/ready") => ready(&road),
        (&Method::GET, "/metrics") => {
            let (credential_reads, own_credentials) = credential_readings(&road);
            let readings = metrics::Readings {
                ready: not_ready(&road).is_empty(),
                tasks: workers.tasks(),
                credential: credentials::Status {
                    // Of whichever expires first.
                    expires_in: road.accounts.iter().filter_map(|one| one.credentials.status().expires_in).min(),
                    certificate_ends_in: road
                        .accounts
                        .iter()
                        .filter_map(|one| one.credentials.status().certificate_ends_in)
                        .min(),
                    ..road.credentials.status()
                },
                credential_reads,
                own_credentials,
                pools: pools(&road),
                listings: road
                    .regions
                    .iter()
                    .map(|one| (one.upstream.region.clone(), one.models.unlisted_for()))
                    .collect(),
                breakers: breakers(&road),
                disbelieved_clocks: road.regions.iter().map(|region| region.upstream.take_disbelieved_clocks()).sum(),
                panics: panics::count(),
                limits: road.limits.status(),
                bodies: metrics::Bodies {
                    taken: road.buffered.taken(),
                    most: road.settings.max_buffered_bytes,
                    refused: road.buffered.refused(),
                },
                audit: road.audit.status(),
                log_dropped: log::dropped(),
                otlp: metrics::Otlp {
                    spans_dropped: road.telemetry.tally().dropped(),
                    export_failures: road.telemetry.tally().failures(),
                },
            };
            let text = road.metrics.text(&readings);
            respond(StatusCode::OK, "application/openmetrics-text; version=1.0.0; charset=utf-8", text)
        }
        (&Method::GET, "/status") => {
            // Whom the kernel does not name has no records.
            let scope = access::scope(&road, &client.peer, None).unwrap_or(Scope::Own { caller: None, uid: None });
            respond(StatusCode::OK, "application/json", status::status(&road, &client.peer, &scope).to_string())
        }
        (&Method::GET, path) if dashboard::is_for(path) => dashboard::serve(&workers, roads, client, head).await?,
        _ => not_served().response().map(Body::whole),
    })
}

fn not_served() -> Refusal {
    Refusal::new(
        RefusalKind::UnknownOperation,
        "the admin address serves GET /health, /ready, /status, /metrics and, for the dashboard, / and what is below /v1/dashboard/.",
    )
}

/// The upstreams that requests to models are not sent to as long as there is another one, for the service manager's line.
pub(crate) fn passed_over(road: &Road) -> String {
    let now = Instant::now();
    let is_open = |upstream: &&Upstream| upstream.breaker(Plane::Runtime).status(now).position != Position::Closed;
    let upstreams = road.regions.iter().map(|region| &*region.upstream).filter(is_open);
    let regions: Vec<&str> = upstreams.map(|upstream| upstream.region.as_str()).collect();
    if regions.is_empty() { String::new() } else { format!("; failing now: {}", regions.join(", ")) }
}

/// Where all breakers stand.
fn breakers(road: &Road) -> Vec<metrics::BreakerReading> {
    let now = Instant::now();
    let of = |upstream: &Upstream, plane| metrics::BreakerReading {
        region: upstream.region.clone(),
        plane,
        position: upstream.breaker(plane).status(now).position,
    };
    let planes = |upstream| Upstream::planes(upstream).map(move |plane| of(upstream, plane));
    road.regions.iter().flat_map(|region| planes(&region.upstream)).collect()
}

/// The process lives; nothing else is claimed.
pub(crate) fn health() -> Response<Body> {
    let timestamp = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string();
    let body = json!({
        "status": "healthy",
        "service": "bedrock-sidecar",
        "version": env!("CARGO_PKG_VERSION"),
        "timestamp": timestamp,
    });
    respond(StatusCode::OK, "application/json", body.to_string())
}

/// Whether a request could be served now. It never invokes a model.
fn ready(road: &Road) -> Response<Body> {
    let problems = not_ready(road);
    let status = if problems.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = json!({ "ready": problems.is_empty(), "reasons": problems });
    respond(status, "application/json", body.to_string())
}

/// Why requests cannot be served.
pub(crate) fn not_ready(road: &Road) -> Vec<String> {
    let objections = road.regions.iter().map(|region| region.objection(&road.settings.policy));
    // One region that can be used is enough: requests go there.
    let mut reasons = objections.collect::<Option<Vec<String>>>().unwrap_or_default();
    reasons.dedup();
    if road.stopping.load(Ordering::Relaxed) {
        reasons.insert(0, "the daemon is stopping.".to_owned());
    }
    let audit = road.audit.status();
    if !audit.ledger_writable {
        let why = audit.last_error.unwrap_or_else(|| "the ledger takes no records".to_owned());
        reasons.push(format!("requests cannot be recorded: {why}."));
    }
    reasons
}

/// The reads of all sources since this was last asked, and what is known of those that belong to upstreams alone: one for each
/// region that such a source serves.
fn credential_readings(road: &Road) -> (credentials::Reads, Vec<metrics::CredentialReading>) {
    let mut sum = credentials::Reads::default();
    let mut own = Vec::new();
    for account in &road.accounts {
        let reads = account.credentials.take_reads();
        sum += reads;
        // Where no upstream uses the top-level source, `road.credentials` is an upstream's own as well.
        if account.settings != road.settings.credentials {
            let status = account.credentials.status();
            own.extend(account.credentials.regions().iter().map(|region| metrics::CredentialReading {
                region: region.clone(),
                age: status.unconfirmed_for,
                expires_in: status.expires_in,
                reads,
            }));
        }
    }
    (sum, own)
}

/// The connections of every upstream's planes.
fn pools(road: &Road) -> Vec<metrics::PoolReading> {
    let of = |upstream: &Upstream, plane| metrics::PoolReading {
        region: upstream.region.clone(),
        plane,
        status: upstream.take_pool_status(plane),
    };
    let planes = |upstream| Upstream::planes(upstream).map(move |plane| of(upstream, plane));
    road.regions.iter().flat_map(|region| planes(&region.upstream)).collect()
}

fn respond(status: StatusCode, content_type: &'static str, body: String) -> Response<Body> {
    let mut response = Response::new(Body::whole(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
