//! Tables: which columns a terminal has room for, and what stands in them.

use serde_json::Value;

use super::data::By;
use super::figures::{self, NONE, both, milliseconds, short};
use crate::cli::fitting::{clipped, safe};
use crate::cli::terminal::{Text, Tone};

/// Takes what the others leave.
const REST: usize = usize::MAX;
/// How many sets of columns there are.
const TIERS: usize = 4;
/// Before each row, for the cursor.
const MARGIN: usize = 1;

/// A column, of which there is one with [`REST`] in each table.
pub(super) struct Column {
    title: &'static str,
    /// In terminals of fewer than 80, 100 and 140 places, and of more; 0: it is left out.
    widths: [usize; TIERS],
    is_number: bool,
    cell: fn(&Value, Place<'_>) -> (Tone, String),
}

/// Where a cell stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    width: usize,
    /// As timestamps begin, for times of other days.
    today: &'a str,
}

/// A row, and the titles above.
pub(super) struct Table {
    columns: Vec<(Column, usize)>,
    today: String,
}

impl Table {
    /// The figures of each model, or of whatever they are told apart by.
    pub(super) fn of_groups(by: By, width: usize) -> Table {
        let title = match by {
            By::Model => "MODEL",
            By::Caller => "CALLER",
            By::Operation => "OPERATION",
            By::Upstream => "UPSTREAM",
        };
        let columns = [
            text(title, [REST; TIERS], group_name),
            number("REQUESTS", [8; TIERS], |group, place| plain(short(&group["requests"], place.width))),
            number("ERRORS", [6; TIERS], group_errors),
            number("P50", [0, 6, 6, 6], |group, _| plain(milliseconds(&group["latencyMs"]["p50"]))),
            number("P95", [6; TIERS], |group, _| plain(milliseconds(&group["latencyMs"]["p95"]))),
            number("P99", [0, 0, 6, 6], |group, _| plain(milliseconds(&group["latencyMs"]["p99"]))),
            number("FIRST", [0, 0, 6, 6], |group, _| plain(milliseconds(&group["firstByteMs"]["p50"]))),
            number("IN", [0, 7, 7, 7], |group, place| plain(short(&group["inputTokens"], place.width))),
            number("OUT", [0, 7, 7, 7], |group, place| plain(short(&group["outputTokens"], place.width))),
            number("CACHE", [0, 0, 0, 13], |group, place| {
                plain(both(&group["cacheReadTokens"], &group["cacheWriteTokens"], place.width))
            }),
            number("COST", [8; TIERS], |group, _| plain(figures::cost_of_group(group))),
        ];
        Table::fitted(columns, width, "")
    }

    /// The newest requests; `today` as timestamps begin.
    pub(super) fn of_requests(width: usize, today: &str) -> Table {
        let columns = [
            text("ID", [6, 6, 8, 12], |item, place| plain(ending(&item["requestId"], place.width))),
            text("TIME", [8, 8, 8, 14], time),
            text("CALLER", [0, 8, 12, 16], |item, place| plain(figures::name(&caller(item), place.width))),
            text("MODEL", [REST; TIERS], |item, place| {
                plain(item["modelId"].as_str().map_or(NONE.to_owned(), |model| figures::name(model, place.width)))
            }),
            number("CODE", [4; TIERS], |item, _| (tone(item), item["statusCode"].to_string())),
            text("OUTCOME", [0, 11, 14, 19], outcome),
            number("TOOK", [6; TIERS], |item, _| plain(milliseconds(&item["latency"]))),
            number("IN/OUT", [0, 9, 11, 15], |item, place| {
                plain(both(&item["inputTokens"], &item["outputTokens"], place.width))
            }),
            number("COST", [0, 7, 8, 8], |item, _| plain(figures::cost(&item["costNanoUsd"]))),
        ];
        Table::fitted(columns, width, today)
    }

    fn fitted(columns: impl IntoIterator<Item = Column>, width: usize, today: &str) -> Table {
        let tier = match width {
            0..80 => 0,
            80..100 => 1,
            100..140 => 2,
            _ => 3,
        };
        let shown: Vec<Column> = columns.into_iter().filter(|column| column.widths[tier] > 0).collect();
        let taken: usize = shown.iter().map(|column| column.widths[tier]).filter(|width| *width != REST).sum();
        let rest = width.saturating_sub(MARGIN + taken + shown.len().saturating_sub(1));
        let width_of = |column: &Column| if column.widths[tier] == REST { rest } else { column.widths[tier] };
        let columns =
            shown.into_iter().map(|column| (width_of(&column), column)).map(|(width, column)| (column, width));
        Table { columns: columns.collect(), today: today.to_owned() }
    }

    pub(super) fn titles(&self) -> Text {
        let cells = self.columns.iter().map(|(column, _)| (Tone::Strong, column.title.to_owned()));
        self.row(' ', cells.collect())
    }

    /// Of one group or request.
    pub(super) fn of(&self, value: &Value, is_chosen: bool) -> Text {
        let place = |width| Place { width, today: &self.today };
        let cells = self.columns.iter().map(|(column, width)| (column.cell)(value, place(*width))).collect();
        if !is_chosen {
            return self.row(' ', cells);
        }
        // Without colours, the mark alone tells it.
        vec![(Tone::Chosen, self.row('>', cells).into_iter().map(|(_, piece)| piece).collect())]
    }

    fn row(&self, mark: char, cells: Vec<(Tone, String)>) -> Text {
        let mut row = vec![(Tone::Plain, mark.to_string())];
        for (at, ((tone, cell), (column, width))) in cells.into_iter().zip(&self.columns).enumerate() {
            let gap = if at == 0 { "" } else { " " };
            let cell = clipped(&safe(&cell), *width);
            let blank = " ".repeat(width - cell.chars().count());
            let (before, after) = if column.is_number { (blank, String::new()) } else { (String::new(), blank) };
            row.extend([(Tone::Plain, format!("{gap}{before}")), (tone, cell), (Tone::Plain, after)]);
        }
        row
    }
}

fn text(title: &'static str, widths: [usize; TIERS], cell: fn(&Value, Place<'_>) -> (Tone, String)) -> Column {
    Column { title, widths, is_number: false, cell }
}

fn number(title: &'static str, widths: [usize; TIERS], cell: fn(&Value, Place<'_>) -> (Tone, String)) -> Column {
    Column { is_number: true, ..text(title, widths, cell) }
}

fn plain(text: String) -> (Tone, String) {
    (Tone::Plain, text)
}

fn group_name(group: &Value, place: Place<'_>) -> (Tone, String) {
    match group["name"].as_str() {
        Some("") => (Tone::Faint, "(none)".to_owned()),
        Some(name) => plain(figures::name(name, place.width)),
        None => (Tone::Faint, format!("({} others)", figures::whole(&group["others"]))),
    }
}

fn group_errors(group: &Value, place: Place<'_>) -> (Tone, String) {
    let tone = if group["errors"].as_u64().is_some_and(|errors| errors > 0) { Tone::Bad } else { Tone::Plain };
    (tone, short(&group["errors"], place.width))
}

/// The last characters: all ids of one minute begin alike.
fn ending(id: &Value, width: usize) -> String {
    let id = safe(id.as_str().unwrap_or(NONE));
    id.chars().skip(id.chars().count().saturating_sub(width)).collect()
}

/// The time of the day; of other days, the day.
fn time(item: &Value, place: Place<'_>) -> (Tone, String) {
    let timestamp = item["timestamp"].as_str().unwrap_or_default();
    let part = |range| timestamp.get(range).unwrap_or(NONE).to_owned();
    let shown = if timestamp.starts_with(place.today) {
        part(11..19)
    } else if place.width < 14 {
        part(5..10)
    } else {
        format!("{} {}", part(5..10), part(11..19))
    };
    (Tone::Faint, shown)
}

/// As the figures name it.
fn caller(item: &Value) -> String {
    match (item["caller"].as_str(), item["callerUid"].as_u64()) {
        (Some(name), _) => name.to_owned(),
        (None, Some(uid)) => format!("uid:{uid}"),
        (None, None) => "unknown".to_owned(),
    }
}

fn outcome(item: &Value, place: Place<'_>) -> (Tone, String) {
    let outcome = safe(item["outcome"].as_str().unwrap_or(NONE));
    let repeated = item["repeated"].as_u64().map(|more| format!(" ×{}", more.saturating_add(1))).unwrap_or_default();
    let room = place.width.saturating_sub(repeated.chars().count());
    (tone(item), format!("{}{repeated}", clipped(&outcome, room)))
}

fn tone(item: &Value) -> Tone {
    match item["success"].as_bool() {
        Some(true) => Tone::Plain,
        _ if item["outcome"] == "client_disconnected" => Tone::Doubtful,
        _ => Tone::Bad,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_terminal_has_room_for_names() {
        for width in 40..160 {
            for table in [Table::of_groups(By::Caller, width), Table::of_requests(width, "2026-11-30")] {
                let rest = table.columns.iter().find(|(column, _)| column.widths[0] == REST).unwrap().1;
                assert!(rest >= 7, "{width}: {rest}");
                let titles: String = table.titles().into_iter().map(|(_, piece)| piece).collect();
                assert_eq!(titles.chars().count(), width, "{titles:?}");
            }
        }
    }
}
