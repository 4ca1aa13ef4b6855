//! The terminal's other screen, which is drawn anew again and again beside what the terminal shows otherwise.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Without a cursor, and with long lines cut off instead of wrapped.
const ENTER: &str = "\u{1b}[?1049h\u{1b}[?25l\u{1b}[?7l";
const LEAVE: &str = "\u{1b}[?7h\u{1b}[?25h\u{1b}[?1049l";

/// Gives the terminal back as it was, however this ends.
pub(super) struct OtherScreen<'a> {
    out: &'a mut dyn Write,
    entered: Entered,
}

/// Whether the other screen is the one that is seen. A panic has to leave it before its message is printed.
#[derive(Debug, Clone, Default)]
pub(super) struct Entered(Arc<AtomicBool>);

impl Entered {
    /// Leaves the other screen once: a second time would put the cursor where it was at the start.
    ///
    /// # Errors
    /// Those of writing.
    pub(super) fn leave(&self, out: &mut dyn Write) -> io::Result<()> {
        if self.0.swap(false, Ordering::Relaxed) {
            out.write_all(LEAVE.as_bytes())?;
            out.flush()?;
        }
        Ok(())
    }
}

impl<'a> OtherScreen<'a> {
    /// Shows it.
    ///
    /// # Errors
    /// Those of writing, as everywhere here.
    pub(super) fn enter(out: &'a mut dyn Write) -> io::Result<OtherScreen<'a>> {
        let mut screen = OtherScreen { out, entered: Entered::default() };
        screen.reenter()?;
        Ok(screen)
    }

    /// Whoever has to leave it from elsewhere.
    pub(super) fn entered(&self) -> Entered {
        self.entered.clone()
    }

    /// Shows it again, after it was left.
    pub(super) fn reenter(&mut self) -> io::Result<()> {
        if self.entered.0.swap(true, Ordering::Relaxed) { Ok(()) } else { self.write(ENTER) }
    }

    /// Shows what was there before.
    pub(super) fn leave(&mut self) -> io::Result<()> {
        self.entered.leave(self.out)
    }

    /// Shows these lines, as far as it has rows; 0 is any number.
    pub(super) fn draw<'l>(&mut self, lines: impl Iterator<Item = &'l str>, rows: usize) -> io::Result<()> {
        self.write(&frame(lines, rows))
    }

    fn write(&mut self, text: &str) -> io::Result<()> {
        self.out.write_all(text.as_bytes())?;
        self.out.flush()
    }
}

impl Drop for OtherScreen<'_> {
    fn drop(&mut self) {
        let _ = self.leave();
    }
}

/// Each line clears what stood behind it, so that nothing flickers.
fn frame<'l>(lines: impl Iterator<Item = &'l str>, rows: usize) -> String {
    let lines = lines.take(if rows == 0 { usize::MAX } else { rows });
    let mut frame = String::from("\u{1b}[H");
    for (at, line) in lines.enumerate() {
        // Before the line and not behind it: behind the last row, the terminal would scroll.
        let next = if at == 0 { "" } else { "\r\n" };
        let _ = write!(frame, "{next}{line}\u{1b}[K");
    }
    frame + "\u{1b}[J"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_has_as_many_lines_as_the_terminal_and_clears_the_rest() {
        let lines = ["h", "", "a", "b"];
        assert_eq!(frame(lines.into_iter(), 0), "\u{1b}[Hh\u{1b}[K\r\n\u{1b}[K\r\na\u{1b}[K\r\nb\u{1b}[K\u{1b}[J");
        assert_eq!(frame(lines.into_iter(), 3), "\u{1b}[Hh\u{1b}[K\r\n\u{1b}[K\r\na\u{1b}[K\u{1b}[J");
    }

    #[test]
    fn the_terminal_is_given_back_once() {
        let mut written = Vec::new();
        let mut screen = OtherScreen::enter(&mut written).unwrap();
        screen.leave().unwrap();
        screen.leave().unwrap();
        screen.reenter().unwrap();
        screen.reenter().unwrap();
        screen.entered().leave(&mut io::sink()).unwrap();
        drop(screen);
        assert_eq!(String::from_utf8(written).unwrap(), format!("{ENTER}{LEAVE}{ENTER}"));
        let mut written = Vec::new();
        drop(OtherScreen::enter(&mut written).unwrap());
        assert_eq!(String::from_utf8(written).unwrap(), format!("{ENTER}{LEAVE}"));
    }
}
