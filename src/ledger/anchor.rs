//! Anchors: the end of the hash chain, written where this host cannot take it back, such as a log that is forwarded to
//! another one. `audit verify --anchors` holds the ledger against them.

use std::sync::Arc;
use std::time::Duration;

use super::core::Core;
use crate::config::AnchorPlace;

const INTERVAL: Duration = Duration::from_secs(60);

/// Writes an anchor at the start and every minute, until the ledger stops.
pub(crate) async fn write_every_minute(core: Arc<Core>) {
    let mut stopping = core.stopping.subscribe();
    let mut minutes = tokio::time::interval(INTERVAL);
    loop {
        tokio::select! {
            _ = minutes.tick() => {}
            _ = stopping.wait_for(|stop| *stop) => return,
        }
        write(&core).await;
    }
}

/// Writes an anchor, if the settings say where. A chain without records has no end. What is anchored is on the disk by
/// then: a loss of power must not make the ledger contradict it.
pub(crate) async fn write(core: &Arc<Core>) {
    /// A macro, because an event's level is fixed where it is written.
    macro_rules! line {
        ($level:expr, $chain:expr) => {
            tracing::event!(
                $level,
                chainId = %$chain.chain_id,
                chainSeq = $chain.seq,
                chainHash = %$chain.hash,
                hostId = %$chain.host_id,
                "audit: the end of the chain"
            )
        };
    }
    let Some(AnchorPlace::Log) = core.settings.load().anchor else { return };
    let chain = core.journal().chain().clone();
    if chain.seq == 0 {
        return;
    }
    let flushing = core.clone();
    let flushed = tokio::task::spawn_blocking(move || flushing.sync_journal()).await;
    if !matches!(flushed, Ok(Ok(_))) {
        return;
    }
    // An anchor is no news: it is written whatever the log's level is.
    if tracing::enabled!(tracing::Level::INFO) {
        line!(tracing::Level::INFO, chain);
    } else if tracing::enabled!(tracing::Level::WARN) {
        line!(tracing::Level::WARN, chain);
    } else {
        line!(tracing::Level::ERROR, chain);
    }
}
