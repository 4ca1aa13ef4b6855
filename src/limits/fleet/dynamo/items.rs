//! The fleet's items: what is in them, and how it is written.

use std::collections::HashMap;
use std::str::FromStr;

use aws_sdk_dynamodb::types::AttributeValue;

use super::super::amount::{Amount, Terms};
use super::super::curve::Curve;
use super::super::shard::{Declared, Shard};
use super::super::store::{Pool, StoredLease};

pub(super) type Item = HashMap<String, AttributeValue>;

const SHARD: &str = "shard#";
const LEASE: &str = "lease#";

pub(super) fn text(text: &str) -> AttributeValue {
    AttributeValue::S(text.to_owned())
}

pub(super) fn number(number: impl ToString) -> AttributeValue {
    AttributeValue::N(number.to_string())
}

pub(super) fn shard_key(number: u64) -> String {
    format!("{SHARD}{number}")
}

pub(super) fn old_lease_key(id: &str) -> String {
    format!("{LEASE}{id}")
}

/// A lease in a shard: version, requests and tokens held, requests and tokens wanted, and for how many milliseconds it is good.
/// Every byte of it is paid with every write of the shard.
pub(super) fn lease_text(lease: &StoredLease) -> String {
    let StoredLease { version, held, wanted, hold_ms, .. } = lease;
    format!("{version} {} {} {} {} {hold_ms}", held.requests, held.tokens, wanted.requests, wanted.tokens)
}

fn lease_in_shard(id: &str, written: &AttributeValue) -> Option<StoredLease> {
    let mut numbers = written.as_s().ok()?.split(' ').map(str::parse);
    let mut next = || numbers.next()?.ok();
    Some(StoredLease {
        id: id.into(),
        version: next()?,
        held: Amount { requests: next()?, tokens: next()? },
        wanted: Amount { requests: next()?, tokens: next()? },
        hold_ms: next()?,
    })
}

pub(super) fn shard_item(shard: &Shard) -> Item {
    let Shard { budget, due, free, terms, declared, .. } = shard;
    let leases = shard.leases.iter().map(|lease| (lease.id.to_string(), text(&lease_text(lease)))).collect();
    let amounts =
        [("Budget", *budget), ("Due", *due), ("Free", *free), ("Limit", terms.limit), ("Wanted", declared.wanted)];
    let amounts = amounts.into_iter().flat_map(|(of, amount)| {
        [(format!("requests{of}"), number(amount.requests)), (format!("tokens{of}"), number(amount.tokens))]
    });
    let others = [
        ("id", text(&shard_key(shard.number))),
        ("round", number(shard.round)),
        ("revision", number(terms.revision)),
        ("shards", number(shard.shards)),
        ("elsewhere", number(shard.elsewhere)),
        ("hosts", number(declared.hosts)),
        ("requestsCurve", text(&curve_text(&declared.curves[0]))),
        ("tokensCurve", text(&curve_text(&declared.curves[1]))),
        ("leases", AttributeValue::M(leases)),
    ];
    others.into_iter().map(|(name, value)| (name.to_owned(), value)).chain(amounts).collect()
}

pub(super) fn shard(item: &Item) -> Option<Shard> {
    let written = item.get("leases")?.as_m().ok()?;
    let mut leases: Vec<_> = written.iter().filter_map(|(id, lease)| lease_in_shard(id, lease)).collect();
    leases.sort_unstable_by(|one, other| one.id.cmp(&other.id));
    let of = |what: &str| {
        let requests = read(item, &format!("requests{what}"))?;
        Some(Amount { requests, tokens: read(item, &format!("tokens{what}"))? })
    };
    let curve = |name| item.get(name).and_then(|curve| curve.as_s().ok()).map(|text| curve_of(text));
    Some(Shard {
        number: item.get("id")?.as_s().ok()?.strip_prefix(SHARD)?.parse().ok()?,
        round: read(item, "round")?,
        budget: of("Budget")?,
        due: of("Due")?,
        free: of("Free")?,
        terms: Terms { limit: of("Limit")?, revision: read(item, "revision")? },
        shards: read(item, "shards")?,
        elsewhere: read(item, "elsewhere")?,
        declared: Declared {
            wanted: of("Wanted")?,
            hosts: read(item, "hosts")?,
            curves: [curve("requestsCurve")?, curve("tokensCurve")?],
        },
        leases,
    })
}

pub(super) fn pool(item: &Item) -> Option<Pool> {
    // Sums of wishes never are below zero; if someone has edited the item, they count as nothing.
    let sum = |key| read::<i64>(item, key).map(|sum| u64::try_from(sum).unwrap_or(0));
    let limit = Amount { requests: read(item, "requestsLimit")?, tokens: read(item, "tokensLimit")? };
    let curve = |prefix: &str| {
        let mut curve = Curve::default();
        for name in item.keys() {
            if let Some(bucket) = name.strip_prefix(prefix).and_then(|bucket| bucket.parse().ok()) {
                curve.add(bucket, read(item, name).unwrap_or(0));
            }
        }
        curve
    };
    Some(Pool {
        terms: Terms { limit, revision: read(item, "revision").unwrap_or(0) },
        free_requests: read(item, "requestsFree")?,
        free_tokens: read(item, "tokensFree")?,
        wanted: Amount { requests: sum("requestsWanted")?, tokens: sum("tokensWanted")? },
        hosts: sum("hosts")?,
        shards: read(item, "shards").unwrap_or(1),
        curves: [curve("requestsBy"), curve("tokensBy")],
    })
}

/// A lease of a host with an older version, which is an item of its own.
pub(super) fn old_lease(item: &Item) -> Option<StoredLease> {
    Some(StoredLease {
        id: item.get("id")?.as_s().ok()?.strip_prefix(LEASE)?.into(),
        version: read(item, "version")?,
        held: Amount { requests: read(item, "requests")?, tokens: read(item, "tokens")? },
        wanted: Amount { requests: read(item, "requestsWanted")?, tokens: read(item, "tokensWanted")? },
        hold_ms: read(item, "holdMs")?,
    })
}

fn curve_text(curve: &Curve) -> String {
    curve.buckets().map(|(bucket, hosts)| format!("{bucket}:{hosts}")).collect::<Vec<_>>().join(" ")
}

fn curve_of(text: &str) -> Curve {
    let mut curve = Curve::default();
    for (bucket, hosts) in text.split(' ').filter_map(|written| written.split_once(':')) {
        if let (Ok(bucket), Ok(hosts)) = (bucket.parse(), hosts.parse()) {
            curve.add(bucket, hosts);
        }
    }
    curve
}

fn read<T: FromStr>(item: &Item, key: &str) -> Option<T> {
    item.get(key)?.as_n().ok()?.parse().ok()
}
