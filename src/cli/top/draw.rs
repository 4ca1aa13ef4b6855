//! The screen: how the daemon is, the figures of the window, who had which share of them, and the newest requests.

use serde_json::Value;

use super::columns::Table;
use super::data::Answer;
use super::record;
use super::totals::{Fact, health, totals};
use super::view::{Over, View};
use crate::cli::status::list;
use crate::cli::status::parts::headline;
use crate::cli::terminal::{Terminal, Text, Tone};

/// Where text begins, after its label.
const INDENT: usize = 14;
/// Lines of a sentence that says what is wrong.
const MOST_LINES: usize = 4;
/// With so many rows, blank lines set the parts apart.
const ROOMY: usize = 32;
/// What is shown where nothing limits the number of lines.
const MOST_GROUPS: usize = 50;

const KEYS: &str = "q quit · 1-4 window · m c o u by · ↑↓ Enter open · e errors · p pause · ? help";
const KEYS_OVER: &str = "Esc back · ↑↓ scroll · p pause · q quit";

const HELP: [(&str, &str); 15] = [
    ("1 2 3 4", "the last 15 min, 1 h, 24 h, 7 d"),
    ("m c o u", "figures by model, caller, operation, upstream"),
    ("↑ ↓ k j", "choose one of the newest requests; also PgUp, PgDn, Home, End"),
    ("Enter", "open its record; Esc goes back"),
    ("e", "of the newest requests, only those that failed; again: all"),
    ("p", "pause; again: go on"),
    ("q Ctrl-C", "quit"),
    ("", ""),
    ("P50 P95 P99", "so many percent of the requests took no longer"),
    ("FIRST", "half of the answers had begun after that; first byte, above, too"),
    ("IN OUT", "tokens of prompts and of answers"),
    ("CACHE", "tokens read from and written to prompt caches"),
    ("COST", "by limits.prices_file; + if some tokens have no price"),
    ("CODE", "the HTTP status; 499: the client left, 0: interrupted"),
    ("×3", "the record stands for so many refusals that were alike"),
];

/// The lines of a terminal with so many rows. Times are UTC.
pub(super) fn screen(view: &View, terminal: &Terminal, rows: usize) -> Vec<String> {
    let (mut lines, keys) = match &view.over {
        Over::Nothing => (figures(view, terminal, Some(rows.saturating_sub(1))), KEYS),
        Over::Help => (help(terminal), KEYS_OVER),
        Over::Record(item, first) => (opened(item, *first, terminal, rows), KEYS_OVER),
    };
    lines.resize(rows.saturating_sub(1), String::new());
    lines.push(terminal.line(&vec![(Tone::Faint, keys.to_owned())]));
    lines
}

/// The same for whoever reads it as text: all groups, and all requests that were asked for.
pub(super) fn text(view: &View, terminal: &Terminal) -> Vec<String> {
    figures(view, terminal, None)
}

fn figures(view: &View, terminal: &Terminal, rows: Option<usize>) -> Vec<String> {
    let mut lines = head(view, terminal);
    let Some(answer) = &view.answer else { return lines };
    let mut facts = |facts: Vec<Fact>| {
        for (label, text) in facts {
            lines.push(terminal.line(&labelled(&label, text)));
        }
    };
    facts(health(answer));
    if let Ok(usage) = &answer.usage {
        facts(totals(usage, answer));
    }
    if let Err(sentence) = &answer.usage {
        let label = format!("Last {}", answer.question.window.words());
        lines.extend(sentence_behind(&label, sentence, terminal));
    }
    let groups: Vec<&Value> = answer.usage.iter().flat_map(|usage| list(&usage["groups"])).collect();
    let gap = usize::from(rows.is_none_or(|rows| rows >= ROOMY));
    // Both tables have a line of titles.
    let left = rows.map_or(usize::MAX, |rows| rows.saturating_sub(lines.len() + 2 + 2 * gap));
    let most_groups = (left / 2).min(MOST_GROUPS);
    lines.extend(std::iter::repeat_n(String::new(), gap));
    lines.extend(table_of_groups(answer, &groups, most_groups, terminal));
    lines.extend(std::iter::repeat_n(String::new(), gap));
    let left = rows.map_or(usize::MAX, |rows| rows.saturating_sub(lines.len() + 1));
    lines.extend(table_of_requests(view, answer, left, rows.is_some(), terminal));
    lines
}

/// Whether requests are served, or that there is no daemon; behind the first line, what else has to be known of the screen.
fn head(view: &View, terminal: &Terminal) -> Vec<String> {
    let is_old = if view.trouble.is_some() { "AS OF " } else { "" };
    let at = view.answer.as_ref().map(|answer| format!("{is_old}{}", answer.at.strftime("%H:%M:%S UTC")));
    let mut marks: Vec<&str> = Vec::new();
    marks.extend(view.question.only_errors.then_some("ERRORS ONLY"));
    marks.extend(view.is_paused.then_some("PAUSED"));
    marks.extend(at.as_deref());
    let marks = marks.join(" · ");
    let sentences = match (&view.trouble, &view.answer) {
        (Some(sentence), _) => {
            let again =
                if view.is_paused { String::new() } else { format!(", asked again every {} s", view.every.as_secs()) };
            vec![vec![(Tone::Bad, "NO ANSWER".to_owned()), (Tone::Plain, format!("{again}: {sentence}"))]]
        }
        (None, Some(answer)) => headline(&answer.status),
        (None, None) => vec![vec![(Tone::Plain, "The daemon is being asked.".to_owned())]],
    };
    // The marks stand on the right of the first line: as many places are kept free, at first on its left.
    let kept = if marks.is_empty() { 0 } else { marks.chars().count() + 2 };
    let mut sentences = sentences;
    if let Some(first) = sentences.first_mut() {
        first.insert(0, (Tone::Plain, " ".repeat(kept)));
    }
    let in_lines = |terminal: &Terminal| -> Vec<String> {
        let text: String = sentences.iter().map(|sentence| terminal.paragraph(sentence, 0)).collect();
        text.lines().map(str::to_owned).collect()
    };
    let mut lines = in_lines(terminal);
    if lines.len() > MOST_LINES {
        lines.truncate(MOST_LINES);
        lines.iter_mut().skip(MOST_LINES - 1).for_each(|last| last.push('…'));
    }
    if let Some(first) = lines.first_mut().filter(|_| kept > 0) {
        // Codes of colours take no place.
        let length = in_lines(&Terminal { colours: false, ..*terminal }).first().map_or(0, |line| line.chars().count());
        let blank = (terminal.width + 2).saturating_sub(length);
        *first = format!("{}{}{marks}", first.trim_start(), " ".repeat(blank));
    }
    lines
}

fn table_of_groups(answer: &Answer, groups: &[&Value], most: usize, terminal: &Terminal) -> Vec<String> {
    if answer.usage.is_err() {
        return Vec::new();
    }
    let table = Table::of_groups(answer.question.by, terminal.width);
    let mut lines = vec![terminal.line(&table.titles())];
    if groups.is_empty() {
        let text = format!(" no requests in the last {}", answer.question.window.words());
        lines.push(terminal.line(&vec![(Tone::Faint, text)]));
    }
    let shown = if groups.len() > most { most.saturating_sub(1) } else { groups.len() };
    lines.extend(groups.iter().take(shown).map(|group| terminal.line(&table.of(group, false))));
    if shown < groups.len() {
        let more = format!(" and {} more, in a terminal with more rows", groups.len() - shown);
        lines.push(terminal.line(&vec![(Tone::Faint, more)]));
    }
    lines
}

fn table_of_requests(view: &View, answer: &Answer, most: usize, has_cursor: bool, terminal: &Terminal) -> Vec<String> {
    if let Err(sentence) = &answer.requests {
        // What is not told for one reason is said once.
        let is_said = answer.usage.as_ref().is_err_and(|said| said == sentence);
        return if is_said { Vec::new() } else { sentence_behind("Requests", sentence, terminal) };
    }
    let today = answer.at.strftime("%Y-%m-%d").to_string();
    let table = Table::of_requests(terminal.width, &today);
    let mut lines = vec![terminal.line(&table.titles())];
    let requests = view.requests();
    if requests.is_empty() {
        let what = if answer.question.only_errors { "no request has failed" } else { "no requests" };
        let text = format!(" {what} in the last {}", answer.question.window.words());
        lines.push(terminal.line(&vec![(Tone::Faint, text)]));
    }
    let cursor = view.cursor();
    // The cursor's row is always among those that are shown.
    let first = (cursor + 1).saturating_sub(most);
    let rows = requests.iter().enumerate().skip(first).take(most);
    lines.extend(rows.map(|(at, request)| terminal.line(&table.of(request, has_cursor && at == cursor))));
    lines
}

fn opened(item: &Value, first: usize, terminal: &Terminal, rows: usize) -> Vec<String> {
    let all = record::lines(item, terminal);
    let room = record::room(rows);
    let first = first.min(all.len().saturating_sub(room));
    let mut title = vec![(Tone::Strong, "The record of a request".to_owned())];
    if all.len() > room {
        let place = format!(", lines {} to {} of {}", first + 1, (first + room).min(all.len()), all.len());
        title.push((Tone::Faint, place));
    }
    let shown = all.iter().skip(first).take(room).map(|line| terminal.line(line));
    [terminal.line(&title), String::new()].into_iter().chain(shown).collect()
}

fn help(terminal: &Terminal) -> Vec<String> {
    let title = (Tone::Strong, "The dashboard of bedrock-sidecar. It changes nothing.".to_owned());
    let mut lines = vec![terminal.line(&vec![title]), String::new()];
    lines.extend(
        HELP.iter().map(|(key, meaning)| terminal.line(&labelled(key, vec![(Tone::Plain, (*meaning).to_owned())]))),
    );
    lines
}

fn labelled(label: &str, text: Text) -> Text {
    let mut line = vec![(Tone::Strong, format!("{label:<INDENT$}"))];
    line.extend(text);
    line
}

fn sentence_behind(label: &str, sentence: &str, terminal: &Terminal) -> Vec<String> {
    let text = labelled(label, vec![(Tone::Doubtful, sentence.to_owned())]);
    terminal.paragraph(&text, INDENT).lines().take(MOST_LINES).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests;
