//! The hash chain that runs through a host's records, so that none can be changed, removed or inserted unnoticed.
//!
//! `chainHash` = SHA-256 over the previous record's `chainHash` (64 hexadecimal digits; zeros before the first) and the
//! record's canonical JSON: its item without `chainHash`, keys sorted, no white space (what `jq -cSj 'del(.chainHash)'`
//! prints). `chainSeq` counts from 1. A ledger that starts anew gets a new `chainId`.

use aws_lc_rs::digest;
use serde::{Deserialize, Serialize};

use crate::hexadecimal::hexadecimal;

/// The hash before a chain's first record.
pub(crate) const GENESIS_HASH: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// The last link of a chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Chain {
    pub(crate) host_id: String,
    pub(crate) chain_id: String,
    /// Of the last record; 0 before the first.
    pub(crate) seq: u64,
    /// Of the last record, in hexadecimal.
    pub(crate) hash: String,
}

impl Chain {
    /// A chain without records.
    pub(crate) fn new(host_id: &str) -> Chain {
        Chain {
            host_id: host_id.to_owned(),
            chain_id: uuid::Uuid::now_v7().simple().to_string(),
            seq: 0,
            hash: GENESIS_HASH.to_owned(),
        }
    }
}

/// The hash of a record whose canonical JSON is the concatenation of `canonical`, and that follows one with the hash
/// `previous`.
pub(crate) fn chain_hash(previous: &str, canonical: &[&[u8]]) -> String {
    // In one piece: a copy costs less than the context that pieces need.
    let length: usize = canonical.iter().map(|part| part.len()).sum();
    let mut linked = Vec::with_capacity(previous.len() + length);
    linked.extend_from_slice(previous.as_bytes());
    canonical.iter().for_each(|part| linked.extend_from_slice(part));
    hexadecimal(digest::digest(&digest::SHA256, &linked).as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_what_sha256sum_says() {
        // printf '%064d{"a":1}' 0 | sha256sum
        let expected = "fc6cee09194dd2578bd7664604fcb72a539066fd34544cea0009c43eb6cdc289";
        assert_eq!(chain_hash(GENESIS_HASH, &[b"{\"a\"", b":1}"]), expected);
    }
}
