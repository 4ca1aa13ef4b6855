//! How the process that wrote here last has ended: a mark in the state directory is there from a start to an orderly stop.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;

use super::state_dir::StateDir;

/// Names one run of the kernel; another one after every boot.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// In the mark's place for the boot: the last stop was orderly, and no record tells yet of the one before, which was not.
const SETTLED: &str = "stopped in order";

/// How the last process has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LastStop {
    /// In order, or there was none.
    Orderly,
    /// It was killed or crashed, or one before it of which no record tells; what it had written, the kernel has kept.
    Killed,
    /// The host went down with it, and what was not flushed to the disk may be lost.
    HostDown,
}

impl LastStop {
    /// What the mark says.
    pub(crate) fn find(state_dir: &StateDir) -> LastStop {
        let Ok(marked) = std::fs::read_to_string(state_dir.running_mark()) else { return LastStop::Orderly };
        match boot_id() {
            Some(boot) if marked.trim() != boot && marked.trim() != SETTLED => LastStop::HostDown,
            _ => LastStop::Killed,
        }
    }
}

/// Sets the mark, durably.
pub(crate) fn mark(state_dir: &StateDir) -> io::Result<()> {
    write(state_dir, &boot_id().unwrap_or_default())
}

/// The stop is orderly: takes the mark away. As long as no record tells of an earlier stop that was not orderly
/// (`is_untold`), the next start still has to know of that one, even after a boot.
pub(crate) fn settle(state_dir: &StateDir, is_untold: bool) {
    let settled = match (is_untold, LastStop::find(state_dir)) {
        (false, _) => remove(state_dir),
        (true, LastStop::Killed) => write(state_dir, SETTLED),
        // The chain that has to be begun after the host went down could not be: the next start tries again.
        (true, _) => Ok(()),
    };
    if let Err(error) = settled {
        tracing::warn!(%error, "it cannot be noted that the ledger was stopped in order; the next start will say that it was not");
    }
}

fn write(state_dir: &StateDir, text: &str) -> io::Result<()> {
    let path = state_dir.running_mark();
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    writeln!(file, "{text}")?;
    file.sync_all()?;
    File::open(&state_dir.root)?.sync_all()
}

fn remove(state_dir: &StateDir) -> io::Result<()> {
    match std::fs::remove_file(state_dir.running_mark()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn boot_id() -> Option<String> {
    let id = std::fs::read_to_string(BOOT_ID).ok()?;
    Some(id.trim().to_owned()).filter(|id| !id.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_tells_a_kill_from_a_host_that_went_down() {
        let directory = tempfile::tempdir().unwrap();
        let state_dir = StateDir { root: directory.path().to_owned() };
        assert_eq!(LastStop::find(&state_dir), LastStop::Orderly);
        mark(&state_dir).unwrap();
        assert_eq!(LastStop::find(&state_dir), LastStop::Killed);
        std::fs::write(state_dir.running_mark(), "another boot\n").unwrap();
        assert_eq!(LastStop::find(&state_dir), LastStop::HostDown);
        settle(&state_dir, true);
        assert_eq!(LastStop::find(&state_dir), LastStop::HostDown, "its chain could not be begun");
        mark(&state_dir).unwrap();
        settle(&state_dir, true);
        assert_eq!(std::fs::read_to_string(state_dir.running_mark()).unwrap().trim(), SETTLED);
        assert_eq!(LastStop::find(&state_dir), LastStop::Killed, "whatever the boot");
        settle(&state_dir, false);
        assert_eq!(LastStop::find(&state_dir), LastStop::Orderly);
    }
}
