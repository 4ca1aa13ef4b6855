//! Signals from the admin, and what passes between the daemon and the service manager.

mod inherited;
pub(crate) mod notify;
pub(crate) mod pulse;
pub(crate) mod roll_call;

use std::io;

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
pub struct Events(Source);

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
        Ok(Events(Source::Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        }))
    }

    /// Events from a channel; a closed channel means stop.
    pub fn of_channel(events: mpsc::Receiver<Event>) -> Events {
        Events(Source::Channel(events))
    }

    /// The next event.
    pub async fn next(&mut self) -> Event {
        match &mut self.0 {
            Source::Signals { terminate, interrupt, hangup } => tokio::select! {
                _ = terminate.recv() => Event::Stop,
                _ = interrupt.recv() => Event::Stop,
                _ = hangup.recv() => Event::Reload,
            },
            Source::Channel(events) => events.recv().await.unwrap_or(Event::Stop),
        }
    }
}
