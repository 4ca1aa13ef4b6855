//! What the service manager hears while the daemon serves: that it lives, as long as its accept loops do, and how it is.

use std::time::Duration;

use super::notify;
use super::roll_call::RollCall;

/// How soon a change is told.
const STATUS_INTERVAL: Duration = Duration::from_secs(2);

/// Tells it for ever. Each time, every accept loop has just answered: a daemon that no longer accepts is silent, and the
/// watchdog starts it anew.
pub(crate) async fn keep_telling(loops: RollCall, status: impl Fn() -> String) {
    let watchdog = notify::watchdog_interval();
    let pause = watchdog.map_or(STATUS_INTERVAL, |interval| interval.min(STATUS_INTERVAL));
    let mut told = String::new();
    loop {
        loops.all_answer().await;
        if watchdog.is_some() {
            notify::alive();
        }
        let now = status();
        if now != told {
            notify::status(&now);
            told = now;
        }
        tokio::time::sleep(pause).await;
    }
}
