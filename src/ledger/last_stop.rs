//! How the process that wrote here last has ended: a mark in the state directory is there from a start to an orderly stop.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::time::{ClockId, clock_gettime};

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
        let path = state_dir.running_mark();
        let marked = match std::fs::read(&path) {
            Ok(marked) => marked,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return LastStop::Orderly,
            Err(_) => return LastStop::HostDown,
        };
        let is_of_this_boot = match (String::from_utf8_lossy(&marked).trim(), boot_id()) {
            (SETTLED, _) | (_, None) => true,
            // Earlier versions emptied the mark before they found the disk full.
            ("", Some(_)) => was_changed_since_boot(&path),
            (marked, Some(boot)) => marked == boot,
        };
        if is_of_this_boot { LastStop::Killed } else { LastStop::HostDown }
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

/// In one step: on a full disk, the mark that is there stays.
fn write(state_dir: &StateDir, text: &str) -> io::Result<()> {
    let path = state_dir.running_mark();
    let beside = path.with_extension("new");
    let replaced = create(&beside, text).and_then(|()| std::fs::rename(&beside, &path));
    if replaced.is_err() {
        let _ = std::fs::remove_file(&beside);
    }
    replaced?;
    File::open(&state_dir.root)?.sync_all()
}

fn create(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    writeln!(file, "{text}")?;
    file.sync_all()
}

fn remove(state_dir: &StateDir) -> io::Result<()> {
    match std::fs::remove_file(state_dir.running_mark()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// As far as the clock can be believed: a date that is yet to come proves nothing.
fn was_changed_since_boot(path: &Path) -> bool {
    let (now, up) = (SystemTime::now(), clock_gettime(ClockId::Boottime).tv_sec);
    let booted = now.checked_sub(Duration::from_secs(u64::try_from(up).unwrap_or(0)));
    let changed = path.metadata().and_then(|file| file.modified());
    booted.zip(changed.ok()).is_some_and(|(booted, changed)| (booted..=now).contains(&changed))
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

    /// Earlier versions emptied the mark before they found the disk full.
    #[test]
    fn of_an_empty_mark_its_date_tells_whether_the_host_went_down_since() {
        let directory = tempfile::tempdir().unwrap();
        let state_dir = StateDir { root: directory.path().to_owned() };
        let mark = File::create(state_dir.running_mark()).unwrap();
        assert_eq!(LastStop::find(&state_dir), LastStop::Killed, "it was written a moment ago");
        let now = SystemTime::now();
        let (long_ago, to_come) = (SystemTime::UNIX_EPOCH, now + Duration::from_secs(86_400));
        for date in [long_ago, to_come] {
            mark.set_modified(date).unwrap();
            assert_eq!(LastStop::find(&state_dir), LastStop::HostDown, "{date:?}");
        }
    }

    #[test]
    fn a_mark_that_cannot_be_understood_is_no_orderly_stop() {
        let directory = tempfile::tempdir().unwrap();
        let state_dir = StateDir { root: directory.path().to_owned() };
        std::fs::write(state_dir.running_mark(), [0xFF, 0xFE, 0x00]).unwrap();
        assert_eq!(LastStop::find(&state_dir), LastStop::HostDown);
    }

    #[test]
    fn a_mark_that_cannot_be_set_leaves_the_one_that_is_there() {
        let directory = tempfile::tempdir().unwrap();
        let state_dir = StateDir { root: directory.path().to_owned() };
        mark(&state_dir).unwrap();
        // Where the new one is written.
        let beside = state_dir.running_mark().with_extension("new");
        std::fs::create_dir(&beside).unwrap();
        assert!(mark(&state_dir).is_err());
        settle(&state_dir, true);
        assert_eq!(std::fs::read_to_string(state_dir.running_mark()).unwrap().trim(), boot_id().unwrap());
        std::fs::remove_dir(&beside).unwrap();
        mark(&state_dir).unwrap();
        assert!(!beside.exists());
    }
}
