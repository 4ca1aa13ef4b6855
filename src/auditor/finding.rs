//! What a verification finds, in a line for people.

use std::fmt;

/// Something that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) chain_id: String,
    pub(crate) kind: FindingKind,
    /// The sequence numbers of the first and the last record it is about.
    pub(crate) seq: (u64, u64),
    pub(crate) request_id: Option<String>,
    /// What was checked, such as "the export".
    pub(crate) place: &'static str,
    /// Of two records that claim one place, the hash of the one that has it, if that is still there, and of the other.
    pub(crate) hashes: Option<(Option<String>, String)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum FindingKind {
    Changed,
    Missing,
    Inserted,
    /// The columns that queries filter by are not what the record says.
    Columns,
    /// Two records that differ claim one place in the chain.
    Conflict,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, last) = self.seq;
        match self.kind {
            FindingKind::Changed => write!(
                f,
                "CHANGED   record {first}: its hash is not the hash of what it says and of the record before it"
            ),
            FindingKind::Missing if first == last => write!(f, "MISSING   record {first}"),
            FindingKind::Missing => write!(f, "MISSING   records {first} to {last} ({} records)", last - first + 1),
            FindingKind::Inserted => write!(
                f,
                "INSERTED  record {first}: it does not belong where it stands, or was not written by this ledger"
            ),
            FindingKind::Columns => {
                write!(f, "CHANGED   record {first}: what questions are answered from is not what the record says")
            }
            FindingKind::Conflict => {
                let (there, other) =
                    self.hashes.as_ref().map_or((None, ""), |(there, other)| (there.as_deref(), other));
                let there = there.unwrap_or("of a record that was deleted since");
                write!(
                    f,
                    "CONFLICT  record {first}: two records claim this place; the chain has the one with the hash {there}, kept aside is {other}"
                )
            }
        }?;
        write!(f, " (in {}, chain {}", self.place, self.chain_id)?;
        match &self.request_id {
            Some(id) => write!(f, ", requestId {id})"),
            None => f.write_str(")"),
        }
    }
}
