//! Whether the accept loops still run: each answers when it is called.

use tokio::sync::{mpsc, oneshot};

/// Every accept loop of the daemon.
#[derive(Debug, Default)]
pub(crate) struct RollCall(Vec<mpsc::Sender<oneshot::Sender<()>>>);

/// Where one accept loop is called.
#[derive(Debug)]
pub(crate) struct Calls(mpsc::Receiver<oneshot::Sender<()>>);

impl RollCall {
    /// Adds a loop, which gets what is returned.
    pub(crate) fn add(&mut self) -> Calls {
        let (calls, called) = mpsc::channel(1);
        self.0.push(calls);
        Calls(called)
    }

    /// Waits until every loop has answered: for ever, if one hangs or has ended.
    pub(crate) async fn all_answer(&self) {
        for accept_loop in &self.0 {
            let (answer, answered) = oneshot::channel();
            let is_called = accept_loop.send(answer).await.is_ok();
            if !is_called || answered.await.is_err() {
                std::future::pending::<()>().await;
            }
        }
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
        let mut loops = RollCall::default();
        let (mut first, mut second) = (loops.add(), loops.add());
        let mut all = pin!(loops.all_answer());
        assert!(!is_over(all.as_mut()));
        assert!(is_over(pin!(first.answer())));
        assert!(!is_over(all.as_mut()) && !is_over(pin!(first.answer())), "the second one has not answered");
        assert!(is_over(pin!(second.answer())));
        assert!(is_over(all.as_mut()));
    }

    #[test]
    fn one_loop_that_has_ended_is_missed() {
        let mut loops = RollCall::default();
        let (mut first, second) = (loops.add(), loops.add());
        let mut all = pin!(loops.all_answer());
        assert!(!is_over(all.as_mut()));
        assert!(is_over(pin!(first.answer())));
        drop(second);
        assert!(!is_over(all.as_mut()));
    }
}
