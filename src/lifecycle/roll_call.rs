//! Whether the accept loops, and the threads that serve, still run: each answers when it is called.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::{mpsc, oneshot};

/// Every accept loop of the daemon, and every worker's.
#[derive(Debug, Default)]
pub(crate) struct RollCall(Mutex<Roll>);

#[derive(Debug, Default)]
struct Roll {
    next: u64,
    loops: Vec<(u64, Caller)>,
}

type Caller = mpsc::Sender<oneshot::Sender<()>>;

/// Where one accept loop is called.
#[derive(Debug)]
pub(crate) struct Calls(mpsc::Receiver<oneshot::Sender<()>>);

impl RollCall {
    /// Adds a loop, which gets what is returned, and by whose number it can be removed.
    pub(crate) fn add(&self) -> (u64, Calls) {
        let (calls, called) = mpsc::channel(1);
        let mut roll = self.roll();
        let number = roll.next;
        roll.next += 1;
        roll.loops.push((number, calls));
        (number, Calls(called))
    }

    /// A loop that is about to end by intention is missed no longer.
    pub(crate) fn remove(&self, number: u64) {
        self.roll().loops.retain(|(own, _)| *own != number);
    }

    /// Waits until every loop has answered: for ever, if one hangs or has ended.
    pub(crate) async fn all_answer(&self) {
        let all = self.roll().loops.clone();
        for (number, accept_loop) in all {
            let (answer, answered) = oneshot::channel();
            let is_called = accept_loop.send(answer).await.is_ok();
            if (!is_called || answered.await.is_err()) && self.is_on_the_roll(number) {
                std::future::pending::<()>().await;
            }
        }
    }

    fn is_on_the_roll(&self, number: u64) -> bool {
        self.roll().loops.iter().any(|(own, _)| *own == number)
    }

    fn roll(&self) -> MutexGuard<'_, Roll> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Calls {
    /// Answers the next call.
    pub(crate) async fn answer(&mut self) {
        match self.0.recv().await {
            Some(answer) => {
                let _ = answer.send(());
            }
            // Nobody calls any more.
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    fn is_over(future: std::pin::Pin<&mut impl Future>) -> bool {
        future.poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn one_loop_that_hangs_is_missed() {
        let loops = RollCall::default();
        let ((_, mut first), (_, mut second)) = (loops.add(), loops.add());
        let mut all = pin!(loops.all_answer());
        assert!(!is_over(all.as_mut()));
        assert!(is_over(pin!(first.answer())));
        assert!(!is_over(all.as_mut()) && !is_over(pin!(first.answer())), "the second one has not answered");
        assert!(is_over(pin!(second.answer())));
        assert!(is_over(all.as_mut()));
    }

    #[test]
    fn one_loop_that_has_ended_is_missed() {
        let loops = RollCall::default();
        let ((_, mut first), (number, second)) = (loops.add(), loops.add());
        let mut all = pin!(loops.all_answer());
        assert!(!is_over(all.as_mut()));
        assert!(is_over(pin!(first.answer())));
        drop(second);
        assert!(!is_over(all.as_mut()));
        // A loop that ends by intention is taken off the roll before.
        loops.remove(number);
        assert!(!is_over(all.as_mut()), "a watchdog that has begun to miss it does not take it back");
        let mut all = pin!(loops.all_answer());
        assert!(!is_over(all.as_mut()));
        assert!(is_over(pin!(first.answer())) && is_over(all.as_mut()));
    }
}
