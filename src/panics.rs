//! Where an error in the daemon's own code (a panic) stops. Within a request or a connection it ends that one, and the
//! others go on. Anywhere else, and in what all share, it ends the process: the service manager starts it anew, and the
//! journal holds what was recorded.

use std::any::Any;
use std::cell::Cell;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use crate::log;

/// The message of the log's line.
pub(crate) const MESSAGE: &str = "an error in the daemon's own code";

static COUNT: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// What runs on this thread may fail by itself.
    static CONTAINED: Cell<bool> = const { Cell::new(false) };
}

/// Something of its own has panicked; the log says where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Panicked;

/// From now on a panic is counted and logged, and ends the process unless it is contained.
pub(crate) fn watch() {
    std::panic::set_hook(Box::new(|info| {
        COUNT.fetch_add(1, Ordering::Relaxed);
        let contained = CONTAINED.try_with(Cell::get).unwrap_or(false);
        // The text of a panic may quote what a client or the upstream has sent.
        let place = info.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
        tracing::error!(
            %place,
            thread = std::thread::current().name().unwrap_or_default(),
            effect = if contained { "its request or connection ends" } else { "the process ends" },
            "{MESSAGE}"
        );
        if !contained {
            log::finish();
            std::process::abort();
        }
    }));
}

/// How many there have been since the start.
pub(crate) fn count() -> u64 {
    COUNT.load(Ordering::Relaxed)
}

/// Runs something of its own.
///
/// # Errors
/// It has panicked.
pub(crate) fn contain<T>(run: impl FnOnce() -> T) -> Result<T, Panicked> {
    let _mark = Mark::set(true);
    // What the closure shares with others it reaches through `vital`, or through locks that hold no half-made state.
    catch_unwind(AssertUnwindSafe(run)).map_err(forget)
}

/// Runs a part of what all share: whatever half-made state a panic would leave there, nobody goes on with it.
pub(crate) fn vital<T>(run: impl FnOnce() -> T) -> T {
    let _mark = Mark::set(false);
    run()
}

/// A future of its own, which ends with an error when it panics.
pub(crate) fn contained<F: Future>(future: F) -> Contained<F> {
    Contained(Some(Box::pin(future)))
}

#[derive(Debug)]
pub(crate) struct Contained<F>(Option<Pin<Box<F>>>);

impl<F: Future> Future for Contained<F> {
    type Output = Result<F::Output, Panicked>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(future) = &mut self.0 else { return Poll::Ready(Err(Panicked)) };
        match contain(|| future.as_mut().poll(cx)) {
            Ok(polled) => polled.map(Ok),
            Err(panicked) => {
                // What it held is let go at once.
                let future = self.0.take();
                let _ = contain(|| drop(future));
                Poll::Ready(Err(panicked))
            }
        }
    }
}

/// Also what it holds when nobody waits for its end: a runtime that drops it contains nothing.
impl<F> Drop for Contained<F> {
    fn drop(&mut self) {
        if let Some(future) = self.0.take() {
            let _ = contain(|| drop(future));
        }
    }
}

/// Runs hyper's tasks, each contained.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Executor;

impl<F: Future + Send + 'static> hyper::rt::Executor<F> for Executor
where
    F::Output: Send,
{
    fn execute(&self, future: F) {
        tokio::spawn(async move {
            let _ = contained(future).await;
        });
    }
}

/// Sets the mark of this thread until it is dropped.
struct Mark(bool);

impl Mark {
    fn set(contained: bool) -> Mark {
        Mark(CONTAINED.replace(contained))
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        CONTAINED.set(self.0);
    }
}

/// A payload may panic while it is dropped.
fn forget(payload: Box<dyn Any + Send>) -> Panicked {
    std::mem::forget(payload);
    Panicked
}

/// Whether a panic at this place would be contained.
#[cfg(test)]
pub(crate) fn is_contained() -> bool {
    CONTAINED.get()
}

/// Panics where a test asks for it: `BEDROCK_SIDECAR_PANIC=PLACE:WHAT`. Optimised builds do not have it.
#[cfg(debug_assertions)]
#[allow(clippy::panic, reason = "this is what it is for")]
#[track_caller]
pub(crate) fn inject(place: &str, what: &str) {
    if std::env::var("BEDROCK_SIDECAR_PANIC").is_ok_and(|wanted| wanted.split_once(':') == Some((place, what))) {
        panic!("a test asked for it");
    }
}

/// Blocks the thread for ever where a test asks for it: `BEDROCK_SIDECAR_BLOCK=WHAT`. Optimised builds do not have it.
#[cfg(debug_assertions)]
pub(crate) fn block(what: &str) {
    if std::env::var("BEDROCK_SIDECAR_BLOCK").is_ok_and(|wanted| wanted == what) {
        tracing::warn!("a test has blocked this thread");
        loop {
            std::thread::park();
        }
    }
}

#[cfg(not(debug_assertions))]
pub(crate) fn block(_what: &str) {}

#[cfg(not(debug_assertions))]
pub(crate) fn inject(_place: &str, _what: &str) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_an_error_of_its_own_future() {
        assert_eq!(contained(async { 1 }).await, Ok(1));
        let held = std::sync::Arc::new(());
        let inner = std::sync::Arc::clone(&held);
        let mut broken = Box::pin(contained(async move {
            tokio::task::yield_now().await;
            let _inner = inner;
            panic!("as asked");
        }));
        assert_eq!((&mut broken).await, Err::<(), _>(Panicked));
        assert_eq!(std::sync::Arc::strong_count(&held), 1, "what it held was let go");
    }

    /// Within a runtime that ends a task, nothing else would contain it.
    #[tokio::test]
    async fn a_panic_while_it_is_dropped_is_contained() {
        struct Broken(std::sync::Arc<std::sync::Mutex<Vec<bool>>>);
        impl Drop for Broken {
            fn drop(&mut self) {
                self.0.lock().unwrap().push(CONTAINED.get());
                if !std::thread::panicking() {
                    panic!("as asked");
                }
            }
        }
        let seen = std::sync::Arc::default();
        let broken = Broken(std::sync::Arc::clone(&seen));
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(contained(async move {
            let _broken = broken;
            std::future::pending::<()>().await
        }));
        tokio::task::yield_now().await;
        tasks.shutdown().await;
        drop(contained({
            let broken = Broken(std::sync::Arc::clone(&seen));
            async move { drop(broken) }
        }));
        assert_eq!(*seen.lock().unwrap(), [true, true]);
        assert!(!CONTAINED.get(), "a drop leaves no mark behind");
    }

    #[test]
    fn what_all_share_is_vital_within_what_is_contained() {
        let marks = || CONTAINED.get();
        assert!(!marks());
        let seen = contain(|| (marks(), vital(marks), marks()));
        assert_eq!(seen, Ok((true, false, true)));
        assert!(contain(|| vital(|| panic!("as asked"))).is_err());
        assert!(!marks(), "a panic leaves no mark behind");
    }
}
