//! So many InvokeModel over so many connections, which all stay open: what a request costs, and what a connection keeps.

use std::path::PathBuf;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use serde_json::json;

use crate::account::Account;
use crate::client::To;
use crate::requests::{BODY, Failures, invocation, invoke};
use crate::{Error, listed, panicked};

/// A thread that waits for answers needs little.
const STACK: usize = 128 * 1024;

/// How many requests, and which.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    to: To,
    /// In all. What a connection sends first, before all are open, is not among them if there are several.
    #[arg(long)]
    requests: usize,
    #[arg(long, default_value_t = 1)]
    connections: usize,
    /// Asks in turn for so many of the models that the upstream lists with `--models`.
    #[arg(long, default_value_t = 0)]
    models: usize,
    /// Sends the bytes of this file in place of a request of its own.
    #[arg(long, conflicts_with = "models")]
    request: Option<PathBuf>,
    /// The processes whose use is told.
    #[arg(long)]
    process: Vec<u32>,
}

/// Sends the requests. Each must succeed.
pub(crate) fn run(arguments: &Arguments) -> Result<(), Error> {
    let target = arguments.to.target()?;
    let requests = match (&arguments.request, arguments.models) {
        (Some(file), _) => vec![std::fs::read(file)?],
        (None, 0) => vec![target.request("invoke", &invocation(BODY))],
        (None, models) => {
            (0..models).map(|number| target.request_of(&listed::model(number), "invoke", &invocation(BODY))).collect()
        }
    };
    let (next, failures) = (AtomicUsize::new(0), Failures::default());
    // All connections are open before the first request that counts, and until the last one.
    let [open, begun, done, over] = [(); 4].map(|()| Barrier::new(arguments.connections + 1));
    let repeat = || -> Result<(), Error> {
        let first = || -> Result<_, Error> {
            let mut connection = target.connect()?;
            if arguments.connections > 1 {
                invoke(&mut connection, &requests[0])?;
            }
            Ok(connection)
        };
        let connection = first();
        open.wait();
        begun.wait();
        let send = || -> Result<_, Error> {
            let mut connection = connection?;
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= arguments.requests {
                    return Ok(connection);
                }
                invoke(&mut connection, &requests[number % requests.len()])?;
            }
        };
        let sent = send();
        done.wait();
        over.wait();
        sent.map(|_| ())
    };
    let account = || Account::of(&arguments.process);
    let closed = account()?;
    let (before, after) = thread::scope(|scope| -> Result<_, Error> {
        let threads = (0..arguments.connections)
            .map(|_| {
                let builder = thread::Builder::new().stack_size(STACK);
                let begun = builder.spawn_scoped(scope, || repeat().unwrap_or_else(|error| failures.add(&error)));
                // The threads before it wait for this one.
                begun.unwrap_or_else(|error| {
                    eprintln!("a thread for each connection cannot be had: {error}");
                    std::process::exit(1)
                })
            })
            .collect::<Vec<_>>();
        open.wait();
        let before = account();
        begun.wait();
        done.wait();
        let after = account();
        over.wait();
        for thread in threads {
            thread.join().map_err(panicked)?;
        }
        Ok((before?, after?))
    })?;
    let failed = failures.told();
    if failed["count"] != 0 {
        return Err(format!("{} connections failed, the first: {}", failed["count"], failed["first"]).into());
    }
    let count = f64::from(u32::try_from(arguments.requests)?);
    println!(
        "{}",
        json!({
            "requests": arguments.requests, "each": after.each_since(&before, count),
            "resident_closed_kib": closed.resident, "resident_kib": after.resident,
        })
    );
    Ok(())
}
