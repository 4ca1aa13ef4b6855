//! The members of a canonical item, read in one pass and left where they are. Index and shipping read every record once,
//! and need no more of JSON than canonical items have: one object without white space, its keys sorted, nothing nested.

use std::borrow::Cow;

use crate::json::special;

/// The value of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scalar<'a> {
    /// A text in its quotes, with its escapes.
    Text(&'a str),
    /// The digits of a number.
    Number(&'a str),
    /// `true` or `false`.
    Flag(bool),
}

impl<'a> Scalar<'a> {
    /// A text without quotes and escapes.
    pub(crate) fn as_text(self) -> Option<Cow<'a, str>> {
        match self {
            Scalar::Text(quoted) if quoted.contains('\\') => serde_json::from_str(quoted).ok().map(Cow::Owned),
            Scalar::Text(quoted) => Some(Cow::Borrowed(quoted.get(1..quoted.len() - 1)?)),
            _ => None,
        }
    }

    /// A number that the type has.
    pub(crate) fn as_number<T: std::str::FromStr>(self) -> Option<T> {
        match self {
            Scalar::Number(digits) => digits.parse().ok(),
            _ => None,
        }
    }

    pub(crate) fn as_flag(self) -> Option<bool> {
        match self {
            Scalar::Flag(flag) => Some(flag),
            _ => None,
        }
    }
}

/// Visits the members in their order. None when the item is not in the canonical form, or the visitor returns none; what
/// was visited by then counts for nothing.
pub(crate) fn visit_members<'a>(item: &'a str, mut visit: impl FnMut(&'a str, Scalar<'a>) -> Option<()>) -> Option<()> {
    let mut rest = item.strip_prefix('{')?;
    if rest == "}" {
        return Some(());
    }
    let mut last = None;
    loop {
        let Text { quoted, has_escapes, behind } = text(rest)?;
        let key = quoted.get(1..quoted.len() - 1)?;
        if has_escapes || last.is_some_and(|last| key <= last) {
            return None;
        }
        last = Some(key);
        let (value, behind) = scalar(behind.strip_prefix(':')?)?;
        visit(key, value)?;
        match behind.split_at_checked(1)? {
            (",", behind) => rest = behind,
            ("}", "") => return Some(()),
            _ => return None,
        }
    }
}

/// A value, and what stands behind it.
fn scalar(json: &str) -> Option<(Scalar<'_>, &str)> {
    match json.as_bytes().first()? {
        b'"' => text(json).map(|text| (Scalar::Text(text.quoted), text.behind)),
        b't' => json.strip_prefix("true").map(|rest| (Scalar::Flag(true), rest)),
        b'f' => json.strip_prefix("false").map(|rest| (Scalar::Flag(false), rest)),
        _ => number(json).map(|(digits, rest)| (Scalar::Number(digits), rest)),
    }
}

/// A whole number.
fn number(json: &str) -> Option<(&str, &str)> {
    let sign = usize::from(json.starts_with('-'));
    let digits = json.bytes().skip(sign).take_while(u8::is_ascii_digit).count();
    let (number, rest) = json.split_at_checked(sign + digits)?;
    let is_whole = digits == 1 || (digits > 1 && !number[sign..].starts_with('0'));
    is_whole.then_some((number, rest))
}

/// A text that was read.
struct Text<'a> {
    quoted: &'a str,
    has_escapes: bool,
    behind: &'a str,
}

/// A text in its quotes.
#[inline]
fn text(json: &str) -> Option<Text<'_>> {
    let inside = json.strip_prefix('"')?.as_bytes();
    let mut at = 0;
    let mut has_escapes = false;
    loop {
        at += special(inside.get(at..)?)?;
        match inside[at] {
            b'"' => break,
            b'\\' => {
                has_escapes = true;
                at += 2;
            }
            _ => return None,
        }
    }
    let (quoted, behind) = json.split_at_checked(at + 2)?;
    if has_escapes && serde_json::from_str::<Cow<'_, str>>(quoted).is_err() {
        return None;
    }
    Some(Text { quoted, has_escapes, behind })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::item::tests::full_item;
    use crate::ledger::tests::Random;
    use serde_json::Value;

    fn members(item: &str) -> Option<Vec<(String, Value)>> {
        let mut members = Vec::new();
        visit_members(item, |key, value| {
            let value = match value {
                Scalar::Text(quoted) => {
                    let text = serde_json::from_str::<Value>(quoted).unwrap();
                    assert_eq!(value.as_text().unwrap(), text.as_str().unwrap());
                    text
                }
                Scalar::Number(digits) => serde_json::from_str(digits).unwrap(),
                Scalar::Flag(flag) => flag.into(),
            };
            members.push((key.to_owned(), value));
            Some(())
        })?;
        Some(members)
    }

    #[test]
    fn what_is_read_is_what_serde_json_reads() {
        for item in [full_item().to_string(), "{}".to_owned(), r#"{"a":-7,"b":0,"c":true}"#.to_owned()] {
            let expected: Value = serde_json::from_str(&item).unwrap();
            let expected: Vec<(String, Value)> = expected.as_object().unwrap().clone().into_iter().collect();
            assert_eq!(members(&item).unwrap(), expected);
        }
    }

    #[test]
    fn a_text_ends_at_its_quote_wherever_that_stands() {
        for length in 0..40 {
            for at in 0..=length {
                for one in ["\"", "\\", "\n", "\u{1}", "\u{7f}", "é", "\u{2028}", "😀", "!", "#", "[", "]"] {
                    let mut text = "a".repeat(length);
                    text.insert_str(at, one);
                    let item = serde_json::json!({ "a": text }).to_string();
                    assert_eq!(members(&item).unwrap(), [("a".to_owned(), Value::String(text))], "{item}");
                }
            }
        }
    }

    #[test]
    fn what_is_not_canonical_is_left_to_others() {
        for item in [
            "",
            "{",
            "{}}",
            "[]",
            r#"{"a":1"#,
            r#"{"a":1} "#,
            r#"{"a":1,}"#,
            r#"{"a" :1}"#,
            r#"{"a": 1}"#,
            r#"{"b":1,"a":1}"#,
            r#"{"a":1,"a":1}"#,
            r#"{"\u0061":1}"#,
            r#"{"a":01}"#,
            r#"{"a":-}"#,
            r#"{"a":1.5}"#,
            r#"{"a":1e5}"#,
            r#"{"a":null}"#,
            r#"{"a":[]}"#,
            r#"{"a":truer}"#,
            r#"{"a":"b}"#,
            r#"{"a":"\x"}"#,
            r#"{"a":"\ud800"}"#,
            "{\"a\":\"\n\"}",
        ] {
            assert_eq!(members(item), None, "{item}");
        }
    }

    #[test]
    fn what_is_changed_anywhere_is_read_as_serde_json_reads_it_or_not_at_all() {
        let item = full_item().to_string();
        let mut random = Random(11);
        for _ in 0..200_000 {
            let mut bytes = item.clone().into_bytes();
            for _ in 0..=random.below(2) {
                let at = usize::try_from(random.below(bytes.len() as u64)).unwrap();
                bytes[at] = br#"{}[]":,\ 0a-.truefalsn"#[usize::try_from(random.below(22)).unwrap()];
            }
            let Ok(changed) = String::from_utf8(bytes) else { continue };
            if let Some(read) = members(&changed) {
                let expected: Value = serde_json::from_str(&changed).unwrap();
                let expected: Vec<(String, Value)> = expected.as_object().unwrap().clone().into_iter().collect();
                assert_eq!(read, expected, "{changed}");
            }
        }
    }
}
