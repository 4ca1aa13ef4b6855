//! Lines of CSV (RFC 4180) that a spreadsheet shows and does not compute: names come from clients.

/// One line with its end.
pub(crate) fn line(cells: impl IntoIterator<Item = String>) -> String {
    let cells: Vec<String> = cells.into_iter().map(|cell| quoted(&harmless(cell))).collect();
    let mut line = cells.join(",");
    line.push_str("\r\n");
    line
}

/// An apostrophe before what a spreadsheet would take for a formula: it shows the rest as text.
fn harmless(cell: String) -> String {
    let is_formula = cell.starts_with(['=', '+', '-', '@', '\t', '\r', '\n', '＝', '＋', '－', '＠']);
    if is_formula { format!("'{cell}") } else { cell }
}

fn quoted(cell: &str) -> String {
    if cell.contains([',', '"', '\r', '\n', '\t']) {
        format!("\"{}\"", cell.replace('"', "\"\""))
    } else {
        cell.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_is_text_whatever_it_holds() {
        for (cell, expected) in [
            ("anthropic.claude-3", "anthropic.claude-3"),
            ("", ""),
            ("=1+1", "'=1+1"),
            ("+1", "'+1"),
            ("-1", "'-1"),
            ("@SUM(A1)", "'@SUM(A1)"),
            ("\t=1", "\"'\t=1\""),
            ("=HYPERLINK(\"http://x\",\"y\")", "\"'=HYPERLINK(\"\"http://x\"\",\"\"y\"\")\""),
            ("a,b", "\"a,b\""),
            ("a\r\n=b", "\"a\r\n=b\""),
        ] {
            assert_eq!(line([cell.to_owned()]), format!("{expected}\r\n"));
        }
        assert_eq!(line(["a".to_owned(), "b".to_owned()]), "a,b\r\n");
    }
}
