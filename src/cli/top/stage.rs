//! The terminal while it is ours: its other screen, and a keyboard whose keys come at once and unseen.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Signal, kill_current_process_group};
use rustix::termios::{InputModes, LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};
use tokio::sync::mpsc;

use super::keys::{Key, decoded};
use crate::cli::other_screen::OtherScreen;

/// An escape after which nothing has come for so long is the key of that name.
const SEQUENCE: Duration = Duration::from_millis(50);

/// Gives the terminal back as it was, however this ends.
pub(super) struct Stage<'a> {
    screen: OtherScreen<'a>,
    keyboard: Keyboard,
}

impl<'a> Stage<'a> {
    /// Takes the terminal.
    ///
    /// # Errors
    /// It cannot be written, or the standard input is none.
    pub(super) fn enter(out: &'a mut dyn Write) -> io::Result<Stage<'a>> {
        let keyboard = Keyboard::take()?;
        let screen = OtherScreen::enter(out)?;
        let (entered, before) = (screen.entered(), Arc::clone(&keyboard.before));
        let previous = std::panic::take_hook();
        // The message would be lost with the other screen.
        std::panic::set_hook(Box::new(move |info| {
            let _ = entered.leave(&mut io::stdout());
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, &before);
            previous(info);
        }));
        Ok(Stage { screen, keyboard })
    }

    /// Shows these lines.
    pub(super) fn draw(&mut self, lines: &[String], rows: usize) -> io::Result<()> {
        self.screen.draw(lines.iter().map(String::as_str), rows)
    }

    /// The next key. May be dropped and called again.
    ///
    /// # Errors
    /// The terminal is gone.
    pub(super) async fn key(&mut self) -> io::Result<Key> {
        self.keyboard.key().await
    }

    /// Stops as Ctrl-Z does, where there is a shell that can continue it.
    pub(super) fn suspend(&mut self) -> io::Result<()> {
        self.screen.leave()?;
        self.keyboard.give_back()?;
        // By the signal's own effect: the kernel leaves it out where nobody could continue what has stopped.
        kill_current_process_group(Signal::TSTP)?;
        self.reenter()
    }

    /// Takes the terminal again.
    pub(super) fn reenter(&mut self) -> io::Result<()> {
        self.keyboard.set()?;
        self.screen.reenter()
    }
}

struct Keyboard {
    before: Arc<Termios>,
    /// From the thread that reads them.
    bytes: mpsc::Receiver<Vec<u8>>,
    /// What has come and is no whole key yet.
    pending: Vec<u8>,
}

impl Keyboard {
    fn take() -> io::Result<Keyboard> {
        let before = Arc::new(tcgetattr(io::stdin())?);
        let (sender, bytes) = mpsc::channel(1);
        let keyboard = Keyboard { before, bytes, pending: Vec::new() };
        keyboard.set()?;
        // Not a task: the runtime would wait at its end for a key.
        std::thread::Builder::new().name("keys".to_owned()).spawn(move || read(&sender))?;
        Ok(keyboard)
    }

    fn set(&self) -> io::Result<()> {
        let mut ours = (*self.before).clone();
        ours.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
        // Ctrl-S would stop the drawing, and with it the end.
        ours.input_modes.remove(InputModes::IXON);
        // Ctrl-Z is a key, so that the terminal can be given back first. Ctrl-C stays a signal.
        ours.special_codes[SpecialCodeIndex::VSUSP] = 0;
        ours.special_codes[SpecialCodeIndex::VMIN] = 1;
        ours.special_codes[SpecialCodeIndex::VTIME] = 0;
        Ok(tcsetattr(io::stdin(), OptionalActions::Now, &ours)?)
    }

    fn give_back(&self) -> io::Result<()> {
        Ok(tcsetattr(io::stdin(), OptionalActions::Now, &self.before)?)
    }

    async fn key(&mut self) -> io::Result<Key> {
        loop {
            if let Some((key, length)) = decoded(&self.pending) {
                self.pending.drain(..length);
                return Ok(key);
            }
            let bytes = tokio::select! {
                bytes = self.bytes.recv() => bytes.ok_or(io::ErrorKind::UnexpectedEof)?,
                () = tokio::time::sleep(SEQUENCE), if !self.pending.is_empty() => {
                    self.pending.clear();
                    return Ok(Key::Escape);
                }
            };
            self.pending.extend_from_slice(&bytes);
        }
    }
}

/// Reads until the terminal is gone, or nobody wants its keys any more.
fn read(sender: &mpsc::Sender<Vec<u8>>) {
    let mut buffer = [0; 256];
    while let Ok(read @ 1..) = rustix::io::retry_on_intr(|| rustix::io::read(io::stdin(), &mut buffer)) {
        if sender.blocking_send(buffer[..read].to_vec()).is_err() {
            return;
        }
    }
}

impl Drop for Keyboard {
    fn drop(&mut self) {
        let _ = self.give_back();
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use test_support::terminal::{ENTER, LEAVE, Terminal};

    use super::*;

    /// Not a test of its own: it runs in the terminal of the one below.
    #[test]
    fn panics_in_a_terminal() {
        if std::env::var_os("TOP_PANICS").is_some() {
            let mut out = io::stdout();
            let _stage = Stage::enter(&mut out).unwrap();
            panic!("in the middle of it");
        }
    }

    #[tokio::test]
    async fn a_panic_gives_the_terminal_back_before_its_message() {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "cli::top::stage::tests::panics_in_a_terminal", "--nocapture"]);
        command.env("TOP_PANICS", "1");
        let mut terminal = Terminal::of(&command, (24, 80));
        test_support::until("the end", || terminal.child.try_wait().unwrap()).await;
        assert!(terminal.is_restored());
        let (shown, code) = terminal.ended().await;
        assert_eq!(code, Some(101), "{shown:?}");
        let entered = shown.find(ENTER).unwrap();
        let left = shown.find(LEAVE).unwrap();
        let said = shown.find("in the middle of it").unwrap();
        assert!(entered < left && left < said && shown.matches(LEAVE).count() == 1, "{shown:?}");
    }
}
