//! The parts of an item that have columns of their own in the index, because queries filter by them.

use std::borrow::Cow;

use serde::Deserialize;

/// Borrowed from the item's JSON where possible.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ItemColumns<'a> {
    #[serde(borrow)]
    pub(crate) timestamp: Cow<'a, str>,
    pub(crate) success: bool,
    /// Empty when the item names no model.
    #[serde(borrow, default)]
    pub(crate) model_id: Cow<'a, str>,
    /// Empty in items of other programs.
    #[serde(borrow, default)]
    pub(crate) operation: Cow<'a, str>,
    pub(crate) caller: Option<String>,
    pub(crate) caller_uid: Option<u32>,
    pub(crate) chain_seq: u64,
    #[serde(borrow)]
    pub(crate) chain_id: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) host_id: Cow<'a, str>,
}

impl ItemColumns<'_> {
    /// Milliseconds since 1970; 0 when the timestamp cannot be read.
    pub(crate) fn started_ms(&self) -> i64 {
        self.timestamp.parse::<jiff::Timestamp>().map_or(0, jiff::Timestamp::as_millisecond)
    }
}
