//! Items of the table that the ledger has no records of: of a ledger that was removed, or of an end that was lost.

use serde_json::Value;

use crate::auditor::chain_check::{ChainChecker, ChainEntry, chain_entry_fields};
use crate::ledger::item::canonical;

/// How items are checked that the ledger has no records of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Apart {
    /// Items that began before some time were not read.
    pub(super) is_window: bool,
    /// In seconds since 1970.
    pub(super) now: i64,
}

impl Apart {
    /// Checks items of a chain, which are in its order. What lies between them may be gone by rule: DynamoDB deletes what
    /// has expired in no order. `expiry` is that of the record before the first, if it is known. Returns what to say.
    pub(super) fn check(
        self,
        checker: &mut ChainChecker,
        chain_id: &str,
        items: &[(u64, Value)],
        mut expiry: Option<i64>,
    ) -> Option<String> {
        /// Requests end in another order than they begin.
        const LONGEST_REQUEST_SECONDS: i64 = 86_400;
        let mut excused = 0;
        for (seq, item) in items {
            let own_expiry = item["ttl"].as_i64();
            let may_be_gone =
                expiry.or(own_expiry).is_some_and(|expiry| expiry <= self.now.saturating_add(LONGEST_REQUEST_SECONDS));
            let last = checker.last_of(chain_id).filter(|last| last + 1 < *seq);
            if let Some(last) = last.filter(|_| self.is_window || may_be_gone) {
                excused += seq - 1 - last;
                checker.excuse(chain_id, seq - 1);
            }
            expiry = own_expiry;
            if let (Some((_, _, request_id, hash)), Some(canonical)) = (chain_entry_fields(item), canonical(item)) {
                checker.check(ChainEntry { chain_id, seq: *seq, request_id, canonical: &canonical, hash });
                checker.checked -= 1;
            }
        }
        (excused > 0 && !self.is_window).then(|| {
            format!("note: {excused} records of chain {chain_id} are not there; those before them have expired, or will within a day")
        })
    }
}
