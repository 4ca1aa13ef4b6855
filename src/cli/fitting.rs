//! Text from elsewhere, made to fit: each character takes one place, and none is an order to the terminal. Model names,
//! errors and callers may hold anything.

use std::fmt::Write as _;

/// White space as spaces; what could steer the terminal, reorder the line, or take no place or two, as `\u{1b}`.
pub(super) fn safe(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for one in text.chars() {
        match one {
            '\t' | '\n' | '\r' => safe.push(' '),
            one if is_narrow(one) => safe.push(one),
            one => {
                let _ = write!(safe, "{}", one.escape_unicode());
            }
        }
    }
    safe
}

/// Letters that every terminal shows in one place, and the signs that this program writes itself.
fn is_narrow(one: char) -> bool {
    matches!(one,
        ' '..='~' | '\u{a1}'..='\u{ac}' | '\u{ae}'..='\u{24f}' | '\u{386}'..='\u{3ff}' | '\u{400}'..='\u{482}'
        | '\u{48a}'..='\u{52f}' | '–' | '—' | '‘' | '’' | '“' | '”' | '…' | '↑' | '↓')
}

/// At most so many places of a safe text; `…` stands for what was cut off.
pub(super) fn clipped(text: &str, width: usize) -> String {
    match text.char_indices().nth(width) {
        None => text.to_owned(),
        Some(_) => text.chars().take(width.saturating_sub(1)).chain((width > 0).then_some('…')).collect(),
    }
}

/// The lines of a safe text, broken between words, and within those that are longer than a line.
pub(super) fn wrapped(text: &str, width: usize) -> Vec<String> {
    let width = width.max(1);
    let mut lines = vec![String::new()];
    let mut column = 0;
    for word in text.split_inclusive(' ') {
        let length = word.trim_end().chars().count();
        if column > 0 && column + length > width {
            lines.push(String::new());
            column = 0;
        }
        for one in word.chars() {
            if column == width && one != ' ' {
                lines.push(String::new());
                column = 0;
            }
            if let Some(line) = lines.last_mut().filter(|_| column < width) {
                line.push(one);
                column += 1;
            }
        }
    }
    lines.iter().map(|line| line.trim_end().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_character_steers_the_terminal_or_takes_more_than_one_place() {
        assert_eq!(
            safe("us.anthropic.claude-opus-4 · Zoë, Ωμέγα, Ж – 3 × 4 …"),
            "us.anthropic.claude-opus-4 · Zoë, Ωμέγα, Ж – 3 × 4 …"
        );
        assert_eq!(safe("a\u{1b}[31mb\r\nc\td"), "a\\u{1b}[31mb  c d");
        // C1 controls, a right-to-left override, a wide letter, a combining mark, a soft hyphen, no-break space, emoji.
        for one in
            ['\u{0}', '\u{7f}', '\u{9b}', '\u{202e}', '中', '\u{301}', '\u{ad}', '\u{a0}', '😀', '\u{200b}', '\u{488}']
        {
            assert_eq!(safe(&one.to_string()), format!("\\u{{{:x}}}", u32::from(one)));
        }
        assert_eq!(safe(&safe("\u{1b}")), safe("\u{1b}"));
    }

    #[test]
    fn what_is_too_long_is_cut_or_broken() {
        assert_eq!(["abc", "abcd", "…ü–x"].map(|text| clipped(text, 3)), ["abc", "ab…", "…ü…"]);
        assert_eq!((clipped("abc", 1), clipped("abc", 0)), ("…".to_owned(), String::new()));
        assert_eq!(wrapped("one two three", 7), ["one two", "three"]);
        assert_eq!(wrapped("a 0123456789ab c", 5), ["a", "01234", "56789", "ab c"]);
        assert_eq!((wrapped("", 5), wrapped("ab", 0)), (vec![String::new()], vec!["a".to_owned(), "b".to_owned()]));
    }
}
