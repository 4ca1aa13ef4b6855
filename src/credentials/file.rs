//! Files that may not answer: a FIFO that nobody writes to, or a server of NFS that is gone. They are looked at on a thread of
//! its own, which holds up neither the runtime nor the end of the process.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::OFlags;
use tokio::sync::{Semaphore, oneshot};
use zeroize::Zeroizing;

/// More than any secret has: Secrets Manager takes 64 KiB.
const LARGEST: u64 = 1024 * 1024;

/// One look at a time. While a look does not come back, no other begins, so that at most one thread hangs.
#[derive(Debug)]
pub(crate) struct Lookout {
    turns: Arc<Semaphore>,
    /// What takes longer cannot be read.
    longest: Duration,
}

impl Lookout {
    pub(super) fn new(longest: Duration) -> Lookout {
        Lookout { turns: Arc::new(Semaphore::new(1)), longest }
    }

    /// What `look` finds; none if it takes too long, or one before it still has not come back.
    pub(super) async fn look<T: Send + 'static>(&self, look: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let looking = async {
            let turn = Arc::clone(&self.turns).acquire_owned().await.ok()?;
            let (found, finding) = oneshot::channel();
            let thread = std::thread::Builder::new().name("credential-file".to_owned()).spawn(move || {
                let seen = look();
                drop(turn);
                let _ = found.send(seen);
            });
            thread.ok()?;
            finding.await.ok()
        };
        tokio::time::timeout(self.longest, looking).await.ok().flatten()
    }
}

pub(super) fn unanswering(path: &Path) -> String {
    format!(
        "the file {} does not answer; look at the file system that it is on, and at what else keeps it from being read",
        path.display()
    )
}

/// The text of a regular file.
pub(super) fn read(path: &Path) -> io::Result<Zeroizing<String>> {
    let file = regular(path)?;
    let size = file.metadata()?.len();
    if size > LARGEST {
        return Err(io::Error::other("it is larger than any secret"));
    }
    // The capacity suffices, so that growing leaves no copy behind.
    let capacity = usize::try_from(size).unwrap_or_default() + 1;
    let mut text = Zeroizing::new(String::with_capacity(capacity));
    file.take(LARGEST).read_to_string(&mut text)?;
    Ok(text)
}

/// Opens a file and never waits for one that is a FIFO or a device.
fn regular(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("it is not a regular file")),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn only_regular_files_are_read() {
        let directory = tempfile::tempdir().unwrap();
        let (fifo, file) = (directory.path().join("fifo"), directory.path().join("file"));
        assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        std::fs::write(&file, "text").unwrap();
        assert_eq!(read(&file).unwrap().as_str(), "text");
        for other in [fifo.as_path(), directory.path(), Path::new("/dev/zero")] {
            assert_eq!(read(other).unwrap_err().to_string(), "it is not a regular file", "{other:?}");
        }
        File::create(&file).unwrap().set_len(LARGEST + 1).unwrap();
        assert!(read(&file).unwrap_err().to_string().contains("larger"));
        assert_eq!(read(Path::new("/nonexistent")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn a_look_that_hangs_is_given_up_and_none_joins_it() {
        let lookout = Lookout::new(Duration::from_millis(100));
        let (release, hang) = mpsc::channel::<()>();
        assert_eq!(lookout.look(move || hang.recv().is_ok()).await, None);
        let (touched, touch) = mpsc::channel();
        assert!(lookout.look(move || touched.send(()).is_ok()).await.is_none());
        assert!(touch.try_recv().is_err(), "it never began");
        release.send(()).unwrap();
        while lookout.look(|| 2).await != Some(2) {}
    }
}
