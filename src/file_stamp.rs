//! What tells one version of a file from the next: files that are polled are read again when it changes.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Identifies one version of a file. A file that was replaced or rewritten differs in one of its parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileStamp {
    inode: u64,
    size: u64,
    /// Seconds and nanoseconds of the Unix clock.
    modified: (i64, i64),
}

impl FileStamp {
    /// The stamp of the file as it is now; none when it is missing or cannot be seen.
    pub(crate) fn of(path: &Path) -> Option<FileStamp> {
        let metadata = std::fs::metadata(path).ok()?;
        let modified = (metadata.mtime(), metadata.mtime_nsec());
        Some(FileStamp { inode: metadata.ino(), size: metadata.size(), modified })
    }
}
