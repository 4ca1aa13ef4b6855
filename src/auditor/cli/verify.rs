//! `audit verify`: of the ledger, of an export, and of the table against the ledger.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;

use aws_lc_rs::digest;
use aws_sdk_dynamodb::Client;
use serde_json::Value;

use super::apart::Apart;
use super::args::{Verify, VerifySource};
use super::closing::Closing;
use super::error::CliError;
use super::host_items::{HostItems, Need, request_id};
use super::source::open;
use crate::auditor::anchors::Anchors;
use crate::auditor::chain_check::{ChainChecker, ChainEntry, chain_entry_fields};
use crate::auditor::finding::{Finding, FindingKind};
use crate::auditor::query::TimeRange;
use crate::auditor::snapshot::Snapshot;
use crate::ledger::StateDir;
use crate::ledger::clock::now_ms;
use crate::ledger::dynamo;
use crate::ledger::host_id::host_id;
use crate::ledger::index::columns::ItemColumns;
use crate::ledger::index::read::conflicts;
use crate::ledger::index::{IndexError, open_to_read};
use crate::ledger::integer::to_unsigned;
use crate::ledger::item::canonical;
use crate::ledger::time_shard;
use crate::ledger::timestamp::timestamp;
use crate::record::Outcome;
use crate::settings;

pub(crate) async fn verify(
    args: &Verify,
    settings: &settings::Audit,
    state_dir: &StateDir,
    out: &mut (dyn Write + Send),
) -> Result<bool, CliError> {
    // Read before the ledger, so that the ledger is at least as new.
    let anchors = args.anchors.as_deref().map(read_anchors).transpose()?;
    let has_anchors = anchors.is_some();
    let mut hosts = BTreeSet::from([host_id()]);
    let mut checker = match args.source {
        VerifySource::Ledger => {
            let mut checker = ledger(&open(state_dir)?, anchors)?.0;
            checker.judge_starts(&BTreeSet::new(), false, now_ms() / 1000);
            checker
        }
        VerifySource::Export => {
            let (mut checker, of) = export(args.file.as_deref().unwrap_or(Path::new("-")), anchors)?;
            checker.judge_starts(&BTreeSet::new(), false, now_ms() / 1000);
            hosts = of;
            checker
        }
        VerifySource::Dynamodb => {
            let client = dynamo::client(&settings.region).await;
            table(&client, super::source::table(settings)?, args, state_dir, anchors, out).await?
        }
    };
    if has_anchors {
        checker.judge_anchors(&hosts);
    }
    let proven = std::mem::take(&mut checker.notes);
    for finding in &checker.findings {
        writeln!(out, "{finding}")?;
    }
    for complaint in &checker.complaints {
        writeln!(out, "{complaint}")?;
    }
    for note in proven {
        writeln!(out, "{note}")?;
    }
    let verdict = if checker.is_whole() { "whole: none changed, missing or inserted" } else { "NOT WHOLE" };
    writeln!(out, "{} records checked; {verdict}", checker.checked)?;
    Ok(checker.is_whole())
}

/// Anchors from a log, or from a directory that a bucket was copied into.
fn read_anchors(path: &Path) -> Result<Anchors, CliError> {
    if path.is_dir() {
        return Anchors::read_directory(path).map_err(|(path, source)| CliError::File { path, source });
    }
    Anchors::read(input(path)?).map_err(|source| CliError::File { path: path.to_owned(), source })
}

/// A file, or the standard input for `-`.
fn input(path: &Path) -> Result<Box<dyn BufRead>, CliError> {
    if path.as_os_str() == "-" {
        return Ok(Box::new(BufReader::new(std::io::stdin())));
    }
    let file = std::fs::File::open(path).map_err(|source| CliError::File { path: path.to_owned(), source })?;
    Ok(Box::new(BufReader::new(file)))
}

/// What the table is compared with, by chain.
pub(crate) type Held = BTreeMap<String, HeldChain>;

/// What the ledger holds of a chain.
#[derive(Debug, Default)]
pub(crate) struct HeldChain {
    /// Records up to this one were pruned.
    pruned: u64,
    records: BTreeMap<u64, Known>,
}

#[derive(Debug)]
pub(crate) struct Known {
    fingerprint: [u8; 16],
    /// The table has confirmed it.
    shipped: bool,
    /// When it may go from the table, in seconds since 1970.
    expiry: i64,
    /// When its request began, in milliseconds since 1970.
    started_ms: i64,
    /// It has the key of an index by time, which older versions did not write.
    has_shard: bool,
    seen: bool,
    /// The request, if this says that it was interrupted.
    interrupted: Option<String>,
}

impl Known {
    /// Whether the table has to hold it.
    fn is_due(&self, since_ms: i64, now: i64) -> bool {
        self.shipped && self.expiry > now && self.started_ms >= since_ms
    }

    /// Whether the table lacks it.
    fn is_missing(&self, since_ms: i64, now: i64, told: &BTreeSet<String>) -> bool {
        self.is_due(since_ms, now) && !self.seen && !self.is_told_otherwise(told)
    }

    /// Whether the table has another item of the request, and so did not take this one, which says that the request was
    /// interrupted: a start wrote it that did not know the end, which a loss of power had taken from the ledger.
    fn is_told_otherwise(&self, told: &BTreeSet<String>) -> bool {
        !self.seen && self.interrupted.as_ref().is_some_and(|id| told.contains(id))
    }
}

/// An item of the table that the ledger did not hold when the scan began.
#[derive(Debug)]
struct Unknown {
    chain_id: String,
    seq: u64,
    request_id: String,
    fingerprint: [u8; 16],
    item: Value,
}

/// Follows the ledger's chains, holds them against anchors if there are any, and returns what it holds.
pub(crate) fn ledger(snapshot: &Snapshot, anchors: Option<Anchors>) -> Result<(ChainChecker, Held), CliError> {
    let mut checker = ChainChecker::new("the ledger");
    checker.anchors = anchors.unwrap_or_default();
    let mut held = Held::new();
    let mut heads = Vec::new();
    let mut aside = BTreeSet::new();
    if let Some(db) = &snapshot.db {
        let sql = |error: rusqlite::Error| CliError::Read(IndexError::Sqlite(error));
        let mut chains =
            db.prepare("SELECT chain_id, anchor_seq, anchor_hash, head_seq, head_hash FROM chains").map_err(sql)?;
        let mut rows = chains.query([]).map_err(sql)?;
        while let Some(row) = rows.next().map_err(sql)? {
            let (id, anchor): (String, i64) = (row.get(0).map_err(sql)?, row.get(1).map_err(sql)?);
            let hash: String = row.get(2).map_err(sql)?;
            checker.begin(&id, to_unsigned(anchor), Some(hash.as_str()).filter(|hash| !hash.is_empty()));
            held.insert(id.clone(), HeldChain { pruned: to_unsigned(anchor), records: BTreeMap::new() });
            let head: i64 = row.get(3).map_err(sql)?;
            heads.push((id, to_unsigned(head), row.get::<_, String>(4).map_err(sql)?));
        }
        let mut set_aside = db.prepare("SELECT id FROM set_aside").map_err(sql)?;
        for id in set_aside.query_map([], |row| row.get::<_, i64>(0)).map_err(sql)? {
            aside.insert(id.map_err(sql)?);
        }
    }
    snapshot.for_each_after::<CliError>(0, |row| {
        let Ok(item) = serde_json::from_str::<Value>(&row.item) else {
            checker.find(FindingKind::Changed, (0, 0), "unknown", None);
            return Ok(());
        };
        let (Some(chain), Some(seq)) = (item["chainId"].as_str(), item["chainSeq"].as_u64()) else {
            checker.find(FindingKind::Inserted, (0, 0), "none", item["requestId"].as_str());
            return Ok(());
        };
        let request_id = item["requestId"].as_str().unwrap_or_default();
        let bytes = row.item.as_bytes();
        if !checker.has_begun(chain) && seq > 1 {
            // It has no row in `chains`, so nothing was pruned of it: the journal may begin here, or its front was cut.
            let before = snapshot.journal_hashes.get(&(chain.to_owned(), seq - 1));
            if before.is_none() {
                checker.find(FindingKind::Missing, (1, seq - 1), chain, None);
            }
            checker.begin(chain, seq - 1, before.map(String::as_str));
            held.insert(chain.to_owned(), HeldChain { pruned: seq - 1, records: BTreeMap::new() });
        }
        let before = checker.findings.len();
        checker.check(ChainEntry { chain_id: chain, seq, request_id, canonical: bytes, hash: &row.hash });
        // A forger who also wrote new hashes is contradicted by the journal, as far as that goes back.
        let known = snapshot.journal_hashes.get(&(chain.to_owned(), seq));
        if checker.findings.len() == before && known.is_some_and(|known| *known != row.hash) {
            checker.find(FindingKind::Changed, (seq, seq), chain, Some(request_id));
        }
        let known = Known {
            fingerprint: fingerprint(&as_shipped(&item, bytes), &row.hash),
            shipped: row.id <= snapshot.state.shipped_id && !aside.contains(&row.id),
            expiry: item["ttl"].as_i64().unwrap_or(0),
            started_ms: ItemColumns::read(&row.item).map_or(0, |columns| columns.started_ms()),
            has_shard: item.get(time_shard::NAME).is_some(),
            seen: false,
            interrupted: (item["outcome"] == Outcome::Interrupted.as_str()).then(|| request_id.to_owned()),
        };
        held.entry(chain.to_owned()).or_default().records.insert(seq, known);
        Ok(())
    })?;
    columns(snapshot, &mut checker)?;
    if let Some(db) = &snapshot.db {
        conflicts(db, usize::MAX)?.into_iter().for_each(|kept| checker.find_conflict(kept));
    }
    for (id, seq, hash) in heads {
        checker.end(&id, seq, &hash);
    }
    Ok((checker, held))
}

/// Compares the columns that questions are answered from with the records.
fn columns(snapshot: &Snapshot, checker: &mut ChainChecker) -> Result<(), CliError> {
    let Some(db) = &snapshot.db else { return Ok(()) };
    let sql = |error: rusqlite::Error| CliError::Read(IndexError::Sqlite(error));
    let mut select =
        db.prepare("SELECT item, seq, started_ms, success, caller, caller_uid, model_id FROM records").map_err(sql)?;
    let mut rows = select.query([]).map_err(sql)?;
    while let Some(row) = rows.next().map_err(sql)? {
        let item: String = row.get(0).map_err(sql)?;
        let Ok(item) = ItemColumns::read(&item) else { continue };
        let same = row.get::<_, i64>(1).is_ok_and(|seq| to_unsigned(seq) == item.chain_seq)
            && row.get::<_, i64>(2).is_ok_and(|started| started == item.started_ms())
            && row.get::<_, bool>(3).is_ok_and(|success| success == item.success)
            && row.get::<_, Option<String>>(4).is_ok_and(|caller| caller.as_deref() == item.caller.as_deref())
            && row.get::<_, Option<u32>>(5).is_ok_and(|uid| uid == item.caller_uid)
            && row.get::<_, String>(6).is_ok_and(|model| model == item.model_id);
        let accused = |finding: &Finding| finding.chain_id == item.chain_id && finding.seq.0 == item.chain_seq;
        if !same && !checker.findings.iter().any(accused) {
            checker.find(FindingKind::Columns, (item.chain_seq, item.chain_seq), &item.chain_id, None);
        }
    }
    Ok(())
}

/// Follows the chains of an export, to its closing line. Returns the hosts whose records it has too.
fn export(path: &Path, anchors: Option<Anchors>) -> Result<(ChainChecker, BTreeSet<String>), CliError> {
    const NO_RECORD: &str = "none: a line of the file that is no record";
    let mut checker = ChainChecker::new("the export");
    checker.anchors = anchors.unwrap_or_default();
    let mut hosts = BTreeSet::new();
    let mut closing: Option<Closing> = None;
    let mut count = 0;
    // A line that is no JSON: the last one may have been cut off.
    let mut broken: Option<u64> = None;
    for (number, line) in (1..).zip(input(path)?.lines()) {
        let line = line.map_err(|source| CliError::File { path: path.to_owned(), source })?;
        if line.trim().is_empty() {
            continue;
        }
        if let Some(number) = broken.take() {
            checker.find(FindingKind::Inserted, (number, number), NO_RECORD, None);
        }
        let Ok(item) = serde_json::from_str::<Value>(&line) else {
            broken = Some(number);
            continue;
        };
        if closing.is_some() {
            checker.find(FindingKind::Inserted, (number, number), "none: a line behind the closing line", None);
            continue;
        }
        if let Some(read) = Closing::from_json(&item) {
            closing = Some(read);
            continue;
        }
        count += 1;
        match (chain_entry_fields(&item), canonical(&item)) {
            (Some((chain_id, seq, request_id, hash)), Some(canonical)) => {
                checker.check(ChainEntry { chain_id, seq, request_id, canonical: &canonical, hash });
                if let Some(host) = item["hostId"].as_str().filter(|host| !hosts.contains(*host)) {
                    hosts.insert(host.to_owned());
                }
            }
            _ => checker.find(FindingKind::Inserted, (number, number), NO_RECORD, None),
        }
    }
    match closing {
        Some(closing) => {
            if let Some(number) = broken {
                checker.find(FindingKind::Inserted, (number, number), NO_RECORD, None);
            }
            closing.check(count, &mut checker);
        }
        None => checker.complaints.push(
            "INCOMPLETE the export has no closing line: it is empty or was cut off, or an older version wrote it; export again"
                .to_owned(),
        ),
    }
    Ok((checker, hosts))
}

/// Compares this host's items in the table with its ledger.
pub(crate) async fn table(
    client: &Client,
    table: &str,
    args: &Verify,
    state_dir: &StateDir,
    anchors: Option<Anchors>,
    out: &mut (dyn Write + Send),
) -> Result<ChainChecker, CliError> {
    let host_id = host_id();
    let (mut checker, mut held) = {
        let snapshot = open(state_dir)?;
        let (mut checker, held) = ledger(&snapshot, anchors)?;
        (checker.place, checker.checked) = ("the table", 0);
        (checker, held)
    };
    let mut other_chains: BTreeMap<String, BTreeMap<u64, Value>> = BTreeMap::new();
    let mut unknown: Vec<Unknown> = Vec::new();
    let mut older = 0_u64;
    let (since_ms, begun) = (args.time_range.since_ms(now_ms()).max(0), now_ms() / 1000);
    let since = (args.time_range != TimeRange::All).then(|| timestamp(since_ms));
    let mut due = held.values().flat_map(|chain| chain.records.values()).filter(|known| known.is_due(since_ms, begun));
    let need = Need { scan: args.scan, all_have_shards: due.all(|known| known.has_shard) };
    let (mut items, way) = HostItems::choose(client, table, &host_id, since, need).await;
    super::complain(&format!("note: {way}"));
    let is_window = args.time_range != TimeRange::All;
    let interrupted: BTreeSet<String> =
        held.values().flat_map(|chain| chain.records.values()).filter_map(|known| known.interrupted.clone()).collect();
    // Of these, those of which the table has an item.
    let mut told = BTreeSet::new();
    let mut looked_up = false;
    loop {
        let page = match items.next_page().await? {
            Some(page) => page,
            None if looked_up => break,
            None => {
                looked_up = true;
                items.look_up(unseen(&held, since_ms, &told, state_dir)?).await?
            }
        };
        for item in page {
            checker.checked += 1;
            let (Some((chain_id, seq, request_id, hash)), Some(bytes)) = (chain_entry_fields(&item), canonical(&item))
            else {
                checker.find(FindingKind::Inserted, (0, 0), "none", item["requestId"].as_str());
                continue;
            };
            let fingerprint = fingerprint(&as_shipped(&item, &bytes), hash);
            told.extend(interrupted.contains(request_id).then(|| request_id.to_owned()));
            let Some(chain) = held.get_mut(chain_id) else {
                other_chains.entry(chain_id.to_owned()).or_default().insert(seq, item);
                continue;
            };
            match chain.records.get_mut(&seq) {
                Some(known) => {
                    known.seen = true;
                    if known.fingerprint != fingerprint {
                        checker.find(FindingKind::Changed, (seq, seq), chain_id, Some(request_id));
                    }
                }
                None if seq <= chain.pruned => {
                    checker.see_start(chain_id, seq, &bytes);
                    older += 1;
                }
                None => {
                    let (chain_id, request_id) = (chain_id.to_owned(), request_id.to_owned());
                    unknown.push(Unknown { chain_id, seq, request_id, fingerprint, item });
                }
            }
        }
    }
    let now = now_ms() / 1000;
    for (chain_id, chain) in &held {
        let mut gap: Option<(u64, u64)> = None;
        let missing = |known: &Known| known.is_missing(since_ms, now, &told);
        for seq in chain.records.iter().filter(|(_, known)| missing(known)).map(|(seq, _)| *seq) {
            gap = match gap {
                Some((first, last)) if last + 1 == seq => Some((first, seq)),
                other => {
                    other.into_iter().for_each(|gap| checker.find(FindingKind::Missing, gap, chain_id, None));
                    Some((seq, seq))
                }
            };
        }
        gap.into_iter().for_each(|gap| checker.find(FindingKind::Missing, gap, chain_id, None));
    }
    let records = held.values().flat_map(|chain| chain.records.values());
    let otherwise = records.filter(|known| known.is_due(since_ms, now) && known.is_told_otherwise(&told)).count();
    if otherwise > 0 {
        writeln!(
            out,
            "note: {otherwise} records say that a request was interrupted, written by a start that did not know its end; the table has another item of the request, and keeps that"
        )?;
    }
    // A loss of power may have taken from the ledger what it had shipped. A later chain names the end of that.
    let named = checker.starts.named();
    let lost: Vec<Unknown>;
    (lost, unknown) = unknown.into_iter().partition(|Unknown { chain_id, seq, .. }| {
        named.get(chain_id.as_str()).is_some_and(|named| seq <= named)
            && checker.last_of(chain_id).is_some_and(|last| *seq > last)
    });
    let apart = Apart { is_window, now };
    let mut lost_chains: BTreeMap<String, Vec<(u64, Value)>> = BTreeMap::new();
    for Unknown { chain_id, seq, item, .. } in lost {
        lost_chains.entry(chain_id).or_default().push((seq, item));
    }
    for (chain_id, mut items) in lost_chains {
        items.sort_by_key(|(seq, _)| *seq);
        // Looked up, one may have come twice.
        items.dedup();
        let newest = held.get(&chain_id).and_then(|chain| chain.records.values().next_back());
        let note = apart.check(&mut checker, &chain_id, &items, newest.map(|known| known.expiry));
        writeln!(
            out,
            "note: {} items of chain {chain_id} are in the table and not in the ledger any more, which lost its end; a later chain names them",
            items.len()
        )?;
        note.into_iter().try_for_each(|note| writeln!(out, "{note}"))?;
    }
    if !unknown.is_empty() {
        // The daemon may have shipped them while the table was read: then its ledger holds them now.
        let (now_held, last) =
            (ledger(&open(state_dir)?, None)?.1, |chain: &HeldChain| chain.records.keys().last().copied());
        for Unknown { chain_id, seq, request_id, fingerprint, .. } in unknown {
            let is_newer = held.get(&chain_id).is_some_and(|chain| seq > last(chain).unwrap_or(chain.pruned));
            let now = now_held.get(&chain_id).filter(|_| is_newer);
            match now.and_then(|chain| chain.records.get(&seq)) {
                Some(known) if known.fingerprint == fingerprint => {}
                Some(_) => checker.find(FindingKind::Changed, (seq, seq), &chain_id, Some(&request_id)),
                None if now.is_some_and(|chain| seq <= chain.pruned) => older += 1,
                None => checker.find(FindingKind::Inserted, (seq, seq), &chain_id, Some(&request_id)),
            }
        }
    }
    let elsewhere: BTreeSet<String> = other_chains.keys().cloned().collect();
    for (chain_id, items) in other_chains {
        let count = items.len();
        writeln!(
            out,
            "note: {count} items are of a ledger of this host that is not here any more (chain {chain_id}); they are checked by themselves"
        )?;
        let items: Vec<(u64, Value)> = items.into_iter().collect();
        let note = apart.check(&mut checker, &chain_id, &items, None);
        note.into_iter().try_for_each(|note| writeln!(out, "{note}"))?;
    }
    // What is older than a window was not read.
    checker.judge_starts(&elsewhere, !is_window, now_ms() / 1000);
    if older > 0 {
        writeln!(out, "note: {older} items are older than what the ledger keeps, and cannot be compared")?;
    }
    Ok(checker)
}

/// The requests whose items have to be in the table, and were not seen. What the ledger has pruned meanwhile is not among
/// them.
fn unseen(held: &Held, since_ms: i64, told: &BTreeSet<String>, state_dir: &StateDir) -> Result<Vec<String>, CliError> {
    let now = now_ms() / 1000;
    let unseen = |known: &Known| known.is_missing(since_ms, now, told);
    let mut ids = Vec::new();
    let mut db = None;
    for (chain_id, chain) in held {
        for (seq, _) in chain.records.iter().filter(|(_, known)| unseen(known)) {
            let db = match &db {
                Some(db) => db,
                None => db.insert(open_to_read(&state_dir.database())?),
            };
            ids.extend(request_id(db, chain_id, *seq)?);
        }
    }
    Ok(ids)
}

/// An item as it is sent to the table: without the empty texts that older versions wrote.
fn as_shipped<'a>(item: &Value, bytes: &'a [u8]) -> Cow<'a, [u8]> {
    let is_empty = |value: &Value| value.as_str().is_some_and(str::is_empty);
    let Some(fields) = item.as_object().filter(|fields| fields.values().any(is_empty)) else {
        return Cow::Borrowed(bytes);
    };
    let left = fields.iter().filter(|(_, value)| !is_empty(value)).map(|(key, value)| (key.clone(), value.clone()));
    Cow::Owned(canonical(&Value::Object(left.collect())).unwrap_or_default())
}

fn fingerprint(item: &[u8], hash: &str) -> [u8; 16] {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(item);
    context.update(hash.as_bytes());
    let mut fingerprint = [0; 16];
    fingerprint.copy_from_slice(&context.finish().as_ref()[..16]);
    fingerprint
}
