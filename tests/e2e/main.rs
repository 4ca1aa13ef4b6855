//! The daemon from outside: each test starts the built binary against the simulator and looks at what both sides see.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "tests state expectations by unwrapping, and print what was not run"
)]

mod app;
mod bidirectional;
mod bounds;
mod breakers;
mod callers;
mod commands;
mod completions;
mod connections;
mod contract;
mod credentials;
mod dashboard;
mod documentation;
mod failover;
mod forwarding;
mod framing;
mod guardrails;
mod half_close;
mod headers;
mod hostile;
mod ledger;
mod legacy_rest_api;
mod limits;
mod log;
mod mantle;
mod metering;
mod models;
mod opaque;
mod open_telemetry;
mod operations;
mod panics;
mod partitions;
mod reload;
mod rerank;
mod retention;
mod sdk;
mod service_manager;
mod status;
mod streaming;
mod telling;
mod top;
mod upstream_connections;
mod wire;
