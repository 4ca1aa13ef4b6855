//! Signals from the admin, and words to the service manager.

pub(crate) mod notify;

use std::io;
use std::time::Duration;

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
    watchdog: Option<Duration>,
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
        let source = Source::Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        };
        Ok(Events { source, watchdog: notify::watchdog_interval() })
    }

    /// Events from a channel; a closed channel means stop.
    pub fn of_channel(events: mpsc::Receiver<Event>) -> Events {
        Events { source: Source::Channel(events), watchdog: None }
    }

    /// The next event. While waiting, the service manager's watchdog is told that the daemon lives.
    pub async fn next(&mut self, status: &str) -> Event {
        loop {
            let pause = self.watchdog.unwrap_or(Duration::from_secs(3600));
            tokio::select! {
                event = self.source.next() => return event,
                () = tokio::time::sleep(pause) => if self.watchdog.is_some() { notify::alive(status) },
            }
        }
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
