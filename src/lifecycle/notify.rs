//! The protocol of sd_notify(3). Without a service manager nothing is sent.

use std::time::Duration;

use sd_notify::NotifyState;

/// The daemon listens.
pub(crate) fn ready(status: &str) {
    send(&[NotifyState::Ready, NotifyState::Status(status)]);
}

pub(crate) fn reloading() {
    send(&[NotifyState::Reloading]);
}

pub(crate) fn stopping() {
    send(&[NotifyState::Stopping, NotifyState::Status("Draining")]);
}

/// For WatchdogSec=.
pub(crate) fn alive(status: &str) {
    send(&[NotifyState::Watchdog, NotifyState::Status(status)]);
}

/// How often the watchdog wants to hear of us: half of WatchdogSec=.
pub(crate) fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|interval| interval / 2)
}

fn send(states: &[NotifyState<'_>]) {
    // Outside systemd there is no socket to write to, which is fine.
    let _ = sd_notify::notify(states);
}
