//! The parts of an item that have columns of their own in the index, because queries filter by them.

use std::borrow::Cow;

use serde::Deserialize;

use crate::ledger::flat::visit_members;
use crate::ledger::timestamp::milliseconds;

/// Borrowed from the item's JSON where possible.
#[derive(Debug, Default, PartialEq, Deserialize)]
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
    pub(crate) caller: Option<Cow<'a, str>>,
    pub(crate) caller_uid: Option<u32>,
    pub(crate) chain_seq: u64,
    #[serde(borrow)]
    pub(crate) chain_id: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) host_id: Cow<'a, str>,
}

impl<'a> ItemColumns<'a> {
    /// Reads them from an item.
    ///
    /// # Errors
    /// When it is no object that has them.
    pub(crate) fn read(item: &'a str) -> serde_json::Result<ItemColumns<'a>> {
        match ItemColumns::of_canonical(item) {
            Some(columns) => Ok(columns),
            None => serde_json::from_str(item),
        }
    }

    fn of_canonical(item: &'a str) -> Option<ItemColumns<'a>> {
        let mut columns = ItemColumns::default();
        let mut needed = 0;
        visit_members(item, |key, value| {
            match key {
                "timestamp" => columns.timestamp = value.as_text()?,
                "success" => columns.success = value.as_flag()?,
                "modelId" => columns.model_id = value.as_text()?,
                "operation" => columns.operation = value.as_text()?,
                "caller" => columns.caller = Some(value.as_text()?),
                "callerUid" => columns.caller_uid = Some(value.as_number()?),
                "chainSeq" => columns.chain_seq = value.as_number()?,
                "chainId" => columns.chain_id = value.as_text()?,
                "hostId" => columns.host_id = value.as_text()?,
                _ => {}
            }
            needed += u8::from(matches!(key, "timestamp" | "success" | "chainSeq" | "chainId" | "hostId"));
            Some(())
        })?;
        (needed == 5).then_some(columns)
    }

    /// Milliseconds since 1970; 0 when the timestamp cannot be read.
    pub(crate) fn started_ms(&self) -> i64 {
        milliseconds(&self.timestamp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::item::tests::full_item;

    #[test]
    fn they_are_read_as_serde_reads_them() {
        let full = full_item();
        let whole = full.to_string();
        assert!(ItemColumns::of_canonical(&whole).is_some());
        for name in full.as_object().unwrap().keys() {
            let mut lacking = full.clone();
            lacking.as_object_mut().unwrap().remove(name);
            let values =
                [serde_json::json!("a\"\u{e9}\\"), 7.into(), true.into(), (-1).into(), serde_json::Value::Null];
            let changed = values.map(|value| {
                let mut changed = full.clone();
                changed[name] = value;
                changed
            });
            for item in changed.into_iter().chain([lacking]) {
                let item = item.to_string();
                let expected = serde_json::from_str::<ItemColumns<'_>>(&item).ok();
                assert_eq!(ItemColumns::read(&item).ok(), expected, "{item}");
            }
        }
    }
}
