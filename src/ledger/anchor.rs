//! Anchors: the end of the hash chain, written where this host cannot take it back, such as a log that is forwarded to
//! another one, or a bucket that locks its objects. `audit verify --anchors` holds the ledger against them.

mod s3;

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};

use tokio::sync::Mutex;

use self::s3::Bucket;
use super::chain::Chain;
use super::clock::now_ms;
use crate::settings::S3Anchor;

/// What is known of the anchors that were written.
#[derive(Debug, Default)]
pub(crate) struct Anchors {
    failures: AtomicU64,
    /// When the last one was written, in milliseconds since 1970; 0 when none was.
    last_ms: AtomicI64,
    /// The last one could not be written.
    fails: AtomicBool,
    bucket: Mutex<Option<Bucket>>,
}

impl Anchors {
    /// Anchors that could not be written, since the daemon's start.
    pub(crate) fn failures_total(&self) -> u64 {
        self.failures.load(Relaxed)
    }

    /// When the last one was written, in milliseconds since 1970; 0 when none was.
    pub(crate) fn last_ms(&self) -> i64 {
        self.last_ms.load(Relaxed)
    }

    pub(crate) fn written(&self) {
        self.last_ms.store(now_ms(), Relaxed);
        if self.fails.swap(false, Relaxed) {
            tracing::info!("audit: the end of the chain is anchored again");
        }
    }

    /// A spell of failures has one line in the log.
    pub(crate) fn failed(&self, why: &str) {
        let failures = self.failures.fetch_add(1, Relaxed) + 1;
        if self.fails.swap(true, Relaxed) {
            tracing::debug!(failures, "audit: the end of the chain cannot be anchored: {why}");
        } else {
            tracing::warn!(
                failures,
                "audit: the end of the chain cannot be anchored, which is tried again every minute: {why}"
            );
        }
    }

    /// Writes one object into the bucket that the settings name.
    pub(crate) async fn put(&self, settings: &S3Anchor, chain: &Chain) -> Result<(), String> {
        let mut kept = self.bucket.lock().await;
        // After a failure it is made anew: the SDK reads credentials from a file once.
        let bucket = match kept.take().filter(|bucket| bucket.is_of(settings)) {
            Some(bucket) => bucket,
            None => Bucket::new(settings).await?,
        };
        bucket.put(chain, now_ms()).await?;
        *kept = Some(bucket);
        Ok(())
    }
}
