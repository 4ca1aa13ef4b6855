//! As much of Markdown as the pages use, in roff.

/// A paragraph of text.
pub(crate) fn paragraph(text: &str) -> String {
    format!("{}\n", inline(text))
}

/// Text with code, emphasis and links; of a link to another page of the documentation only the text stays.
pub(crate) fn inline(text: &str) -> String {
    let text = without_links(text);
    let spans = text.split('`').map(escaped).enumerate();
    // Within code, a star is a star.
    let roff: String =
        spans.map(|(at, span)| if at % 2 == 0 { emphasised(&span) } else { format!("\\fB{span}\\fR") }).collect();
    // What begins with a dot or an apostrophe would be a request.
    if roff.starts_with(['.', '\'']) { format!("\\&{roff}") } else { roff }
}

fn emphasised(text: &str) -> String {
    let mut roff = text.to_owned();
    for (mark, on) in [("**", "\\fB"), ("*", "\\fI")] {
        roff = alternate(&roff.split(mark).collect::<Vec<_>>(), on);
    }
    roff
}

/// Sets what stands between backquotes in bold.
pub(crate) fn code_spans(text: &str) -> String {
    let parts: Vec<&str> = text.split('`').collect();
    if parts.len() % 2 == 1 { alternate(&parts, "\\fB") } else { text.to_owned() }
}

/// What roff would take for something else.
pub(crate) fn escaped(text: &str) -> String {
    text.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq").replace('"', "\\(dq").replace('~', "\\(ti")
}

fn alternate(parts: &[&str], on: &str) -> String {
    let parts = parts.iter().enumerate();
    parts.map(|(at, part)| if at % 2 == 0 { (*part).to_owned() } else { format!("{on}{part}\\fR") }).collect()
}

fn without_links(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('[') {
        plain += before;
        let link = after.split_once("](").filter(|(name, _)| !name.contains(['[', ']', '`']));
        match link.and_then(|(name, target)| Some((name, target.split_once(')')?.1))) {
            Some((name, behind)) => {
                plain += name;
                rest = behind;
            }
            None => {
                plain.push('[');
                rest = after;
            }
        }
    }
    plain + rest
}
