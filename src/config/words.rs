//! What the TOML reader complains about, said so that an admin knows what to write instead.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Makes one plain sentence of a message of the TOML reader.
pub(super) fn plain(message: &str) -> String {
    // The reader's own messages may have several lines; the contract is one sentence on one line.
    let message = message.trim().replace('\n', "; ");
    let message = match message.split_once("expected a nonzero ") {
        Some((found, kind)) => format!("{found}expected {}", whole_number(kind)),
        None => message,
    };
    match suggestion(&message) {
        Some(name) => format!("{message}; did you mean `{name}`?"),
        None => message,
    }
}

/// The message with what to write in the place of a value of the wrong type; other messages as they are.
pub(super) fn shaped(text: &str, span: &Range<usize>, message: &str) -> String {
    let form = || {
        // What the reader says where one of several words belongs.
        let message =
            if message == "wanted string or table" { "invalid type: no text, expected a string" } else { message };
        let (found, expected) = message.strip_prefix("invalid type: ")?.split_once(", expected ")?;
        let document = DeTable::parse(text).ok()?;
        let path = path_of(document.get_ref(), span)?;
        let key = path.last()?;
        let form = match expected {
            "a map" => format!("a table; write [{}] above its keys", path.join(".")),
            name if name.starts_with("struct ") => format!("a table; write [{}] above its keys", path.join(".")),
            "a sequence" => format!("a list; write for example {key} = [\"…\"]"),
            "a string" | "string" => format!("a text in quotes; write for example {key} = \"…\""),
            "a boolean" => format!("true or false, without quotes; write for example {key} = true"),
            _ => return None,
        };
        Some(format!("invalid type: {found}, expected {form}"))
    };
    form().unwrap_or_else(|| message.to_owned())
}

/// The keys that lead to the value which stands there.
fn path_of(table: &DeTable<'_>, span: &Range<usize>) -> Option<Vec<String>> {
    table.iter().find_map(|(key, value)| {
        let mut path = vec![in_header(key.get_ref())];
        if value.span() == *span {
            return Some(path);
        }
        let within = |value: &Spanned<DeValue<'_>>| match value.get_ref() {
            DeValue::Table(table) => path_of(table, span),
            _ => None,
        };
        let rest = match value.get_ref() {
            DeValue::Array(items) => items.iter().find_map(within),
            _ => within(value),
        };
        path.extend(rest?);
        Some(path)
    })
}

/// Only a bare key stands without quotes in a header.
fn in_header(key: &str) -> String {
    let bare = key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
    if bare { key.to_owned() } else { format!("\"{key}\"") }
}

/// The name out of `known` that is most like `written`, if it is like it at all.
pub(crate) fn nearest<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let written = written.to_lowercase();
    known
        .into_iter()
        .map(|name| (distance(&written, &name.to_lowercase()), name))
        .filter(|(distance, name)| *distance <= (name.chars().count() / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// Finds a list where the configuration has a table, and the other way round. serde would take the items of such a list for
/// the table's values, in order.
pub(super) fn misshapen(text: &str) -> Option<(Range<usize>, String)> {
    let document = DeTable::parse(text).ok()?;
    document.get_ref().iter().find_map(|(key, value)| {
        let name = key.get_ref().as_ref();
        match (name, value.get_ref()) {
            ("upstreams" | "callers" | "prices", DeValue::Array(items)) => {
                let item = items.iter().find(|item| !item.get_ref().is_table())?;
                Some((item.span(), format!("each of {name} is a table of its own; write [[{name}]] above its keys.")))
            }
            ("upstreams" | "callers" | "prices", DeValue::Table(_)) => {
                Some((value.span(), format!("there may be several of {name}; write [[{name}]], with two brackets.")))
            }
            (_, DeValue::Array(_)) => Some((value.span(), one_table(name))),
            ("listen", DeValue::Table(table)) => a_list_below(name, table, |key| key == "tls"),
            ("audit", DeValue::Table(table)) => a_list_below(name, table, |key| key == "anchor"),
            ("models", DeValue::Table(table)) => a_list_below(name, table, |key| key == "aliases"),
            ("limits", DeValue::Table(table)) => {
                a_list_below(name, table, |key| key == "models").or_else(|| match table.get("models")?.get_ref() {
                    DeValue::Table(models) => a_list_below("limits.models", models, |_| true),
                    _ => None,
                })
            }
            _ => None,
        }
    })
}

fn a_list_below(parent: &str, table: &DeTable<'_>, is_table: impl Fn(&str) -> bool) -> Option<(Range<usize>, String)> {
    let is_list = |value: &Spanned<DeValue<'_>>| value.get_ref().is_array();
    let (key, value) = table.iter().find(|(key, value)| is_table(key.get_ref()) && is_list(value))?;
    Some((value.span(), one_table(&format!("{parent}.{}", in_header(key.get_ref())))))
}

fn one_table(name: &str) -> String {
    format!("there is only one {name}; write [{name}], with single brackets, above its keys.")
}

fn whole_number(kind: &str) -> String {
    match kind {
        "u8" => format!("a whole number from 1 to {}", u8::MAX),
        "u16" => format!("a whole number from 1 to {}", u16::MAX),
        "u32" => format!("a whole number from 1 to {}", u32::MAX),
        _ => "a whole number of 1 or more".to_owned(),
    }
}

/// For "unknown field `a`, expected one of `b`, `c`": whichever is most like `a`.
fn suggestion(message: &str) -> Option<&str> {
    let unknown = message.strip_prefix("unknown field `").or_else(|| message.strip_prefix("unknown variant `"))?;
    let (written, rest) = unknown.split_once("`, expected ")?;
    nearest(written, rest.split('`').skip(1).step_by(2))
}

/// How many letters must be changed, added, left out or swapped with their neighbour to make one of the other.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut before = Vec::new();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    let mut last = None;
    for (i, letter) in one.chars().enumerate() {
        let mut next = vec![i + 1];
        for (j, &opposite) in other.iter().enumerate() {
            let mut least = (row[j] + usize::from(letter != opposite)).min(row[j + 1] + 1).min(next[j] + 1);
            if j > 0 && last == Some(opposite) && other[j - 1] == letter {
                least = least.min(before[j - 1] + 1);
            }
            next.push(least);
        }
        last = Some(letter);
        before = std::mem::replace(&mut row, next);
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_found_and_no_far_one() {
        let known = ["Converse", "ConverseStream", "InvokeModel"];
        for (written, expected) in [
            ("Convers", Some("Converse")),
            ("converse", Some("Converse")),
            ("InvokeMdoel", Some("InvokeModel")),
            ("ConverseStraem", Some("ConverseStream")),
            ("Delete", None),
            ("", None),
        ] {
            assert_eq!(nearest(written, known), expected, "{written}");
        }
        assert_eq!((distance("ab", "ba"), distance("", "abc"), distance("kitten", "sitting")), (1, 3, 3));
    }

    #[test]
    fn the_reader_s_words_become_plain() {
        assert_eq!(
            plain("invalid value: integer `0`, expected a nonzero u32"),
            "invalid value: integer `0`, expected a whole number from 1 to 4294967295"
        );
        assert_eq!(
            plain("unknown field `adress`, expected one of `addresses`, `tls`"),
            "unknown field `adress`, expected one of `addresses`, `tls`; did you mean `addresses`?"
        );
        assert_eq!(
            plain("unknown variant `x`, expected `deny` or `allow`"),
            "unknown variant `x`, expected `deny` or `allow`"
        );
    }
}
