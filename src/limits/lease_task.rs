//! The task that takes the agent's calls to the fleet's table and the answers back to the limits.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::fleet::agent::{Agent, Next};
use super::fleet::amount::Terms;
use super::fleet::store::{LeaseStore, StoreError, StoreRequest, StoreResponse};
use super::shared::Shared;

/// A table that does not answer must not hold up the end of a drain.
const LONGEST_STOP: Duration = Duration::from_secs(5);

const NOT_GIVEN_BACK: &str = "the fleet's lease could not be given back; it dies by time";

/// Keeps this host's lease while it lives. [`LeaseTask::stop`] gives it back.
#[derive(Debug)]
pub struct LeaseTask {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl LeaseTask {
    pub(super) fn start(shared: &Arc<Shared>, store: impl LeaseStore) -> LeaseTask {
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(run(shared.clone(), store, stopped));
        LeaseTask { stop, task }
    }

    /// Gives the lease back; to be called when the last request has ended. Takes 5 seconds at most, the end of a call that is
    /// under way included.
    pub async fn stop(mut self) {
        drop(self.stop);
        match tokio::time::timeout(LONGEST_STOP, &mut self.task).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "the fleet's task ended badly; its lease is given back by time"),
            Err(_) => {
                self.task.abort();
                tracing::warn!(error = "the table does not answer", "{NOT_GIVEN_BACK}");
            }
        }
    }
}

async fn run(shared: Arc<Shared>, store: impl LeaseStore, mut stopped: oneshot::Receiver<()>) {
    // The random half of it: each byte is paid with every write of the shard.
    let id = uuid::Uuid::now_v7().simple().to_string().split_off(16);
    let mut agent = Agent::new(&id, shared.lock().fleet_hosts, shared.clock.now());
    let mut limit = None;
    let mut overruled_by = None;
    let mut failing = false;
    loop {
        let next = {
            let mut state = shared.lock();
            state.fleet_hosts = agent.hosts();
            match &mut state.fleet {
                Some(local) => {
                    let configured = local.configured();
                    if limit.replace(configured).is_some_and(|before| before != configured) {
                        agent.reconfigured();
                        // An admin who has changed them is told again that the table's hold.
                        overruled_by = None;
                    }
                    agent.next(local, shared.clock.now())
                }
                // Reloaded without [fleet]: the lease dies by time.
                None => Next::Wait(u64::MAX),
            }
        };
        report_terms(&agent, &mut overruled_by);
        match next {
            Next::Call(request) => {
                let result = store.call(request).await;
                report(&result, &mut failing);
                let leased = {
                    let mut state = shared.lock();
                    let now = shared.clock.now();
                    if let Some(local) = &mut state.fleet {
                        agent.done(result, local, now);
                    }
                    !state.queue.is_empty()
                };
                if leased {
                    shared.freed.notify_one();
                }
            }
            Next::Wait(until) => {
                tokio::select! {
                    _ = &mut stopped => break,
                    () = shared.clock.sleep_until(until) => {}
                    () = shared.lease_wanted.notified() => {
                        // The agent paces itself; this only keeps a storm of refusals from turning the loop.
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                }
            }
        }
        if matches!(stopped.try_recv(), Err(oneshot::error::TryRecvError::Closed)) {
            break;
        }
    }
    leave(&shared, &store, agent).await;
}

async fn leave(shared: &Shared, store: &impl LeaseStore, mut agent: Agent) {
    let request = {
        let mut state = shared.lock();
        state.fleet.as_mut().and_then(|local| agent.leave(local, shared.clock.now()))
    };
    let Some(request) = request else { return };
    loop {
        match store.call(request.clone()).await {
            Ok(_) => return,
            Err(StoreError::Unavailable(error)) => {
                tracing::warn!(error, "{NOT_GIVEN_BACK}");
                return;
            }
            // The shard may be being balanced at this moment.
            Err(StoreError::Conflict) => {}
        }
        if let StoreRequest::Write(number, Some(lease), _) = &request
            && let Ok(StoreResponse::Shard(shard)) =
                store.call(StoreRequest::ReadShard { number: *number, now: true }).await
            && shard.as_ref().and_then(|shard| shard.lease(&lease.id)) != Some(lease)
        {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Says once that other limits hold than those that this host is configured with.
fn report_terms(agent: &Agent, said: &mut Option<Terms>) {
    let overruled_by = agent.overruled_by();
    if std::mem::replace(said, overruled_by) != overruled_by
        && let Some(Terms { limit, revision }) = overruled_by
    {
        tracing::warn!(
            requests_per_minute = limit.requests,
            tokens_per_minute = limit.tokens,
            revision,
            "the fleet's table has other limits than this host's [fleet], and they hold; to change them, give [fleet] a revision above the table's"
        );
    }
}

/// Says once that the table cannot be reached, and once that it can.
fn report(result: &Result<StoreResponse, StoreError>, failing: &mut bool) {
    match result {
        Err(StoreError::Unavailable(error)) => {
            if !std::mem::replace(failing, true) {
                tracing::error!(
                    error,
                    "the fleet's table cannot be used; on_unavailable holds once the lease has run out"
                );
            }
        }
        Ok(_) | Err(StoreError::Conflict) => {
            if std::mem::replace(failing, false) {
                tracing::info!("the fleet's table can be used again");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::OnUnavailable;
    use crate::limits::{Limits, SystemClock};
    use crate::settings::limits as settings;

    struct Hangs(Arc<tokio::sync::Notify>);

    impl LeaseStore for Hangs {
        async fn call(&self, _: StoreRequest) -> Result<StoreResponse, StoreError> {
            self.0.notify_one();
            std::future::pending().await
        }
    }

    #[tokio::test]
    async fn a_call_that_hangs_does_not_hold_up_the_stop() {
        let fleet = settings::Fleet {
            table: "fleet".to_owned(),
            region: "us-gov-west-1".to_owned(),
            requests_per_minute: Some(10),
            tokens_per_minute: None,
            revision: 0,
            on_unavailable: OnUnavailable::Deny,
        };
        let limits = Limits::new(&settings::Limits { fleet: Some(fleet), ..settings::Limits::default() }, SystemClock);
        let called = Arc::default();
        let task = limits.join_fleet(Hangs(Arc::clone(&called)));
        called.notified().await;
        tokio::time::timeout(LONGEST_STOP * 4, task.stop()).await.expect("it ends");
    }
}
