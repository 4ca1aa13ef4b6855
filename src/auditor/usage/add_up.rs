//! Adding up the roll-ups that a question is about: in all, for each interval, and for the groups with the most requests.

use std::borrow::Cow;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use rusqlite::Connection;

use super::question::{By, NONE, UID, UNKNOWN};
use crate::ledger::rollups::Sums;
use crate::ledger::rollups::read::{Selection, Summed, for_each};
use crate::record::Outcome;

/// Groups that are told one by one.
const MOST_GROUPS: usize = 50;
/// Kinds of failure that are told.
const MOST_ERRORS: usize = 50;

/// Sums, and how many of the requests in them failed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Total {
    pub(super) sums: Sums,
    pub(super) errors: u64,
}

/// What was added up.
#[derive(Debug, Default)]
pub(super) struct Usage {
    pub(super) total: Total,
    /// One for each interval of the window, the oldest first.
    pub(super) series: Vec<Total>,
    /// By name, most requests first.
    pub(super) groups: Vec<(String, Total)>,
    /// How many groups are not among these, and their sums.
    pub(super) others: (usize, Total),
    /// Requests that failed, by outcome and status code, most requests first.
    pub(super) errors: Vec<((String, u16), u64)>,
}

impl Total {
    fn add(&mut self, sums: &Sums, failed: bool) {
        self.sums.merge(sums);
        if failed {
            self.errors = self.errors.saturating_add(sums.requests);
        }
    }
}

/// Adds up. Names are read twice, so that memory holds those of the largest groups only, however many there are.
pub(super) fn add_up(db: &Connection, selection: &Selection, by: By) -> Result<Usage, rusqlite::Error> {
    let hashes = RandomState::new();
    let mut sizes: HashMap<u64, u64> = HashMap::new();
    for_each(db, selection, |row| {
        let size = sizes.entry(hashes.hash_one(name(row, by)?)).or_default();
        *size = size.saturating_add(row.requests()?);
        Ok(())
    })?;
    let distinct = sizes.len();
    let mut largest: Vec<(u64, u64)> = sizes.into_iter().map(|(hash, requests)| (requests, hash)).collect();
    largest.sort_unstable_by(|one, other| other.cmp(one));
    largest.truncate(MOST_GROUPS);
    let places: HashMap<u64, usize> = largest.iter().enumerate().map(|(at, (_, hash))| (*hash, at)).collect();

    let intervals = (selection.to - selection.from).div_euclid(selection.resolution.step) + 1;
    let mut usage = Usage {
        series: vec![Total::default(); usize::try_from(intervals).unwrap_or(0)],
        groups: vec![(String::new(), Total::default()); places.len()],
        others: (distinct - places.len(), Total::default()),
        ..Usage::default()
    };
    let mut errors: HashMap<(String, u16), u64> = HashMap::new();
    for_each(db, selection, |row| {
        let (sums, failed) = (row.sums()?, row.outcome()? != Outcome::Completed.as_str());
        usage.total.add(&sums, failed);
        let interval = (row.start()? - selection.from).div_euclid(selection.resolution.step);
        if let Some(total) = usize::try_from(interval).ok().and_then(|at| usage.series.get_mut(at)) {
            total.add(&sums, failed);
        }
        let name = name(row, by)?;
        let group = places.get(&hashes.hash_one(&name)).and_then(|at| usage.groups.get_mut(*at));
        match group {
            Some((known, total)) => {
                if known.is_empty() {
                    *known = name.into_owned();
                }
                total.add(&sums, failed);
            }
            None => usage.others.1.add(&sums, failed),
        }
        if failed {
            let count = errors.entry((row.outcome()?.to_owned(), row.status()?)).or_default();
            *count = count.saturating_add(sums.requests);
        }
        Ok(())
    })?;
    usage.groups.sort_unstable_by(|(name, one), (other_name, other)| {
        other.sums.requests.cmp(&one.sums.requests).then_with(|| name.cmp(other_name))
    });
    usage.errors = errors.into_iter().collect();
    usage.errors.sort_unstable_by(|(kind, one), (other_kind, other)| other.cmp(one).then_with(|| kind.cmp(other_kind)));
    usage.errors.truncate(MOST_ERRORS);
    Ok(usage)
}

/// The name of the group that a row belongs to.
fn name<'a>(row: &'a Summed<'_>, by: By) -> Result<Cow<'a, str>, rusqlite::Error> {
    let name = match by {
        By::Model => row.model()?,
        By::Operation => row.operation()?,
        By::Upstream => row.region()?,
        By::Caller => {
            let (name, uid) = (row.caller()?, row.uid()?);
            return Ok(match uid {
                _ if !name.is_empty() => Cow::Borrowed(name),
                Some(uid) => Cow::Owned(format!("{UID}{uid}")),
                None => Cow::Borrowed(UNKNOWN),
            });
        }
    };
    Ok(Cow::Borrowed(if name.is_empty() { NONE } else { name }))
}
