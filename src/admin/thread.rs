//! The admin address has a thread and a runtime of its own: neither load nor a blocked worker of the main runtime hides how
//! the daemon is.

use std::future::Future;
use std::io;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::runtime::{Builder, Handle};
use tokio::sync::{oneshot, watch};

use crate::lifecycle::roll_call::Calls;
use crate::listen::{Listener, Shared};
use crate::road::Road;

/// Serves the admin address, as [`Listener::serve`] does. The future ends when nothing more is accepted, the thread when
/// the sender of `stop` is gone.
///
/// # Errors
/// The kernel gives no thread, or no descriptor for its events.
pub(crate) fn serve(
    listener: Listener,
    shared: Arc<Shared>,
    drain: watch::Receiver<bool>,
    stop: watch::Receiver<bool>,
    cut: watch::Receiver<bool>,
    calls: Calls,
    road: Arc<ArcSwap<Road>>,
) -> io::Result<impl Future<Output = ()> + Send + 'static> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let listener = {
        let _entered = runtime.enter();
        listener.moved()?
    };
    let main = Handle::current();
    let service = move |client, request| super::serve(main.clone(), Arc::clone(&road), client, request);
    let mut running = stop.clone();
    let (accepting, ended) = oneshot::channel::<()>();
    let run = async move {
        listener.serve(shared, drain, stop, cut, calls, service).await;
        drop(accepting);
        // Until then, connections come to their end.
        while running.changed().await.is_ok() {}
    };
    std::thread::Builder::new().name("admin".to_owned()).spawn(move || runtime.block_on(run))?;
    Ok(async move {
        let _ = ended.await;
    })
}
