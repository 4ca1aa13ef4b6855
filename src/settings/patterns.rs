//! Patterns on models and operations, as rules hold them. One that no name can ever fit is refused: a deny rule with a
//! slip of the pen would deny nothing, and nobody would notice.

use toml::Spanned;

use super::callers::{Rule, place};
use crate::config::{ConfigError, Glob, Source, nearest};
use crate::operation;

/// As they stand in the file.
type Written = Spanned<Vec<Spanned<Glob>>>;

/// A rule on models and profiles.
pub(super) fn models(list: &Written, source: &Source) -> Result<Rule, ConfigError> {
    for pattern in list.get_ref() {
        let text = pattern.get_ref().to_string();
        check_model(&text).map_err(|why| source.error(pattern.span(), why))?;
    }
    Ok(rule(list, source))
}

/// A rule on models and profiles that says what alone is permitted: an empty one would permit nothing.
pub(super) fn permitted_models(key: &str, list: &Written, source: &Source) -> Result<Rule, ConfigError> {
    not_empty(key, "model", list, source)?;
    models(list, source)
}

/// A rule on operations.
pub(super) fn operations(list: &Written, source: &Source) -> Result<Rule, ConfigError> {
    for pattern in list.get_ref() {
        if operation::names().any(|name| pattern.get_ref().matches(name)) {
            continue;
        }
        let text = pattern.get_ref().to_string();
        let hint = match nearest(&text, operation::names()) {
            Some(name) => format!("did you mean \"{name}\"?"),
            None => "write a name such as \"Converse\", or a pattern such as \"Invoke*\".".to_owned(),
        };
        return Err(source.error(pattern.span(), format!("\"{text}\" fits no operation that is relayed; {hint}")));
    }
    Ok(rule(list, source))
}

/// A rule on operations that says what alone is permitted.
pub(super) fn permitted_operations(key: &str, list: &Written, source: &Source) -> Result<Rule, ConfigError> {
    not_empty(key, "operation", list, source)?;
    operations(list, source)
}

/// Whether a model's identifier could fit the pattern.
///
/// # Errors
/// A sentence that says why none can.
pub(super) fn check_model(pattern: &str) -> Result<(), String> {
    let possible = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | ':' | '/' | '-' | '_' | '*' | '?');
    match pattern.chars().find(|c| !possible(*c)) {
        None => Ok(()),
        Some(c) => Err(format!(
            "\"{pattern}\" fits no model: identifiers have letters, digits and any of \"._:/-\", but no {c:?}."
        )),
    }
}

/// Whether some text fits both patterns.
pub(super) fn overlap(one: &str, other: &str) -> bool {
    let (one, other): (Vec<char>, Vec<char>) = (one.chars().collect(), other.chars().collect());
    // Of the rests behind i and j; the last row and column are those of an empty rest.
    let mut below = vec![false; other.len() + 1];
    for i in (0..=one.len()).rev() {
        let mut row = vec![false; other.len() + 1];
        for j in (0..=other.len()).rev() {
            row[j] = match (one.get(i), other.get(j)) {
                (None, None) => true,
                (Some('*'), _) if below[j] => true,
                (_, Some('*')) if row[j + 1] => true,
                (Some('*'), Some(_)) => row[j + 1],
                (Some(_), Some('*')) => below[j],
                (Some(a), Some(b)) => (a == b || *a == '?' || *b == '?') && below[j + 1],
                _ => false,
            };
        }
        below = row;
    }
    below[0]
}

fn not_empty(key: &str, what: &str, list: &Written, source: &Source) -> Result<(), ConfigError> {
    if !list.get_ref().is_empty() {
        return Ok(());
    }
    Err(source.error(
        list.span(),
        format!("{key} is empty and would permit no {what}; leave it out to permit all, or name what is permitted."),
    ))
}

fn rule(list: &Written, source: &Source) -> Rule {
    Rule {
        patterns: list.get_ref().iter().map(|pattern| pattern.get_ref().clone()).collect(),
        place: place(&list.span(), source),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_overlap_where_one_text_fits_both() {
        for (one, other, expected) in [
            ("*", "", true),
            ("a*", "*b", true),
            ("a*", "b*", false),
            ("a?c", "ab*", true),
            ("a?c", "ab", false),
            ("anthropic.*", "*opus*", true),
            ("CN=*", "DNS:*", false),
            ("CN=*", "*", true),
            ("a**c", "abc", true),
            ("?", "", false),
            ("*a", "*a*b", false),
        ] {
            assert_eq!((overlap(one, other), overlap(other, one)), (expected, expected), "{one} {other}");
        }
    }
}
