//! ConverseStreams whose events come at a fixed rate: what an event costs, and how late it comes, with or without large
//! uploads beside them.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::client::{Target, To};
use crate::eventstream::{Reader, now};
use crate::requests::{Failures, invoke, measure, wake_in_time};
use crate::samples::Samples;
use crate::upstream::EVENTS_PER_SECOND;
use crate::{Error, panicked};

/// A thread that waits for events needs little.
const STACK: usize = 256 * 1024;

/// Streams, and what goes on beside them.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    to: To,
    #[arg(long)]
    streams: u32,
    /// The time in which they begin, one after the other.
    #[arg(long)]
    ramp: f64,
    /// Of all streams, before anything is counted.
    #[arg(long)]
    warm: f64,
    #[arg(long)]
    seconds: f64,
    /// Connections that upload without a pause.
    #[arg(long, default_value_t = 0)]
    uploads: usize,
    /// The size of each upload.
    #[arg(long, default_value_t = 19_000_000)]
    upload_bytes: usize,
    /// The processes whose use is told.
    #[arg(long)]
    process: Vec<u32>,
}

/// What all threads share.
struct Load {
    target: Target,
    stream: Vec<u8>,
    upload: Vec<u8>,
    events: usize,
    failures: Failures,
    /// Events that have come, and uploads that are done, since the beginning.
    came: AtomicU64,
    uploaded: AtomicU64,
    is_counted: AtomicBool,
    is_over: AtomicBool,
    lateness: Mutex<Samples>,
}

/// Runs the load and prints what it has measured.
pub(crate) fn run(arguments: &Arguments) -> Result<(), Error> {
    wake_in_time();
    let target = arguments.to.target()?;
    // The stream that begins first lasts a little longer than all the rest takes.
    let events = (arguments.ramp + arguments.warm + arguments.seconds + 0.3) * f64::from(EVENTS_PER_SECOND);
    let body = format!(
        r#"{{"messages":[{{"role":"user","content":[{{"text":"hello"}}]}}],"inferenceConfig":{{"maxTokens":{events:.0}}}}}"#
    );
    let load = Load {
        stream: target.request("converse-stream", &body),
        upload: invoke(&target, arguments.upload_bytes),
        target,
        events: format!("{events:.0}").parse()?,
        failures: Failures::default(),
        came: AtomicU64::new(0),
        uploaded: AtomicU64::new(0),
        is_counted: AtomicBool::new(false),
        is_over: AtomicBool::new(false),
        lateness: Mutex::default(),
    };
    let begun = Instant::now();
    let pause = Duration::from_secs_f64(arguments.ramp / f64::from(arguments.streams));
    let (measured, uploads) = thread::scope(|scope| -> Result<_, Error> {
        let mut threads = Vec::new();
        for number in 0..arguments.streams {
            thread::sleep((begun + pause * number).saturating_duration_since(Instant::now()));
            let builder = thread::Builder::new().stack_size(STACK);
            threads
                .push(builder.spawn_scoped(scope, || load.read().unwrap_or_else(|error| load.failures.add(&error)))?);
        }
        for _ in 0..arguments.uploads {
            threads.push(scope.spawn(|| load.upload().unwrap_or_else(|error| load.failures.add(&error))));
        }
        thread::sleep(Duration::from_secs_f64(arguments.warm));
        load.is_counted.store(true, Ordering::Relaxed);
        let before = load.uploaded.load(Ordering::Relaxed);
        let measured = measure(&arguments.process, arguments.seconds, || load.came.load(Ordering::Relaxed));
        load.is_counted.store(false, Ordering::Relaxed);
        load.is_over.store(true, Ordering::Relaxed);
        let uploads = load.uploaded.load(Ordering::Relaxed) - before;
        for thread in threads {
            thread.join().map_err(panicked)?;
        }
        Ok((measured?, uploads))
    })?;
    let told = json!({
        "events_per_second": measured.count / measured.seconds, "each": measured.each, "resident_kib": measured.resident,
        "late_us": load.lateness.into_inner().map_err(panicked)?.told(), "uploads": uploads, "failed": load.failures.told(),
    });
    println!("{told}");
    Ok(())
}

impl Load {
    /// Reads one stream to its end.
    fn read(&self) -> Result<(), Error> {
        let mut reader = Reader::default();
        let mut late = Samples::default();
        self.target.connect()?.exchange(&self.stream, |bytes| {
            reader.read(bytes, |sent| {
                self.came.fetch_add(1, Ordering::Relaxed);
                if self.is_counted.load(Ordering::Relaxed) {
                    late.add(Duration::from_nanos(now().saturating_sub(sent)));
                }
            })
        })?;
        self.lateness.lock().map_err(panicked)?.take(late);
        if !reader.is_whole || reader.deltas != self.events {
            return Err(format!("{} of {} events came", reader.deltas, self.events).into());
        }
        Ok(())
    }

    fn upload(&self) -> Result<(), Error> {
        let mut connection = self.target.connect()?;
        while !self.is_over.load(Ordering::Relaxed) {
            connection.exchange(&self.upload, |_| Ok(()))?;
            self.uploaded.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}
