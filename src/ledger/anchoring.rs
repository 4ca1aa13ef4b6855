//! When the end of the chain is anchored: at the start, every minute, and at an orderly stop.

use std::sync::Arc;
use std::time::Duration;

use super::chain::Chain;
use super::core::Core;
use crate::settings::Anchor;

const INTERVAL: Duration = Duration::from_secs(60);
/// How long an anchor may take while requests are served.
const PATIENCE: Duration = Duration::from_secs(20);
/// And while the daemon stops.
const PATIENCE_AT_STOP: Duration = Duration::from_secs(5);

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
