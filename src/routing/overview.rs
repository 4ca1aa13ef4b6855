//! Every model with the upstream that would serve it, and as what: what the listings of models show.

use std::collections::BTreeMap;

use super::{Candidate, Choice, choose};
use crate::model::serving::Serves;
use crate::model::{Overview, Sent};
use crate::partition::{Partition, Partitions};
use crate::road::Region;

/// A model, and where it would be served.
#[derive(Debug)]
pub(crate) struct Served {
    pub line: Overview,
    /// The upstream's; none where no upstream would.
    pub region: Option<String>,
    pub partition: Option<Partition>,
}

/// Every model that the upstreams have listed. `reach` is where the requests may go that this is for; `crosses` is
/// `policy.cross_partition_failover`. With one partition alone, the models of its first upstream.
pub(crate) fn overview(regions: &[Region], reach: Partitions, crosses: bool) -> Vec<Served> {
    let partitions: Partitions = regions.iter().map(Region::partition).collect();
    if partitions != Partitions::ALL {
        let first = regions.first().filter(|region| reach.has(region.partition()));
        return first.map(|region| lines(region).map(|line| served(region, line)).collect()).unwrap_or_default();
    }
    let mut known = BTreeMap::<String, Vec<(usize, Overview)>>::new();
    for (at, region) in regions.iter().enumerate() {
        for line in lines(region) {
            known.entry(line.model.model_id.clone()).or_default().push((at, line));
        }
    }
    known.into_iter().filter_map(|(id, lines)| one(regions, &id, lines, reach, crosses)).collect()
}

fn lines(region: &Region) -> impl Iterator<Item = Overview> {
    region.models.overview(&region.upstream.credentials().account_key()).into_iter()
}

fn served(region: &Region, line: Overview) -> Served {
    Served { line, region: Some(region.upstream.region.clone()), partition: Some(region.partition()) }
}

/// A model, by what each upstream that lists it says of it.
fn one(
    regions: &[Region],
    id: &str,
    mut lines: Vec<(usize, Overview)>,
    reach: Partitions,
    crosses: bool,
) -> Option<Served> {
    let never = |lines: Vec<(usize, Overview)>, reason: String| {
        let (_, line) = lines.into_iter().next()?;
        Some(Served { line: Overview { sent: Sent::Never(reason), ..line }, region: None, partition: None })
    };
    let pin = regions.first().and_then(|region| region.models.pin(id)).map(|pin| pin.partition);
    let candidates = regions.iter().enumerate().map(|(at, region)| Candidate {
        at,
        partition: region.partition(),
        serves: region.models.serves(id),
    });
    let wanted = candidates.filter(|one| pin.is_none_or(|pin| one.partition == pin));
    let (may, may_not): (Vec<_>, Vec<_>) = wanted.partition(|one| reach.has(one.partition));
    let partition = match choose(&may, crosses) {
        Choice::In(partition) => partition,
        Choice::Undecided => return never(lines, "the models of another upstream are not listed yet".to_owned()),
        Choice::Nobody => match may_not.iter().find(|one| one.serves == Serves::Yes) {
            Some(kept) => {
                return never(lines, format!("policy keeps the request from the partition {}", kept.partition));
            }
            None => match may.first() {
                Some(first) => first.partition,
                None => return never(lines, "no upstream may serve it".to_owned()),
            },
        },
    };
    // The first of that partition that lists it.
    let at =
        lines.iter().position(|(at, _)| regions[*at].partition() == partition && may.iter().any(|one| one.at == *at));
    match at {
        Some(index) => {
            let (at, line) = lines.swap_remove(index);
            Some(served(&regions[at], line))
        }
        None => never(lines, format!("no upstream in the partition {partition} lists it")),
    }
}
