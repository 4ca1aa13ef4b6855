//! Anchors as they are read back from a log or a copy of a bucket, and what they prove of a ledger.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use serde_json::Value;

/// The ends of chains that someone kept: by chain and sequence number, the hashes.
#[derive(Debug, Default)]
pub(crate) struct Anchors {
    chains: BTreeMap<String, Chain>,
    /// Objects that hold no anchor.
    damaged: Vec<PathBuf>,
}

#[derive(Debug, Default)]
struct Chain {
    host_id: Option<String>,
    hashes: BTreeMap<u64, BTreeSet<String>>,
    /// The sequence numbers at which the ledger was seen to agree.
    met: BTreeSet<u64>,
}

/// What a chain of the ledger spans.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span {
    /// The last record that was pruned; 0 when none was.
    pub(crate) pruned: u64,
    /// The last record.
    pub(crate) last: u64,
}

/// What anchors say of a ledger.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Judgement {
    pub(crate) complaints: Vec<String>,
    pub(crate) notes: Vec<String>,
}

impl Anchors {
    /// Reads a log: JSON or text as the daemon writes it, or `journalctl -o json` or `-o cat`. Other lines are skipped.
    pub(crate) fn read(lines: impl BufRead) -> io::Result<Anchors> {
        let mut anchors = Anchors::default();
        anchors.add(lines)?;
        Ok(anchors)
    }

    /// Reads the objects that the daemon wrote into a bucket, from a copy of it: the files that end in `.json`, at any
    /// depth. What could not be read comes with its path.
    pub(crate) fn read_directory(directory: &Path) -> Result<Anchors, (PathBuf, io::Error)> {
        let mut anchors = Anchors::default();
        let mut directories = vec![directory.to_owned()];
        while let Some(directory) = directories.pop() {
            let failed = |error| (directory.clone(), error);
            for entry in std::fs::read_dir(&directory).map_err(failed)? {
                let entry = entry.map_err(failed)?;
                let path = entry.path();
                // Links are not followed, so that none leads round in a circle.
                let kind = entry.file_type().map_err(|error| (path.clone(), error))?;
                if kind.is_dir() {
                    directories.push(path);
                } else if kind.is_file() && path.extension().is_some_and(|extension| extension == "json") {
                    let read = std::fs::File::open(&path).and_then(|file| anchors.add(BufReader::new(file)));
                    if read.map_err(|error| (path.clone(), error))? == 0 {
                        anchors.damaged.push(path);
                    }
                }
            }
        }
        Ok(anchors)
    }

    /// Takes the anchors of further lines, and returns how many these are.
    fn add(&mut self, lines: impl BufRead) -> io::Result<usize> {
        let mut count = 0;
        for line in lines.split(b'\n') {
            let line = line?;
            let line = String::from_utf8_lossy(&line);
            if let Some(anchor) = parse(line.trim()) {
                let chain = self.chains.entry(anchor.chain_id).or_default();
                chain.host_id = anchor.host_id.or(chain.host_id.take());
                chain.hashes.entry(anchor.seq).or_default().insert(anchor.hash);
                count += 1;
            }
        }
        Ok(count)
    }

    /// A record of the ledger, or the last one that was pruned. Complains if an anchor has another hash.
    pub(crate) fn meet(&mut self, chain_id: &str, seq: u64, hash: &str) -> Option<String> {
        let chain = self.chains.get_mut(chain_id)?;
        let hashes = chain.hashes.get(&seq)?;
        chain.met.insert(seq);
        hashes.iter().any(|anchor| anchor != hash).then(|| {
            format!("ANCHOR    record {seq} had another hash when it was anchored: it, or one before it, was changed (chain {chain_id})")
        })
    }

    /// What is to be said when every record was met. Anchors of hosts that are not among `hosts` are skipped, if there
    /// are any. `named` are the last records of chains that others say they come after.
    pub(crate) fn judge(
        &self,
        spans: &BTreeMap<String, Span>,
        hosts: &BTreeSet<String>,
        named: &BTreeMap<&str, u64>,
    ) -> Judgement {
        let mut judgement = Judgement::default();
        let mut others = 0;
        let (complaints, notes) = (&mut judgement.complaints, &mut judgement.notes);
        for (id, chain) in &self.chains {
            let Some(newest) = chain.hashes.keys().next_back() else { continue };
            let Some(span) = spans.get(id) else {
                if chain.host_id.as_ref().is_some_and(|anchored| !hosts.is_empty() && !hosts.contains(anchored)) {
                    others += chain.hashes.len();
                } else if let Some(head) = named.get(id.as_str()) {
                    if newest > head {
                        complaints.push(format!(
                            "ANCHOR    chain {id} was anchored at record {newest}, and a later chain says that it ended at record {head}"
                        ));
                    } else {
                        notes.push(format!(
                            "note: chain {id} was anchored, and is not here; a later chain says that it comes after it"
                        ));
                    }
                } else {
                    complaints.push(format!(
                        "ANCHOR    chain {id} was anchored at record {newest}, and is not in this ledger"
                    ));
                }
                continue;
            };
            if *newest > span.last {
                complaints.push(format!(
                    "ANCHOR    chain {id} was anchored at record {newest}, and ends at record {} in this ledger",
                    span.last
                ));
            }
            if let Some(proven) = chain.met.iter().next_back().filter(|seq| **seq > span.pruned) {
                notes.push(format!(
                    "proven by anchors: records {} to {proven} of chain {id}; {} newer ones are not anchored yet",
                    span.pruned + 1,
                    span.last.saturating_sub(*proven)
                ));
            }
        }
        if others > 0 {
            notes.push(format!("note: {others} anchors are of other hosts"));
        }
        for (id, span) in spans.iter().filter(|(id, span)| span.last > span.pruned && !self.chains.contains_key(*id)) {
            notes.push(format!(
                "note: no anchor is of chain {id}, so its {} records are not proven",
                span.last - span.pruned
            ));
        }
        if self.chains.is_empty() {
            complaints.push("ANCHOR    the file or directory holds no anchor".to_owned());
        }
        if let Some(first) = self.damaged.first() {
            notes.push(format!(
                "note: {} files hold no anchor although their names end in .json, such as {}",
                self.damaged.len(),
                first.display()
            ));
        }
        judgement
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Anchor {
    chain_id: String,
    seq: u64,
    hash: String,
    host_id: Option<String>,
}

fn parse(line: &str) -> Option<Anchor> {
    let Ok(Value::Object(fields)) = serde_json::from_str(line) else { return parse_text(line) };
    // journald's own fields are in capitals.
    let field = |name: &str| fields.get(name).or_else(|| fields.get(&format!("F_{}", name.to_ascii_uppercase())));
    if let (Some(id), Some(seq), Some(hash)) = (field("chainId"), field("chainSeq"), field("chainHash")) {
        let seq = seq.as_u64().or_else(|| seq.as_str()?.parse().ok())?;
        let text = |value: &Value| value.as_str().map(str::to_owned);
        // An exported record has them too, and is no anchor.
        let is_record = fields.contains_key("requestId");
        let host_id = field("hostId").and_then(text);
        return Some(Anchor { chain_id: text(id)?, seq, hash: text(hash)?, host_id }).filter(|_| !is_record);
    }
    parse(fields.get("MESSAGE")?.as_str()?)
}

fn parse_text(line: &str) -> Option<Anchor> {
    let field = |name: &str| {
        let (_, rest) = line.split_once(name)?;
        Some(rest.split_whitespace().next()?.trim_matches('"').to_owned())
    };
    Some(Anchor {
        chain_id: field(" chainId=")?,
        seq: field(" chainSeq=")?.parse().ok()?,
        hash: field(" chainHash=")?,
        host_id: field(" hostId="),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &[&str]) -> Anchors {
        Anchors::read(lines.join("\n").as_bytes()).unwrap()
    }

    #[test]
    fn every_form_of_log_is_read() {
        let json =
            r#"{"timestamp":"t","level":"INFO","message":"m","chainId":"c","chainSeq":7,"chainHash":"h","hostId":"i"}"#;
        let wrapped = serde_json::json!({ "PRIORITY": "6", "MESSAGE": json }).to_string();
        let journald = r#"{"MESSAGE":"m","F_CHAINID":"c","F_CHAINSEQ":"7","F_CHAINHASH":"h","F_HOSTID":"i"}"#;
        let text = "2026-01-01T00:00:00Z  INFO audit: the end of the chain chainId=c chainSeq=7 chainHash=h hostId=i";
        let expected = Anchor { chain_id: "c".into(), seq: 7, hash: "h".into(), host_id: Some("i".into()) };
        for line in [json, &wrapped, journald, text] {
            assert_eq!(parse(line).as_ref(), Some(&expected), "{line}");
        }
        for line in ["", "{}", "[1]", "chainId=c", r#"{"requestId":"r","chainId":"c","chainSeq":7,"chainHash":"h"}"#] {
            assert_eq!(parse(line), None, "{line}");
        }
    }

    #[test]
    fn a_copy_of_a_bucket_is_read_to_its_depth() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("i").join("c");
        std::fs::create_dir_all(&folder).unwrap();
        let object = |seq: u64| format!(r#"{{"chainId":"c","chainSeq":{seq},"chainHash":"h{seq}","hostId":"i"}}"#);
        std::fs::write(folder.join("1.json"), object(7)).unwrap();
        std::fs::write(root.path().join("2.json"), object(9)).unwrap();
        std::fs::write(folder.join("3.json"), "{\"chainId\":").unwrap();
        std::fs::write(folder.join("3.json.part"), object(10)).unwrap();
        std::os::unix::fs::symlink(root.path(), folder.join("round.json")).unwrap();

        let anchors = Anchors::read_directory(root.path()).unwrap();
        let seqs: Vec<u64> = anchors.chains["c"].hashes.keys().copied().collect();
        assert_eq!(seqs, [7, 9]);
        let notes = anchors.judge(&BTreeMap::new(), &BTreeSet::new(), &BTreeMap::from([("c", 9)])).notes;
        assert!(notes[1].contains("1 files hold no anchor") && notes[1].contains("3.json"), "{notes:?}");
        let (path, _) = Anchors::read_directory(&root.path().join("gone")).unwrap_err();
        assert!(path.ends_with("gone"));
    }

    #[test]
    fn a_ledger_that_agrees_is_proven_and_any_other_is_not() {
        let line = |seq: u64, hash: &str| format!("x chainId=c chainSeq={seq} chainHash={hash} hostId=i");
        let host = |id: &str| BTreeSet::from([id.to_owned()]);
        let spans = |pruned, last| BTreeMap::from([("c".to_owned(), Span { pruned, last })]);
        let (first, second) = (line(5, "h5"), line(9, "h9"));
        let lines = [first.as_str(), &second];

        let mut anchors = read(&lines);
        assert_eq!((anchors.meet("c", 5, "h5"), anchors.meet("c", 9, "h9")), (None, None));
        let judgement = anchors.judge(&spans(2, 12), &host("i"), &BTreeMap::new());
        assert_eq!(judgement.complaints, Vec::<String>::new());
        assert_eq!(
            judgement.notes,
            ["proven by anchors: records 3 to 9 of chain c; 3 newer ones are not anchored yet"]
        );

        assert!(anchors.meet("c", 9, "other").unwrap().contains("record 9 had another hash"));
        let behind = read(&lines).judge(&spans(0, 8), &host("i"), &BTreeMap::new()).complaints;
        assert!(behind[0].contains("anchored at record 9, and ends at record 8"), "{behind:?}");
        let gone = read(&lines).judge(&BTreeMap::new(), &host("i"), &BTreeMap::new()).complaints;
        assert!(gone[0].contains("is not in this ledger"), "{gone:?}");
        assert_eq!(
            read(&lines).judge(&BTreeMap::new(), &host("another"), &BTreeMap::new()).complaints,
            Vec::<String>::new()
        );
        // A later chain names its end.
        let named = |seq| read(&lines).judge(&BTreeMap::new(), &host("i"), &BTreeMap::from([("c", seq)])).complaints;
        assert_eq!(named(9), Vec::<String>::new());
        assert!(named(8)[0].contains("was anchored at record 9, and a later chain says that it ended at record 8"));
        assert!(
            read(&["nothing"]).judge(&spans(0, 1), &host("i"), &BTreeMap::new()).complaints[0].contains("no anchor")
        );
    }
}
