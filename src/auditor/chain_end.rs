//! `GET /v1/dashboard/chain`: whether the newest records are as they were written. `audit verify` checks all of them.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension};
use serde::Deserialize;
use serde_json::{Value, json};

use super::chain_check::{ChainChecker, ChainEntry};
use super::finding::FindingKind;
use super::reading::read;
use crate::error::Refusal;
use crate::ledger::Ledger;
use crate::ledger::index::IndexError;
use crate::ledger::index::read::{IndexedRecord, records_after};
use crate::ledger::integer::{to_signed, to_unsigned};

/// So many records are checked.
const NEWEST: i64 = 1_000;
/// Of these, so many are held in memory at a time.
const AT_ONCE: usize = 100;

/// Where a record belongs.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Place {
    chain_id: String,
    chain_seq: u64,
    request_id: String,
}

/// What was checked of one chain.
struct Span {
    from: u64,
    to: u64,
}

/// Checks the newest records that have ended by now: `checked`, `fromSeq` and `toSeq` of the newest chain, `intact`, and
/// `problem`, a sentence, where something is wrong. `held` is dropped when they have been read.
///
/// # Errors
/// A refusal (503) when the ledger cannot be read now.
pub(crate) async fn check_newest(ledger: &Ledger, held: impl Send + 'static) -> Result<Value, Refusal> {
    ledger.flush().await;
    read(ledger, held, check).await
}

fn check(db: &mut Connection) -> Result<Value, IndexError> {
    // In a transaction, so that records and the ends of chains are of the same moment.
    let db = db.transaction()?;
    let mut checker = ChainChecker::new("the ledger");
    let mut spans: BTreeMap<String, Span> = BTreeMap::new();
    let mut newest = String::new();
    let before = "SELECT coalesce(min(id), 1) - 1 FROM (SELECT id FROM records ORDER BY id DESC LIMIT ?1)";
    let mut id: i64 = db.query_row(before, [NEWEST], |row| row.get(0))?;
    loop {
        let records = records_after(&db, id, AT_ONCE)?;
        let Some(last) = records.last() else { break };
        id = last.id;
        for IndexedRecord { item, hash, .. } in &records {
            let Ok(place) = serde_json::from_str::<Place>(item) else {
                checker.complaints.push("a record is no item with chainId, chainSeq and requestId".to_owned());
                continue;
            };
            let Place { chain_id, chain_seq: seq, request_id } = place;
            if !spans.contains_key(&chain_id) {
                let before = seq.saturating_sub(1);
                if before > 0 {
                    match hash_of(&db, &chain_id, before)? {
                        Some(hash) => checker.begin(&chain_id, before, hash.as_deref()),
                        None => checker.find(FindingKind::Missing, (before, before), &chain_id, None),
                    }
                }
                spans.insert(chain_id.clone(), Span { from: seq, to: seq });
            }
            checker.check(ChainEntry {
                chain_id: &chain_id,
                seq,
                request_id: &request_id,
                canonical: item.as_bytes(),
                hash,
            });
            if let Some(span) = spans.get_mut(&chain_id) {
                span.to = seq;
            }
            newest = chain_id;
        }
    }
    for chain_id in spans.keys() {
        let select = "SELECT head_seq, head_hash FROM chains WHERE chain_id = ?1";
        let end = db.query_row(select, [chain_id], |row| Ok((to_unsigned(row.get(0)?), row.get::<_, String>(1)?)));
        if let Some((seq, hash)) = end.optional()? {
            checker.end(chain_id, seq, &hash);
        }
    }
    let span = spans.get(&newest);
    let problem = checker.findings.first().map(ToString::to_string).or_else(|| checker.complaints.first().cloned());
    Ok(json!({
        "checked": checker.checked,
        "fromSeq": span.map(|span| span.from),
        "toSeq": span.map(|span| span.to),
        "intact": checker.is_whole(),
        "problem": problem,
    }))
}

/// The hash of a record, or of the last one that was deleted, which is not always known; none when neither is here.
fn hash_of(db: &Connection, chain_id: &str, seq: u64) -> Result<Option<Option<String>>, IndexError> {
    let hash = db
        .prepare_cached(
            "SELECT hash FROM records JOIN chains ON chains.id = chain WHERE chain_id = ?1 AND seq = ?2
             UNION ALL SELECT nullif(anchor_hash, '') FROM chains WHERE chain_id = ?1 AND anchor_seq = ?2 LIMIT 1",
        )?
        .query_row((chain_id, to_signed(seq)), |row| row.get(0));
    Ok(hash.optional()?)
}
