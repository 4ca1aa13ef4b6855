//! What is written to standard error or the journal: events, and one line for each request. Nothing here waits for whoever
//! reads it (`queue.rs`).

mod journal;
mod queue;
mod request;
mod text;

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, reload};

use crate::config::{LogFormat, LogLevel};
use queue::{Queue, To};
pub(crate) use request::{json_line, request};
use text::plain_fields;

/// How long the end of the process waits for what is not written yet.
const PATIENCE: Duration = Duration::from_secs(5);

static QUEUE: Queue = Queue::new();
static FORMAT: AtomicU8 = AtomicU8::new(NONE);
static LEVEL: AtomicU8 = AtomicU8::new(NONE);
static TUNING: OnceLock<Tuning> = OnceLock::new();

/// Nothing has been started.
const NONE: u8 = u8::MAX;

type Lines = Box<dyn Layer<Registry> + Send + Sync>;

/// What can be changed while the daemon runs.
struct Tuning {
    lines: reload::Handle<Lines, Registry>,
    filter: reload::Handle<Targets, Registry>,
    journal: Mutex<Option<UnixDatagram>>,
}

/// Starts logging, and the thread that writes the log. To be called once.
///
/// # Errors
/// The thread cannot be started.
pub(crate) fn start(format: LogFormat, level: LogLevel) -> io::Result<()> {
    let (layer, lines) = reload::Layer::new(Layer::boxed(tracing_subscriber::layer::Identity::new()));
    let (filter, filtered) = reload::Layer::new(Targets::new());
    let _ = TUNING.set(Tuning { lines, filter: filtered, journal: Mutex::default() });
    let mut stderr = File::from(io::stderr().as_fd().try_clone_to_owned()?);
    std::thread::Builder::new()
        .name("log".to_owned())
        .spawn(move || QUEUE.write_with(|to, lines| write(&mut stderr, to, lines), tell_lost))?;
    let _ = tracing_subscriber::registry().with(layer.with_filter(filter)).try_init();
    set_format(format);
    set_level(level);
    Ok(())
}

/// Lines in this format from now on. Where the journal cannot be reached, the format stays, and is text at first.
pub(crate) fn set_format(format: LogFormat) {
    let Some(tuning) = TUNING.get() else { return };
    let in_force = FORMAT.load(Ordering::Relaxed);
    if in_force == format as u8 {
        return;
    }
    let stderr = || tracing_subscriber::fmt::layer().with_writer(|| Pushed).with_ansi(false).with_target(false);
    let text = || (LogFormat::Text, stderr().fmt_fields(plain_fields()).boxed());
    let (format, lines) = match format {
        LogFormat::Json => (LogFormat::Json, stderr().json().flatten_event(true).boxed()),
        LogFormat::Text => text(),
        LogFormat::Journald => match journal::socket() {
            Ok(socket) => {
                *tuning.journal.lock().unwrap_or_else(PoisonError::into_inner) = Some(socket);
                (LogFormat::Journald, journal::Messages.boxed())
            }
            Err(_) if in_force == NONE => text(),
            Err(error) => {
                tracing::warn!(%error, "log: the journal cannot be reached; the format stays as it is");
                return;
            }
        },
    };
    let _ = tuning.lines.reload(lines);
    FORMAT.store(format as u8, Ordering::Relaxed);
}

/// Lines of this level and above from now on.
pub(crate) fn set_level(level: LogLevel) {
    let Some(tuning) = TUNING.get() else { return };
    let filter = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
    };
    // The levels are ours: libraries may show keys and texts at debug level.
    let _ = tuning.filter.reload(Targets::new().with_target("bedrock_sidecar", filter));
    LEVEL.store(level as u8, Ordering::Relaxed);
}

/// A line of text, whatever format and level are.
pub(crate) fn plain(line: &str) {
    QUEUE.push(To::Stderr, format!("{line}\n").into_bytes());
}

/// How many lines were lost.
pub(crate) fn dropped() -> u64 {
    QUEUE.dropped()
}

/// Waits a moment for what is not written yet: the process is about to end.
pub(crate) fn finish() {
    QUEUE.finish(PATIENCE);
}

fn tell_lost(lines: u64) {
    tracing::error!(lines, "log: lines were lost, because what reads the log does not keep up");
}

/// On the writer's thread, the only one that waits. The standard error is written without its lock, which others would
/// wait for.
fn write(stderr: &mut File, to: To, lines: &[u8]) -> io::Result<()> {
    match to {
        To::Stderr => write_all(stderr, lines),
        To::Journal => {
            let journal = TUNING.get().and_then(|tuning| {
                let journal = tuning.journal.lock().unwrap_or_else(PoisonError::into_inner);
                journal.as_ref().and_then(|socket| socket.try_clone().ok())
            });
            journal.map_or(Err(io::ErrorKind::NotConnected.into()), |socket| journal::send(&socket, lines))
        }
    }
}

/// Another program that shares the standard error may have made it one that never waits.
fn write_all(file: &mut File, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                poll(&mut [PollFd::new(file, PollFlags::OUT)], None)?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// What an event's line is written into.
struct Pushed;

impl Write for Pushed {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        QUEUE.push(To::Stderr, line.to_vec());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
