//! The fields of a line in `format = "text"`. Some hold what clients or upstreams chose: that must neither begin a line of its
//! own nor move a terminal's cursor, nor fill the disk.

use std::fmt::{self, Write as _};

use tracing::field::Field;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::{self, Writer};

/// So many bytes of one field are shown.
pub(super) const MOST_OF_A_FIELD: usize = 16 * 1024;

pub(super) fn plain_fields() -> impl for<'w> FormatFields<'w> + Send + Sync + 'static {
    format::debug_fn(|writer: &mut Writer<'_>, field: &Field, value: &dyn fmt::Debug| {
        if field.name() != "message" {
            write!(writer, "{field}=")?;
        }
        let mut plain = Plain { writer, left: MOST_OF_A_FIELD };
        match write!(plain, "{value:?}") {
            Err(_) if plain.left == 0 => plain.writer.write_str("…"),
            written => written,
        }
    })
    .delimited(" ")
}

/// Writes at most so many bytes, and control characters by their escapes.
struct Plain<'a, 'w> {
    writer: &'a mut Writer<'w>,
    left: usize,
}

impl fmt::Write for Plain<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let cut = text.len() > self.left;
        let shown = if cut { &text[..text.floor_char_boundary(self.left)] } else { text };
        if may_hold_control(shown) {
            for piece in shown.split_inclusive(char::is_control) {
                match piece.char_indices().next_back().filter(|(_, last)| last.is_control()) {
                    Some((at, control)) => write!(self.writer, "{}{}", &piece[..at], control.escape_default())?,
                    None => self.writer.write_str(piece)?,
                }
            }
        } else {
            self.writer.write_str(shown)?;
        }
        if cut {
            // The formatter is told to stop.
            self.left = 0;
            return Err(fmt::Error);
        }
        self.left -= text.len();
        Ok(())
    }
}

/// False for most texts, at many bytes a step. In UTF-8, C2 begins the control characters beyond ASCII, and some others.
fn may_hold_control(text: &str) -> bool {
    text.bytes().fold(false, |any, byte| any | (byte < 0x20) | (byte == 0x7f) | (byte == 0xc2))
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What an event looks like in `format = "text"`.
    fn line(event: impl FnOnce()) -> String {
        let kept = Kept::default();
        let to = kept.clone();
        let layer = tracing_subscriber::fmt::layer()
            .with_writer(move || to.clone())
            .with_ansi(false)
            .with_target(false)
            .fmt_fields(plain_fields());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), event);
        let bytes = kept.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn no_value_begins_a_line_or_obeys_a_terminal() {
        let evil = "a.b\n2026-01-01T00:00:00Z  INFO request \u{1b}[2Jé";
        let text = line(|| tracing::warn!(model = %evil, said = evil, count = 3, "a {evil} b"));
        assert_eq!(text.matches('\n').count(), 1, "{text}");
        assert!(!text.contains('\u{1b}'), "{text}");
        let tail = r#"WARN a a.b\n2026-01-01T00:00:00Z  INFO request \u{1b}[2Jé b model=a.b\n2026-01-01T00:00:00Z  INFO request \u{1b}[2Jé said="a.b\n2026-01-01T00:00:00Z  INFO request \u{1b}[2Jé" count=3"#;
        assert_eq!(text.trim_end().split_once("  ").unwrap().1.trim_start(), tail, "{text}");
    }

    #[test]
    fn no_control_character_is_overlooked() {
        for one in (0..=0x2ff).filter_map(char::from_u32) {
            for text in [one.to_string(), format!("a text before it {one} and one behind it")] {
                assert!(may_hold_control(&text) || !one.is_control(), "{one:?}");
            }
        }
        assert!((0x300..=0x10_ffff).filter_map(char::from_u32).all(|one| !one.is_control()));
    }

    #[test]
    fn a_value_is_bounded() {
        let long = "é".repeat(1_000_000);
        let text = line(|| tracing::info!(model = %long, after = 1, "request"));
        assert!(text.len() < MOST_OF_A_FIELD + 200, "{}", text.len());
        assert!(text.ends_with("… after=1\n"), "{}", &text[text.len() - 40..]);
    }
}
