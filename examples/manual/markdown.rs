//! As much of Markdown as the pages use, in roff.

/// A paragraph of text.
pub(crate) fn paragraph(text: &str) -> String {
    format!("{}\n", inline(text))
}

/// Text with code, emphasis and links; of a link to another page of the documentation only the text stays.
pub(crate) fn inline(text: &str) -> String {
    let mut roff = code_spans(&escaped(&without_links(text)));
    for (mark, on) in [("**", "\\fB"), ("*", "\\fI")] {
        let parts: Vec<&str> = roff.split(mark).collect();
        // An odd number of marks is no emphasis: a pattern such as `*`.
        if parts.len() % 2 == 1 {
            roff = alternate(&parts, on);
        }
    }
    // What begins with a dot or an apostrophe would be a request.
    if roff.starts_with(['.', '\'']) { format!("\\&{roff}") } else { roff }
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
    while let Some((before, (name, after))) =
        rest.split_once('[').and_then(|(before, link)| Some((before, link.split_once("](")?)))
    {
        let Some((_, after)) = after.split_once(')').filter(|_| !name.contains(['[', ']', '`'])) else { break };
        plain += before;
        plain += name;
        rest = after;
    }
    plain + rest
}
