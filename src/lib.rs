//! bedrock-sidecar: commercial Amazon Bedrock for AWS GovCloud hosts, behind a Bedrock-compatible endpoint on localhost.
//!
//! Start with `proxy.rs`, the request pipeline in its order; `ARCHITECTURE.md` is the map. The crate is a program: what is
//! public here is what its tests, benchmarks and examples use.

// Only `cli` speaks to a person; tests and benches print what they measured.
#![warn(clippy::print_stdout, clippy::print_stderr)]

mod admin;
pub mod app;
mod ascii;
pub mod auditor;
mod bidirectional;
pub mod caller;
pub mod cli;
pub mod config;
mod credentials;
mod crypto;
pub mod error;
mod eventstream;
mod exchange;
mod file_stamp;
mod forward;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod govcloud_names;
mod hexadecimal;
mod jitter;
mod json;
mod large;
pub mod ledger;
mod legacy_rest;
pub mod lifecycle;
pub mod limits;
mod listen;
mod log;
#[doc(hidden)]
pub mod measured;
mod meter;
mod metrics;
mod model;
pub mod operation;
mod own_call;
mod panics;
mod partition;
mod policy;
mod previous;
mod proxy;
mod receive;
pub mod record;
mod request;
mod request_id;
mod road;
mod routing;
mod sdk_failure;
mod server_tools;
mod service;
pub mod service_tier;
pub mod settings;
mod sigv4;
mod stored;
mod structure;
mod telemetry;
mod timings;
mod upstream;
mod workers;
