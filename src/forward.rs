//! Sending an admitted request on: failover over the upstreams, the model each of them needs, and the one retry through an
//! inference profile. `leads_to` is the specification of failover; docs/failover.md tells the same to admins.

mod forms;
mod line;
mod mantle;

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use http::{HeaderMap, StatusCode};
use percent_encoding::percent_decode_str;

use crate::error::{Refusal, RefusalKind};
use crate::exchange::{AdmittedExchange, Answered, Went};
use crate::large;
use crate::model::lookup::Asker;
use crate::model::{self, How, Target};
use crate::operation::{self, ModelPlace, Plane};
use crate::own_call::OwnCalls;
use crate::request::{Received, RequestedModel};
use crate::road::{Region, Road, arn_region};
use crate::routing::Route;
use crate::upstream::answer::Remedy;
use crate::upstream::throttled::retry_after;
use crate::upstream::{Answer, Failure, UpstreamRequest};
pub(crate) use forms::Forms;
use line::{Line, Next};

/// Sends a request to one upstream of its route after the other until one answers for it. Each is asked once at most, and
/// none after an answer has begun to reach the client. A client that leaves drops this, and with it the rest of the line.
///
/// # Errors
/// A refusal of our own when no upstream answers, or the model cannot be resolved.
pub(crate) async fn forward(
    road: &Road,
    mut exchange: AdmittedExchange<'_>,
    forms: &Forms<'_>,
    route: &Route,
) -> Result<Answered, Refusal> {
    let case = Case::of(road, forms.first());
    let mut line = Line::new(road, &case, route);
    let mut best: Option<Best> = None;
    let mut failed: Option<(&Region, String)> = None;
    while let Some(Next { region, probe }) = line.next(Instant::now(), has_answer(best.as_ref())) {
        if let Some((failed, reason)) = failed {
            let (region, to) = (&failed.upstream.region, &region.upstream.region);
            tracing::warn!(%region, %to, %reason, "failing over to the next upstream");
        }
        let asker = Asker { probes_control: probe.is_some() && case.plane == Plane::Control, ..exchange.asker() };
        let tried = match forms.for_partition(region.partition()).await {
            Ok((received, headers)) => try_region(road, region, &mut exchange, received, headers, &asker).await,
            Err(refusal) => Err(Stop::Refused(refusal)),
        };
        drop(probe);
        let outcome = Outcome::of(&tried);
        if let Ok(Answered { answer, plane, .. }) = &tried {
            remember(region, *plane, case.name, answer);
        }
        let lead = match forms.first().has_begun() {
            // What the client has said cannot be said again.
            true => Lead::Client,
            false => leads_to(outcome, case.doubt(&line, best.as_ref(), region), case.may_repeat),
        };
        match lead {
            Lead::Client => return tried.map_err(|stop| stop.refusal(&mut exchange)),
            Lead::Next(worth) => {
                failed = Some((region, pass_over(&tried, &mut exchange)));
                // Of two that are worth the same, the later one knows more.
                if best.as_ref().is_none_or(|best| worth >= best.worth) {
                    best = Some(Best { worth, went: exchange.last_went(), tried });
                }
            }
        }
    }
    match best {
        Some(Best { went, tried, .. }) => {
            exchange.went(went);
            tried.map_err(|stop| stop.refusal(&mut exchange))
        }
        None => Err(Refusal::new(RefusalKind::ServiceUnavailable, "there is no upstream to send to.")),
    }
}

/// What asking one upstream came to, as far as failover goes by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Answered(StatusCode),
    /// Because the upstream does not know the key, or takes its date for wrong, also after a refresh.
    CredentialRefused,
    /// There is no key, or none that is valid there.
    NoCredential,
    /// It does not serve requests of this kind, with the credential or the protocol that it has.
    Unfit,
    /// Nobody has done anything with it.
    NotSent,
    /// The request may have been received, and a model may be at work on it.
    Broke,
    /// The model, or the profile that it needs, could not be listed, looked up or made.
    Unresolved,
    /// By rules of our own, or because what is asked for does not exist.
    Refused,
}

/// Whether another upstream may know better that something does not exist: models and profiles differ between regions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doubt {
    /// No other one was to be asked before.
    None,
    /// Another one was, and nobody knows what it would have said.
    Unseen,
    /// The same, and it is the one that the request's ARN names.
    UnseenHome,
    /// What is asked for is kept at one upstream, and nobody knows at which.
    Kept,
    /// Another one has no room or no luck at the moment. It may have what is asked for.
    Busy,
}

/// What an outcome leads to.
#[derive(Debug, PartialEq, Eq)]
enum Lead {
    /// The client gets it.
    Client,
    /// The next upstream is asked. At the end of the line the client gets what was worth most.
    Next(Worth),
}

/// How much an outcome tells the client; the last is the best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Worth {
    /// This upstream does not have, or does not find, what another one may have.
    Absent,
    /// The key is for the admin to mend.
    Credential,
    /// The client may try again: nothing was sent that a model has worked on.
    Unsent,
    /// A model may have been at work.
    Broken,
    /// An upstream says itself that the client may try again.
    Answer,
}

/// What asking an upstream leads to. `may_repeat`: to send it twice does no harm, or the configuration permits it.
fn leads_to(outcome: Outcome, doubt: Doubt, may_repeat: bool) -> Lead {
    match outcome {
        Outcome::Answered(status) => match status.as_u16() {
            429 | 500 | 503 => Lead::Next(Worth::Answer),
            // From a gateway before the upstream, which does not know either.
            502 | 504 if may_repeat => Lead::Next(Worth::Answer),
            400 | 401 | 403 | 404 if doubt.reaches_answers() => Lead::Next(Worth::Absent),
            404 if doubt == Doubt::Kept => Lead::Next(Worth::Absent),
            _ => Lead::Client,
        },
        Outcome::CredentialRefused | Outcome::NoCredential => Lead::Next(Worth::Credential),
        Outcome::Unfit => Lead::Next(Worth::Absent),
        Outcome::NotSent | Outcome::Unresolved => Lead::Next(Worth::Unsent),
        Outcome::Broke if may_repeat => Lead::Next(Worth::Broken),
        Outcome::Broke => Lead::Client,
        Outcome::Refused if doubt.reaches_answers() => Lead::Next(Worth::Absent),
        Outcome::Refused => Lead::Client,
    }
}

impl Doubt {
    /// "There is no such thing" is not the last word.
    fn reaches_answers(self) -> bool {
        matches!(self, Doubt::UnseenHome | Doubt::Busy)
    }
}

/// What the client gets if no other upstream serves the request.
struct Best {
    worth: Worth,
    went: Went,
    tried: Tried,
}

fn has_answer(best: Option<&Best>) -> bool {
    best.is_some_and(|best| best.worth == Worth::Answer)
}

/// A request, as far as failover goes by it.
#[derive(Debug)]
struct Case<'a> {
    plane: Plane,
    /// What throttles are remembered by: the model that runs, after aliases, or else the operation.
    name: &'a str,
    /// The region of the ARN that the request names.
    home: Option<String>,
    invokes_model: bool,
    /// It is about a response that is kept where it was made.
    is_of_kept: bool,
    may_repeat: bool,
}

impl<'a> Case<'a> {
    fn of(road: &'a Road, received: &'a Received) -> Case<'a> {
        let operation = received.operation;
        let model = received.model.as_ref().map(|model| model::resolve::unalias(&model.name, &road.settings.models));
        let home = match model {
            Some(name) => arn_region(name).map(str::to_owned),
            None => received.path.split('/').find_map(|segment| {
                let segment = percent_decode_str(segment).decode_utf8().ok()?;
                arn_region(&segment).map(str::to_owned)
            }),
        };
        Case {
            plane: operation.plane,
            name: model.filter(|_| operation.runs_model()).unwrap_or(operation.name),
            home,
            invokes_model: received.invoked_model().is_some(),
            is_of_kept: operation.is_of_kept(),
            // To delete or cancel twice is the same as once.
            may_repeat: received.method.is_safe()
                || operation.is_of_kept()
                || road.settings.upstreams_policy.retry_after_send,
        }
    }

    fn is_bound_to(&self, region: &str) -> bool {
        self.home.as_deref() == Some(region)
    }

    /// Whether others than `region` may know better.
    fn doubt(&self, line: &Line<'_>, best: Option<&Best>, region: &Region) -> Doubt {
        if best.is_some_and(|best| best.worth >= Worth::Broken) || line.has_throttled() {
            return Doubt::Busy;
        }
        if self.is_of_kept {
            return Doubt::Kept;
        }
        let is_elsewhere = self.home.as_ref().is_some_and(|home| *home != region.upstream.region);
        match best.is_some() || line.has_passed_over() {
            true if is_elsewhere => Doubt::UnseenHome,
            true => Doubt::Unseen,
            false => Doubt::None,
        }
    }
}

type Tried = Result<Answered, Stop>;

/// Why an upstream gave no answer.
#[derive(Debug)]
enum Stop {
    Failed(Failure),
    /// What only the upstream can tell or make could not be had.
    Unresolved(Refusal),
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

impl Stop {
    /// Of a model that could not be resolved: only a service that was not there may be there at another upstream.
    fn of_model(refusal: Refusal) -> Stop {
        match refusal.kind {
            RefusalKind::ServiceUnavailable => Stop::Unresolved(refusal),
            _ => Stop::Refused(refusal),
        }
    }

    /// The answer of our own that says so, and what the record has to know of it.
    fn refusal(self, exchange: &mut AdmittedExchange<'_>) -> Refusal {
        match self {
            Stop::Failed(failure) => {
                match failure {
                    // It may have been received, and paid for.
                    Failure::Broke(_) => exchange.upstream_broke(),
                    // Nobody else has done anything with it either, or that would be worth more.
                    Failure::NotSent { .. } | Failure::NotRepeatable(_) => exchange.never_sent(),
                    Failure::NoCredential(_) | Failure::Unfit(_) => {}
                }
                failure.refusal()
            }
            Stop::Unresolved(refusal) | Stop::Refused(refusal) => refusal,
        }
    }
}

impl Outcome {
    fn of(tried: &Tried) -> Outcome {
        match tried {
            Ok(Answered { answer, .. }) => Outcome::of_answer(answer),
            Err(Stop::Failed(Failure::NoCredential(_))) => Outcome::NoCredential,
            Err(Stop::Failed(Failure::Unfit(_))) => Outcome::Unfit,
            Err(Stop::Failed(Failure::NotSent { .. } | Failure::NotRepeatable(_))) => Outcome::NotSent,
            Err(Stop::Failed(Failure::Broke(_))) => Outcome::Broke,
            Err(Stop::Unresolved(_)) => Outcome::Unresolved,
            Err(Stop::Refused(_)) => Outcome::Refused,
        }
    }

    fn of_answer(answer: &Answer) -> Outcome {
        match answer.remedy() {
            Remedy::Credential | Remedy::Clock(_) => Outcome::CredentialRefused,
            _ => Outcome::Answered(answer.status),
        }
    }
}

/// The next upstream is asked. Returns why, for the log.
fn pass_over(tried: &Tried, exchange: &mut AdmittedExchange<'_>) -> String {
    match tried {
        Ok(Answered { answer, .. }) => {
            exchange.passes_over(Ok(answer));
            format!("it answered {}", answer.status.as_u16())
        }
        Err(Stop::Failed(failure)) => {
            exchange.passes_over(Err(failure));
            failure.refusal().message.into_owned()
        }
        Err(Stop::Unresolved(refusal) | Stop::Refused(refusal)) => refusal.message.to_string(),
    }
}

/// For a while, requests for the same name go to another upstream first, or all do as long as there is no other key. What the
/// host of one plane says holds for that host.
fn remember(region: &Region, plane: Plane, name: &str, answer: &Answer) {
    let throttled = region.upstream.throttled(plane);
    match Outcome::of_answer(answer) {
        Outcome::Answered(StatusCode::TOO_MANY_REQUESTS) => {
            let after = retry_after(&answer.headers, SystemTime::now());
            throttled.note(name, after, Instant::now());
        }
        Outcome::Answered(status) if status.is_success() => throttled.forget(name),
        Outcome::CredentialRefused => {
            if let Some(key) = answer.refused_key {
                region.upstream.note_refused_key(plane, key, Instant::now());
            }
        }
        _ => {}
    }
}

/// One upstream: resolves the model and sends, and once more through a profile if the upstream demands one.
async fn try_region(
    road: &Road,
    region: &Region,
    exchange: &mut AdmittedExchange<'_>,
    received: &Received,
    headers: &Arc<HeaderMap>,
    asker: &Asker,
) -> Result<Answered, Stop> {
    exchange.tries(&region.upstream, received.operation.plane);
    if received.events.is_some() {
        // Before anything is looked up or made for it.
        Box::pin(region.upstream.check_signer()).await?;
    }
    let Some(requested) = &received.model else {
        let request = received.to_upstream(headers, None)?;
        let answer = send(region, exchange, &request).await?;
        return Ok(answered(region, request.plane, answer, None));
    };
    match received.operation.model {
        ModelPlace::Described if received.operation.plane == Plane::Mantle => {
            Box::pin(mantle::describe(road, region, exchange, received, requested, headers, asker)).await
        }
        _ if received.operation.plane == Plane::Mantle => {
            Box::pin(mantle::invoke(road, region, exchange, received, requested, headers, asker)).await
        }
        ModelPlace::CopyFrom => {
            let checked = Box::pin(region.models.check_copy_from(&requested.name, &region.upstream, asker)).await;
            checked.map_err(Stop::of_model)?;
            Box::pin(describe(road, region, exchange, received, requested, headers, asker)).await
        }
        ModelPlace::Described => Box::pin(describe(road, region, exchange, received, requested, headers, asker)).await,
        _ => invoke(road, region, exchange, received, requested, headers, asker).await,
    }
}

/// What is described, deleted or copied is named as it is, but for names of the other partition.
async fn describe(
    road: &Road,
    region: &Region,
    exchange: &mut AdmittedExchange<'_>,
    received: &Received,
    requested: &RequestedModel,
    headers: &Arc<HeaderMap>,
    asker: &Asker,
) -> Result<Answered, Stop> {
    let target = if *received.operation == operation::GET_INFERENCE_PROFILE {
        region.models.described_profile(&requested.name, &region.upstream, asker).await.map_err(Stop::of_model)?
    } else {
        model::resolve::described(&requested.name, region.partition())?
    };
    exchange.sent_as(&target);
    road.metrics.resolved(target.how);
    let request = received.to_upstream(headers, Some(&target.identifier))?;
    let answer = send(region, exchange, &request).await?;
    Ok(answered(region, request.plane, answer, Some(target)))
}

async fn invoke(
    road: &Road,
    region: &Region,
    exchange: &mut AdmittedExchange<'_>,
    received: &Received,
    requested: &RequestedModel,
    headers: &Arc<HeaderMap>,
    asker: &Asker,
) -> Result<Answered, Stop> {
    let Region { upstream, models, .. } = region;
    let own = OwnCalls { road: exchange.road(), parent: exchange.span() };
    // Some operations know a model by its own name alone: no profile is needed for these, nor made.
    let (resolved, takes_profiles) = match received.operation {
        count if *count == operation::COUNT_TOKENS => (models.counted(&requested.name, upstream, asker).await, false),
        rerank if *rerank == operation::RERANK => (models.reranked(&requested.name, upstream, asker).await, false),
        _ => (models.target(&requested.name, upstream, asker, &own).await, true),
    };
    let mut target = resolved.map_err(Stop::of_model)?;
    let mut may_retry = takes_profiles;
    loop {
        exchange.sent_as(&target);
        road.metrics.resolved(target.how);
        let made = || received.to_upstream(headers, Some(&target.identifier));
        let request = large::work(received.body.len(), made).await?;
        let answer = send(region, exchange, &request).await?;
        let demands_profile = answer.remedy() == Remedy::Profile;
        if demands_profile && may_retry && !received.has_begun() {
            may_retry = false;
            let profile = models.after_on_demand_refusal(&requested.name, &target, upstream, asker, &own);
            if let Some(profile) = Box::pin(profile).await {
                target = profile.map_err(Stop::of_model)?;
                continue;
            }
        } else if !demands_profile && !may_retry && takes_profiles {
            models.remember(&requested.name, &target, upstream);
        }
        let is_found = matches!(target.how, How::Learned | How::Created | How::Discovered);
        if is_found && answer.error().is_some_and(|error| error.blames_model(answer.status)) {
            models.forget(&requested.name, &target, upstream);
        }
        let lacks = mantle::may_have(region, received.operation, asker, &answer);
        let answered = answered(region, request.plane, answer, Some(target));
        return match lacks {
            // In a box: what is asked for seldom shall not make the future of every request larger.
            true => {
                let instead = mantle::instead(road, region, exchange, received, headers, asker, answered);
                Box::pin(instead).await
            }
            false => Ok(answered),
        };
    }
}

fn answered(region: &Region, plane: Plane, answer: Answer, target: Option<Target>) -> Answered {
    // A listing names no model.
    let listed_by = target.is_none().then(|| Arc::clone(&region.models));
    Answered { answer, upstream: Arc::clone(&region.upstream), plane, target, listed_by }
}

async fn send(region: &Region, exchange: &mut AdmittedExchange<'_>, request: &UpstreamRequest) -> Result<Answer, Stop> {
    exchange.open().await?.send(&region.upstream, request).await.map_err(Stop::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use Lead::{Client, Next};

    const DOUBTS: [Doubt; 5] = [Doubt::None, Doubt::Unseen, Doubt::UnseenHome, Doubt::Kept, Doubt::Busy];

    fn answered(status: u16) -> Outcome {
        Outcome::Answered(StatusCode::from_u16(status).unwrap())
    }

    #[test]
    fn what_does_not_depend_on_other_upstreams() {
        for doubt in DOUBTS {
            for (outcome, expected, if_it_may_be_repeated) in [
                (answered(200), Client, Client),
                (answered(408), Client, Client),
                (answered(413), Client, Client),
                (answered(424), Client, Client),
                (answered(429), Next(Worth::Answer), Next(Worth::Answer)),
                (answered(500), Next(Worth::Answer), Next(Worth::Answer)),
                (answered(502), Client, Next(Worth::Answer)),
                (answered(503), Next(Worth::Answer), Next(Worth::Answer)),
                (answered(504), Client, Next(Worth::Answer)),
                (Outcome::CredentialRefused, Next(Worth::Credential), Next(Worth::Credential)),
                (Outcome::NoCredential, Next(Worth::Credential), Next(Worth::Credential)),
                (Outcome::Unfit, Next(Worth::Absent), Next(Worth::Absent)),
                (Outcome::NotSent, Next(Worth::Unsent), Next(Worth::Unsent)),
                (Outcome::Unresolved, Next(Worth::Unsent), Next(Worth::Unsent)),
                (Outcome::Broke, Client, Next(Worth::Broken)),
            ] {
                assert_eq!(leads_to(outcome, doubt, false), expected, "{outcome:?} {doubt:?}");
                assert_eq!(leads_to(outcome, doubt, true), if_it_may_be_repeated, "{outcome:?} {doubt:?}");
            }
        }
    }

    #[test]
    fn what_does_not_exist_here_may_exist_where_others_were_to_be_asked_before() {
        for outcome in [answered(400), answered(401), answered(403), answered(404), Outcome::Refused] {
            let kept = if outcome == answered(404) { Next(Worth::Absent) } else { Client };
            let expected = [Client, Client, Next(Worth::Absent), kept, Next(Worth::Absent)];
            for (doubt, expected) in DOUBTS.into_iter().zip(expected) {
                assert_eq!(leads_to(outcome, doubt, false), expected, "{outcome:?} {doubt:?}");
            }
        }
    }

    #[test]
    fn of_several_outcomes_the_client_gets_the_one_that_tells_most() {
        let rising = [Worth::Absent, Worth::Credential, Worth::Unsent, Worth::Broken, Worth::Answer];
        assert!(rising.is_sorted());
    }
}
