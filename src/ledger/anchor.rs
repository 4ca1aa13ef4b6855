//! Anchors: the end of the hash chain, written where this host cannot take it back, such as a log that is forwarded to
//! another one, or a bucket that locks its objects. `audit verify --anchors` holds the ledger against them.

mod s3;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::Mutex;

use self::s3::Bucket;
use super::chain::Chain;
use super::clock::now_ms;
use super::core::Core;
use crate::settings::{Anchor, S3Anchor};

const INTERVAL: Duration = Duration::from_secs(60);
/// How long an anchor may take while requests are served.
const PATIENCE: Duration = Duration::from_secs(20);
/// And while the daemon stops.
const PATIENCE_AT_STOP: Duration = Duration::from_secs(5);

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

    fn written(&self) {
        self.last_ms.store(now_ms(), Relaxed);
        if self.fails.swap(false, Relaxed) {
            tracing::info!("audit: the end of the chain is anchored again");
        }
    }

    /// A spell of failures has one line in the log.
    fn failed(&self, why: &str) {
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
    async fn put(&self, settings: &S3Anchor, chain: &Chain) -> Result<(), String> {
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

/// Writes an anchor at the start and every minute, until the ledger stops.
pub(crate) async fn write_every_minute(core: Arc<Core>) {
    let mut stopping = core.stopping.subscribe();
    let mut minutes = tokio::time::interval(INTERVAL);
    minutes.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let writing = async {
        loop {
            minutes.tick().await;
            write(&core, PATIENCE).await;
        }
    };
    tokio::select! {
        () = writing => {}
        _ = stopping.wait_for(|stop| *stop) => {}
    }
}

/// Writes the last anchor of an orderly stop.
pub(crate) async fn write_at_stop(core: &Arc<Core>) {
    write(core, PATIENCE_AT_STOP).await;
}

/// Writes an anchor, if the settings say where. A chain without records has no end. What is anchored is on the disk by
/// then: a loss of power must not make the ledger contradict it.
async fn write(core: &Arc<Core>, patience: Duration) {
    let settings = core.settings.load_full();
    let Some(place) = &settings.anchor else { return };
    let chain = core.journal().chain().clone();
    if chain.seq == 0 {
        return;
    }
    let flushing = core.clone();
    let flushed = tokio::task::spawn_blocking(move || flushing.sync_journal()).await;
    if !matches!(flushed, Ok(Ok(_))) {
        core.anchors.failed("the journal cannot be flushed");
        return;
    }
    match place {
        Anchor::Log => {
            let lost = crate::log::dropped();
            log(&chain);
            if crate::log::dropped() == lost {
                core.anchors.written();
            } else {
                core.anchors.failed("the log takes no lines, because nobody reads it");
            }
        }
        Anchor::S3(settings) => match tokio::time::timeout(patience, core.anchors.put(settings, &chain)).await {
            Ok(Ok(())) => core.anchors.written(),
            Ok(Err(why)) => core.anchors.failed(&why),
            Err(_) => core.anchors.failed(&format!(
                "the bucket {} has not taken it within {} s",
                settings.bucket,
                patience.as_secs()
            )),
        },
    }
}

/// An anchor is no news: it is written whatever the log's level is.
fn log(chain: &Chain) {
    /// A macro, because an event's level is fixed where it is written.
    macro_rules! line {
        ($level:expr) => {
            tracing::event!(
                $level,
                chainId = %chain.chain_id,
                chainSeq = chain.seq,
                chainHash = %chain.hash,
                hostId = %chain.host_id,
                "audit: the end of the chain"
            )
        };
    }
    if tracing::enabled!(tracing::Level::INFO) {
        line!(tracing::Level::INFO);
    } else if tracing::enabled!(tracing::Level::WARN) {
        line!(tracing::Level::WARN);
    } else {
        line!(tracing::Level::ERROR);
    }
}
