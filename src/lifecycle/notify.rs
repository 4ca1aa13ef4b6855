//! The protocol of sd_notify(3). Without a service manager nothing is sent.

use std::sync::LazyLock;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use sd_notify::NotifyState;

/// Messages that wait for the service manager to read earlier ones.
const MOST_WAITING: usize = 64;

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
pub(crate) fn stopping(longest: Duration, status: &str) {
    let extend = extend(longest);
    send(&[NotifyState::Stopping, NotifyState::Status(status), NotifyState::Custom(&extend)]);
}

/// It still does, and lives.
pub(crate) fn still_stopping(longest: Duration, status: &str) {
    let extend = extend(longest);
    send(&[NotifyState::Status(status), NotifyState::Custom(&extend), NotifyState::Watchdog]);
}

fn extend(longest: Duration) -> String {
    format!("EXTEND_TIMEOUT_USEC={}", longest.as_micros())
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

/// What waits here while the service manager does not read. It keeps the order, and nobody waits for it: a manager that is
/// busy must not stop the daemon. What is beyond the bound is dropped.
static TO_MANAGER: LazyLock<Option<SyncSender<String>>> = LazyLock::new(|| {
    // Outside systemd there is nobody to tell.
    std::env::var_os("NOTIFY_SOCKET")?;
    let (messages, to_send) = sync_channel::<String>(MOST_WAITING);
    let send_all = move || {
        for message in to_send {
            let _ = sd_notify::notify(&[NotifyState::Custom(&message)]);
        }
    };
    std::thread::Builder::new().name("notify".to_owned()).spawn(send_all).ok()?;
    Some(messages)
});

fn send(states: &[NotifyState<'_>]) {
    if let Some(messages) = &*TO_MANAGER {
        let lines: Vec<String> = states.iter().map(ToString::to_string).collect();
        let _ = messages.try_send(lines.join("\n"));
    }
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
