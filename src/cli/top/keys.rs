//! Keys, as a terminal sends them.

/// What was pressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    Letter(char),
    Up,
    Down,
    PageUp,
    PageDown,
    Home,
    End,
    Enter,
    Escape,
    /// Ctrl-Z.
    Suspend,
    /// One that means nothing here.
    Other,
}

const ESCAPE: u8 = 0x1b;
/// A sequence that goes on for longer than this is none.
const LONGEST: usize = 32;

/// The first key of what has come, and the length of its bytes; none while they may go on.
pub(super) fn decoded(bytes: &[u8]) -> Option<(Key, usize)> {
    let (&first, rest) = bytes.split_first()?;
    let key = match first {
        ESCAPE => return sequence(rest),
        b'\r' | b'\n' => Key::Enter,
        0x1a => Key::Suspend,
        b' '..=b'~' => Key::Letter(char::from(first)),
        _ => Key::Other,
    };
    Some((key, 1))
}

/// What follows an escape: `[` or `O` with a sequence, or another key.
fn sequence(rest: &[u8]) -> Option<(Key, usize)> {
    let (&second, rest) = rest.split_first()?;
    match second {
        b'[' | b'O' => {
            let end = rest.iter().position(|one| (b'@'..=b'~').contains(one));
            let Some(end) = end.filter(|end| *end < LONGEST) else {
                return (rest.len() > LONGEST).then_some((Key::Other, rest.len() + 2));
            };
            let key = match &rest[..=end] {
                b"A" => Key::Up,
                b"B" => Key::Down,
                b"H" | b"1~" | b"7~" => Key::Home,
                b"F" | b"4~" | b"8~" => Key::End,
                b"5~" => Key::PageUp,
                b"6~" => Key::PageDown,
                b"M" if second == b'O' => Key::Enter,
                _ => Key::Other,
            };
            Some((key, end + 3))
        }
        // Over a slow line, what is pressed after it comes with it. Nothing here is bound to Alt.
        _ => Some((Key::Escape, 1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_terminals_are_known() {
        let keys = |mut bytes: &[u8]| {
            let mut keys = Vec::new();
            while let Some((key, length)) = decoded(bytes) {
                keys.push(key);
                bytes = &bytes[length..];
            }
            (keys, bytes.len())
        };
        assert_eq!(keys(b"qJ?\x1a"), (vec![Key::Letter('q'), Key::Letter('J'), Key::Letter('?'), Key::Suspend], 0));
        assert_eq!(keys(b"\x1b[A\x1bOA\x1b[B\x1bOB"), (vec![Key::Up, Key::Up, Key::Down, Key::Down], 0));
        assert_eq!(keys(b"\x1b[5~\x1b[6~\x1b[H\x1b[4~"), (vec![Key::PageUp, Key::PageDown, Key::Home, Key::End], 0));
        // A key with a modifier is another key: the rest of its sequence is no letters.
        assert_eq!(keys(b"\x1b[1;5Aq"), (vec![Key::Other, Key::Letter('q')], 0));
        assert_eq!(keys(b"\r\n\x1bOM\x7f"), (vec![Key::Enter, Key::Enter, Key::Enter, Key::Other], 0));
        assert_eq!(keys("ü".as_bytes()), (vec![Key::Other, Key::Other], 0));
        // More may come, but not for ever.
        assert_eq!((keys(b"\x1b"), keys(b"\x1b["), keys(b"\x1b[1;")), ((vec![], 1), (vec![], 2), (vec![], 4)));
        assert_eq!(keys(b"\x1b\x1b[A\x1b?"), (vec![Key::Escape, Key::Up, Key::Escape, Key::Letter('?')], 0));
        let endless = [b"\x1b[".as_slice(), &[b'1'; 40]].concat();
        assert_eq!(keys(&endless), (vec![Key::Other], 0));
    }
}
