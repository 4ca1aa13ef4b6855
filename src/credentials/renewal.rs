//! When the source is read, though no request asks for it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::{Credentials, retry_after};
use crate::file_stamp::FileStamp;
use crate::jitter;

/// A key is replaced this long before it expires.
const BEFORE_EXPIRY: Duration = Duration::from_secs(300);
/// How often a source is read for a key that is about to expire, at least and at most.
pub(super) const SOONEST: Duration = Duration::from_secs(5);
const NEAR_EXPIRY: Duration = Duration::from_secs(60);
/// How often files are looked at.
const FILE_POLL: Duration = Duration::from_secs(2);

type Stamps = Option<Vec<Option<FileStamp>>>;

impl Credentials {
    /// Keeps the credential fresh until dropped: by interval, before expiry, when its file changes, and with growing
    /// pauses while the source gives nothing of use.
    pub(crate) async fn keep_fresh(self: &Arc<Self>) {
        let mut changed = self.subscribe();
        let mut stamps = self.source.file_stamps().await;
        loop {
            changed.mark_unchanged();
            tokio::select! {
                () = tokio::time::sleep(self.until_due(jitter::random())) => {}
                now = self.file_change(&stamps) => stamps = now,
                // A request has had the source read, so that it is due at another time.
                _ = changed.changed() => continue,
            }
            self.load().await;
        }
    }

    /// Up to a tenth earlier than the settings and the key say, as `random` decides: hosts of one fleet have often begun
    /// together, and their key ends for all at once.
    pub(super) fn until_due(&self, random: u64) -> Duration {
        let earlier = |pause| jitter::earlier(pause, random);
        let held = self.held.load();
        let Some(current) = &held.current else { return earlier(retry_after(held.fruitless)) };
        if held.problem.is_some() {
            return earlier(retry_after(held.fruitless));
        }
        let Some(expiry) = current.expiry else { return earlier(self.refresh_interval) };
        let left = expiry.duration_since(SystemTime::now()).unwrap_or_default();
        let pause = match left.checked_sub(BEFORE_EXPIRY) {
            Some(before) => before.max(SOONEST).min(self.refresh_interval),
            None => (left / 2).clamp(SOONEST, NEAR_EXPIRY),
        };
        earlier(pause).max(SOONEST)
    }

    /// Waits until a file of the source differs from what it was. A file system that does not answer tells nothing.
    async fn file_change(&self, before: &Stamps) -> Stamps {
        if !self.source.has_files() {
            return std::future::pending().await;
        }
        loop {
            tokio::time::sleep(FILE_POLL).await;
            let now = self.source.file_stamps().await;
            if now.is_some() && now != *before {
                return now;
            }
        }
    }
}
