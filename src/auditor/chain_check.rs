//! Checking a chain from end to end, and saying where it is not as it was written.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::anchors::{Anchors, Judgement, Span};
use super::finding::{Finding, FindingKind};
use super::starts::{Contradiction, Ends, Starts};
use crate::ledger::chain::{GENESIS_HASH, chain_hash};
use crate::ledger::index::read::KeptAside;
use crate::ledger::item::canonical;

/// Checks chains record by record.
#[derive(Debug)]
pub(crate) struct ChainChecker {
    pub(crate) place: &'static str,
    /// The last record of each chain that was checked.
    ends: Ends,
    /// How the chains begin, as they say.
    pub(crate) starts: Starts,
    pub(crate) checked: u64,
    pub(crate) findings: Vec<Finding>,
    /// What else is wrong, in sentences.
    pub(crate) complaints: Vec<String>,
    /// What is to be said beside that.
    pub(crate) notes: Vec<String>,
    /// What the records are held against as they are checked.
    pub(crate) anchors: Anchors,
    /// Where each chain begins and ends that was begun.
    spans: BTreeMap<String, Span>,
}

/// A record as it was read somewhere.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ChainEntry<'a> {
    pub(crate) chain_id: &'a str,
    pub(crate) seq: u64,
    pub(crate) request_id: &'a str,
    pub(crate) canonical: &'a [u8],
    pub(crate) hash: &'a str,
}

impl ChainEntry<'_> {
    /// Whether the record's hash is that of what it says and of the record before.
    fn follows(&self, before: &str) -> bool {
        if chain_hash(before, &[self.canonical]) == self.hash {
            return true;
        }
        // Older versions hashed an empty modelId where there was no model, and the table has it no longer.
        let Ok(mut item) = serde_json::from_slice::<Value>(self.canonical) else { return false };
        let Some(fields) = item.as_object_mut().filter(|fields| !fields.contains_key("modelId")) else { return false };
        fields.insert("modelId".to_owned(), "".into());
        canonical(&item).is_some_and(|item| chain_hash(before, &[&item]) == self.hash)
    }
}

impl ChainChecker {
    pub(crate) fn new(place: &'static str) -> ChainChecker {
        ChainChecker {
            place,
            ends: Ends::new(),
            starts: Starts::default(),
            checked: 0,
            findings: Vec::new(),
            complaints: Vec::new(),
            notes: Vec::new(),
            anchors: Anchors::default(),
            spans: BTreeMap::new(),
        }
    }

    pub(crate) fn has_begun(&self, chain_id: &str) -> bool {
        self.ends.contains_key(chain_id)
    }

    /// The chain's records begin behind this one, whose hash is not always known.
    pub(crate) fn begin(&mut self, chain_id: &str, seq: u64, hash: Option<&str>) {
        self.ends.insert(chain_id.to_owned(), (seq, hash.map(str::to_owned)));
        self.spans.insert(chain_id.to_owned(), Span { pruned: seq, last: seq });
        if let Some(hash) = hash {
            self.complaints.extend(self.anchors.meet(chain_id, seq, hash));
        }
    }

    /// The place of the last record of the chain that was checked.
    pub(crate) fn last_of(&self, chain_id: &str) -> Option<u64> {
        self.ends.get(chain_id).map(|(last, _)| *last)
    }

    /// The records of a chain that was begun up to this one are not here, and need not be.
    pub(crate) fn excuse(&mut self, chain_id: &str, up_to: u64) {
        self.ends.insert(chain_id.to_owned(), (up_to, None));
        if let Some(span) = self.spans.get_mut(chain_id) {
            span.last = up_to;
        }
    }

    /// Checks the next record, in the order in which they are stored.
    pub(crate) fn check(&mut self, entry: ChainEntry<'_>) {
        self.checked += 1;
        let Some((end, before)) = self.ends.get_mut(entry.chain_id) else {
            // A chain that is seen for the first time begins where it begins; only its very first link is known.
            let before = (entry.seq == 1).then(|| GENESIS_HASH.to_owned());
            let pruned = entry.seq.saturating_sub(1);
            self.ends.insert(entry.chain_id.to_owned(), (pruned, before));
            self.spans.insert(entry.chain_id.to_owned(), Span { pruned, last: pruned });
            self.checked -= 1;
            return self.check(entry);
        };
        let expected = *end + 1;
        if entry.seq < expected {
            return self.find(FindingKind::Inserted, (entry.seq, entry.seq), entry.chain_id, Some(entry.request_id));
        }
        let before = if entry.seq == expected { before.take() } else { None };
        *end = entry.seq;
        if let Some(span) = self.spans.get_mut(entry.chain_id) {
            span.last = entry.seq;
        }
        self.complaints.extend(self.anchors.meet(entry.chain_id, entry.seq, entry.hash));
        self.see_start(entry.chain_id, entry.seq, entry.canonical);
        self.ends.insert(entry.chain_id.to_owned(), (entry.seq, Some(entry.hash.to_owned())));
        if entry.seq > expected {
            self.find(FindingKind::Missing, (expected, entry.seq - 1), entry.chain_id, None);
        }
        if before.is_some_and(|before| !entry.follows(&before)) {
            self.find(FindingKind::Changed, (entry.seq, entry.seq), entry.chain_id, Some(entry.request_id));
        }
    }

    /// The chain's records have to reach to this one.
    pub(crate) fn end(&mut self, chain_id: &str, seq: u64, hash: &str) {
        let (last, last_hash) = self.ends.get(chain_id).cloned().unwrap_or((0, None));
        if last < seq {
            self.find(FindingKind::Missing, (last + 1, seq), chain_id, None);
        } else if last == seq && last_hash.is_some_and(|last| last != hash) {
            self.find(FindingKind::Changed, (seq, seq), chain_id, None);
        }
    }

    /// A record that may say how its chain begins.
    pub(crate) fn see_start(&mut self, chain_id: &str, seq: u64, canonical: &[u8]) {
        if let Some(head) = self.starts.see(chain_id, seq, canonical) {
            self.complaints.extend(self.anchors.meet(&head.chain_id, head.seq, &head.hash));
        }
    }

    /// Holds what chains say of their beginning against the chains before them, once every record was checked.
    /// `elsewhere` are those that are in the table and not in the ledger.
    pub(crate) fn judge_starts(&mut self, elsewhere: &BTreeSet<String>, is_table: bool, now: i64) {
        let judgement = self.starts.judge(&self.ends, elsewhere, is_table, now);
        for Contradiction { chain_id, kind, seq } in judgement.findings {
            self.find(kind, seq, &chain_id, None);
        }
        self.complaints.extend(judgement.complaints);
        self.notes.extend(judgement.notes);
    }

    /// Says what the anchors prove, once every record was checked; complains of what contradicts them. Without
    /// `hosts`, nobody knows whose records these are, and all anchors count.
    pub(crate) fn judge_anchors(&mut self, hosts: &BTreeSet<String>) {
        let Judgement { complaints, notes } = self.anchors.judge(&self.spans, hosts, &self.starts.named());
        self.complaints.extend(complaints);
        self.notes.extend(notes);
    }

    /// Whether nothing is wrong.
    pub(crate) fn is_whole(&self) -> bool {
        self.findings.is_empty() && self.complaints.is_empty()
    }

    pub(crate) fn find(&mut self, kind: FindingKind, seq: (u64, u64), chain_id: &str, request_id: Option<&str>) {
        self.findings.push(Finding {
            chain_id: chain_id.to_owned(),
            kind,
            seq,
            request_id: request_id.map(str::to_owned),
            place: self.place,
            hashes: None,
        });
    }

    /// Another record claims a place in the chain.
    pub(crate) fn find_conflict(&mut self, kept: KeptAside) {
        let item = serde_json::from_str::<Value>(&kept.record.item).unwrap_or_default();
        self.find(FindingKind::Conflict, (kept.seq, kept.seq), &kept.chain_id, item["requestId"].as_str());
        if let Some(finding) = self.findings.last_mut() {
            finding.hashes = Some((kept.rival, kept.record.hash));
        }
    }
}

/// Chain, sequence number, request and hash of an item; none if it lacks one of them.
pub(crate) fn chain_entry_fields(item: &Value) -> Option<(&str, u64, &str, &str)> {
    Some((
        item.get("chainId")?.as_str()?,
        item.get("chainSeq")?.as_u64()?,
        item.get("requestId")?.as_str()?,
        item.get("chainHash")?.as_str()?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(length: u64) -> Vec<(u64, Vec<u8>, String)> {
        let mut hash = GENESIS_HASH.to_owned();
        let record = |seq| {
            let canonical = format!("{{\"n\":{seq}}}").into_bytes();
            hash = chain_hash(&hash, &[&canonical]);
            (seq, canonical, hash.clone())
        };
        (1..=length).map(record).collect()
    }

    fn findings(records: &[(u64, Vec<u8>, String)], head: &(u64, Vec<u8>, String)) -> Vec<(FindingKind, (u64, u64))> {
        let mut checker = ChainChecker::new("test");
        checker.begin("c", 0, Some(GENESIS_HASH));
        for (seq, canonical, hash) in records {
            checker.check(ChainEntry { chain_id: "c", seq: *seq, request_id: "r", canonical, hash });
        }
        checker.end("c", head.0, &head.2);
        checker.findings.into_iter().map(|finding| (finding.kind, finding.seq)).collect()
    }

    #[test]
    fn an_untouched_chain_is_whole() {
        let records = chain(50);
        assert_eq!(findings(&records, &records[49]), []);
    }

    #[test]
    fn every_single_change_removal_and_insertion_is_named() {
        let records = chain(20);
        for at in 0..20 {
            let seq = at as u64 + 1;
            let mut changed = records.clone();
            changed[at].1 = b"{\"n\":0}".to_vec();
            assert_eq!(findings(&changed, &records[19]), [(FindingKind::Changed, (seq, seq))]);

            let mut removed = records.clone();
            removed.remove(at);
            assert_eq!(findings(&removed, &records[19]), [(FindingKind::Missing, (seq, seq))]);

            let mut inserted = records.clone();
            inserted.insert(at + 1, records[at].clone());
            assert_eq!(findings(&inserted, &records[19]), [(FindingKind::Inserted, (seq, seq))]);
        }
    }

    #[test]
    fn a_record_of_an_older_version_is_whole_with_and_without_its_empty_model() {
        let written = br#"{"latency":1,"modelId":"","requestId":"r"}"#;
        let hash = chain_hash(GENESIS_HASH, &[written]);
        for read in [&written[..], br#"{"latency":1,"requestId":"r"}"#] {
            assert_eq!(findings(&[(1, read.to_vec(), hash.clone())], &(1, Vec::new(), hash.clone())), []);
        }
        let other = br#"{"latency":2,"requestId":"r"}"#.to_vec();
        let changed = findings(&[(1, other, hash.clone())], &(1, Vec::new(), hash.clone()));
        assert_eq!(changed, [(FindingKind::Changed, (1, 1))]);
    }

    #[test]
    fn a_changed_record_with_a_new_hash_breaks_the_next_link() {
        let records = chain(20);
        let mut forged = records.clone();
        forged[9].1 = b"{\"n\":0}".to_vec();
        forged[9].2 = chain_hash(&forged[8].2, &[&forged[9].1]);
        assert_eq!(findings(&forged, &records[19]), [(FindingKind::Changed, (11, 11))]);
        // The last record has no next: the ledger's own end tells.
        let mut forged = records.clone();
        forged[19].1 = b"{\"n\":0}".to_vec();
        forged[19].2 = chain_hash(&forged[18].2, &[&forged[19].1]);
        assert_eq!(findings(&forged, &records[19]), [(FindingKind::Changed, (20, 20))]);
    }
}
