//! The admin address has a thread and a runtime of its own: neither load nor a blocked worker of the main runtime hides how
//! the daemon is.

use std::future::Future;
use std::io;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{oneshot, watch};

use crate::lifecycle::roll_call::Calls;
use crate::listen::farewell::Farewell;
use crate::listen::{Listener, Shared};
use crate::road::Road;
use crate::workers::Workers;

/// Serves the admin address, as [`Listener::serve`] does, until the future is dropped. The thread ends with its last
/// connection.
///
/// # Errors
/// The kernel gives no thread, or no descriptor for its events.
pub(crate) fn serve(
    listener: Listener,
    shared: Arc<Shared>,
    farewell: Arc<Farewell>,
    cut: watch::Receiver<bool>,
    calls: Calls,
    road: Arc<ArcSwap<Road>>,
    workers: Arc<Workers>,
) -> io::Result<impl Future<Output = ()> + Send + 'static> {
    let (connections, connection) = watch::channel(());
    let service = move |client, request| {
        // Each connection has a clone of it until it ends.
        let _connection = &connection;
        super::serve(Arc::clone(&workers), Arc::clone(&road), client, request)
    };
    let (mut accepting, no_longer) = oneshot::channel::<()>();
    let run = async move |listener: Listener| {
        tokio::select! {
            () = listener.serve(shared, farewell, cut, calls, service) => {}
            _ = no_longer => {}
        }
        connections.closed().await;
    };
    // The runtime is the thread's from the start: where others run, it may not be dropped.
    let (begun, has_begun) = std::sync::mpsc::sync_channel(1);
    std::thread::Builder::new().name("admin".to_owned()).spawn(move || match on_runtime(listener) {
        Ok((runtime, listener)) => {
            let _ = begun.send(Ok(()));
            runtime.block_on(run(listener));
        }
        Err(error) => {
            let _ = begun.send(Err(error));
        }
    })?;
    has_begun.recv().map_err(io::Error::other)??;
    Ok(async move { accepting.closed().await })
}

/// A runtime for this thread alone, and the listener on it.
fn on_runtime(listener: Listener) -> io::Result<(Runtime, Listener)> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let moved = {
        let _entered = runtime.enter();
        listener.moved()?
    };
    Ok((runtime, moved))
}
