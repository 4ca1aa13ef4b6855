//! `docs/configuration.md` as a manual page.

use crate::markdown::{escaped, inline, paragraph};

/// What stands before the first table.
pub(crate) fn introduction(page: &str) -> String {
    let text = page.split_once("\n## ").map_or(page, |(before, _)| before);
    let mut roff = String::new();
    for block in blocks(text).filter(|block| !block.starts_with("# ") && !block.contains("is made from")) {
        if !roff.is_empty() {
            roff += ".PP\n";
        }
        roff += &match block.strip_prefix("- ") {
            Some(items) => items.split("\n- ").map(item).collect(),
            None => paragraph(&joined(block)),
        };
    }
    roff
}

/// Each table of the configuration, with its keys.
pub(crate) fn tables(page: &str) -> String {
    page.split("\n## ").skip(1).map(section).collect()
}

fn section(text: &str) -> String {
    let (title, body) = text.split_once('\n').unwrap_or((text, ""));
    let mut roff = format!(".SS {}\n", escaped(&title.replace('`', "")));
    for block in blocks(body) {
        if let Some(title) = block.strip_prefix("### ") {
            roff += &format!(".PP\n{}\n", inline(title));
        } else if block.starts_with('|') {
            roff += &block.lines().skip(2).map(key).collect::<String>();
        } else {
            // A paragraph behind the keys belongs to the table, and not to the last key.
            roff += &format!(".PP\n{}", paragraph(&joined(&without_references(block))));
        }
    }
    roff
}

/// One row: `| key | type | default | meaning |`.
fn key(row: &str) -> String {
    let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
    let [key, kind, default, meaning] = cells.as_slice() else { return String::new() };
    let about = match (*kind, *default) {
        ("—", _) => String::new(),
        (kind, "*required*") => format!(" ({kind}, required)"),
        (kind, "none") => format!(" ({kind})"),
        (kind, default) => format!(" ({kind}, default: {default})"),
    };
    let meaning = meaning.trim_end_matches('.');
    format!(".TP\n{}{}\n{}", inline(key), inline(&about), paragraph(&format!("{}.", capital(meaning))))
}

fn item(text: &str) -> String {
    format!(".IP \\(bu 2\n{}", paragraph(&joined(text)))
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// Other pages of the documentation are not beside a manual page.
fn without_references(block: &str) -> String {
    let one_line = joined(block);
    match one_line.rfind("See [") {
        Some(at) if one_line.ends_with(").") => one_line[..at].trim_end().to_owned(),
        _ => one_line,
    }
}

fn joined(block: &str) -> String {
    block.lines().map(str::trim).collect::<Vec<_>>().join(" ")
}

fn blocks(text: &str) -> impl Iterator<Item = &str> {
    text.split("\n\n").map(str::trim).filter(|block| !block.is_empty())
}
