//! How chains begin, as their own records say, and whether what came before them is there.

use std::collections::{BTreeMap, BTreeSet};

use memchr::memmem;
use serde_json::Value;

use super::finding::FindingKind;
use crate::record::{FormerChain, Record};

/// What chains say of the chains before them.
#[derive(Debug, Default)]
pub(crate) struct Starts {
    /// Of each chain of which a record was seen.
    chains: BTreeMap<String, Start>,
}

#[derive(Debug, Default)]
struct Start {
    /// The record with the number 1 was seen: it was not pruned, and did not expire.
    is_seen: bool,
    /// What is said; the first word that is final counts.
    former: Option<FormerChain>,
    head: Option<Head>,
}

/// The end of a chain as a later one names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) chain_id: String,
    pub(crate) seq: u64,
    pub(crate) hash: String,
    /// When it may go from the table, in seconds since 1970.
    expiry: Option<i64>,
}

/// Something that is not as a chain's beginning says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Contradiction {
    pub(crate) chain_id: String,
    pub(crate) kind: FindingKind,
    pub(crate) seq: (u64, u64),
}

/// What beginnings prove.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Judgement {
    pub(crate) findings: Vec<Contradiction>,
    pub(crate) complaints: Vec<String>,
    pub(crate) notes: Vec<String>,
}

/// Where a chain ends, in what was checked: the place of its last record, and its hash if that is known.
pub(crate) type Ends = BTreeMap<String, (u64, Option<String>)>;

impl Starts {
    /// A record that was checked. Returns the end of another chain, if it names one.
    pub(crate) fn see(&mut self, chain_id: &str, seq: u64, canonical: &[u8]) -> Option<Head> {
        const LEDGER_START: &[u8] = b"\"operation\":\"LedgerStart\"";
        if !self.chains.contains_key(chain_id) {
            self.chains.insert(chain_id.to_owned(), Start::default());
        }
        let start = self.chains.get_mut(chain_id)?;
        start.is_seen |= seq == 1;
        memmem::find(canonical, LEDGER_START)?;
        let item: Value = serde_json::from_slice(canonical).ok()?;
        if item["operation"] != Record::LEDGER_START || start.head.is_some() {
            return None;
        }
        let text = |name: &str| item[name].as_str().map(str::to_owned);
        start.former = serde_json::from_value(item["formerChain"].clone()).ok();
        start.head = (|| {
            Some(Head {
                chain_id: text("formerChainId")?,
                seq: item["formerChainSeq"].as_u64()?,
                hash: text("formerChainHash")?,
                expiry: item["formerChainTtl"].as_i64(),
            })
        })();
        start.head.clone()
    }

    /// The places up to which chains are named by others that came after them.
    pub(crate) fn named(&self) -> BTreeMap<&str, u64> {
        let heads = self.chains.values().filter_map(|start| start.head.as_ref());
        heads.map(|head| (head.chain_id.as_str(), head.seq)).collect()
    }

    /// Holds what is said against the chains as they are. `elsewhere` are those that were checked and are not in the
    /// ledger; what is not there at all may have expired by `now`, in seconds. With `is_table`, the whole table was read,
    /// and it has to be there else.
    pub(crate) fn judge(&self, ends: &Ends, elsewhere: &BTreeSet<String>, is_table: bool, now: i64) -> Judgement {
        let mut judgement = Judgement::default();
        for (id, start) in &self.chains {
            match (&start.head, start.former) {
                (Some(head), _) => judge_head(&mut judgement, id, head, ends, is_table, now),
                (None, Some(FormerChain::Searching | FormerChain::Unknown)) => judgement.notes.push(format!(
                    "note: the start of chain {id} is not proven: the table could not be searched for a chain before it"
                )),
                (None, Some(FormerChain::NoTable)) => judgement.notes.push(format!(
                    "note: the start of chain {id} is not proven: there was no table to search for a chain before it"
                )),
                (None, Some(_)) => judgement
                    .notes
                    .push(format!("chain {id} is the first of its host, as far as the table could tell at its start")),
                (None, None) if start.is_seen => judgement.notes.push(format!(
                    "note: the start of chain {id} is not proven: it was begun by an older version, which did not record it"
                )),
                (None, None) => {}
            }
        }
        let named = self.named();
        // A beginning that is not to be seen may have named it.
        let all_are_seen = self.chains.iter().all(|(_, start)| start.former.is_some());
        let others = |id: &String| self.chains.keys().any(|other| other != id);
        for id in elsewhere.iter().filter(|id| !named.contains_key(id.as_str()) && others(id) && all_are_seen) {
            judgement.complaints.push(format!(
                "GAP       chain {id} of this host is in the table and not in the ledger, and no chain says that it comes after it"
            ));
        }
        judgement
    }
}

fn judge_head(judgement: &mut Judgement, id: &str, head: &Head, ends: &Ends, is_table: bool, now: i64) {
    let Head { chain_id: former, seq, hash, expiry } = head;
    let is_gone = expiry.is_some_and(|expiry| expiry <= now);
    let find = |kind, seq| Contradiction { chain_id: former.clone(), kind, seq };
    match ends.get(former) {
        Some((last, _)) if last > seq => judgement.complaints.push(format!(
            "GAP       chain {id} was begun behind record {seq} of chain {former}, which goes on to record {last}: records were added to it, or another daemon of this host writes it"
        )),
        Some((last, Some(there))) if last == seq && there != hash => {
            judgement.findings.push(find(FindingKind::Changed, (*seq, *seq)));
        }
        Some((last, _)) if last == seq => {
            judgement.notes.push(format!("chain {id} continues after record {seq} of chain {former}"));
        }
        _ if is_gone => judgement.notes.push(format!(
            "chain {id} continues after record {seq} of chain {former}, which has expired since"
        )),
        Some((last, _)) if is_table => judgement.findings.push(find(FindingKind::Missing, (last + 1, *seq))),
        // A loss of power may have taken from the ledger what the table has.
        Some((last, _)) => judgement.notes.push(format!(
            "note: chain {id} continues after record {seq} of chain {former}, which is here up to record {last} only; see `audit verify --source dynamodb` without --time-range"
        )),
        None if is_table => judgement.findings.push(find(FindingKind::Missing, (*seq, *seq))),
        None => judgement.notes.push(format!(
            "note: chain {id} continues after record {seq} of chain {former}, which is not here; see `audit verify --source dynamodb` without --time-range"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(former: &str, more: &str) -> Vec<u8> {
        format!("{{\"formerChain\":\"{former}\"{more},\"operation\":\"LedgerStart\"}}").into_bytes()
    }

    const NAMED: &str =
        ",\"formerChainHash\":\"h9\",\"formerChainId\":\"a\",\"formerChainSeq\":9,\"formerChainTtl\":100";

    fn judged(former: &str, more: &str, a: Option<(u64, &str)>, is_table: bool, now: i64) -> Judgement {
        let mut starts = Starts::default();
        starts.see("b", 1, &start("searching", ""));
        starts.see("b", 2, &start(former, more));
        let mut ends = Ends::from([("b".to_owned(), (2, None))]);
        let mut elsewhere = BTreeSet::new();
        if let Some((last, hash)) = a {
            starts.see("a", 1, &start("none", ""));
            ends.insert("a".to_owned(), (last, Some(hash.to_owned())));
            elsewhere.insert("a".to_owned());
        }
        starts.judge(&ends, &elsewhere, is_table, now)
    }

    #[test]
    fn the_end_that_is_named_has_to_be_the_end_that_is_there() {
        let good = judged("found", NAMED, Some((9, "h9")), true, 0);
        assert!(good.findings.is_empty() && good.complaints.is_empty(), "{good:?}");
        assert!(good.notes.contains(&"chain b continues after record 9 of chain a".to_owned()), "{good:?}");

        let beyond = judged("found", NAMED, Some((10, "h10")), true, 0);
        assert!(beyond.complaints[0].contains("which goes on to record 10"), "{beyond:?}");
        let found =
            |judgement: Judgement| judgement.findings.into_iter().map(|one| (one.kind, one.seq)).collect::<Vec<_>>();
        assert_eq!(found(judged("found", NAMED, Some((7, "h7")), true, 0)), [(FindingKind::Missing, (8, 9))]);
        assert_eq!(found(judged("found", NAMED, Some((9, "x")), true, 0)), [(FindingKind::Changed, (9, 9))]);
        assert_eq!(found(judged("found", NAMED, None, true, 0)), [(FindingKind::Missing, (9, 9))]);
        // What expired is no loss, and a ledger need not have it.
        assert_eq!(found(judged("found", NAMED, None, true, 100)), []);
        assert_eq!(found(judged("found", NAMED, None, false, 0)), []);
        // Nor need it have what a loss of power took from it.
        let cut = judged("found", NAMED, Some((7, "h7")), false, 0);
        assert!(cut.findings.is_empty() && cut.complaints.is_empty(), "{cut:?}");
        assert!(cut.notes.iter().any(|note| note.contains("which is here up to record 7 only")), "{cut:?}");
    }

    #[test]
    fn a_chain_that_nothing_comes_after_is_a_gap() {
        for former in ["none", "no_table", "unknown", "searching"] {
            let gap = judged(former, "", Some((9, "h9")), true, 0);
            assert!(gap.complaints.len() == 1 && gap.complaints[0].contains("chain a of this host"), "{gap:?}");
            assert_eq!(judged(former, "", None, true, 0).complaints, Vec::<String>::new());
        }
        // An older version said nothing of it.
        let mut starts = Starts::default();
        starts.see("b", 1, b"{\"operation\":\"Converse\"}");
        starts.see("a", 1, b"{\"operation\":\"Converse\"}");
        let old = starts.judge(&Ends::new(), &BTreeSet::from(["a".to_owned()]), true, 0);
        assert!(old.complaints.is_empty() && old.notes[0].contains("not proven"), "{old:?}");
    }
}
