//! What `benches/compare` measures with: an upstream that costs as little as it can, a proxy that does as little as it can, and
//! clients that put load on a proxy or on the upstream itself. Upstream and clients print one JSON object each.
//!
//! Clients are threads that block: a request costs them little, and a thread that sleeps wakes closer to its time than
//! a timer of tokio does, which counts milliseconds.

#![expect(clippy::disallowed_methods, reason = "no runtime serves anybody on the threads that sleep here")]

mod account;
mod bare;
mod client;
mod counted;
mod eventstream;
mod flood;
mod listed;
mod requests;
mod samples;
mod streams;
mod table;
mod tls;
mod upstream;

use clap::Parser;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// The upstream and the load of `benches/compare`.
#[derive(Debug, Parser)]
enum Command {
    /// Answers as Bedrock does, over TLS 1.3, until its standard input ends; prints its ports.
    Upstream(upstream::Arguments),
    /// Forwards to the upstream and does nothing else.
    Bare(bare::Arguments),
    /// Sends InvokeModel as fast as the answers come.
    Closed(requests::Closed),
    /// Sends InvokeModel at a fixed rate, whatever the answers do.
    Open(requests::Open),
    /// Sends so many InvokeModel, one after the other on each connection.
    Counted(counted::Arguments),
    /// Reads ConverseStreams of a size, one after the other, as fast as they come.
    Flood(flood::Arguments),
    /// Reads paced ConverseStreams, beside uploads if wanted.
    Streams(streams::Arguments),
}

fn main() -> Result<(), Error> {
    match Command::parse() {
        Command::Upstream(arguments) => upstream::run(&arguments),
        Command::Bare(arguments) => bare::run(&arguments),
        Command::Closed(arguments) => requests::closed(&arguments),
        Command::Open(arguments) => requests::open(&arguments),
        Command::Counted(arguments) => counted::run(&arguments),
        Command::Flood(arguments) => flood::run(&arguments),
        Command::Streams(arguments) => streams::run(&arguments),
    }
}

/// What a thread that panicked leaves behind.
fn panicked<T>(_: T) -> Error {
    "a thread of the load panicked".into()
}
