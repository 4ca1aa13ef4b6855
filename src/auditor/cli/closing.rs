//! The last line of an export. It says how many records stand before it and where each chain ends, so that a file that
//! was cut off is told from a whole one.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::auditor::chain_check::{ChainChecker, chain_entry_fields};

/// What an export holds.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Closing {
    pub(super) count: u64,
    /// The last record of each chain: sequence number and hash.
    chains: BTreeMap<String, (u64, String)>,
}

impl Closing {
    /// Counts a record.
    pub(super) fn add(&mut self, item: &Value) {
        self.count += 1;
        if let Some((chain_id, seq, _, hash)) = chain_entry_fields(item) {
            self.chains.insert(chain_id.to_owned(), (seq, hash.to_owned()));
        }
    }

    pub(super) fn to_json(&self) -> Value {
        let chains: serde_json::Map<String, Value> =
            self.chains.iter().map(|(id, (seq, hash))| (id.clone(), json!({ "seq": seq, "hash": hash }))).collect();
        json!({ "export": { "count": self.count, "chains": chains } })
    }

    /// Reads a closing line; none if the line is another.
    pub(super) fn from_json(line: &Value) -> Option<Closing> {
        let export = line.as_object().filter(|fields| fields.len() == 1)?.get("export")?;
        let mut closing = Closing { count: export.get("count")?.as_u64()?, chains: BTreeMap::new() };
        for (id, end) in export.get("chains")?.as_object()? {
            let end = (end.get("seq")?.as_u64()?, end.get("hash")?.as_str()?.to_owned());
            closing.chains.insert(id.clone(), end);
        }
        Some(closing)
    }

    /// Holds it against the lines that stand before it.
    pub(super) fn check(&self, lines: u64, checker: &mut ChainChecker) {
        if self.count != lines {
            checker.complaints.push(format!(
                "INCOMPLETE the export's closing line counts {} records, and {lines} stand before it",
                self.count
            ));
        }
        for (id, (seq, hash)) in &self.chains {
            checker.end(id, *seq, hash);
        }
    }
}
