//! ConverseStreams whose events come at a fixed rate: what an event costs, and how late it comes, with or without large
//! uploads beside them.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::client::{Target, To};
use crate::eventstream::{Reader, now};
use crate::requests::{Failures, invoke, invoke_model, measure, wake_in_time};
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
    is_over: AtomicBool,
    read: Mutex<Vec<Event>>,
}

/// When an event was due, and how late it came.
struct Event {
    due: u64,
    late: Duration,
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
        upload: invoke_model(&target, arguments.upload_bytes),
        target,
        events: format!("{events:.0}").parse()?,
        failures: Failures::default(),
        came: AtomicU64::new(0),
        uploaded: AtomicU64::new(0),
        is_over: AtomicBool::new(false),
        read: Mutex::default(),
    };
    let begun = Instant::now();
    let pause = Duration::from_secs_f64(arguments.ramp / f64::from(arguments.streams));
    let (measured, uploads, counted) = thread::scope(|scope| -> Result<_, Error> {
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
        let begin = now();
        let before = load.uploaded.load(Ordering::Relaxed);
        let measured = measure(&arguments.process, arguments.seconds, || load.came.load(Ordering::Relaxed));
        let counted = begin..now();
        load.is_over.store(true, Ordering::Relaxed);
        let uploads = load.uploaded.load(Ordering::Relaxed) - before;
        for thread in threads {
            thread.join().map_err(panicked)?;
        }
        Ok((measured?, uploads, counted))
    })?;
    let late = lateness(load.read.into_inner().map_err(panicked)?, &counted);
    let told = json!({
        "events_per_second": measured.count / measured.seconds, "each": measured.each, "resident_kib": measured.resident,
        "late_us": late.told(), "uploads": uploads, "failed": load.failures.told(),
    });
    println!("{told}");
    Ok(())
}

/// Of the events that were due in this time, whenever they came: what a stall holds back is as late as it is.
fn lateness(events: Vec<Event>, counted: &Range<u64>) -> Samples {
    let mut samples = Samples::default();
    for event in events.into_iter().filter(|event| counted.contains(&event.due)) {
        samples.add(event.late);
    }
    samples
}

impl Load {
    /// Reads one stream to its end.
    fn read(&self) -> Result<(), Error> {
        let mut reader = Reader::default();
        let mut events = Vec::with_capacity(self.events);
        self.target.connect()?.exchange(&self.stream, |bytes| {
            reader.read(bytes, |due| {
                self.came.fetch_add(1, Ordering::Relaxed);
                events.push(Event { due, late: Duration::from_nanos(now().saturating_sub(due)) });
            })
        })?;
        self.read.lock().map_err(panicked)?.append(&mut events);
        if !reader.is_whole || reader.deltas != self.events {
            return Err(format!("{} of {} events came", reader.deltas, self.events).into());
        }
        Ok(())
    }

    fn upload(&self) -> Result<(), Error> {
        let mut connection = self.target.connect()?;
        while !self.is_over.load(Ordering::Relaxed) {
            invoke(&mut connection, &self.upload)?;
            self.uploaded.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_due_in_the_time_counts_however_late_it_comes() {
        let event = |due, micros| Event { due, late: Duration::from_micros(micros) };
        let told =
            lateness(vec![event(99, 1), event(100, 2), event(199, 5_000_000), event(200, 3)], &(100..200)).told();
        assert_eq!(told["count"], 2);
        assert!((told["max"].as_f64().unwrap() - 5e6).abs() < 1e-6, "{told}");
    }
}
