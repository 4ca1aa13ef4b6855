//! InvokeModel on kept connections: as fast as answers come, for what a request costs, or at a fixed rate, for how long
//! it takes.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::account::Account;
use crate::client::{Connection, Target, To};
use crate::samples::Samples;
use crate::upstream::ANSWER;
use crate::{Error, panicked};

/// The size of a request's body.
pub(crate) const BODY: usize = 1024;

/// As fast as the answers come.
#[derive(Debug, clap::Args)]
pub(crate) struct Closed {
    #[command(flatten)]
    to: To,
    #[arg(long)]
    connections: usize,
    /// Before anything is counted.
    #[arg(long)]
    warm: f64,
    #[arg(long)]
    seconds: f64,
    /// The processes whose use is told.
    #[arg(long)]
    process: Vec<u32>,
}

/// At a fixed rate.
#[derive(Debug, clap::Args)]
pub(crate) struct Open {
    #[command(flatten)]
    to: To,
    #[arg(long)]
    connections: usize,
    /// Requests in a second.
    #[arg(long)]
    rate: f64,
    #[arg(long)]
    warm: f64,
    #[arg(long)]
    seconds: f64,
}

/// What failed, counted, and why the first one did.
#[derive(Debug, Default)]
pub(crate) struct Failures {
    pub(crate) count: AtomicU64,
    first: Mutex<Option<String>>,
}

impl Failures {
    pub(crate) fn add(&self, error: &Error) {
        self.count.fetch_add(1, Ordering::Relaxed);
        if let Ok(mut first) = self.first.lock() {
            first.get_or_insert_with(|| error.to_string());
        }
    }

    pub(crate) fn told(self) -> serde_json::Value {
        json!({ "count": self.count.into_inner(), "first": self.first.into_inner().unwrap_or_default() })
    }
}

/// An InvokeModel of so many bytes.
pub(crate) fn invoke_model(target: &Target, length: usize) -> Vec<u8> {
    target.request("invoke", &invocation(length))
}

/// Sends an InvokeModel. Its answer must have the length of the upstream's.
pub(crate) fn invoke(connection: &mut Connection, request: &[u8]) -> Result<(), Error> {
    let mut came = 0;
    connection.exchange(request, |bytes| {
        came += bytes.len();
        Ok(())
    })?;
    if came != ANSWER {
        return Err(format!("an answer of {came} bytes instead of {ANSWER}").into());
    }
    Ok(())
}

/// The body of an InvokeModel of a Claude model.
pub(crate) fn invocation(length: usize) -> String {
    let around = [
        r#"{"anthropic_version":"bedrock-2023-05-31","max_tokens":512,"messages":[{"role":"user","content":""#,
        r#""}]}"#,
    ];
    let [before, after] = around;
    let text = "word ".repeat(length / 5 + 1);
    let text = &text[..length - before.len() - after.len()];
    format!("{before}{text}{after}")
}

/// Runs the load and prints what a request has cost.
pub(crate) fn closed(arguments: &Closed) -> Result<(), Error> {
    let target = arguments.to.target()?;
    let request = invoke_model(&target, BODY);
    let (done, failures, is_over) = (AtomicU64::new(0), Failures::default(), AtomicBool::new(false));
    let repeat = || -> Result<(), Error> {
        let mut connection = target.connect()?;
        while !is_over.load(Ordering::Relaxed) {
            invoke(&mut connection, &request)?;
            done.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    };
    let measured = thread::scope(|scope| {
        for _ in 0..arguments.connections {
            scope.spawn(|| repeat().unwrap_or_else(|error| failures.add(&error)));
        }
        thread::sleep(Duration::from_secs_f64(arguments.warm));
        let measured = measure(&arguments.process, arguments.seconds, || done.load(Ordering::Relaxed));
        is_over.store(true, Ordering::Relaxed);
        measured
    })?;
    let told = json!({
        "per_second": measured.count / measured.seconds, "each": measured.each, "resident_kib": measured.resident,
        "failed": failures.told(),
    });
    println!("{told}");
    Ok(())
}

/// What was counted in a time, and what each of it has cost.
pub(crate) struct Measured {
    pub(crate) count: f64,
    pub(crate) seconds: f64,
    pub(crate) each: serde_json::Value,
    /// The most that was seen, in KiB.
    pub(crate) resident: u64,
}

/// Looks at a count and at these processes at the beginning and at the end of a time, and at their memory in between.
pub(crate) fn measure(processes: &[u32], seconds: f64, count: impl Fn() -> u64) -> Result<Measured, Error> {
    let (begun, before, counted) = (Instant::now(), Account::of(processes)?, count());
    let mut resident = before.resident;
    loop {
        let left = seconds - begun.elapsed().as_secs_f64();
        thread::sleep(Duration::from_secs_f64(left.clamp(0.0, 0.2)));
        let (account, now) = (Account::of(processes)?, count());
        resident = resident.max(account.resident);
        if left <= 0.2 {
            let count = f64::from(u32::try_from(now - counted)?);
            let each = account.each_since(&before, count);
            return Ok(Measured { count, seconds: begun.elapsed().as_secs_f64(), each, resident });
        }
    }
}

/// Runs the load and prints how long requests took, from the time at which each was due: one that has to wait for a
/// connection because an earlier one is slow waits on the proxy's account.
pub(crate) fn open(arguments: &Open) -> Result<(), Error> {
    let target = arguments.to.target()?;
    let request = invoke_model(&target, BODY);
    wake_in_time();
    let failures = Failures::default();
    let next = AtomicU64::new(0);
    let begin = Instant::now() + Duration::from_millis(100);
    let end = arguments.warm + arguments.seconds;
    let repeat = || -> Result<Samples, Error> {
        let mut connection = target.connect()?;
        let mut samples = Samples::default();
        loop {
            let due = f64::from(u32::try_from(next.fetch_add(1, Ordering::Relaxed))?) / arguments.rate;
            if due >= end {
                return Ok(samples);
            }
            let at = begin + Duration::from_secs_f64(due);
            thread::sleep(at.saturating_duration_since(Instant::now()));
            invoke(&mut connection, &request)?;
            if due >= arguments.warm {
                samples.add(at.elapsed());
            }
        }
    };
    let mut samples = Samples::default();
    thread::scope(|scope| -> Result<(), Error> {
        let threads: Vec<_> = (0..arguments.connections).map(|_| scope.spawn(repeat)).collect();
        for thread in threads {
            match thread.join().map_err(panicked)? {
                Ok(of_one) => samples.take(of_one),
                Err(error) => failures.add(&error),
            }
        }
        Ok(())
    })?;
    println!("{}", json!({ "latency_us": samples.told(), "failed": failures.told() }));
    Ok(())
}

/// Has the kernel wake sleeping threads at their time, and not up to 50 µs later; threads inherit it. Where this may not
/// be done, all targets are measured later alike.
pub(crate) fn wake_in_time() {
    let _best_effort = std::fs::write("/proc/self/timerslack_ns", "1");
}
