//! A terminal, and a program in it.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Action, Termios, Winsize, tcflow, tcgetattr, tcsetwinsize};

use crate::{DEADLINE, eventually, until};

/// What shows the terminal's other screen, and what shows again what was there before.
pub const ENTER: &str = "\u{1b}[?1049h\u{1b}[?25l\u{1b}[?7l";
/// See [`ENTER`].
pub const LEAVE: &str = "\u{1b}[?7h\u{1b}[?25h\u{1b}[?1049l";

/// The terminal does not become ours.
const NOCTTY: i32 = rustix::fs::OFlags::NOCTTY.bits().cast_signed();

/// The side of the terminal that a person has.
#[derive(Debug)]
pub struct Terminal {
    /// The program.
    pub child: Child,
    ours: File,
    /// Its settings before the program had it.
    before: Termios,
    shown: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

impl Terminal {
    /// A program whose standard output alone is a terminal, of so many rows and columns.
    pub fn of_output(mut command: Command, size: (u16, u16)) -> Terminal {
        let (ours, theirs) = pair(size);
        Terminal::start(command.stdout(OwnedFd::from(theirs)).stderr(Stdio::null()), ours)
    }

    /// A program that has the terminal for itself, so that Ctrl-C reaches it.
    pub fn of(command: &Command, size: (u16, u16)) -> Terminal {
        let (ours, theirs) = pair(size);
        let mut session = Command::new("setsid");
        session.args(["--ctty", "--wait"]).arg(command.get_program()).args(command.get_args()).env_clear();
        session.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        session.stdin(OwnedFd::from(theirs.try_clone().unwrap())).stderr(OwnedFd::from(theirs.try_clone().unwrap()));
        Terminal::start(session.stdout(OwnedFd::from(theirs)), ours)
    }

    fn start(command: &mut Command, ours: File) -> Terminal {
        let before = tcgetattr(&ours).unwrap();
        let child = command.spawn().unwrap();
        // The command holds the terminal's other end too.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let shown = Arc::<Mutex<Vec<u8>>>::default();
        let (into, mut terminal) = (Arc::clone(&shown), ours.try_clone().unwrap());
        let reader = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // Reading ends with EIO when the last who could write has gone.
            while let Ok(read @ 1..) = terminal.read(&mut buffer) {
                into.lock().unwrap().extend_from_slice(&buffer[..read]);
            }
        });
        Terminal { child, ours, before, shown, reader }
    }

    /// All that was written to it.
    pub fn shown(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().unwrap()).into_owned()
    }

    /// The last whole frame of the other screen, without colours; empty if there is none.
    pub fn screen(&self) -> String {
        let shown = self.shown();
        let whole = shown.rfind("\u{1b}[J").map_or("", |end| &shown[..end]);
        let frame = whole.rfind("\u{1b}[H").map_or("", |start| &whole[start + 3..]);
        let mut text = String::new();
        for (at, piece) in frame.split('\u{1b}').enumerate() {
            let after = piece.find(|one: char| one.is_ascii_alphabetic()).map_or("", |end| &piece[end + 1..]);
            text.push_str(if at == 0 { piece } else { after });
        }
        // The terminal itself puts one more before each line feed.
        text.replace('\r', "")
    }

    /// Waits until the screen is as it should be, and tells it.
    pub async fn until_screen(&self, what: &str, fits: impl Fn(&str) -> bool) -> String {
        let begun = Instant::now();
        loop {
            let screen = self.screen();
            if fits(&screen) {
                return screen;
            }
            assert!(begun.elapsed() < DEADLINE, "in vain: waited for {what} in\n{screen}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Types.
    pub fn press(&mut self, keys: &str) {
        self.ours.write_all(keys.as_bytes()).unwrap();
    }

    /// Becomes larger or smaller.
    pub fn resize(&self, size: (u16, u16)) {
        tcsetwinsize(&self.ours, window(size)).unwrap();
    }

    /// Whether keys are seen and lines are edited as before.
    pub fn is_restored(&self) -> bool {
        let now = tcgetattr(&self.ours).unwrap();
        let code = |termios: &Termios| format!("{:?} {:?}", termios.local_modes, termios.special_codes);
        code(&now) == code(&self.before)
    }

    /// From now on it takes no output: whoever writes waits.
    pub fn stop_output(&self) {
        let name = ptsname(&self.ours, Vec::new()).unwrap();
        let theirs = File::options().read(true).write(true).custom_flags(NOCTTY).open(name.to_str().unwrap()).unwrap();
        tcflow(theirs, Action::OOff).unwrap();
    }

    /// Sends a signal to the program.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.child.id().cast_signed()).unwrap(), signal).unwrap();
    }

    /// Waits for the end: all that was shown, and the exit code.
    pub async fn ended(mut self) -> (String, Option<i32>) {
        let status = until("the end of the command", || self.child.try_wait().unwrap()).await;
        eventually("the end of the terminal", || self.reader.is_finished()).await;
        (self.shown(), status.code())
    }
}

/// A failed test leaves no program behind.
impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn pair(size: (u16, u16)) -> (File, File) {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&ours).unwrap();
    unlockpt(&ours).unwrap();
    let name = ptsname(&ours, Vec::new()).unwrap();
    let theirs = File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
    tcsetwinsize(&theirs, window(size)).unwrap();
    (File::from(ours), theirs)
}

fn window(size: (u16, u16)) -> Winsize {
    Winsize { ws_row: size.0, ws_col: size.1, ws_xpixel: 0, ws_ypixel: 0 }
}
