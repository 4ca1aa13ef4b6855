//! What the service manager hears while the daemon serves, that it lives, as long as its accept loops do, and how it is; and
//! while it drains, for how much longer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::notify;
use super::roll_call::RollCall;

/// How soon a change is told.
const STATUS_INTERVAL: Duration = Duration::from_secs(2);

/// Tells it until what is returned is dropped. Each time, every accept loop has just answered: a daemon that no longer
/// accepts is silent, and the watchdog starts it anew.
pub(crate) fn start(loops: Arc<RollCall>, status: impl Fn() -> String + Send + 'static) -> JoinSet<()> {
    let mut telling = JoinSet::new();
    telling.spawn(tell(loops, notify::watchdog_interval(), notify::alive, status));
    telling
}

async fn tell(loops: Arc<RollCall>, watchdog: Option<Duration>, alive: impl Fn(), status: impl Fn() -> String) {
    let mut told = String::new();
    loop {
        loops.all_answer().await;
        if watchdog.is_some() {
            alive();
        }
        let now = status();
        if now != told {
            notify::status(&now);
            told = now;
        }
        tokio::time::sleep(pause(watchdog)).await;
    }
}

/// Tells that it stops, and again and again for how long that may still take, until what is returned is dropped: the drain
/// itself at most `timeout`, and what comes after it at most `after`.
pub(crate) fn start_drain(
    timeout: Duration,
    after: Duration,
    in_flight: impl Fn() -> i64 + Send + 'static,
) -> JoinSet<()> {
    let start = Instant::now();
    let status = move |left: Duration| {
        let (requests, seconds) = (in_flight(), left.as_secs());
        format!("Draining: {requests} requests in progress, for {seconds} s at most")
    };
    notify::stopping(timeout + after, &status(timeout));
    let mut telling = JoinSet::new();
    telling.spawn(async move {
        let watchdog = notify::watchdog_interval();
        loop {
            tokio::time::sleep(pause(watchdog)).await;
            let left = timeout.saturating_sub(start.elapsed());
            notify::still_stopping(left + after, &status(left));
        }
    });
    telling
}

fn pause(watchdog: Option<Duration>) -> Duration {
    watchdog.map_or(STATUS_INTERVAL, |interval| interval.min(STATUS_INTERVAL))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Each ping follows an answer of every accept loop.
    #[tokio::test]
    async fn an_accept_loop_that_hangs_silences_the_pings() {
        let (loops, pings) = (Arc::<RollCall>::default(), Arc::<AtomicUsize>::default());
        let ((_, mut first), (_, mut second)) = (loops.add(), loops.add());
        let counted = Arc::clone(&pings);
        let alive = move || {
            counted.fetch_add(1, Ordering::Relaxed);
        };
        let _telling = tokio::spawn(tell(loops, Some(Duration::from_millis(1)), alive, String::new));
        for round in 0..3 {
            first.answer().await;
            // The second one is called now, and the pulse goes no further on this thread.
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
            assert_eq!(pings.load(Ordering::Relaxed), round, "the second loop has not answered");
            second.answer().await;
            while pings.load(Ordering::Relaxed) == round {
                tokio::task::yield_now().await;
            }
        }
    }
}
