//! The parts of an item that are counted.

use std::borrow::Cow;

use serde::Deserialize;

use super::sums::Sums;
use crate::ledger::flat::visit_members;
use crate::record::Record;

/// Borrowed from the item's JSON where possible.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Counted<'a> {
    #[serde(borrow)]
    pub(super) operation: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) model_id: Cow<'a, str>,
    pub(super) caller: Option<Cow<'a, str>>,
    pub(super) caller_uid: Option<u32>,
    #[serde(borrow)]
    pub(super) destination_region: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) outcome: Cow<'a, str>,
    pub(super) status_code: u16,
    attempts: u64,
    repeated: u64,
    input_tokens: u64,
    output_tokens: u64,
    cache_read_tokens: u64,
    cache_write_tokens: u64,
    cost_nano_usd: Option<u64>,
    request_size: u64,
    response_size: u64,
    latency: u64,
    first_byte_latency: Option<u64>,
}

impl<'a> Counted<'a> {
    /// Reads them from an item; none when it is no item.
    pub(super) fn read(item: &'a str) -> Option<Counted<'a>> {
        Counted::of_canonical(item).or_else(|| serde_json::from_str(item).ok())
    }

    fn of_canonical(item: &'a str) -> Option<Counted<'a>> {
        let mut counted = Counted::default();
        visit_members(item, |key, value| {
            match key {
                "operation" => counted.operation = value.as_text()?,
                "modelId" => counted.model_id = value.as_text()?,
                "caller" => counted.caller = Some(value.as_text()?),
                "callerUid" => counted.caller_uid = Some(value.as_number()?),
                "destinationRegion" => counted.destination_region = value.as_text()?,
                "outcome" => counted.outcome = value.as_text()?,
                "statusCode" => counted.status_code = value.as_number()?,
                "attempts" => counted.attempts = value.as_number()?,
                "repeated" => counted.repeated = value.as_number()?,
                "inputTokens" => counted.input_tokens = value.as_number()?,
                "outputTokens" => counted.output_tokens = value.as_number()?,
                "cacheReadTokens" => counted.cache_read_tokens = value.as_number()?,
                "cacheWriteTokens" => counted.cache_write_tokens = value.as_number()?,
                "costNanoUsd" => counted.cost_nano_usd = Some(value.as_number()?),
                "requestSize" => counted.request_size = value.as_number()?,
                "responseSize" => counted.response_size = value.as_number()?,
                "latency" => counted.latency = value.as_number()?,
                "firstByteLatency" => counted.first_byte_latency = Some(value.as_number()?),
                _ => {}
            }
            Some(())
        })?;
        Some(counted)
    }

    /// Whether it is about the daemon's own records, and no request to a model.
    pub(super) fn is_own(&self) -> bool {
        Record::OWN.contains(&&*self.operation)
    }

    /// What it adds to a sum. Sizes and times are those of the first of the requests that a record stands for, and nobody
    /// knows the others': they count once.
    pub(super) fn add_to(&self, sums: &mut Sums) {
        sums.add([
            self.repeated.saturating_add(1),
            self.input_tokens,
            self.output_tokens,
            self.cache_read_tokens,
            self.cache_write_tokens,
            self.cost_nano_usd.unwrap_or(0),
            u64::from(self.cost_nano_usd.is_none() && self.has_tokens()),
            self.request_size,
            self.response_size,
        ]);
        if self.is_timed() {
            sums.latency.record(self.latency);
        }
        if let Some(first_byte) = self.first_byte_latency {
            sums.first_byte.record(first_byte);
        }
    }

    fn has_tokens(&self) -> bool {
        [self.input_tokens, self.output_tokens, self.cache_read_tokens, self.cache_write_tokens].iter().any(|n| *n > 0)
    }

    /// What never went upstream tells nothing of how long requests take, and of one that was interrupted nobody knows.
    fn is_timed(&self) -> bool {
        self.attempts > 0 && self.outcome != "interrupted"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::item::tests::full_item;

    #[test]
    fn items_are_read_as_serde_reads_them() {
        let full = full_item();
        let whole = full.to_string();
        let counted = Counted::of_canonical(&whole).unwrap();
        assert_eq!(Some(&counted), serde_json::from_str(&whole).ok().as_ref());
        for name in full.as_object().unwrap().keys() {
            let mut lacking = full.clone();
            lacking.as_object_mut().unwrap().remove(name);
            let values = [serde_json::json!("a\"\u{e9}\\"), 7.into(), true.into(), (-1).into(), (1.5).into()];
            let changed = values.map(|value| {
                let mut changed = full.clone();
                changed[name] = value;
                changed
            });
            for item in changed.into_iter().chain([lacking]) {
                let item = item.to_string();
                assert_eq!(Counted::read(&item), serde_json::from_str(&item).ok(), "{item}");
            }
        }
    }

    #[test]
    fn each_part_of_an_item_is_in_its_sum() {
        let item = full_item().to_string();
        let mut sums = Sums::default();
        Counted::read(&item).unwrap().add_to(&mut sums);
        let percentiles = (sums.latency.percentile(50), sums.first_byte.percentile(50));
        assert_eq!(percentiles, (Some(3), Some(4)));
        let expected = Sums {
            requests: 11,
            input_tokens: 5,
            output_tokens: 6,
            cache_read_tokens: 7,
            cache_write_tokens: 8,
            cost_nano_usd: 9,
            unpriced: 0,
            request_bytes: 1,
            response_bytes: 2,
            latency: sums.latency.clone(),
            first_byte: sums.first_byte.clone(),
        };
        assert_eq!(sums, expected);
    }
}
