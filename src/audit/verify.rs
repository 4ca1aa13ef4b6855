//! Following a chain from end to end, and saying where it is not as it was written.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

use super::chain::{ORIGIN, link};

/// Something that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub chain_id: String,
    pub kind: Fault,
    /// The first and the last record it is about.
    pub seq: (u64, u64),
    pub request_id: Option<String>,
    pub where_: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    Changed,
    Missing,
    Inserted,
    /// The columns that questions are answered from are not what the record says.
    Columns,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, last) = self.seq;
        match self.kind {
            Fault::Changed => write!(
                f,
                "CHANGED   record {first}: its hash is not the hash of what it says and of the record before it"
            ),
            Fault::Missing if first == last => write!(f, "MISSING   record {first}"),
            Fault::Missing => write!(f, "MISSING   records {first} to {last} ({} records)", last - first + 1),
            Fault::Inserted => write!(
                f,
                "INSERTED  record {first}: it does not belong where it stands, or was not written by this ledger"
            ),
            Fault::Columns => {
                write!(f, "CHANGED   record {first}: what questions are answered from is not what the record says")
            }
        }?;
        write!(f, " (in {}, chain {}", self.where_, self.chain_id)?;
        match &self.request_id {
            Some(id) => write!(f, ", requestId {id})"),
            None => f.write_str(")"),
        }
    }
}

/// Follows chains record by record.
#[derive(Debug)]
pub struct Checker {
    where_: &'static str,
    ends: BTreeMap<String, (u64, Option<String>)>,
    pub checked: u64,
    pub findings: Vec<Finding>,
}

/// A record as it is found somewhere.
#[derive(Debug, Clone, Copy)]
pub struct Found<'a> {
    pub chain_id: &'a str,
    pub seq: u64,
    pub request_id: &'a str,
    pub canonical: &'a [u8],
    pub hash: &'a str,
}

impl Checker {
    pub fn new(where_: &'static str) -> Checker {
        Checker { where_, ends: BTreeMap::new(), checked: 0, findings: Vec::new() }
    }

    /// The chain's records begin behind this one; the hash is unknown if none.
    pub fn begin(&mut self, chain_id: &str, seq: u64, hash: Option<&str>) {
        self.ends.insert(chain_id.to_owned(), (seq, hash.map(str::to_owned)));
    }

    /// Takes the next record, in the order in which they stand.
    pub fn check(&mut self, found: Found<'_>) {
        self.checked += 1;
        let Some((end, before)) = self.ends.get_mut(found.chain_id) else {
            // A chain that is seen for the first time begins where it begins; only its very first link is known.
            let before = (found.seq == 1).then(|| ORIGIN.to_owned());
            self.ends.insert(found.chain_id.to_owned(), (found.seq.saturating_sub(1), before));
            self.checked -= 1;
            return self.check(found);
        };
        let expected = *end + 1;
        if found.seq < expected {
            return self.find(Fault::Inserted, (found.seq, found.seq), found.chain_id, Some(found.request_id));
        }
        let before = if found.seq == expected { before.take() } else { None };
        *end = found.seq;
        self.ends.insert(found.chain_id.to_owned(), (found.seq, Some(found.hash.to_owned())));
        if found.seq > expected {
            self.find(Fault::Missing, (expected, found.seq - 1), found.chain_id, None);
        }
        if before.is_some_and(|before| link(&before, &[found.canonical]) != found.hash) {
            self.find(Fault::Changed, (found.seq, found.seq), found.chain_id, Some(found.request_id));
        }
    }

    /// The chain's records should reach to this one.
    pub fn end(&mut self, chain_id: &str, seq: u64, hash: &str) {
        let (last, last_hash) = self.ends.get(chain_id).cloned().unwrap_or((0, None));
        if last < seq {
            self.find(Fault::Missing, (last + 1, seq), chain_id, None);
        } else if last == seq && last_hash.is_some_and(|last| last != hash) {
            self.find(Fault::Changed, (seq, seq), chain_id, None);
        }
    }

    pub fn find(&mut self, kind: Fault, seq: (u64, u64), chain_id: &str, request_id: Option<&str>) {
        self.findings.push(Finding {
            chain_id: chain_id.to_owned(),
            kind,
            seq,
            request_id: request_id.map(str::to_owned),
            where_: self.where_,
        });
    }
}

/// Chain, sequence number, request and hash of an item; none if it lacks one of them.
pub fn place(item: &Value) -> Option<(&str, u64, &str, &str)> {
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
        let mut hash = ORIGIN.to_owned();
        let record = |seq| {
            let canonical = format!("{{\"n\":{seq}}}").into_bytes();
            hash = link(&hash, &[&canonical]);
            (seq, canonical, hash.clone())
        };
        (1..=length).map(record).collect()
    }

    fn findings(records: &[(u64, Vec<u8>, String)], head: &(u64, Vec<u8>, String)) -> Vec<(Fault, (u64, u64))> {
        let mut checker = Checker::new("test");
        checker.begin("c", 0, Some(ORIGIN));
        for (seq, canonical, hash) in records {
            checker.check(Found { chain_id: "c", seq: *seq, request_id: "r", canonical, hash });
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
            assert_eq!(findings(&changed, &records[19]), [(Fault::Changed, (seq, seq))]);

            let mut removed = records.clone();
            removed.remove(at);
            assert_eq!(findings(&removed, &records[19]), [(Fault::Missing, (seq, seq))]);

            let mut inserted = records.clone();
            inserted.insert(at + 1, records[at].clone());
            assert_eq!(findings(&inserted, &records[19]), [(Fault::Inserted, (seq, seq))]);
        }
    }

    #[test]
    fn a_changed_record_with_a_new_hash_breaks_the_next_link() {
        let records = chain(20);
        let mut forged = records.clone();
        forged[9].1 = b"{\"n\":0}".to_vec();
        forged[9].2 = link(&forged[8].2, &[&forged[9].1]);
        assert_eq!(findings(&forged, &records[19]), [(Fault::Changed, (11, 11))]);
        // The last record has no next: the ledger's own end tells.
        let mut forged = records.clone();
        forged[19].1 = b"{\"n\":0}".to_vec();
        forged[19].2 = link(&forged[18].2, &[&forged[19].1]);
        assert_eq!(findings(&forged, &records[19]), [(Fault::Changed, (20, 20))]);
    }
}
