//! Figures in little room.

use serde_json::Value;

use crate::cli::fitting::{clipped, safe};
use crate::cli::words;

/// What was not measured.
pub(super) const NONE: &str = "–";

/// "820 ms", "4.1 s", "12 min".
pub(super) fn milliseconds(value: &Value) -> String {
    match value.as_u64() {
        None => NONE.to_owned(),
        Some(ms @ 0..1_000) => format!("{ms} ms"),
        // Rounded down, so that no more than the unit's most is shown.
        Some(ms @ 1_000..100_000) => format!("{}.{} s", ms / 1_000, ms % 1_000 / 100),
        Some(ms @ 100_000..600_000) => format!("{} s", ms / 1_000),
        Some(ms @ 600_000..) => format!("{} min", ms / 60_000),
    }
}

/// "1,234,567".
pub(super) fn whole(value: &Value) -> String {
    value.as_u64().map_or(NONE.to_owned(), |number| words::count(i64::try_from(number).unwrap_or(i64::MAX)))
}

/// The same in at most so many places, as "1.2M" if it has to be.
pub(super) fn short(value: &Value, width: usize) -> String {
    let whole = whole(value);
    if whole.chars().count() <= width {
        return whole;
    }
    let mut tenths = value.as_u64().unwrap_or_default() / 100;
    for unit in ["k", "M", "G", "T", "P", "E"] {
        let text = format!("{}.{}{unit}", tenths / 10, tenths % 10);
        let text = if text.len() > width { format!("{}{unit}", tenths / 10) } else { text };
        if text.len() <= width && tenths < 10_000 {
            return text;
        }
        tenths /= 1_000;
    }
    clipped(&whole, width)
}

/// Two of them: "12.3k/1,204".
pub(super) fn both(first: &Value, second: &Value, width: usize) -> String {
    if first.is_null() && second.is_null() {
        return NONE.to_owned();
    }
    let each = width.saturating_sub(1) / 2;
    format!("{}/{}", short(first, each), short(second, each))
}

/// "$12.34" of nano-dollars. Small sums have more places.
pub(super) fn cost(value: &Value) -> String {
    match value.as_u64() {
        None => NONE.to_owned(),
        Some(0) => "$0".to_owned(),
        Some(1..100_000) => "<$.0001".to_owned(),
        Some(nano @ 100_000..999_950_000) => format!("${:.4}", nano as f64 / 1e9),
        Some(nano @ 999_950_000..10_000_000_000_000) => words::dollars(nano),
        Some(nano) => format!("${}", whole(&(nano / 1_000_000_000).into())),
    }
}

/// The cost of a group; `+` if some of its tokens have no price, and none if no price fits at all.
pub(super) fn cost_of_group(group: &Value) -> String {
    let has_unpriced = group["unpriced"].as_u64().is_some_and(|unpriced| unpriced > 0);
    match group["costNanoUsd"].as_u64() {
        Some(0) if has_unpriced => "no price".to_owned(),
        _ if has_unpriced => format!("{}+", cost(&group["costNanoUsd"])),
        _ => cost(&group["costNanoUsd"]),
    }
}

/// A name in so many places. Of one that is too long the vendor goes first, and of an ARN all but its end.
pub(super) fn name(text: &str, width: usize) -> String {
    let text = safe(text);
    let length = text.chars().count();
    if length <= width {
        return text;
    }
    if text.starts_with("arn:") {
        let end: String = text.chars().skip(length + 1 - width.max(1)).collect();
        return format!("…{end}");
    }
    let mut rest = text.as_str();
    while let Some((vendor, model)) = rest.split_once('.') {
        let is_vendor = vendor.len() > 1 && vendor.bytes().all(|one| one.is_ascii_lowercase() || one == b'-');
        if !is_vendor || model.is_empty() || rest.chars().count() < width {
            break;
        }
        rest = model;
    }
    if rest.len() == text.len() { clipped(&text, width) } else { clipped(&format!("…{rest}"), width) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn figures_fit() {
        let times = [0, 999, 1_000, 4_199, 99_999, 100_000, 599_999, 600_000, 6_000_000];
        assert_eq!(
            times.map(|ms| milliseconds(&json!(ms))),
            ["0 ms", "999 ms", "1.0 s", "4.1 s", "99.9 s", "100 s", "599 s", "10 min", "100 min"]
        );
        let numbers = [0u64, 1_204, 999_999, 1_000_000, 12_345_678, 999_999_999, 1_234_567_890, u64::MAX];
        assert_eq!(
            numbers.map(|number| short(&json!(number), 7)),
            ["0", "1,204", "999,999", "1.0M", "12.3M", "999.9M", "1.2G", "18.4E"]
        );
        assert_eq!(numbers.map(|number| short(&json!(number), 4)).map(|text| text.len() <= 6), [true; 8]);
        assert_eq!(short(&json!(12_345), 4), "12k");
        assert_eq!(both(&json!(1_204), &json!(56), 9), "1.2k/56");
        assert_eq!(both(&Value::Null, &json!(56), 9), "–/56");
        assert_eq!([&Value::Null, &json!("x")].map(whole), ["–", "–"]);
    }

    #[test]
    fn costs_are_never_shown_as_less_than_nothing_or_as_nothing() {
        let sums = [0u64, 1, 99_999, 100_000, 4_200_000, 999_949_999, 999_950_000, 12_345_000_000, 10_000_000_000_000];
        assert_eq!(
            sums.map(|nano| cost(&json!(nano))),
            ["$0", "<$.0001", "<$.0001", "$0.0001", "$0.0042", "$0.9999", "$1.00", "$12.35", "$10,000"]
        );
        let group = |cost: u64, unpriced: u64| cost_of_group(&json!({ "costNanoUsd": cost, "unpriced": unpriced }));
        assert_eq!((group(0, 0), group(0, 3)), ("$0".to_owned(), "no price".to_owned()));
        assert_eq!((group(2_000_000_000, 0), group(2_000_000_000, 1)), ("$2.00".to_owned(), "$2.00+".to_owned()));
    }

    #[test]
    fn of_long_names_the_part_that_tells_them_apart_is_kept() {
        let model = "us.anthropic.claude-opus-4-1-20250805-v1:0";
        assert_eq!(name(model, 42), model);
        assert_eq!(name(model, 41), "…anthropic.claude-opus-4-1-20250805-v1:0");
        assert_eq!(name(model, 20), "…claude-opus-4-1-20…");
        assert_eq!(name("gpt-4.1-mini-and-more", 10), "gpt-4.1-m…");
        assert_eq!(name("arn:aws:bedrock:us-east-1:1:application-inference-profile/abc", 10), "…ofile/abc");
        assert_eq!(name("\u{1b}[2J", 6), "\\u{1b…");
        assert_eq!(name("anthropic.", 5), "anth…");
    }
}
