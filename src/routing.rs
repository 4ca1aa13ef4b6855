//! Which upstreams a request may be sent to. Nothing is sent to any other: `forward.rs` takes its upstreams from a [`Route`].
//!
//! The partition is decided first: by what policy permits, by a line of `[models.partition]`, and then by the first
//! upstream, in the order of the file, whose catalogue serves the model. Within it `forward/line.rs` has its order.

pub(crate) mod listing;
pub(crate) mod overview;

use percent_encoding::percent_decode_str;

use crate::caller::{Caller, User};
use crate::error::{Refusal, RefusalKind};
use crate::model::lookup::Asker;
use crate::model::serving::Serves;
use crate::operation::{ModelPlace, Operation, Plane};
use crate::partition::{Partition, Partitions};
use crate::policy::{self, Permit};
use crate::request::Received;
use crate::road::{Region, Road, arn_region};

/// The upstreams that a request may be sent to, by their places in the road. Only [`decide`] makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Route {
    partition: Partition,
    /// In the partition that serves it.
    first: Places,
    /// In the other one, where failover may lead there.
    then: Vec<usize>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Places {
    All,
    Some(Vec<usize>),
}

impl Route {
    /// The partition of the upstreams that are asked first.
    pub(crate) fn partition(&self) -> Partition {
        self.partition
    }

    /// The upstreams of that partition, in the order of the file.
    pub(crate) fn first(&self, road: &Road) -> impl Iterator<Item = usize> + Clone {
        let places = match &self.first {
            Places::All => None,
            Places::Some(places) => Some(places.as_slice()),
        };
        let count = places.map_or(road.regions.len(), <[usize]>::len);
        (0..count).map(move |at| places.map_or(at, |places| places[at]))
    }

    /// Those of the other partition that failover may lead to.
    pub(crate) fn then(&self) -> impl Iterator<Item = usize> + Clone {
        self.then.iter().copied()
    }

    /// Where a name is to be looked up: in the region of an ARN, if the request may go there.
    pub(crate) fn region_of<'a>(&self, road: &'a Road, name: &str) -> Option<&'a Region> {
        let mut regions = self.first(road).filter_map(|at| road.regions.get(at));
        let named = arn_region(name);
        let own = regions.clone().find(|region| Some(region.upstream.region.as_str()) == named);
        own.or_else(|| regions.next())
    }
}

/// Refuses a request that may go to no upstream, whatever it asks for.
///
/// # Errors
/// 403 with the rule, 404 if the host that serves the operation is not used.
pub(crate) fn check_reach(road: &Road, caller: &Caller, permit: &Permit, operation: &Operation) -> Result<(), Refusal> {
    let partitions = match operation.plane {
        Plane::Mantle if !road.settings.mantle.enabled => {
            return Err(Refusal::new(
                RefusalKind::UnknownOperation,
                format!(
                    "{} is served by bedrock-mantle, which is not used here; write enabled = true under [mantle], or give the client the base URL http://…/openai/v1, which bedrock-runtime serves.",
                    operation.name
                ),
            ));
        }
        plane => with_plane(road, plane),
    };
    if partitions.is_empty() {
        return Err(without_host(operation, "any of the upstreams"));
    }
    if !permit.reach().and(partitions).is_empty() {
        return Ok(());
    }
    let partition = if partitions.has(Partition::Commercial) { Partition::Commercial } else { Partition::Govcloud };
    Err(policy::stays(caller, permit, partition, "the upstreams are in", &road.settings))
}

/// Decides where a request may go. Upstreams whose models are not listed yet are asked for them, if it depends on these.
///
/// # Errors
/// 403 where a rule keeps it from the only partition that serves it, 503 where nobody can tell which one does.
pub(crate) async fn decide(
    road: &Road,
    caller: &Caller,
    permit: &Permit,
    received: &Received,
    user: User,
) -> Result<Route, Refusal> {
    check_reach(road, caller, permit, received.operation)?;
    if received.operation.plane == Plane::Mantle {
        return of_mantle(road, caller, permit, received);
    }
    if received.operation.plane == Plane::AgentRuntime {
        // In a box: few requests rerank.
        return Box::pin(of_agent_runtime(road, caller, permit, received, user)).await;
    }
    by_model(road, caller, permit, received, user).await
}

/// Where the model is served, and only to those that have a host for it.
async fn of_agent_runtime(
    road: &Road,
    caller: &Caller,
    permit: &Permit,
    received: &Received,
    user: User,
) -> Result<Route, Refusal> {
    let route = by_model(road, caller, permit, received, user).await?;
    let has_host = |at: &usize| road.regions[*at].upstream.serves(Plane::AgentRuntime);
    let first: Vec<usize> = route.first(road).filter(has_host).collect();
    if first.is_empty() {
        let whose = format!("the upstreams of the partition {} that serve its model", route.partition);
        return Err(without_host(received.operation, &whose));
    }
    Ok(Route { first: Places::Some(first), then: route.then().filter(has_host).collect(), ..route })
}

/// Of a host that nobody has written, where the other ones are.
fn without_host(operation: &Operation, whose: &str) -> Refusal {
    let (host, setting) = match operation.plane {
        Plane::Mantle => ("bedrock-mantle", "mantle_endpoint"),
        _ => ("bedrock-agent-runtime", "agent_runtime_endpoint"),
    };
    let sentence = format!(
        "{} is served by {host}, which is not used at {whose}, because other endpoints are written there; write {setting} there too.",
        operation.name
    );
    Refusal::new(RefusalKind::UnknownOperation, sentence)
}

async fn by_model(
    road: &Road,
    caller: &Caller,
    permit: &Permit,
    received: &Received,
    user: User,
) -> Result<Route, Refusal> {
    if let Some(partition) = road.partitions.single() {
        return Ok(Route { partition, first: Places::All, then: Vec::new() });
    }
    let model = received.model.as_ref().map(|model| model.name.as_str());
    // What a profile is made of is not translated.
    let Some(model) = model.filter(|_| received.operation.model != ModelPlace::CopyFrom) else {
        return of_no_model(road, caller, permit, received);
    };
    if let Some(route) = of_model(road, caller, permit, model)? {
        return Ok(route);
    }
    // In a box: what happens once after a start needs no room in every request.
    Box::pin(listed(road, caller, permit, model, user)).await
}

/// Decides over a model after the upstreams on which it depends have been asked what they serve.
async fn listed(road: &Road, caller: &Caller, permit: &Permit, model: &str, user: User) -> Result<Route, Refusal> {
    let asker = Asker { user, entry: caller.entry.clone(), probes_control: false };
    let may_matter = |region: &&Region| permit.reach().has(region.partition()) && !region.models.is_listed();
    for region in road.regions.iter().filter(may_matter) {
        region.models.come_to_know(&region.upstream, &asker).await;
        if let Some(route) = of_model(road, caller, permit, model)? {
            return Ok(route);
        }
    }
    let unlisted: Vec<&str> =
        road.regions.iter().filter(may_matter).map(|region| region.upstream.region.as_str()).collect();
    Err(Refusal::new(
        RefusalKind::ServiceUnavailable,
        format!(
            "the models of {} could not be listed, so that nobody knows whether {model:.200} is served there; try again, and if that does not end, look at `bedrock-sidecar check --online`, or say under [models.partition] where the model is to be served.",
            unlisted.join(", ")
        ),
    ))
}

/// None while it depends on what is not listed yet.
fn of_model(road: &Road, caller: &Caller, permit: &Permit, model: &str) -> Result<Option<Route>, Refusal> {
    let stays = |partition, what: &str| Err(policy::stays(caller, permit, partition, what, &road.settings));
    let candidates: Vec<Candidate> = (0..road.regions.len()).map(|at| Candidate::of(road, at, model)).collect();
    // Every upstream has the same lines.
    if let Some(pin) = road.regions.first().and_then(|region| region.models.pin(model)) {
        let partition = pin.partition;
        if !permit.reach().has(partition) {
            let what = format!("{model:.200} is served, by [models.partition] at {}, in", pin.place);
            return stays(partition, &what);
        }
        let of_it = candidates.into_iter().filter(|one| one.partition == partition).collect();
        return Ok(Some(route(partition, of_it, Vec::new())));
    }
    let (may, may_not): (Vec<_>, Vec<_>) = candidates.into_iter().partition(|one| permit.reach().has(one.partition));
    let crosses = road.settings.policy.cross_partition_failover;
    let partition = match choose(&may, crosses) {
        Choice::In(partition) => partition,
        Choice::Undecided => return Ok(None),
        Choice::Nobody => match may_not.first() {
            Some(kept_from) => {
                let what = format!("{model:.200} is not served where the request may go, which is not");
                return stays(kept_from.partition, &what);
            }
            // Whoever is asked says so in its own words.
            None => home(&may, model).or(may.first().map(|one| one.partition)).unwrap_or_default(),
        },
    };
    let (first, others): (Vec<_>, Vec<_>) = may.into_iter().partition(|one| one.partition == partition);
    let then = others.into_iter().filter(|one| crosses && one.serves != Serves::No).map(|one| one.at).collect();
    Ok(Some(route(partition, first, then)))
}

/// The partitions that have a host of a plane.
pub(crate) fn with_plane(road: &Road, plane: Plane) -> Partitions {
    match plane {
        Plane::Mantle | Plane::AgentRuntime => with_host(road, plane).map(|at| road.regions[at].partition()).collect(),
        Plane::Runtime | Plane::Control => road.partitions,
    }
}

/// The upstreams that have a host of a plane.
fn with_host(road: &Road, plane: Plane) -> impl Iterator<Item = usize> {
    (0..road.regions.len()).filter(move |at| road.regions[*at].upstream.serves(plane))
}

/// Where there is a mantle host. What these serve is in no catalogue, so a line of `[models.partition]` decides, then the
/// model's name, and then the order of the file.
fn of_mantle(road: &Road, caller: &Caller, permit: &Permit, received: &Received) -> Result<Route, Refusal> {
    let model = received.model.as_ref().map(|model| model.name.as_str());
    let pin = model.and_then(|model| road.regions.first()?.models.pin(model));
    if let (Some(model), Some(pin)) = (model, pin) {
        let partition = pin.partition;
        if !permit.reach().has(partition) {
            let what = format!("{model:.200} is served, by [models.partition] at {}, in", pin.place);
            return Err(policy::stays(caller, permit, partition, &what, &road.settings));
        }
        if !with_host(road, Plane::Mantle).any(|at| road.regions[at].partition() == partition) {
            let sentence = format!(
                "{model:.200} is served, by [models.partition] at {}, in the partition {partition}, of which no upstream has a bedrock-mantle host.",
                pin.place
            );
            return Err(Refusal::new(RefusalKind::AccessDenied, sentence));
        }
    }
    let may: Vec<(usize, Partition)> = with_host(road, Plane::Mantle)
        .map(|at| (at, road.regions[at].partition()))
        .filter(|(_, partition)| permit.reach().has(*partition))
        .collect();
    let home = model.and_then(Partition::of_name).filter(|home| may.iter().any(|(_, one)| one == home));
    let partition = pin.map(|pin| pin.partition).or(home).or(may.first().map(|(_, first)| *first)).unwrap_or_default();
    let crosses = road.settings.policy.cross_partition_failover && pin.is_none();
    Ok(in_order(&may, partition, crosses))
}

/// All of a partition in their order, and those of the other one behind them if failover may lead there.
fn in_order(may: &[(usize, Partition)], partition: Partition, crosses: bool) -> Route {
    let places = |of: Partition| may.iter().filter(move |(_, one)| *one == of).map(|(at, _)| *at).collect::<Vec<_>>();
    let then = if crosses { places(partition.other()) } else { Vec::new() };
    Route { partition, first: Places::Some(places(partition)), then }
}

/// An operation that invokes no model: it goes where what it names is at home, or else to the first upstream.
fn of_no_model(road: &Road, caller: &Caller, permit: &Permit, received: &Received) -> Result<Route, Refusal> {
    let in_path = || {
        received.path.split('/').find_map(|segment| {
            let segment = percent_decode_str(segment).decode_utf8().ok()?;
            Partition::of_name(&segment)
        })
    };
    let in_query = || {
        let values = received.query.as_deref()?.split('&').filter_map(|pair| pair.split_once('='));
        let mut values = values.filter_map(|(_, value)| percent_decode_str(value).decode_utf8().ok());
        values.find_map(|value| Partition::of_name(&value))
    };
    let copied = received.model.as_ref().and_then(|model| Partition::of_name(&model.name));
    let named = copied.or_else(in_path).or_else(in_query);
    if let Some(home) = named.filter(|home| !permit.reach().has(*home)) {
        return Err(policy::stays(caller, permit, home, "what the request names is in", &road.settings));
    }
    let may: Vec<(usize, Partition)> = road
        .regions
        .iter()
        .enumerate()
        .map(|(at, region)| (at, region.partition()))
        .filter(|(_, partition)| permit.reach().has(*partition))
        .collect();
    let partition = named.or(may.first().map(|(_, partition)| *partition)).unwrap_or_default();
    let crosses = road.settings.policy.cross_partition_failover && named.is_none();
    Ok(in_order(&may, partition, crosses))
}

/// An upstream, as far as the choice goes by it.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    at: usize,
    partition: Partition,
    serves: Serves,
}

impl Candidate {
    fn of(road: &Road, at: usize, model: &str) -> Candidate {
        let region = &road.regions[at];
        Candidate { at, partition: region.partition(), serves: region.models.serves(model) }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Choice {
    In(Partition),
    /// It depends on an upstream that is not known yet.
    Undecided,
    Nobody,
}

/// The partition of the first upstream that serves the model. What may serve it stands before what does, unless failover may
/// lead past it anyway.
fn choose(candidates: &[Candidate], crosses: bool) -> Choice {
    let first = |serves| candidates.iter().find(|one| one.serves == serves);
    match (first(Serves::Yes), first(Serves::Unknown)) {
        (None, None) => Choice::Nobody,
        (Some(yes), None) => Choice::In(yes.partition),
        (Some(yes), Some(unknown)) if crosses || yes.at < unknown.at => Choice::In(yes.partition),
        (Some(yes), Some(unknown)) if yes.partition == unknown.partition => Choice::In(yes.partition),
        (Some(_), Some(_)) => Choice::Undecided,
        (None, Some(unknown)) => {
            let is_elsewhere = |one: &&Candidate| one.serves == Serves::Unknown && one.partition != unknown.partition;
            match candidates.iter().find(is_elsewhere) {
                Some(_) => Choice::Undecided,
                None => Choice::In(unknown.partition),
            }
        }
    }
}

/// Where the name of a model is at home, if it may go there.
fn home(may: &[Candidate], model: &str) -> Option<Partition> {
    let home = Partition::of_name(model)?;
    may.iter().any(|one| one.partition == home).then_some(home)
}

/// Those that do not serve the model are left out, unless none does.
fn route(partition: Partition, of_it: Vec<Candidate>, then: Vec<usize>) -> Route {
    let serve: Vec<usize> = of_it.iter().filter(|one| one.serves != Serves::No).map(|one| one.at).collect();
    let first = if serve.is_empty() { of_it.iter().map(|one| one.at).collect() } else { serve };
    Route { partition, first: Places::Some(first), then }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Partition::{Commercial, Govcloud};
    use Serves::{No, Unknown, Yes};

    fn chosen(upstreams: &[(Partition, Serves)], crosses: bool) -> Choice {
        let of = |(at, (partition, serves)): (usize, &(Partition, Serves))| Candidate {
            at,
            partition: *partition,
            serves: *serves,
        };
        choose(&upstreams.iter().enumerate().map(of).collect::<Vec<_>>(), crosses)
    }

    #[test]
    fn the_first_upstream_that_serves_a_model_gives_the_partition() {
        for (one, other, expected) in [
            (Yes, Yes, Choice::In(Govcloud)),
            (Yes, No, Choice::In(Govcloud)),
            (Yes, Unknown, Choice::In(Govcloud)),
            (No, Yes, Choice::In(Commercial)),
            (No, Unknown, Choice::In(Commercial)),
            (No, No, Choice::Nobody),
            (Unknown, No, Choice::In(Govcloud)),
            (Unknown, Yes, Choice::Undecided),
            (Unknown, Unknown, Choice::Undecided),
        ] {
            assert_eq!(chosen(&[(Govcloud, one), (Commercial, other)], false), expected, "{one:?} {other:?}");
        }
    }

    #[test]
    fn what_is_not_known_is_passed_over_only_where_failover_may() {
        let upstreams = [(Govcloud, Unknown), (Commercial, Yes)];
        assert_eq!(chosen(&upstreams, true), Choice::In(Commercial));
        assert_eq!(chosen(&[(Govcloud, Unknown), (Govcloud, Yes), (Commercial, Yes)], false), Choice::In(Govcloud));
        assert_eq!(chosen(&[(Commercial, Unknown), (Govcloud, Yes)], false), Choice::Undecided);
        assert_eq!(chosen(&[(Govcloud, No), (Commercial, Unknown)], false), Choice::In(Commercial));
        assert_eq!(chosen(&[], true), Choice::Nobody);
    }

    #[test]
    fn upstreams_that_do_not_serve_a_model_are_left_out_if_another_does() {
        let of = |serves: &[Serves]| {
            let candidates = serves.iter().enumerate();
            let candidates = candidates.map(|(at, serves)| Candidate { at, partition: Commercial, serves: *serves });
            route(Commercial, candidates.collect(), vec![]).first
        };
        assert_eq!(of(&[No, Yes, Unknown]), Places::Some(vec![1, 2]));
        assert_eq!(of(&[No, No]), Places::Some(vec![0, 1]));
    }
}
