//! The task that carries the agent's wishes to the table and back.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::super::{Inner, Limits};
use super::agent::{Agent, Next};
use super::store::{LeaseStore, Request, Response, StoreError};

/// Giving the lease back must not hold up the end of a drain.
const LEAVE: Duration = Duration::from_secs(5);

/// Keeps this host's lease while it lives. [`Fleet::stop`] gives it back.
#[derive(Debug)]
pub struct Fleet {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Fleet {
    /// Gives the lease back; to be called when the last request has ended. Takes 5 seconds at most.
    pub async fn stop(self) {
        drop(self.stop);
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the fleet's task ended badly; its lease is given back by time");
        }
    }
}

impl Limits {
    /// Takes part in the fleet through a store, from a task of the current runtime. To be called once, if `[fleet]` is
    /// configured, after `persist_to`. Until the first lease has come, a few milliseconds later, the fleet's limits refuse.
    pub fn join_fleet(&self, store: impl LeaseStore) -> Fleet {
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(run(self.inner.clone(), store, stopped));
        Fleet { stop, task }
    }
}

async fn run(inner: Arc<Inner>, store: impl LeaseStore, mut stopped: oneshot::Receiver<()>) {
    let mut agent = Agent::new(uuid::Uuid::now_v7().to_string(), inner.lock().fleet_hosts, inner.clock.now());
    let mut settings = None;
    let mut failing = false;
    loop {
        let next = {
            let mut state = inner.lock();
            state.fleet_hosts = agent.hosts();
            match &mut state.fleet {
                Some(local) => {
                    let configured = (local.requests.limit, local.tokens.limit);
                    if settings.replace(configured).is_some_and(|before| before != configured) {
                        agent.reconfigured();
                    }
                    agent.next(local, inner.clock.now())
                }
                // Reloaded without [fleet]: the lease dies by time.
                None => Next::Wait(u64::MAX),
            }
        };
        match next {
            Next::Call(request) => {
                let result = store.call(request).await;
                report(&result, &mut failing);
                let leased = {
                    let mut state = inner.lock();
                    let now = inner.clock.now();
                    if let Some(local) = &mut state.fleet {
                        agent.done(result, local, now);
                    }
                    !state.queue.is_empty()
                };
                if leased {
                    inner.freed.notify_one();
                }
            }
            Next::Wait(until) => {
                tokio::select! {
                    _ = &mut stopped => break,
                    () = inner.clock.sleep_until(until) => {}
                    () = inner.hungry.notified() => {
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
    leave(&inner, &store, agent).await;
}

async fn leave(inner: &Inner, store: &impl LeaseStore, mut agent: Agent) {
    let request = {
        let mut state = inner.lock();
        state.fleet.as_mut().and_then(|local| agent.leave(local, inner.clock.now()))
    };
    let Some(request) = request else { return };
    // Another host's transaction on the pool may be in the way for a moment.
    let tries = async {
        while let Err(StoreError::Conflict) = store.call(request.clone()).await {
            if let Request::Write(Some(record), _) = &request
                && let Ok(Response::Lease(found)) = store.call(Request::Get(record.id.clone())).await
                && found.is_none_or(|found| found.version != record.version)
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    if tokio::time::timeout(LEAVE, tries).await.is_err() {
        tracing::warn!("the fleet's lease could not be given back; it dies by time");
    }
}

/// Says once that the table cannot be reached, and once that it can.
fn report(result: &Result<Response, StoreError>, failing: &mut bool) {
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
