//! The protocol of sd_notify(3). Without a service manager nothing is sent.

use std::time::Duration;

use sd_notify::NotifyState;

/// The daemon listens, or has ended a reload.
pub(crate) fn ready(status: &str) {
    send(&[NotifyState::Ready, NotifyState::Status(&one_line(status))]);
}

pub(crate) fn reloading() {
    // For Type=notify-reload, which goes by the time.
    let now = NotifyState::monotonic_usec_now().ok();
    let states: Vec<NotifyState<'_>> = [NotifyState::Reloading].into_iter().chain(now).collect();
    send(&states);
}

/// It will take so long at most, which may be longer than TimeoutStopSec=.
pub(crate) fn stopping(longest: Duration) {
    let extend = format!("EXTEND_TIMEOUT_USEC={}", longest.as_micros());
    send(&[NotifyState::Stopping, NotifyState::Status("Draining"), NotifyState::Custom(&extend)]);
}

/// For WatchdogSec=.
pub(crate) fn alive() {
    send(&[NotifyState::Watchdog]);
}

/// What `systemctl status` shows.
pub(crate) fn status(text: &str) {
    send(&[NotifyState::Status(&one_line(text))]);
}

/// How often the watchdog wants to hear of us: half of WatchdogSec=.
pub(crate) fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|interval| interval / 2)
}

fn send(states: &[NotifyState<'_>]) {
    // Outside systemd there is no socket to write to, which is fine.
    let _ = sd_notify::notify(states);
}

/// A reason may quote an answer of others. A line of its own would be another word to the service manager.
fn one_line(text: &str) -> String {
    text.replace(char::is_control, " ")
}

#[cfg(test)]
mod tests {
    use super::one_line;

    #[test]
    fn a_status_is_one_line() {
        assert_eq!(one_line("Not ready: a\nMAINPID=1\r\n"), "Not ready: a MAINPID=1  ");
    }
}
