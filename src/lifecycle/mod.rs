//! Signals from the admin, and what passes between the daemon and the service manager.

mod inherited;
pub(crate) mod notify;
pub(crate) mod pulse;
pub(crate) mod roll_call;

use std::future::Future;
use std::io;
use std::pin::pin;

pub use inherited::{InheritError, Inherited};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

/// What the daemon is told to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Finish what is in flight and exit: SIGTERM, SIGINT.
    Stop,
    /// Read the configuration again: SIGHUP.
    Reload,
}

/// Where events come from: the process's signals, or a program that holds the daemon.
#[derive(Debug)]
pub struct Events {
    source: Source,
    /// One has come that nobody could attend to yet.
    reload: bool,
}

#[derive(Debug)]
enum Source {
    Signals { terminate: Signal, interrupt: Signal, hangup: Signal },
    Channel(mpsc::Receiver<Event>),
}

impl Events {
    /// The process's signals; from now on they no longer end the process by themselves.
    ///
    /// # Errors
    /// The kernel refuses a signal handler.
    pub fn of_signals() -> io::Result<Events> {
        Ok(Events::of(Source::Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        }))
    }

    /// Events from a channel; a closed channel means stop.
    pub fn of_channel(events: mpsc::Receiver<Event>) -> Events {
        Events::of(Source::Channel(events))
    }

    fn of(source: Source) -> Events {
        Events { source, reload: false }
    }

    /// Waits for `future`, unless the daemon is told to stop: then nothing. A reload comes up at [`Events::next`].
    pub(crate) async fn unless_stopped<T>(&mut self, future: impl Future<Output = T>) -> Option<T> {
        let mut future = pin!(future);
        loop {
            tokio::select! {
                biased;
                event = self.source.next() => match event {
                    Event::Stop => return None,
                    Event::Reload => self.reload = true,
                },
                done = &mut future => return Some(done),
            }
        }
    }

    /// The next event.
    pub async fn next(&mut self) -> Event {
        if std::mem::take(&mut self.reload) { Event::Reload } else { self.source.next().await }
    }
}

impl Source {
    async fn next(&mut self) -> Event {
        match self {
            Source::Signals { terminate, interrupt, hangup } => tokio::select! {
                _ = terminate.recv() => Event::Stop,
                _ = interrupt.recv() => Event::Stop,
                _ = hangup.recv() => Event::Reload,
            },
            Source::Channel(events) => events.recv().await.unwrap_or(Event::Stop),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    #[tokio::test]
    async fn a_stop_ends_a_wait_and_a_reload_comes_up_after_it() {
        let (told, events) = mpsc::channel(2);
        let mut events = Events::of_channel(events);
        told.send(Event::Reload).await.unwrap();
        assert_eq!(events.unless_stopped(async { "done" }).await, Some("done"));
        assert_eq!(events.next().await, Event::Reload);
        told.send(Event::Reload).await.unwrap();
        told.send(Event::Stop).await.unwrap();
        assert_eq!(events.unless_stopped(pending::<()>()).await, None);
    }
}
